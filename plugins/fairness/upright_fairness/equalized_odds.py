"""Equalized odds during training, by a Lagrangian on released group counts (Cotter et al., 2019, arXiv:1809.04198).

Reads sums over the update alone (`run.groups`), so it couples no two records and runs under differential privacy. The
multiplier is linear, the dual follows hard rates and is damped, the primal is smooth, the counts are averaged over
updates: a squared penalty on a batch's noisy gaps would be biased by their variance and collapse utility.
"""

from __future__ import annotations

from collections.abc import Generator
from typing import Any

from pydantic import Field

from upright import Batch, Capability, Metric, Output, Predictions, Run, Section, Step, hook
from upright_fairness import groups
from upright_fairness.groups import Groups
from upright_fairness.positive import check_class, class_number


class EqualizedOdds(Step):
    """Pull each group's true and false positive rates towards the common ones while training."""

    needs = frozenset({Capability.TRAINING, Capability.CLASS_SCORES})
    tasks = frozenset({"text-classification"})

    groups: list[Groups] = Field(min_length=1, description="Sensitive columns whose groups shall have equal rates.")
    positive: str | None = Field(
        None, description="The class whose rates are meant; needed with more than two classes."
    )
    max_gap: float = Field(0.02, ge=0, le=1, description="Distance to the common rate that is left alone.")
    dual_learning_rate: float = Field(0.1, gt=0, description="How fast multipliers follow a violated rate.")
    damping: float = Field(0.01, ge=0, lt=1, description="Share of every multiplier that is forgotten at an update.")
    momentum: float = Field(0.95, ge=0, lt=1, description="Memory of the averaged counts.")
    max_multiplier: float = Field(2.0, gt=0, description="Bound on every multiplier.")
    refit_threshold: bool = Field(
        True,
        description="Choose one threshold for all groups on validation: accuracy less the gap over max_gap (two classes).",
    )

    @property
    def moves_decisions(self) -> bool:
        """Whether it chooses a threshold, which no other step may do beside it."""
        return self.refit_threshold

    @hook
    def prepare(self, run: Run) -> None:
        groups.check(self, self.groups, "train", run)
        check_class(self, self.positive, run, needed=True)
        if self.moves_decisions and len(run.labels) == 2:
            from upright_fairness.threshold import check_alone

            check_alone(self, run)

    @hook
    def statistics(self, batch: Batch, output: Output, run: Run) -> dict[str, Any]:
        """Each row's cells (true class x group) and whether it was decided positive in them; norm at most 1."""
        import torch

        decided = (output.logits.argmax(-1) == class_number(self.positive, run)).float().unsqueeze(1)
        cells = self._cells(batch, run)
        scale = (2 * len(self.groups)) ** -0.5
        return {"cells": torch.cat([cells, cells * decided], dim=1) * scale}

    @hook
    def loss(self, batch: Batch, output: Output, run: Run) -> Any:
        """The row's coefficient times its probability of the positive class: linear in what the dual has chosen."""
        import torch

        score = torch.softmax(output.logits.float(), dim=-1)[:, class_number(self.positive, run)]
        return (self._cells(batch, run) * self._kept(run, "coefficients")).sum(1) * score

    @hook
    def watch(self, moment: str, run: Run) -> None:
        if moment != "updated" or run.key(self) not in run.groups:
            return
        import torch

        from upright_fairness.lagrangian import follow_common

        with torch.no_grad():
            scale = (2 * len(self.groups)) ** 0.5
            counts = self._kept(run, "counts")
            counts.mul_(self.momentum).add_((1 - self.momentum) * scale * run.groups[run.key(self)]["cells"])
            rows, hits = counts.clamp(min=0).chunk(2)
            multipliers, coefficients = self._kept(run, "multipliers"), self._kept(run, "coefficients")
            for part in self._parts(run):
                follow_common(rows[part], hits[part], multipliers[part], coefficients[part], self)

    @hook
    def measure(self, predictions: Predictions, run: Run) -> dict[str, float]:
        from upright_fairness import iterate

        positive = predictions.labels.index(self.positive) if self.positive is not None else 1
        return iterate.measured(self, predictions, run, [positive], "equalized_odds")

    @hook(wrapper=True)
    def select(self, metrics: dict[str, Metric], run: Run) -> Generator[None, float, float]:
        from upright_fairness import iterate

        return (yield from iterate.judged(self, metrics, run))

    @hook
    def calibrate(self, predictions: Predictions, run: Run) -> None:
        if self.moves_decisions and len(run.labels) == 2:
            from upright_fairness import threshold

            threshold.calibrate(self, predictions, run, class_number(self.positive, run), "equalized_odds")

    @hook
    def decide(self, scores: Any, run: Run) -> Any:
        from upright_fairness import threshold

        return threshold.decide(self, scores, run, class_number(self.positive, run))

    @hook
    def report(self, run: Run) -> Section:
        from upright.objects import Table, Text
        from upright_fairness.threshold import told

        multipliers = self._kept(run, "multipliers").tolist()
        rows = [(*names, value) for names, value in zip(self._names(run), multipliers, strict=True)]
        return Section(
            "Equalized odds in training",
            [
                Text("A positive multiplier lowers the group's rate of positive decisions, a negative one raises it."),
                Table(["true class", "group", "multiplier"], rows),
                Text(told(self, run)),
            ],
        )

    # --- cells ------------------------------------------------------------------------------------------------------

    def _kept(self, run: Run, name: str) -> Any:
        import torch

        width = sum(2 * len(groups.values(spec, run)) for spec in self.groups)
        width = 2 * width if name == "counts" else width
        return run.keep(self, name, lambda: torch.zeros(width, device=run.device))

    def _cells(self, batch: Batch, run: Run) -> Any:
        """One-hot cells of each row, ``[R, C]``: for each column, group within negatives, then within positives.

        A row whose group is missing is in no cell of that column.
        """
        import torch

        positive = (batch.labels == class_number(self.positive, run)).long()
        parts = []
        for spec in self.groups:
            size = len(groups.values(spec, run))
            group = groups.batch_codes(spec, batch, run)
            place = positive * size + group.clamp(min=0)
            one_hot = (place.unsqueeze(1) == torch.arange(2 * size, device=place.device)).float()
            parts.append(one_hot * (group >= 0).float().unsqueeze(1))
        return torch.cat(parts, dim=1)

    def _parts(self, run: Run) -> list[slice]:
        """The cells of one true class of one column."""
        parts, start = [], 0
        for spec in self.groups:
            size = len(groups.values(spec, run))
            for _ in range(2):
                parts.append(slice(start, start + size))
                start += size
        return parts

    def _names(self, run: Run) -> list[tuple[str, str]]:
        return [
            (truth, f"{spec.name} {value}")
            for spec in self.groups
            for truth in ("negative", "positive")
            for value in groups.values(spec, run)
        ]
