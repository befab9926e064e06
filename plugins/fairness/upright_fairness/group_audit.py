"""Group fairness of the decisions (Hardt et al., 2016, arXiv:1610.02413; names as in fairlearn)."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any, Literal

from pydantic import Field

from upright import Capability, Metric, Predictions, Run, Section, Step, Verdict, hook
from upright_fairness import groups
from upright_fairness.groups import Groups
from upright_fairness.positive import check_class, plain
from upright_fairness.splits import audited

Constraint = Literal[
    "demographic_parity",
    "equal_opportunity",
    "false_positive_rate_parity",
    "equalized_odds",
    "predictive_parity",
    "accuracy_parity",
]


class GroupAudit(Step):
    """Rates, calibration and AUC of each group, gaps and ratios, each with an interval; with a bound a gate."""

    needs = frozenset({Capability.CLASS_SCORES})
    tasks = frozenset({"text-classification"})

    groups: list[Groups] = Field(
        min_length=1, description="Sensitive columns to compare by, or group specs (see Groups)."
    )
    positive: str | None = Field(
        None, description="The class whose rates are meant; default: the second of two, each of more against the rest."
    )
    constraint: Constraint = Field("equalized_odds", description="The gap that max_gap and min_ratio bound.")
    max_gap: float | None = Field(None, ge=0, le=1, description="Largest gap that is accepted.")
    min_ratio: float | None = Field(
        None,
        gt=0,
        le=1,
        description="Smallest ratio of two groups' rates that is accepted; 0.8 is the four-fifths rule.",
    )
    min_balanced_accuracy: float = Field(
        0.5, ge=0.5, lt=1, description="Utility floor: a gate is met only by decisions that are better than this."
    )
    on_fail: Literal["block", "warn"] = Field(
        "warn", description="block: a violated gap ends the run with exit code 4."
    )
    min_rows: int = Field(30, ge=1, description="Fewer rows in a cell are insufficient evidence.")
    twin: Path | None = Field(
        None, description="Folder of a run on the same rows, such as the twin without privacy: its rates stand beside."
    )

    @hook
    def prepare(self, run: Run) -> None:
        groups.check(self, self.groups, "audit", run)
        check_class(self, self.positive, run)
        if self.twin is not None:
            for split in audited(run.data):
                self._twin(split, run)

    @hook
    def measure(self, predictions: Predictions, run: Run) -> dict[str, Metric]:
        from upright_fairness.measures import everything

        label, found = predictions.numpy("label"), {}
        if (unlabelled := int((label < 0).sum())) > 0:
            found["unlabelled"] = Metric(float(unlabelled), n=len(label))
        for spec in self.groups:
            codes, names = groups.codes(spec, predictions)
            found[f"missing/{spec.name}"] = Metric(float((codes < 0).sum()), n=len(codes))
            for positive, suffix in self.classes(predictions.labels):
                for key, name, estimate in everything(predictions, positive, codes, names, self.constraint, run.seed):
                    _put(found, f"{key}/{spec.name}{suffix}{name and '/' + plain(name)}", estimate)
        return found

    @hook
    def judge(self, metrics: dict[str, Metric], run: Run) -> list[Verdict]:
        if self.max_gap is None and self.min_ratio is None:
            return []
        home = run.home(self)
        return [
            verdict
            for split in audited({key.split("/")[0] for key in metrics} - {"run"})
            for spec in self.groups
            for _, suffix in self.classes(run.labels or _labels(metrics, home, split, spec.name))
            for verdict in self._verdicts(split, f"{spec.name}{suffix}", metrics, home)
        ]

    def _verdicts(self, split: str, what: str, metrics: dict[str, Metric], home: str) -> list[Verdict]:
        """The gap's, the ratio's and the utility floor's, of one way of grouping and one class."""
        from upright_fairness import verdicts

        def of(name: str) -> tuple[str, Metric | None]:
            return f"{split} {name} {what}", metrics.get(f"{split}/{home}/{name}/{what}")

        rest = self.min_rows, self.on_fail
        floor = verdicts.useful(*of("balanced_accuracy"), self.min_balanced_accuracy, *rest)
        found = []
        if self.max_gap is not None:
            found.append(verdicts.at_most(*of(f"{self.constraint}_difference"), self.max_gap, *rest))
        if self.min_ratio is not None:
            found.append(verdicts.at_least(*of(f"{self.constraint}_ratio"), self.min_ratio, *rest))
        return [*(verdicts.provided(verdict, floor) for verdict in found), floor]

    @hook
    def save(self, folder: Path, run: Run) -> None:
        """The twin's decisions, so that what is told of it can be derived again without it."""
        import pyarrow.parquet as pq

        if self.twin is not None:
            for split in audited(run.data):
                pq.write_table(self._twin(split, run).table, folder / f"twin-{split}.parquet")

    @hook
    def account(self, folder: Path, run: Run) -> dict[str, Metric]:
        import pyarrow.parquet as pq

        from upright_fairness.twin import beside

        found = {}
        for path in sorted(folder.glob("twin-*.parquet")):
            mine = run.predictions(path.stem.removeprefix("twin-"))
            other = Predictions(mine.split, mine.task, mine.labels, pq.read_table(path))
            for spec in self.groups:
                for positive, suffix in self.classes(mine.labels):
                    for key, metric in beside(mine, other, positive, spec, suffix):
                        found[f"twin/{mine.split}/{key}"] = metric
        return found

    @hook
    def report(self, run: Run) -> list[Section]:
        from upright_fairness.audit_section import section

        return [section(self, run, spec) for spec in self.groups]

    def _twin(self, split: str, run: Run) -> Predictions:
        from upright_fairness.twin import read

        where = f"{run.stack.placed(self).where}  fairness.{run.key(self)}.twin"
        return read(run.stack.root / str(self.twin), split, run.data[split]["row_id"][:], run.labels, where)

    def classes(self, labels: list[str]) -> list[tuple[int, str]]:
        """(class number, key suffix): the named or second class of two; every class against the rest of more."""
        if self.positive is not None:
            return [(labels.index(self.positive) if self.positive in labels else -1, "")]
        if len(labels) == 2:
            return [(1, "")]
        return [(code, f"/{plain(label)}") for code, label in enumerate(labels)]


def _labels(metrics: dict[str, Metric], home: str, split: str, column: str) -> list[str]:
    """Class names from the keys, for a run whose model is not loaded (``upright verify``)."""
    prefix = f"{split}/{home}/balanced_accuracy/{column}/"
    return sorted(key.removeprefix(prefix) for key in metrics if key.startswith(prefix)) or ["negative", "positive"]


def _put(found: dict[str, Metric], key: str, estimate: Any) -> None:
    if not math.isnan(estimate.value):
        low = None if math.isnan(estimate.low) else estimate.low
        high = None if math.isnan(estimate.high) else estimate.high
        found[key] = Metric(estimate.value, low, high, estimate.rows)
