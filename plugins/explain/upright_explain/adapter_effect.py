"""What tuning changed: decisions and scores with the adapter and without it.

A flip is told as right or wrong by the row's label, as in negative flips (Yan et al., 2020, arXiv:2011.09161).
"""

from __future__ import annotations

import json
from collections import defaultdict
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from pydantic import Field

from upright import Attribution, Capability, Metric, Run, Section, Step, hook
from upright.errors import ConfigError
from upright.hooks import Moment
from upright.objects import Table, Text
from upright_explain.attribution import drawn
from upright_explain.estimates import mean, share, told
from upright_explain.merging import refuse_merging

if TYPE_CHECKING:
    from collections.abc import Iterator

    from datasets import Dataset

    from upright.objects import Target

FILE = "adapter-effect.json"
Line = dict[str, Any]


class AdapterEffect(Step):
    """Turn the adapter off and on: which decisions flip, and by how much the decided class's logit moves.

    The head stays as it was trained, so this is the adapter's own share of what tuning changed. Refused where there is no
    adapter to turn off, or where it is merged into the weights.
    """

    needs: ClassVar[frozenset[Capability]] = frozenset({Capability.TRAINING, Capability.CLASS_SCORES})
    tasks: ClassVar[frozenset[str] | None] = frozenset({"text-classification"})

    samples: int = Field(1000, ge=1, description="Rows that are looked at, drawn with the seed.")
    min_rows: int = Field(10, ge=2, description="A class or group of fewer rows is not shown.")
    shown: int = Field(20, ge=0, description="Flipped rows that the report names, those of the largest effect.")

    @hook
    def prepare(self, run: Run) -> None:
        refuse_merging(self, run)

    @hook
    def watch(self, moment: Moment, run: Run) -> None:
        if moment == "started" and not hasattr(run.model, "disable_adapter"):
            me, tuners = run.stack.placed(self), run.stack.answering("tune")
            raise ConfigError(
                f"{me.where}  {me} needs an adapter that can be turned off, which {tuners[0]} ({tuners[0].where}) does not "
                "make; choose a method such as LoRA or remove it"
            )

    @hook
    def explain(self, target: Target, rows: Dataset, run: Run) -> list[Attribution]:
        run.keep(self, "rows", lambda: list(self._lines(target, rows, run)))
        return []

    def _lines(self, target: Target, rows: Dataset, run: Run) -> Iterator[Line]:
        import torch

        for batch in target.batches(drawn(rows, self.samples, self, run)):
            with torch.no_grad():
                after = target.decisions(batch)
                tuned = target.scores(target.embed(batch), batch, after).double()
                with target.plain():
                    before = target.decisions(batch)
                    plain = target.scores(target.embed(batch), batch, after).double()
            for place, row in enumerate(batch.rows.tolist()):
                label = int(batch.labels[place])
                yield {
                    "row_id": rows[row]["row_id"],
                    "label": target.labels[label] if label >= 0 else None,
                    "without": target.labels[int(before[place])],
                    "with": target.labels[int(after[place])],
                    "effect": float(tuned[place] - plain[place]),
                    "groups": {column: rows[row][column] for column in run.config.data.sensitive},
                }

    @hook
    def save(self, folder: Path, run: Run) -> None:
        lines = run.keep(self, "rows", list)
        (folder / FILE).write_text(json.dumps(lines, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")

    @hook
    def account(self, folder: Path, run: Run) -> dict[str, Metric]:
        lines: list[Line] = json.loads((folder / FILE).read_text(encoding="utf-8"))
        if not lines:
            return {}
        found = {"flipped": _flipped(lines), "effect": mean([line["effect"] for line in lines])}
        labelled = [line for line in lines if line["label"] is not None]
        for name, right in {"corrected": "with", "spoiled": "without"}.items():
            if labelled:
                hits = [line["with"] != line["without"] and line[right] == line["label"] for line in labelled]
                found[name] = share(sum(hits), len(labelled))
        families = {"class": _by(lines, lambda line: line["with"])}
        for column in lines[0]["groups"]:
            families[f"group/{_plain(column)}"] = _by(lines, lambda line, column=column: line["groups"][column])
        for family, cells in families.items():
            shown = {name: cell for name, cell in cells.items() if len(cell) >= self.min_rows}
            for name, cell in shown.items():
                found[f"flipped/{family}/{name}"] = _flipped(cell, len(shown))
                found[f"effect/{family}/{name}"] = mean([line["effect"] for line in cell], len(shown))
        return found

    @hook
    def report(self, run: Run) -> Section | None:
        lines = run.keep(self, "rows", list)
        if not lines:
            return None
        prefix = f"run/{run.home(self)}/"
        figures = {key.removeprefix(prefix): m for key, m in run.metrics.items() if key.startswith(prefix)}
        table = [(name, m.value, told(m), m.n) for name, m in figures.items()]
        flips = sorted(
            (line for line in lines if line["with"] != line["without"]), key=lambda line: -abs(line["effect"])
        )
        text = (
            f"{len(lines)} rows with the adapter and without it, the trained head in both; {len(flips)} decisions differ. The "
            "effect is that on the logit of the class that was decided with the adapter. Intervals are 95 % and hold for all "
            f"classes, or all groups of a column, at once; fewer than {self.min_rows} rows are not shown."
        )
        named = [(line["row_id"], line["label"], line["without"], line["with"], line["effect"]) for line in flips]
        return Section(
            "What the adapter changed",
            [
                Text(text),
                Table(["figure", "value", "95 % interval", "rows"], table),
                Table(["row", "label", "without", "with", "effect"], named[: self.shown]),
            ],
        )


def _flipped(lines: list[Line], among: int = 1) -> Metric:
    return share(sum(line["with"] != line["without"] for line in lines), len(lines), among)


def _by(lines: list[Line], of: Any) -> dict[str, list[Line]]:
    """Lines by what ``of`` says of each; those of which it says nothing are left out."""
    cells: dict[str, list[Line]] = defaultdict(list)
    for line in lines:
        if of(line) is not None:
            cells[_plain(of(line))].append(line)
    return dict(sorted(cells.items()))


def _plain(name: Any) -> str:
    """A name as a part of a figure's key."""
    return str(name).replace("/", "∕")
