"""Offsets on the log scores of any number of classes, fitted after training (see `offsets` for the papers)."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Literal

from pydantic import Field, model_validator

from upright import Batch, Capability, Predictions, Run, Section, Step, hook
from upright_fairness import groups
from upright_fairness.groups import Groups

FILE = "offsets.json"
TINY = 1e-300
"""A score of 0 has no logarithm."""


class MulticlassOffsets(Step):
    """Add an offset to each class's log score, fitted on validation: the same for all groups, or its own for each.

    A row whose group is missing, or has fewer than `min_rows` rows in validation, gets the offsets for all.
    """

    needs = frozenset({Capability.CLASS_SCORES})
    tasks = frozenset({"text-classification"})

    groups: list[Groups] = Field(min_length=1, description="Sensitive columns, or group specs (see Groups).")
    positive: str | None = Field(None, description="The class whose gap counts; default: the largest over all classes.")
    constraint: Literal[
        "demographic_parity",
        "equal_opportunity",
        "false_positive_rate_parity",
        "equalized_odds",
        "predictive_parity",
        "accuracy_parity",
    ] = Field("equalized_odds", description="Whose gap counts, each class against the rest, as in group-audit.")
    max_gap: float = Field(0.02, ge=0, le=1, description="Gap that is left alone; what is over it counts against.")
    scoring: Literal["accuracy", "f1_macro"] = Field("accuracy", description="What is made large.")
    group_aware: bool = Field(False, description="Offsets for each group, which is read at inference; else for all.")
    min_rows: int = Field(30, ge=1, description="A group of fewer validation rows gets no offsets of its own.")

    @model_validator(mode="after")
    def _one_spec(self) -> MulticlassOffsets:
        if self.group_aware and len(self.groups) > 1:
            raise ValueError("group_aware needs one group spec; intersect several columns in it")
        return self

    @hook
    def prepare(self, run: Run) -> None:
        from upright_fairness.threshold import check_fitted

        check_fitted(self, run)

    @hook
    def calibrate(self, predictions: Predictions, run: Run) -> None:
        import numpy as np

        from upright_fairness.offsets import Criterion, fit

        known = predictions.numpy("label") >= 0
        truth, logs = predictions.numpy("label")[known], np.log(np.maximum(predictions.numpy("scores")[known], TINY))
        columns = [groups.codes(spec, predictions) for spec in self.groups]
        coded = [codes[known] for codes, _ in columns]
        classes = list(range(len(run.labels))) if self.positive is None else [run.labels.index(self.positive)]
        given = len(run.labels), coded, self.constraint, classes, self.max_gap, self.scoring
        kept, criterion = run.keep(self, "offsets", dict), Criterion(truth, *given)
        if not self.group_aware:
            kept["all"] = fit(logs, criterion)[0].tolist()
            return
        names, sizes = columns[0][1], np.bincount(coded[0][coded[0] >= 0], minlength=len(columns[0][1]))
        large = np.flatnonzero(sizes >= self.min_rows)
        place = np.full(len(names) + 1, -1)
        place[large] = np.arange(len(large))
        found = fit(logs, criterion, place[coded[0]])
        kept["all"] = found[0].tolist()
        kept["groups"] = {names[one]: found[1 + n].tolist() for n, one in enumerate(large)}

    @hook
    def decide(self, scores: Any, batch: Batch, run: Run) -> Any:
        """The log scores with the offsets; as they are where none are kept."""
        kept = run.keep(self, "offsets", dict)
        if not kept:
            return scores
        offsets = scores.new_tensor(kept["all"])
        if self.group_aware:
            names = groups.values(self.groups[0], run)
            lines = [*(kept["groups"].get(name, kept["all"]) for name in names), kept["all"]]
            offsets = scores.new_tensor(lines)[groups.batch_codes(self.groups[0], batch, run)]  # -1 is the last line
        return scores.clamp(min=TINY).log() + offsets

    @hook
    def report(self, run: Run) -> Section:
        from upright.objects import Table, Text

        kept = run.keep(self, "offsets", dict)
        lines = [("all", kept["all"]), *kept.get("groups", {}).items()] if kept else []
        told = "Added to the log scores before the largest decides; fitted on validation."
        if self.group_aware:
            told += " The group is read at inference; where it is missing, the offsets for all decide."
        table = Table(["group", *run.labels], [(name, *offsets) for name, offsets in lines])
        return Section("Class offsets", [Text(told), table])

    @hook
    def save(self, folder: Path, run: Run) -> None:
        (folder / FILE).write_text(json.dumps(run.keep(self, "offsets", dict), indent=2) + "\n", encoding="utf-8")

    @hook
    def restore(self, folder: Path, run: Run) -> None:
        run.keep(self, "offsets", dict).update(json.loads((folder / FILE).read_text(encoding="utf-8")))
