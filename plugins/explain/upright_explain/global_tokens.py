"""Which tokens matter for a class and for a group: local attributions as a whole (van der Linden et al., 2019,
arXiv:1907.03039)."""

from __future__ import annotations

import json
from collections import defaultdict
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from pydantic import Field

from upright import Attribution, Metric, Run, Section, Step, hook
from upright.errors import ConfigError, UprightError
from upright.objects import Table, Text
from upright_explain.estimates import mean, told

if TYPE_CHECKING:
    from datasets import Dataset

    from upright.objects import Target

FILE = "global.json"
Cells = dict[str, dict[str, dict[str, list[float]]]]
"""``class`` or a sensitive column -> class, or ``class, group`` -> token -> its attribution in each row that has it."""


class Global(Step):
    """Mean attribution of tokens by class and by group, over the rows that another explainer explained.

    A token counts once a row, with the mean over its places there. Intervals hold for all shown tokens at once. What fewer than
    `min_rows` rows have is in no figure and no file of this step.
    """

    tasks: ClassVar[frozenset[str] | None] = frozenset({"text-classification", "token-classification"})

    of: str | None = Field(
        None, description="The explainer whose attributions are taken; by default the first before it."
    )
    min_rows: int = Field(5, ge=2, description="A token that fewer rows of a class or group have is not shown.")
    shown: int = Field(10, ge=1, description="Tokens of each class and group that are reported, the strongest first.")

    @hook
    def prepare(self, run: Run) -> None:
        self._source(run)

    def _source(self, run: Run) -> str:
        """The other explainer's key. Raises ConfigError where it is none, or none that comes before this step."""
        placed = run.stack.placed(self)
        explainers = run.stack.answering("explain")
        before = [p.key for p in explainers[: explainers.index(placed)] if not isinstance(p.step, Global)]
        if self.of in before or (self.of is None and before):
            return self.of or next((key for key in before if run.attributions.get(key)), before[0])
        missing = f"{self.of!r} is no explainer before it" if self.of else "there is no explainer before it"
        raise ConfigError(
            f"{placed.where}  {placed} sums up what another explainer found, and {missing}; put one there, such as "
            "integrated-gradients"
        )

    @hook
    def explain(self, target: Target, rows: Dataset, run: Run) -> list[Attribution]:
        run.keep(self, "found", lambda: self._found(rows, run))
        return []

    def _found(self, rows: Dataset, run: Run) -> dict[str, Any]:
        """Raises UprightError where the other explainer explained nothing."""
        source = self._source(run)
        explained = run.attributions.get(source, [])
        if not explained:
            raise UprightError(f"{run.stack.placed(self)}: {source} explained no row, so there is nothing to sum up")
        place = {row_id: n for n, row_id in enumerate(rows["row_id"][:])}
        columns = run.config.data.sensitive
        groups = {column: rows[column][:] for column in columns}
        cells: Cells = {family: defaultdict(lambda: defaultdict(list)) for family in ("class", *columns)}
        for one in explained:
            named = {column: values[place[one.row_id]] for column, values in groups.items()}
            for token, score in _of_row(one).items():
                cells["class"][one.target][token].append(score)
                for column, group in named.items():
                    if group is not None:
                        cells[column][f"{one.target}, {group}"][token].append(score)
        return {"of": source, "rows": len(explained), "cells": self._enough(cells)}

    def _enough(self, cells: Cells) -> Cells:
        """What ``min_rows`` rows have."""
        return {
            family: {
                cell: {token: scores for token, scores in tokens.items() if len(scores) >= self.min_rows}
                for cell, tokens in sorted(named.items())
            }
            for family, named in cells.items()
        }

    @hook
    def save(self, folder: Path, run: Run) -> None:
        found = run.keep(self, "found", dict)
        (folder / FILE).write_text(json.dumps(found, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")

    @hook
    def account(self, folder: Path, run: Run) -> dict[str, Metric]:
        return {key: metric for key, _, metric in self._told(json.loads((folder / FILE).read_text(encoding="utf-8")))}

    def _told(self, found: dict[str, Any]) -> list[tuple[str, list[str], Metric]]:
        """(key, [family, cell, token], mean with its interval) of the strongest tokens of each cell.

        All that have enough rows are compared, so the intervals hold for all of them, shown or not.
        """
        cells: Cells = found.get("cells", {})
        among = sum(len(tokens) for named in cells.values() for tokens in named.values())
        means = []
        for family, named in cells.items():
            for cell, tokens in named.items():
                of = {token: mean(scores, among) for token, scores in tokens.items()}
                for token in sorted(of, key=lambda token: (-abs(of[token].value), token))[: self.shown]:
                    names = [family, cell, token]
                    means.append(("/".join(name.replace("/", "∕") for name in names), names, of[token]))
        return means

    @hook
    def report(self, run: Run) -> Section | None:
        found = run.keep(self, "found", dict)
        if not found:
            return None
        text = (
            f"Mean attribution by {found['of']} over {found['rows']} explained rows. A token counts once a row; what fewer "
            f"than {self.min_rows} rows of a class or group have is not shown. Intervals are 95 % and hold for all tokens at "
            "once: one that contains 0 says nothing of the token's side."
        )
        lines: dict[str, list[tuple[Any, ...]]] = defaultdict(list)
        for _, (family, cell, token), metric in self._told(found):
            lines[family].append((cell, token, metric.value, told(metric), metric.n))
        blocks: list[Any] = [Text(text)]
        for family, table in lines.items():
            of = "class" if family == "class" else f"class, {family}"
            blocks.append(Table([of, "token", "mean", "95 % interval", "rows"], table))
        return Section("Tokens that matter by class and group", blocks)


def _of_row(one: Attribution) -> dict[str, float]:
    """Each token's mean attribution over its places in the row; special tokens are left out."""
    places: dict[str, list[float]] = defaultdict(list)
    for token, (start, end), score in zip(one.tokens, one.offsets, one.scores, strict=True):
        if end > start:
            places[token].append(float(score))
    return {token: sum(scores) / len(scores) for token, scores in places.items()}
