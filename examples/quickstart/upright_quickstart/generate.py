"""Made-up clinic notes. No patient, no clinic and no number in them is real.

``python -m upright_quickstart.generate FOLDER`` writes train, validation and test, and truth.jsonl, which says of every
row what was planted in it. The same seed gives the same bytes.
"""

from __future__ import annotations

import json
import random
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

SIZES = {"train": 1200, "validation": 300, "test": 500}
SHARES = {"exact-duplicate": 0.04, "edited-duplicate": 0.04, "mojibake": 0.05, "pii": 0.08, "label-noise": 0.03}
UNDER_LABELLED = 0.3
"""Share of urgent train notes about women whose label was missed."""
VAGUE = {"m": 0.1, "f": 0.5}
"""Share of notes that name no disease, only how the patient feels: harder to tell."""

URGENT = ("pneumonia", "sepsis", "appendicitis", "meningitis", "stroke", "embolism", "pancreatitis", "infarction")
ROUTINE = ("eczema", "sprain", "wart", "sunburn", "bunion", "dandruff", "hayfever", "bursitis")
FEELINGS = {"chest pressure": (6, 1), "short of breath": (5, 2), "dizzy spells": (3, 4), "always tired": (2, 6)}
"""How patients say it, with its weight among urgent and among routine notes: no reader can be sure."""
OPENINGS = ("Seen today, {age}.", "Aged {age}.", "From the café nurse, {age}.", "Walk-in, {age}.")
MIDDLES = ("Impression: {sign}.", "Looks like {sign}.", "We noted {sign}.", "History of {sign} since Monday.")
ENDINGS = (
    "Temp 37.{digit}°C.",
    "Slept badly.",
    "Naïve to the drug.",
    "José waits outside.",
    "Will ring back.",
    "Took paracetamol.",
    "Pulse 8{digit}.",
)


@dataclass
class Note:
    """One row and what is known of it."""

    text: str
    label: str
    sex: str
    true_label: str
    evidence: list[str]
    defects: list[str] = field(default_factory=list)


def make(seed: int = 0) -> dict[str, list[Note]]:
    """Split -> notes."""
    chance = random.Random(seed)
    return {split: _defective([_note(chance) for _ in range(size)], split, chance) for split, size in SIZES.items()}


def write(folder: Path, seed: int = 0) -> None:
    """Write the three splits and truth.jsonl."""
    folder.mkdir(parents=True, exist_ok=True)
    truth = []
    for split, notes in make(seed).items():
        lines = []
        for number, note in enumerate(notes):
            name = f"{split}-{number:04d}"
            lines.append({"note": name, "text": note.text, "label": note.label, "sex": note.sex})
            truth.append(
                {
                    "note": name,
                    "split": split,
                    "defects": note.defects,
                    "true_label": note.true_label,
                    "evidence": note.evidence,
                }
            )
        _write(folder / f"{split}.jsonl", lines)
    _write(folder / "truth.jsonl", truth)


def _note(chance: random.Random) -> Note:
    sex = "f" if chance.random() < 0.45 else "m"
    label = "urgent" if chance.random() < 0.4 else "routine"
    vague = chance.random() < VAGUE[sex]
    named = URGENT if label == "urgent" else ROUTINE
    weights = [pair[label == "routine"] for pair in FEELINGS.values()]
    sign = chance.choices(list(FEELINGS), weights)[0] if vague else chance.choice(named)
    text = " ".join(
        [
            chance.choice(OPENINGS).format(age=chance.randint(18, 90)),
            chance.choice(MIDDLES).format(sign=sign),
            chance.choice(ENDINGS).format(digit=chance.randint(0, 9)),
        ]
    )
    return Note(text, label, sex, label, sign.split())


def _defective(notes: list[Note], split: str, chance: random.Random) -> list[Note]:
    """The notes with defects planted: duplicates and wrong labels in train alone, the others everywhere."""
    for note in notes:
        if chance.random() < SHARES["pii"]:
            note.text += " " + _identity(chance)
            note.defects.append("pii")
        if not note.text.isascii() and chance.random() < SHARES["mojibake"] * 2:
            note.text = note.text.encode().decode("cp1252", "replace")
            note.defects.append("mojibake")
    if split != "train":
        return notes
    for note in notes:
        missed = note.true_label == "urgent" and note.sex == "f" and chance.random() < UNDER_LABELLED
        if missed or chance.random() < SHARES["label-noise"]:
            note.label = "routine" if note.label == "urgent" else "urgent"
            note.defects.append("label-noise")
    for kind in ("exact-duplicate", "edited-duplicate"):
        for note in chance.sample(notes, round(SHARES[kind] * len(notes))):
            text = note.text if kind == "exact-duplicate" else _edited(note.text, chance)
            notes.append(Note(text, note.label, note.sex, note.true_label, note.evidence, [*note.defects, kind]))
    chance.shuffle(notes)
    # Which of two equal rows stands first is chance; the later one is the duplicate.
    seen: dict[str, Note] = {}
    for note in notes:
        first = seen.setdefault(note.text, note)
        if first is not note and "exact-duplicate" in first.defects:
            first.defects.remove("exact-duplicate")
            note.defects.append("exact-duplicate")
    return notes


def _edited(text: str, chance: random.Random) -> str:
    words = text.split()
    place = chance.randrange(len(words))
    words.insert(place, chance.choice(("today", "please", "reportedly", "again")))
    return " ".join(words)


def _identity(chance: random.Random) -> str:
    """Made-up: domains and numbers that are reserved for examples."""
    person = chance.choice(("a.meyer", "jo.lind", "sam.okoro", "m.rossi"))
    return chance.choice(
        (
            f"Mail {person}@example.org.",
            f"Call +1 202-555-01{chance.randint(10, 99)}.",
            f"Paid by card 4111 1111 1111 1111, mail {person}@example.com.",
            f"IBAN GB82 WEST 1234 5698 7654 32, call +1 202-555-01{chance.randint(10, 99)}.",
        )
    )


def _write(path: Path, lines: list[dict[str, Any]]) -> None:
    path.write_text("".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines), encoding="utf-8")


if __name__ == "__main__":
    write(Path(sys.argv[1] if len(sys.argv) > 1 else "data"))
