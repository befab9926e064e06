"""Where rules put what they find: every trainable parameter's per-row gradients of one batch."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from upright_privacy.per_unit.contributions import CHUNK, Contribution, Dense, Product, merged, worth_keeping

Contributions = dict[str, list[Contribution]]


class Unserved(Exception):
    """No rule gives exact per-row gradients here; the message says of what and why."""


class Tape:
    """Collects contributions while a batch is differentiated.

    A rule may serve a tensor that was computed from parameters (LoRA's rotated cousin, a weight's norm): what it finds
    is then carried on to the parameters through the graph of that computation, which no row takes part in.
    """

    def __init__(self, parameters: Mapping[str, Tensor], rows: int) -> None:
        self.rows = rows
        self.names = {id(parameter): name for name, parameter in parameters.items()}
        self.parameters = dict(parameters)
        self.served: dict[str, set[str]] = {}
        self._found: dict[int, tuple[Tensor, list[Contribution], set[str]]] = {}

    def add(self, tensor: Tensor, contribution: Contribution, rule: str) -> None:
        """Each row's gradient of ``tensor``, a parameter or what was computed from parameters alone."""
        if isinstance(contribution, Product) and worth_keeping(contribution):
            contribution = Dense(contribution.dense())
        _, found, rules = self._found.setdefault(id(tensor), (tensor, [], set()))
        rules.add(rule)
        if isinstance(contribution, Dense) and found and isinstance(found[-1], Dense):
            found[-1] = Dense(found[-1].rows + contribution.rows)
        else:
            found.append(contribution)

    def contributions(self) -> Contributions:
        """Parameter -> what adds up to each row's gradient of it; empty for one that no row's loss depends on."""
        total: Contributions = {name: [] for name in self.parameters}
        for tensor, found, rules in self._found.values():
            own = self.names.get(id(tensor))
            if own is not None:
                total[own] += found
                self.served.setdefault(own, set()).update(rules)
                continue
            for name, rows in self._carried(tensor, found).items():
                total[name].append(Dense(rows))
                self.served.setdefault(name, set()).update(f"{rule}, computed weight" for rule in rules)
        return {name: merged(parts) for name, parts in total.items()}

    def _carried(self, tensor: Tensor, found: list[Contribution]) -> dict[str, Tensor]:
        """Vector-Jacobian products of the computation that led from parameters to ``tensor``, one for each row."""
        rows = found[0].dense()
        for more in found[1:]:
            rows = rows + more.dense()
        names, parameters = list(self.parameters), list(self.parameters.values())
        size = max(1, CHUNK // max(tensor.numel(), 1))
        pieces: list[tuple[Tensor | None, ...]] = []
        for start in range(0, self.rows, size):
            part = rows[start : start + size].to(tensor.dtype)
            pieces.append(_products(tensor, parameters, part))
        carried: dict[str, Tensor] = {}
        for place, name in enumerate(names):
            if pieces[0][place] is not None:
                carried[name] = torch.cat([piece[place] for piece in pieces])  # type: ignore[misc]
        return carried


def _products(tensor: Tensor, parameters: list[Tensor], rows: Tensor) -> tuple[Tensor | None, ...]:
    try:
        return torch.autograd.grad(
            tensor, parameters, rows, retain_graph=True, allow_unused=True, is_grads_batched=True
        )
    except (RuntimeError, NotImplementedError):  # an autograd.Function that vmap cannot enter
        single = [torch.autograd.grad(tensor, parameters, row, retain_graph=True, allow_unused=True) for row in rows]
        return tuple(
            None if column[0] is None else torch.stack(column)  # type: ignore[arg-type]
            for column in zip(*single, strict=True)
        )
