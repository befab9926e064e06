"""Thresholds after training, one for all groups or one for each (Hardt et al., 2016, arXiv:1610.02413)."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Literal

from pydantic import Field, model_validator

from upright import Batch, Capability, Predictions, Run, Section, Step, hook
from upright.errors import ConfigError
from upright_fairness import groups
from upright_fairness.groups import Groups
from upright_fairness.positive import class_number

FILE = "thresholds.json"


class Thresholds(Step):
    """Decide by a threshold that is fitted on validation: one for all groups, or one for each group.

    A row whose group is missing, or has fewer than `min_rows` rows in validation, is decided by the threshold for all.
    """

    needs = frozenset({Capability.CLASS_SCORES})
    tasks = frozenset({"text-classification"})

    groups: list[Groups] = Field(min_length=1, description="Sensitive columns, or group specs (see Groups).")
    positive: str | None = Field(None, description="The class whose rates are meant; default: the second of the two.")
    constraint: Literal[
        "demographic_parity",
        "equal_opportunity",
        "false_positive_rate_parity",
        "equalized_odds",
        "predictive_parity",
        "accuracy_parity",
    ] = Field("equalized_odds", description="Whose gap counts, as in group-audit.")
    max_gap: float = Field(0.02, ge=0, le=1, description="Gap that is left alone; what is over it counts against.")
    scoring: Literal["accuracy", "balanced_accuracy"] = Field("accuracy", description="What is made large.")
    group_aware: bool = Field(
        False, description="One threshold for each group, which is read at inference; else one for all."
    )
    method: Literal["deterministic", "threshold_optimizer"] = Field(
        "deterministic",
        description="threshold_optimizer: fairlearn's, equal rates by chance between two thresholds; no max_gap.",
    )
    min_rows: int = Field(30, ge=1, description="A group of fewer validation rows gets no threshold of its own.")

    @model_validator(mode="after")
    def _goes_together(self) -> Thresholds:
        if self.group_aware and len(self.groups) > 1:
            raise ValueError("group_aware needs one group spec; intersect several columns in it")
        if self.method == "threshold_optimizer":
            if not self.group_aware:
                raise ValueError("threshold_optimizer reads the group at inference; set group_aware: true")
            if self.constraint in ("predictive_parity", "accuracy_parity"):
                raise ValueError(f"threshold_optimizer knows no {self.constraint}; use method: deterministic")
        return self

    @hook
    def prepare(self, run: Run) -> None:
        from upright_fairness.threshold import check_fitted

        check_fitted(self, run)
        if len(run.labels) != 2:
            own = run.stack.placed(self)
            raise ConfigError(f"{own.where}  {own}: serves two classes, not {len(run.labels)}; use multiclass-offsets")

    @hook
    def calibrate(self, predictions: Predictions, run: Run) -> None:
        from upright_fairness import threshold

        number, kept = class_number(self.positive, run), run.keep(self, "threshold", dict)
        if not self.group_aware:
            threshold.calibrate(self, predictions, run, number, self.constraint, self.scoring)
            return
        import numpy as np

        from upright_fairness import group_thresholds, threshold_optimizer

        scores, truth, [(codes, names)] = threshold.known_rows(self, predictions, number)
        if self.method == "deterministic":
            given = scores, truth, codes, self.max_gap, self.constraint, self.scoring, self.min_rows
            kept["threshold"], found = group_thresholds.choose_by_group(*given)
            kept["groups"] = dict(zip(names, found.tolist(), strict=False))
            return
        kept["threshold"] = threshold.choose(scores, truth, [codes], self.max_gap, self.constraint, self.scoring)
        both = [0 < truth[codes == one].sum() < (codes == one).sum() >= self.min_rows for one in range(len(names))]
        served = np.array([*both, False], dtype=bool)[codes]
        named = np.array([*names, None], dtype=object)[codes]
        kept["mixtures"] = (
            threshold_optimizer.fit(scores[served], truth[served], named[served], self.constraint, self.scoring)
            if served.any()
            else {}
        )
        kept["salt"] = self._salt(run)

    @hook
    def decide(self, scores: Any, batch: Batch, run: Run) -> Any:
        from upright_fairness import threshold

        number, kept = class_number(self.positive, run), run.keep(self, "threshold", dict)
        if not self.group_aware or not kept:
            return threshold.decide(self, scores, run, number)
        import numpy as np

        names = groups.values(self.groups[0], run)
        codes = groups.batch_codes(self.groups[0], batch, run).cpu().numpy()
        if "groups" in kept:
            own = np.array([*(kept["groups"].get(name, kept["threshold"]) for name in names), kept["threshold"]])[codes]
        else:
            own = self._drawn(
                scores[:, number].cpu().numpy(), np.array([*names, None], dtype=object)[codes], batch, kept
            )
        return threshold.moved(scores, scores.new_tensor(own), number)

    @hook
    def report(self, run: Run) -> Section:
        from upright.objects import Table, Text
        from upright_fairness.threshold import told

        kept = run.keep(self, "threshold", dict)
        blocks: list[Any] = [Text(told(self, run))]
        if "groups" in kept:
            blocks += [
                Text(
                    "Each group has its own; the group is read at inference, and where it is missing, the one for all."
                ),
                Table(["group", "threshold"], list(kept["groups"].items())),
            ]
        elif "mixtures" in kept:
            blocks += [
                Text(
                    "Of each group some rows are drawn by lot between two rules; the lot follows from the run and the "
                    "row's text. The group is read at inference, and where it is missing, the one for all decides."
                ),
                Table(
                    ["group", "share", "rule", "share", "rule", "share", "constant"],
                    [(name, *_told(one)) for name, one in kept["mixtures"].items()],
                ),
            ]
        return Section("Thresholds", blocks)

    @hook
    def save(self, folder: Path, run: Run) -> None:
        (folder / FILE).write_text(json.dumps(run.keep(self, "threshold", dict), indent=2) + "\n", encoding="utf-8")

    @hook
    def restore(self, folder: Path, run: Run) -> None:
        run.keep(self, "threshold", dict).update(json.loads((folder / FILE).read_text(encoding="utf-8")))

    def _salt(self, run: Run) -> int:
        import torch

        return int(torch.randint(2**62, (1,), generator=run.generator(self)))

    def _drawn(self, scores: Any, named: Any, batch: Batch, kept: dict[str, Any]) -> Any:
        """Each row's threshold: the one for all, or below or above every score, as its lot says."""
        import numpy as np

        from upright_fairness.threshold_optimizer import chance, lots

        drawn, own = lots(batch, kept["salt"]), np.full(len(scores), kept["threshold"])
        for name, mixture in kept["mixtures"].items():
            mine = named == name
            own[mine] = np.where(drawn[mine] < chance(scores[mine], mixture), -1.0, 2.0)
        return own


def _told(mixture: dict[str, Any]) -> list[Any]:
    rules = [part for share, (operator, at) in mixture["rules"] for part in (share, f"{operator} {at:.3f}")]
    return [*rules, mixture["ignored"], mixture["constant"]]
