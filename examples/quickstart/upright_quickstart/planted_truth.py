"""Planted against found: what the steps of the quickstart made of the defects that its generator knows of."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import Field

from upright import Metric, Section, Step, hook
from upright.errors import ConfigError
from upright.objects import Table, Text

if TYPE_CHECKING:
    from datasets import Dataset

    from upright import Attribution, Run

FINDS = {
    "exact-duplicate": ("exact-duplicate", "same-input-other-label"),
    "edited-duplicate": ("near-duplicate",),
    "mojibake": ("mojibake",),
    "pii": ("pii:",),
    "label-noise": ("label-",),
}
"""Defect -> how the reasons in the ledger begin that find it."""


class PlantedTruth(Step):
    """Compare the planted defects of the made-up notes with the ledger, and the strongest words of explanations with the
    words that carry the label."""

    truth: Path = Field(Path("data/truth.jsonl"), description="The generator's truth, beside the stack file.")

    @hook
    def prepare(self, run: Run) -> None:
        self._truth(run)

    @hook(wrapper=True)
    def clean(self, rows: Dataset, split: str, run: Run) -> Any:
        """Remember which note each row was, before the first cleaner touches it; change nothing."""
        notes = run.keep(self, "notes", dict)
        notes |= dict(zip(rows["row_id"][:], rows["note"][:], strict=True))
        return (yield)

    @hook
    def report(self, run: Run) -> list[Section]:
        sections = [self._found(run)]
        if run.attributions:
            sections.append(self._landed(run))
        return sections

    # --- planted defects --------------------------------------------------------------------------------------------

    def _found(self, run: Run) -> Section:
        rows = []
        for defect, told in self._counts(run).items():
            planted, right, decided, agreed = (told[name] for name in ("planted", "right", "decided", "agreed"))
            recall = f"{right} of {planted}" if decided else "missed: no step of this stack looks for it"
            rows.append([defect, planted, right, recall, f"{agreed} of {decided}" if decided else "–"])
        text = "The notes are made up and their defects were planted, so that what was found can be counted."
        header = ["defect", "rows planted", "of them found", "recall", "precision: decisions that are right"]
        return Section("Planted against found", [Text(text), Table(header, rows)])

    def _counts(self, run: Run) -> dict[str, dict[str, int]]:
        """Of each defect: notes planted, found, decisions made for it, right ones. Of two notes that are duplicates
        either may go: a decision is right if the note, or the one that it shows, is the planted one."""
        import pyarrow.parquet as pq

        truth, notes = self._truth(run), run.keep(self, "notes", dict)
        with run.opened("data/ledger.parquet") as path:
            entries = pq.read_table(path, columns=["row_id", "reason", "evidence"]).to_pylist()
        counts = {}
        for defect, beginnings in FINDS.items():
            planted = {note for note, known in truth.items() if defect in known["defects"]}
            right, decided, agreed = set[str](), 0, 0
            for entry in entries:
                if any(reason.startswith(beginnings) for reason in _parts(entry["reason"])):
                    ids = [entry["row_id"], entry["evidence"] if "duplicate" in defect else None]
                    meant = {notes[row] for row in ids if row in notes} & planted
                    right |= meant
                    decided += 1
                    agreed += bool(meant)
            counts[defect] = {"planted": len(planted), "right": len(right), "decided": decided, "agreed": agreed}
        return counts

    @hook
    def save(self, folder: Path, run: Run) -> None:
        (folder / "found.json").write_text(json.dumps(self._counts(run), indent=2) + "\n", encoding="utf-8")

    @hook
    def account(self, folder: Path) -> dict[str, Metric]:
        """Recall and precision of each defect that a step of the stack looks for, from found.json."""
        path = folder / "found.json"
        figures = {}
        for defect, told in json.loads(path.read_text(encoding="utf-8")).items() if path.is_file() else ():
            if told["decided"]:
                recall, precision = told["right"] / told["planted"], told["agreed"] / told["decided"]
                figures[f"recall/{defect}"] = Metric(recall, n=told["planted"], source="ledger")
                figures[f"precision/{defect}"] = Metric(precision, n=told["decided"], source="ledger")
        return figures

    # --- attributions -----------------------------------------------------------------------------------------------

    def _landed(self, run: Run) -> Section:
        truth, notes = self._truth(run), run.keep(self, "notes", dict)
        rows = []
        for key, found in run.attributions.items():
            hits, chance, count = 0, 0.0, 0
            for one in found:
                evidence = set(truth[notes[one.row_id]]["evidence"])
                words = _words(one)
                there = [word for word, _ in words if word in evidence]
                if there:
                    count += 1
                    chance += len(there) / len(words)
                    hits += max(words, key=lambda word: word[1])[0] in evidence
            if count:
                rows.append([key, count, f"{hits / count:.0%}", f"{chance / count:.0%}"])
        text = "How often the word that speaks most for the decision is one that carries the label."
        header = ["explainer", "rows", "strongest word is a planted one", "a random word would be"]
        return Section("Do explanations land on the planted words?", [Text(text), Table(header, rows)])

    def _truth(self, run: Run) -> dict[str, dict[str, Any]]:
        path: Path = run.stack.root / self.truth
        if not path.is_file():
            raise ConfigError(
                f"{run.stack.placed(self).where}  planted-truth.truth: there is no file {self.truth}; make it with "
                "`python -m upright_quickstart.generate data`"
            )
        return {known["note"]: known for known in map(json.loads, path.read_text(encoding="utf-8").splitlines())}


def _parts(reason: str) -> Iterator[str]:
    """A reason, and each of several that were joined."""
    yield reason
    yield from reason.split("+")


def _words(one: Attribution) -> list[tuple[str, float]]:
    """Word pieces put together, lower case, with the sum of their scores; special tokens left out."""
    words: list[tuple[str, float]] = []
    for token, (start, end), score in zip(one.tokens, one.offsets, one.scores, strict=True):
        if start == end:
            continue
        if token.startswith("##") and words:
            words[-1] = (words[-1][0] + token.removeprefix("##"), words[-1][1] + float(score))
        else:
            words.append((token.lower(), float(score)))
    return words
