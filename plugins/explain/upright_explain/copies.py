"""Copies of the trained parameters over training, each with the learning rates that led to it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import Tensor

    from upright import Run


def copied(run: Run) -> dict[str, Tensor]:
    """What training moves of the model, by name, on the CPU."""
    return {name: p.detach().cpu().clone() for name, p in run.model.named_parameters() if p.requires_grad}


def learning_rates(run: Run) -> dict[str, float]:
    """The present rate of each trained parameter of the model, by name."""
    rates = {id(p): float(group["lr"]) for group in run.optimizer.param_groups for p in group["params"]}
    return {name: rates[id(p)] for name, p in run.model.named_parameters() if id(p) in rates}


def keep_copy(
    copies: list[dict[str, Any]], update: int, rates: dict[str, float], weights: dict[str, Any], limit: int
) -> None:
    """Append a copy; one of more than ``limit`` goes, so that the others are spread over training.

    ``rates`` are summed over the updates since the copy before. Those of a copy that goes are taken over by the next, which
    then stands for the updates of both.
    """
    copies.append({"update": update, "rates": dict(rates), "weights": weights})
    if len(copies) > limit:
        starts = [0, *(copy["update"] for copy in copies)]
        gone = min(range(limit), key=lambda n: starts[n + 2] - starts[n])
        earlier, later = copies[gone], copies[gone + 1]
        for name, rate in earlier["rates"].items():
            later["rates"][name] = later["rates"].get(name, 0.0) + rate
        del copies[gone]


def cut_copies(copies: list[dict[str, Any]], loaded: int, weights: dict[str, Any]) -> None:
    """Leave what led to the weights of update ``loaded``, which training went back to; ``weights`` are those.

    Where no copy of that update was kept, one is made; its rates are the share of the next copy's that its updates are.
    """
    last = max((copy["update"] for copy in copies if copy["update"] <= loaded), default=0)
    after = next((copy for copy in copies if copy["update"] > loaded), None)
    copies[:] = [copy for copy in copies if copy["update"] <= loaded]
    if last < loaded and after is not None:
        share = (loaded - last) / (after["update"] - last)
        rates = {name: rate * share for name, rate in after["rates"].items()}
        copies.append({"update": loaded, "rates": rates, "weights": weights})
