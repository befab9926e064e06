"""What the data say of groups before any model sees them (datasheets: Gebru et al., 2021, arXiv:1803.09010).

The association of identity terms with labels is the nPMI of Aka et al., 2021, arXiv:2103.03417.
"""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from pydantic import Field

from upright import Decisions, Metric, Run, Scope, Section, Step, hook
from upright.errors import ConfigError
from upright.objects import Table, Text
from upright_clean.association import npmi, wilson, withheld
from upright_clean.inputs import COLUMNS
from upright_clean.lists import given, shipped, version
from upright_clean.words import held, pattern

if TYPE_CHECKING:
    from datasets import Dataset


class BiasReport(Step):
    """Report how groups and classes are represented, and which identity terms go with which label; changes no row.

    Per split: rows of each group, values that are missing, each group's share of each class (base rates), and the
    normalised pointwise mutual information (nPMI) of identity terms with labels, with 95 % intervals. What rests on fewer
    rows than `min_rows` is withheld, and so is what would give it away. Figures of a private run's training rows lie
    outside its epsilon.
    """

    reads_private: ClassVar[bool] = True
    scope: ClassVar[Scope] = Scope(dp_stability=1)

    min_rows: int = Field(10, ge=1, description="Figures that rest on fewer rows are withheld.")
    shown: int = Field(20, ge=0, description="Pairs of term and label that are reported, the most certain first.")
    terms: Path | None = Field(
        None,
        description="Your own list in place of the shipped ones: a line holds a kind and a term, with a tab between.",
    )

    @hook
    def clean(self, rows: Dataset, split: str, run: Run) -> Decisions:
        label = "label" if "label" in rows.column_names else None
        told: dict[str, Any] = {"rows": len(rows), "columns": {}, "terms": {}, "list": self._versions()}
        for column in run.config.data.sensitive:
            told["columns"][column] = self._column(rows, column, label)
        if label:
            told["terms"] = self._terms(rows, run)
        run.emit("memory", step=run.key(self), split=split, bytes=rows.with_format("arrow")[:].nbytes)
        path = run.step_folder(self) / f"{split}.json"
        path.write_text(json.dumps(told, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
        return Decisions()

    @hook
    def account(self, folder: Path, run: Run) -> dict[str, Metric]:
        found: dict[str, Metric] = {}
        for path in sorted(folder.glob("*.json")):
            told = json.loads(path.read_text(encoding="utf-8"))
            for kind, name, hits, rows in _rates(told):
                key = "/".join([path.stem, kind, *(part.replace("/", "_") for part in name)])
                found[key] = Metric(*wilson(hits, rows), n=rows, source="ledger")
            for term, name, values, rows in self._associations(told):
                key = "/".join([path.stem, "npmi", term.replace("/", "_"), name.replace("/", "_")])
                found[key] = Metric(*values, n=rows, source="ledger")
        return found

    @hook
    def report(self, run: Run) -> list[Section]:
        sections = []
        for path in sorted(run.step_folder(self).glob("*.json")):
            told = json.loads(path.read_text(encoding="utf-8"))
            sections.append(Section(f"Representation and association in {path.stem}", self._blocks(told)))
        return sections

    def _column(self, rows: Dataset, column: str, label: str | None) -> dict[str, Any]:
        """Rows of each value (None: withheld), of none, and of each value's classes."""
        counts, classes = _crossed(rows, column, label)
        values = sorted(value for value in counts if value is not None)
        hidden = withheld([counts[value] for value in values], self.min_rows)
        shown = {value: None if gone else counts[value] for value, gone in zip(values, hidden, strict=True)}
        rates = {value: dict(sorted(classes[value].items())) for value in values if shown[value] is not None}
        return {"rows": shown, "missing": counts[None], "classes": rates if label else {}}

    def _terms(self, rows: Dataset, run: Run) -> dict[str, Any]:
        """Rows of each label, and of each label among the texts with a term that is in ``min_rows`` of them."""
        columns = [name for name in COLUMNS if name in rows.column_names]
        terms = {term.lower() for _, term in self._list(run)}
        finds = _overlapping(terms)
        labels = Counter(label for label in rows["label"][:] if label is not None)
        together: dict[str, Counter[str]] = {}
        for row in held(rows, terms, columns, ["label"]):
            if row["label"] is not None:
                texts = [row[name] if isinstance(row[name], str) else " ".join(row[name] or []) for name in columns]
                for term in {term for text in texts for term in finds(text)}:
                    together.setdefault(term, Counter())[row["label"]] += 1
        enough = {term: counts for term, counts in sorted(together.items()) if counts.total() >= self.min_rows}
        known = {label: count for label, count in sorted(labels.items()) if count >= self.min_rows}
        return {"labelled": labels.total(), "labels": known, "together": enough}

    def _associations(self, told: dict[str, Any]) -> list[tuple[str, str, tuple[float, float, float], int]]:
        """(term, label, nPMI with its interval, texts with the term), the most certain first; see ``shown``.

        The interval is that of the label's share among those texts; how frequent term and label are is taken as known.
        """
        found = []
        for term, counts in told["terms"].get("together", {}).items():
            texts, rows = sum(counts.values()), told["terms"]["labelled"]
            for label, count in told["terms"]["labels"].items():
                shares = wilson(counts.get(label, 0), texts)
                value, low, high = (npmi(share, texts / rows, count / rows) for share in shares)
                found.append((term, label, (value, low, high), texts))
        found.sort(key=lambda pair: (-max(pair[2][1], -pair[2][2]), pair[0], pair[1]))
        return found[: self.shown]

    def _blocks(self, told: dict[str, Any]) -> list[Any]:
        rates = [(kind, " / ".join(name), *_told(wilson(hits, rows)), rows) for kind, name, hits, rows in _rates(told)]
        gone = [
            f"{sum(rows is None for rows in found['rows'].values())} of {len(found['rows'])} values of {column}"
            for column, found in told["columns"].items()
            if None in found["rows"].values()
        ]
        pairs = [(term, label, *_told(values), texts) for term, label, values, texts in self._associations(told)]
        rule = f"{told['rows']} rows. What rests on fewer than {self.min_rows} rows is withheld"
        blocks: list[Any] = [Text(f"{rule}: {', '.join(gone)}." if gone else f"{rule}.")]
        if rates:
            blocks.append(Table(["figure", "of", "value", "95 % interval", "rows"], rates))
        if pairs:
            blocks += [
                Text(
                    f"nPMI of a term with a label: -1 never together, 0 independent, 1 only together. Terms: {told['list']}."
                ),
                Table(["term", "label", "nPMI", "95 % interval", "texts with the term"], pairs),
            ]
        return blocks

    def _versions(self) -> str:
        return str(self.terms.name) if self.terms else f"{version('identity-en')}, {version('identity-zh')}"

    def _list(self, run: Run) -> list[list[str]]:
        """Raises ConfigError where the user's list cannot be read or a line has no kind and term."""
        if self.terms is None:
            return [*shipped("identity-en"), *shipped("identity-zh")]
        where = f"{run.stack.placed(self).where}  clean.{run.key(self)}.terms"
        try:
            lines = given(run.stack.root / self.terms.expanduser())
        except (OSError, UnicodeDecodeError) as error:
            raise ConfigError(f"{where}: {self.terms} cannot be read ({error}); name a text file in UTF-8") from error
        for line in lines:
            if len(line) != 2 or not all(line):
                raise ConfigError(
                    f"{where}: {self.terms} holds {' | '.join(line)!r}; give a kind and a term with a tab between"
                )
        return lines


def _crossed(rows: Dataset, column: str, label: str | None) -> tuple[Counter[Any], dict[Any, Counter[str]]]:
    """Rows of each value, and of each class among them, counted by Arrow."""
    by = [column, *([label] if label else [])]
    grouped: Any = rows.select_columns(by).with_format("arrow")[:].group_by(by).aggregate([([], "count_all")])
    counts: Counter[Any] = Counter()
    classes: dict[Any, Counter[str]] = {}
    for entry in grouped.to_pylist():
        counts[entry[column]] += entry["count_all"]
        if label and entry[label] is not None:
            classes.setdefault(entry[column], Counter())[entry[label]] += entry["count_all"]
    return counts, {value: classes.get(value, Counter()) for value in counts}


def _overlapping(terms: set[str]) -> Any:
    """Text -> its terms, lower case; of a term inside another (佛教 in 佛教徒) both."""
    inner = {term: {other for other in terms if other in term and not other[0].isascii()} | {term} for term in terms}
    finds = pattern(terms)
    return lambda text: {term for match in finds.findall(text) for term in inner[match.lower()]}


def _rates(told: dict[str, Any]) -> list[tuple[str, tuple[str, ...], int, int]]:
    """(kind, of what, hits, rows) of every rate that is shown."""
    found: list[tuple[str, tuple[str, ...], int, int]] = []
    for column, entry in told["columns"].items():
        found.append(("missing", (column,), entry["missing"], told["rows"]))
        for value, rows in entry["rows"].items():
            if rows is not None:
                found.append(("representation", (column, value), rows, told["rows"]))
        for value, classes in entry["classes"].items():
            total = sum(classes.values())
            found += [("base_rate", (column, value, label), hits, total) for label, hits in classes.items() if total]
    return found


def _told(values: tuple[float, float, float]) -> tuple[float, str]:
    return values[0], f"{values[1]:.3f} to {values[2]:.3f}"
