"""Group fairness of the decisions (Hardt et al., 2016, arXiv:1610.02413; names as in fairlearn)."""

from __future__ import annotations

import math
from typing import Any, Literal

from pydantic import Field

from upright import Capability, Metric, Predictions, Run, Section, Step, Verdict, hook
from upright.errors import ConfigError

Constraint = Literal["demographic_parity", "equal_opportunity", "false_positive_rate_parity", "equalized_odds"]


class GroupAudit(Step):
    """Rates of each group, their gaps and ratios, each with an interval; with ``max_gap`` a gate."""

    needs = frozenset({Capability.CLASS_SCORES})
    tasks = frozenset({"text-classification"})

    groups: list[str] = Field(min_length=1, description="Sensitive columns to compare by.")
    positive: str | None = Field(
        None, description="The class whose rates are meant; default: the second of two, each of more against the rest."
    )
    constraint: Constraint = Field("equalized_odds", description="The gap that max_gap bounds.")
    max_gap: float | None = Field(None, ge=0, le=1, description="Largest gap that is accepted.")
    on_fail: Literal["block", "warn"] = Field(
        "warn", description="block: a violated gap ends the run with exit code 4."
    )
    min_rows: int = Field(30, ge=1, description="Fewer rows in a cell are insufficient evidence.")

    @hook
    def prepare(self, run: Run) -> None:
        where = run.stack.placed(self).where
        for column in self.groups:
            if column not in run.config.data.sensitive:
                raise ConfigError(
                    f"{where}  fairness.{run.key(self)}.groups: {column!r} is not in data.sensitive "
                    f"({run.stack.where('data', 'sensitive')}); add it there"
                )
        if self.positive is not None and self.positive not in run.labels:
            raise ConfigError(
                f"{where}  fairness.{run.key(self)}.positive: {self.positive!r} is no class; there are "
                f"{', '.join(run.labels)}"
            )

    @hook
    def measure(self, predictions: Predictions, run: Run) -> dict[str, Metric]:
        from upright_fairness import rates

        found: dict[str, Metric] = {}
        for column in self.groups:
            values = predictions.groups(column)
            found[f"missing/{column}"] = Metric(float(sum(value is None for value in values)), n=len(values))
            for positive, suffix in self._classes(predictions.labels):
                counts, names = self._counts(predictions, column, positive)
                for rate, estimates in rates.group_rates(counts, run.seed).items():
                    for name, estimate in zip(names, estimates, strict=True):
                        _put(found, f"{rate}/{column}{suffix}/{_plain(name)}", estimate)
                for kind in rates.GAPS:
                    _put(found, f"{kind}_difference/{column}{suffix}", rates.gap(counts, kind, run.seed))
                    _put(found, f"{kind}_ratio/{column}{suffix}", rates.ratio(counts, kind, run.seed))
                for number, name in enumerate(names):
                    for true, word in enumerate(("negatives", "positives")):
                        key = f"{word}/{column}{suffix}/{_plain(name)}"
                        found[key] = Metric(float(counts[number, true].sum()), n=int(counts[number].sum()))
        return found

    @hook
    def judge(self, metrics: dict[str, Metric], run: Run) -> list[Verdict]:
        if self.max_gap is None:
            return []
        home = run.home(self)
        splits = sorted({key.split("/")[0] for key in metrics} - {"train", "validation", "run"})
        splits = splits or ["validation"]
        return [
            self._verdict(
                split, column, suffix, metrics.get(f"{split}/{home}/{self.constraint}_difference/{column}{suffix}")
            )
            for split in splits
            for column in self.groups
            for _, suffix in self._classes(run.labels or _labels(metrics, home, split, column))
        ]

    @hook
    def report(self, run: Run) -> list[Section]:
        from upright_fairness.picture import section

        return [section(self, run, column) for column in self.groups]

    def _classes(self, labels: list[str]) -> list[tuple[int, str]]:
        """(class number, key suffix): the named or second class of two; every class against the rest of more."""
        if self.positive is not None:
            return [(labels.index(self.positive), "")]
        if len(labels) == 2:
            return [(1, "")]
        return [(code, f"/{_plain(label)}") for code, label in enumerate(labels)]

    def _counts(self, predictions: Predictions, column: str, positive: int) -> tuple[Any, list[str]]:
        from upright_fairness import rates

        label, decision = predictions.numpy("label"), predictions.numpy("decision")
        groups, known = predictions.groups(column), label >= 0
        names = sorted({group for group in groups if group is not None})
        return rates.cells((label == positive)[known], (decision == positive)[known], groups[known], names), names

    def _verdict(self, split: str, column: str, suffix: str, metric: Metric | None) -> Verdict:
        gate = f"{split} {self.constraint}_difference {column}{suffix}"
        if metric is None or metric.low is None or metric.high is None or (metric.n or 0) < self.min_rows:
            rows = 0 if metric is None else metric.n or 0
            sentence = f"{gate}: the smallest cell holds {rows} rows, fewer than {self.min_rows}; collect more"
            return Verdict(gate, "insufficient evidence", sentence, self.on_fail)
        told = f"{gate} is {metric.value:.3f} [{metric.low:.3f}, {metric.high:.3f}]"
        assert self.max_gap is not None
        if metric.high <= self.max_gap:
            return Verdict(gate, "met", f"{told}: not over {self.max_gap}", self.on_fail)
        if metric.low > self.max_gap:
            return Verdict(gate, "violated", f"{told}: over {self.max_gap}", self.on_fail)
        return Verdict(
            gate, "insufficient evidence", f"{told}: {self.max_gap} lies inside; test on more rows", self.on_fail
        )


def _labels(metrics: dict[str, Metric], home: str, split: str, column: str) -> list[str]:
    """Class names from the keys, for a run whose model is not loaded (``upright verify``)."""
    prefix = f"{split}/{home}/equalized_odds_difference/{column}/"
    return sorted(key.removeprefix(prefix) for key in metrics if key.startswith(prefix)) or ["negative", "positive"]


def _put(found: dict[str, Metric], key: str, estimate: Any) -> None:
    if not math.isnan(estimate.value):
        low = None if math.isnan(estimate.low) else estimate.low
        high = None if math.isnan(estimate.high) else estimate.high
        found[key] = Metric(estimate.value, low, high, estimate.rows)


def _plain(name: str) -> str:
    return name.replace("/", "_")
