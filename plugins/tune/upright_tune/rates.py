"""Learning rates of single parameters, in an optimizer that core has made."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable

    from torch.nn import Parameter
    from torch.optim import Optimizer


def multiply_rate(optimizer: Optimizer, factor: Callable[[Parameter], float | None]) -> None:
    """Split the optimizer's groups so that each parameter's rate is its group's times ``factor``; before any update."""
    groups: list[dict[str, Any]] = []
    for group in optimizer.param_groups:
        parts: dict[float, list[Parameter]] = {}
        for parameter in group["params"]:
            parts.setdefault(factor(parameter) or 1.0, []).append(parameter)
        groups += [{**group, "params": params, "lr": group["lr"] * times} for times, params in parts.items()]
    optimizer.param_groups[:] = groups
