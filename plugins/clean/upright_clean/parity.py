"""Does cleaning take more from one group than from others? A gate on the ratio of removal rates.

Automated filters remove some groups' records at a higher rate (Dodge et al., 2021, arXiv:2104.08758; Northcutt et al., 2021,
arXiv:1911.00068, for label errors). The comparison is that of the four-fifths rule (29 CFR 1607.4 D), 1 / .8 = 1.25.
"""

from __future__ import annotations

import json
from collections.abc import Generator
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from pydantic import Field

from upright import Decisions, Metric, Run, Section, Step, Verdict, hook

if TYPE_CHECKING:
    import numpy as np
    from datasets import Dataset


class Parity(Step):
    """Compare how often each cleaner drops rows of each sensitive group and each class; what is over the cap is flagged.

    Looks at every cleaner of the stack, on train and validation. A group is compared with all other rows whose group is
    known; groups under half of an equal share are compared together as well. The verdict is on what the cleaner
    wanted. Where it is violated, the group keeps the drops of the best score that the cap allows; the others become
    flags with the reason `review:<reason>`, and the report shows both what was wanted and what was done.
    """

    reads_private = True

    max_ratio: float = Field(1.25, ge=1, description="Largest ratio of a group's removal rate to the others'.")
    min_rows: int = Field(30, ge=1, description="A group of fewer rows is insufficient evidence.")
    on_fail: Literal["block", "warn"] = Field(
        "warn", description="block: a cleaner that wanted more than the cap allows ends the run with exit code 4."
    )

    @hook(wrapper=True)
    def clean(
        self, rows: Dataset, split: str, step: Step, run: Run
    ) -> Generator[None, Decisions | None, Decisions | None]:
        decisions = yield
        if split not in ("train", "validation"):
            return decisions  # core drops nothing there
        from upright_clean.removals import group_columns

        record: dict[str, Any] = {"cleaner": run.key(step), "split": split, "rows": len(rows), "wanted": 0, "done": 0}
        record["columns"] = dict.fromkeys(group_columns(rows, run.config.data.sensitive))
        drops = _drops(rows, decisions)
        if drops and decisions is not None:
            spared = self._count(rows, drops, record)
            decisions = _reviewed(decisions, spared) if spared else decisions
        path = run.step_folder(self) / f"{record['cleaner']}.{split}.json"
        path.write_text(json.dumps(record, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
        return decisions

    @hook
    def account(self, folder: Path, run: Run) -> dict[str, Metric]:
        from upright_clean.parity_report import figures

        return figures(_records(folder), self.min_rows)

    @hook
    def judge(self, metrics: dict[str, Metric], run: Run) -> list[Verdict]:
        from upright_clean.parity_report import verdicts

        home = f"run/{run.home(self)}/"
        found = {key.removeprefix(home): metric for key, metric in metrics.items() if key.startswith(home)}
        return verdicts(found, self.max_ratio, self.min_rows, self.on_fail)

    @hook
    def report(self, run: Run) -> Section:
        from upright_clean.parity_report import section

        return section(_records(run.step_folder(self)), self.min_rows, self.max_ratio)

    def _count(self, rows: Dataset, drops: dict[str, float], record: dict[str, Any]) -> set[str]:
        """Fill the record; return the ids of the rows to review."""
        import numpy as np
        import pyarrow as pa
        import pyarrow.compute as pc

        from upright_clean.removals import grouped, over_cap

        ids = rows.select_columns(["row_id"]).with_format("arrow")[:].column("row_id")
        place = np.flatnonzero(pc.is_in(ids, value_set=pa.array(list(drops))).to_numpy())
        dropped: list[str] = ids.take(pa.array(place)).to_pylist()
        order = np.argsort(np.array(dropped))  # by id, so that the order of the rows decides nothing
        place, dropped = place[order], [dropped[number] for number in order]
        groups = {column: grouped(rows, column) for column in record["columns"]}
        counted = [
            (names, np.bincount(codes[codes >= 0], minlength=len(names)), codes[place])
            for names, codes in groups.values()
        ]
        spared = over_cap(counted, np.array([drops[row] for row in dropped]), self.max_ratio, self.min_rows)
        record |= {"wanted": len(dropped), "done": int((~spared).sum())}
        for column, (names, total, codes) in zip(groups, counted, strict=True):
            record["columns"][column] = {
                "groups": names,
                "rows": total.tolist(),
                "wanted": _tally(codes, len(names)),
                "done": _tally(codes[~spared], len(names)),
            }
        return {row for row, review in zip(dropped, spared, strict=True) if review}


def _tally(codes: np.ndarray, groups: int) -> list[int]:
    import numpy as np

    counts: list[int] = np.bincount(codes[codes >= 0], minlength=groups).tolist()
    return counts


def _drops(rows: Dataset, decisions: Decisions | None) -> dict[str, float]:
    """Row to drop -> how far its score lies from the threshold; infinite where the cleaner gives no score."""
    found: dict[str, float] = {}
    if decisions is None:
        return found
    columns = decisions.columns
    for row, action, score, threshold in zip(
        columns["row_id"], columns["action"], columns["score"], columns["threshold"], strict=True
    ):
        if action == "drop":
            far = abs(score - threshold) if score is not None and threshold is not None else float("inf")
            found[row] = max(found.get(row, 0.0), far)
    return found


def _reviewed(decisions: Decisions, spared: set[str]) -> Decisions:
    """The same decisions, with the drops of these rows turned to flags that keep the old reason."""
    result = Decisions()
    result.columns = {name: list(values) for name, values in decisions.columns.items()}
    actions, reasons = result.columns["action"], result.columns["reason"]
    for number, (row, action) in enumerate(zip(decisions.columns["row_id"], actions, strict=True)):
        if action == "drop" and row in spared:
            actions[number], reasons[number] = "flag", f"review:{reasons[number]}"[:80]
    return result


def _records(folder: Path) -> list[dict[str, Any]]:
    """What was counted, one record a cleaner and split."""
    return [json.loads(path.read_text(encoding="utf-8")) for path in sorted(folder.glob("*.json"))]
