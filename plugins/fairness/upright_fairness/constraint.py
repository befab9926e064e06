"""Group constraints during training, by a Lagrangian on released group counts (Cotter et al., 2019, arXiv:1809.04198).

Reads sums over the update alone (`run.groups`), so it couples no two records and runs under differential privacy. Bounded
group loss: Agarwal et al., 2019, arXiv:1905.12843.
"""

from __future__ import annotations

from collections.abc import Generator
from typing import Any, Literal

from pydantic import Field, model_validator

from upright import Batch, Capability, Metric, Output, Predictions, Run, Section, Step, hook
from upright_fairness import groups
from upright_fairness.groups import Groups, GroupSpec
from upright_fairness.positive import check_class

CONDITIONS = {
    "demographic_parity": ("all",),
    "equal_opportunity": ("positive",),
    "false_positive_rate_parity": ("negative",),
    "equalized_odds": ("negative", "positive"),
    "bounded_group_loss": ("all",),
    "worst_group_floor": ("all",),
}
"""The rows, by their true class, whose rates are compared."""
BOUNDED = ("bounded_group_loss", "worst_group_floor")


class GroupConstraint(Step):
    """Hold groups to common rates, or each to a bound on its loss, while training; any number of groups and classes."""

    needs = frozenset({Capability.TRAINING, Capability.CLASS_SCORES})
    tasks = frozenset({"text-classification"})

    groups: list[Groups] = Field(min_length=1, description="Sensitive columns, or group specs (see Groups).")
    constraint: Literal[
        "demographic_parity",
        "equal_opportunity",
        "false_positive_rate_parity",
        "equalized_odds",
        "bounded_group_loss",
        "worst_group_floor",
    ] = Field("equalized_odds", description="What is held: rates common to all groups, or a bound for each.")
    positive: str | None = Field(
        None, description="The class whose rates are meant; default: the second of two, each of more against the rest."
    )
    max_gap: float = Field(0.02, ge=0, le=1, description="Distance to the common rate that is left alone.")
    bound: float | None = Field(
        None,
        gt=0,
        lt=1,
        description="bounded_group_loss: largest mean of 1 - score of the true class; worst_group_floor: least accuracy.",
    )
    dual_learning_rate: float = Field(0.1, gt=0, description="How fast multipliers follow a violated rate.")
    damping: float = Field(0.01, ge=0, lt=1, description="Share of every multiplier that is forgotten at an update.")
    momentum: float = Field(0.95, ge=0, lt=1, description="Memory of the averaged counts.")
    max_multiplier: float = Field(2.0, gt=0, description="Bound on every multiplier.")
    refit_threshold: bool = Field(
        True,
        description="Choose one threshold for all groups on validation: accuracy less the gap over max_gap (two classes).",
    )

    @model_validator(mode="after")
    def _bounded(self) -> GroupConstraint:
        if (self.bound is not None) != (self.constraint in BOUNDED):
            raise ValueError(f"bound goes with {' and '.join(BOUNDED)} and with no other constraint")
        return self

    @property
    def moves_decisions(self) -> bool:
        """Whether it chooses a threshold, which no other step may do beside it."""
        return self.refit_threshold and self.bound is None

    @hook
    def prepare(self, run: Run) -> None:
        groups.check(self, self.groups, "train", run)
        check_class(self, self.positive, run)
        if self.moves_decisions and len(run.labels) == 2:
            from upright_fairness.threshold import check_alone

            check_alone(self, run)

    @hook
    def statistics(self, batch: Batch, output: Output, run: Run) -> dict[str, Any]:
        """Each row's cells and whether it is a hit in them; norm at most 1."""
        import torch

        cells = self._cells(batch, run)
        hits = cells * self._values(batch, output, run, hard=self.constraint != "bounded_group_loss")
        return {"cells": torch.cat([cells, hits], dim=1) * self._scale(run)}

    @hook
    def loss(self, batch: Batch, output: Output, run: Run) -> Any:
        """The row's coefficients times its smooth rates: linear in what the dual has chosen."""
        values = self._values(batch, output, run, hard=False)
        return (self._cells(batch, run) * self._kept(run, "coefficients") * values).sum(1)

    @hook
    def watch(self, moment: str, run: Run) -> None:
        if moment != "updated" or run.key(self) not in run.groups:
            return
        import torch

        from upright_fairness.lagrangian import follow_bound, follow_common

        with torch.no_grad():
            counts = self._kept(run, "counts")
            released = run.groups[run.key(self)]["cells"] / self._scale(run)
            counts.mul_(self.momentum).add_((1 - self.momentum) * released)
            rows, hits = counts.clamp(min=0).chunk(2)
            multipliers, coefficients = self._kept(run, "multipliers"), self._kept(run, "coefficients")
            start = 0
            for spec, _, _ in self._parts(run):
                part = slice(start, start := start + len(groups.values(spec, run)))
                given = rows[part], hits[part], multipliers[part], coefficients[part], self
                if self.bound is None:
                    follow_common(*given)
                else:
                    follow_bound(*given, self.bound if self.constraint == "bounded_group_loss" else 1 - self.bound)

    @hook
    def measure(self, predictions: Predictions, run: Run) -> dict[str, float]:
        from upright_fairness import iterate

        return iterate.measured(self, predictions, run, self._classes(predictions.labels), self.constraint)

    @hook(wrapper=True)
    def select(self, metrics: dict[str, Metric], run: Run) -> Generator[None, float, float]:
        from upright_fairness import iterate

        return (yield from iterate.judged(self, metrics, run))

    @hook
    def calibrate(self, predictions: Predictions, run: Run) -> None:
        if self.moves_decisions and len(run.labels) == 2:
            from upright_fairness import threshold

            threshold.calibrate(self, predictions, run, self._classes(run.labels)[0], self.constraint)

    @hook
    def decide(self, scores: Any, run: Run) -> Any:
        from upright_fairness import threshold

        return threshold.decide(self, scores, run, self._classes(run.labels)[0])

    @hook
    def report(self, run: Run) -> Section:
        from upright.objects import Table, Text
        from upright_fairness.threshold import told

        names = [
            (run.labels[number] if self.bound is None else "", condition, f"{spec.name} {value}")
            for spec, number, condition in self._parts(run)
            for value in groups.values(spec, run)
        ]
        rows = [(*name, value) for name, value in zip(names, self._kept(run, "multipliers").tolist(), strict=True)]
        return Section(
            f"{self.constraint.replace('_', ' ').capitalize()} in training",
            [
                Text("A positive multiplier lowers the group's rate (or loss), a negative one raises it."),
                Table(["class", "rows of true class", "group", "multiplier"], rows),
                Text(told(self, run)),
            ],
        )

    # --- cells ------------------------------------------------------------------------------------------------------

    def _classes(self, labels: list[str]) -> list[int]:
        """The classes whose rates are meant."""
        if self.positive is not None:
            return [labels.index(self.positive)]
        return [1] if len(labels) == 2 or self.bound is not None else list(range(len(labels)))

    def _parts(self, run: Run) -> list[tuple[GroupSpec, int, str]]:
        """(groups, class, rows): each is a set of cells, one a group, that are compared with one another."""
        conditions = CONDITIONS[self.constraint]
        return [
            (spec, number, rows) for spec in self.groups for number in self._classes(run.labels) for rows in conditions
        ]

    def _scale(self, run: Run) -> float:
        """A row is in at most one cell of each spec and class, with 1 as a row and at most 1 as a hit."""
        return float((2 * len(self.groups) * len(self._classes(run.labels))) ** -0.5)

    def _kept(self, run: Run, name: str) -> Any:
        import torch

        width = sum(len(groups.values(spec, run)) for spec, _, _ in self._parts(run))
        width = 2 * width if name == "counts" else width
        return run.keep(self, name, lambda: torch.zeros(width, device=run.device))

    def _cells(self, batch: Batch, run: Run) -> Any:
        """One-hot cells of each row, ``[R, C]``; a row whose group is missing is in no cell of that spec."""
        import torch

        parts = []
        for spec, number, rows in self._parts(run):
            codes = groups.batch_codes(spec, batch, run)
            inside = codes >= 0
            if rows != "all":
                inside = inside & ((batch.labels == number) == (rows == "positive"))
            names = torch.arange(len(groups.values(spec, run)), device=codes.device)
            parts.append((codes.unsqueeze(1) == names).float() * inside.float().unsqueeze(1))
        return torch.cat(parts, dim=1)

    def _values(self, batch: Batch, output: Output, run: Run, hard: bool) -> Any:
        """Each cell's rate for the row, ``[R, C]``: its score of the class (or 1 - that of its label), or the decision."""
        import torch

        chances = torch.softmax(output.logits.float(), dim=-1)
        if hard:
            chances = (chances.argmax(-1, keepdim=True) == torch.arange(len(run.labels), device=chances.device)).float()
        if self.bound is not None:
            return 1 - (
                chances * (batch.labels.unsqueeze(1) == torch.arange(len(run.labels), device=chances.device))
            ).sum(1, keepdim=True)
        columns = [
            chances[:, number : number + 1].expand(-1, len(groups.values(spec, run)))
            for spec, number, _ in self._parts(run)
        ]
        return torch.cat(columns, dim=1)
