"""What `pii` finds on presidio_pii's test rows beside Presidio: recall and precision of each kind, and CPU time.

Presidio's analyzer runs with `no_op` (no spaCy model) and looks for the kinds that are measured, nothing else; ours looks for
all of its kinds. A labelled span is found where hits of its kind cover all of it; a hit is right where it touches a span
of its kind. The second table trains a model for names and places on the train rows (MiniLM, all weights, settings of
disease-ner) and takes it as `ner`. Templates of train and test are disjoint; nothing was chosen on test.

    make bench-pii
"""

from __future__ import annotations

import argparse
import gc
import json
import logging
import os
import re
import sys
import tempfile
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path
from typing import Any

from loop import interleave, ratio, repeated

from upright_privacy.patterns import EVERY, find

ROOT = Path(__file__).parents[2]
DATA = Path(os.environ.get("UPRIGHT_DATA", ROOT.parent / "shared" / "data")) / "presidio_pii"
BLOCKS = 21
BOUND = 10.0
STRUCTURED = {
    "CREDIT_CARD": "card",
    "PHONE_NUMBER": "phone",
    "US_SSN": "national-id",
    "DOMAIN_NAME": "url",
    "EMAIL_ADDRESS": "email",
    "IBAN_CODE": "iban",
    "IP_ADDRESS": "ip",
}
NAMED = {"PERSON": "person", "GPE": "place", "STREET_ADDRESS": "place"}
Found = Callable[[str], list[tuple[str, int, int]]]


def rows(split: str) -> list[dict[str, Any]]:
    """The labelled rows of a split."""
    return [json.loads(line) for line in (DATA / f"{split}.jsonl").read_text(encoding="utf-8").splitlines()]


def presidio() -> Found:
    """Presidio's analyzer without a model, asked for the structured kinds."""
    from presidio_analyzer import AnalyzerEngine
    from presidio_analyzer.nlp_engine import NlpEngineProvider

    for name in ("presidio-analyzer", "tldextract"):
        logging.getLogger(name).setLevel(logging.CRITICAL)
    settings = {"nlp_engine_name": "no_op", "models": [{"lang_code": "en", "model_name": "no_op"}]}
    analyzer = AnalyzerEngine(nlp_engine=NlpEngineProvider(nlp_configuration=settings).create_engine())
    kinds = {("URL" if name == "DOMAIN_NAME" else name): kind for name, kind in STRUCTURED.items()}
    asked = list(kinds)

    def found(text: str) -> list[tuple[str, int, int]]:
        return [(kinds[hit.entity_type], hit.start, hit.end) for hit in analyzer.analyze(text, "en", entities=asked)]

    return found


def ours(text: str) -> list[tuple[str, int, int]]:
    """The patterns of `pii`."""
    return [(hit.kind, hit.start, hit.end) for hit in find(text, EVERY)]


def judge(labelled: list[dict[str, Any]], hits: list[list[tuple[str, int, int]]], names: dict[str, str]) -> Any:
    """Kind -> [spans found, spans, right hits, hits]."""
    counts: dict[str, list[int]] = defaultdict(lambda: [0, 0, 0, 0])
    for row, found in zip(labelled, hits, strict=True):
        spans = [(names[span["type"]], span["start"], span["end"]) for span in row["spans"] if span["type"] in names]
        for kind, start, end in spans:
            covered = {place for other, s, e in found if other == kind for place in range(s, e)}
            blank = {place for place in range(start, end) if row["text"][place].isspace()}
            counts[kind][0] += set(range(start, end)) - blank <= covered
            counts[kind][1] += 1
        for kind, start, end in found:
            if kind in names.values():
                counts[kind][2] += any(k == kind and start < e and s < end for k, s, e in spans)
                counts[kind][3] += 1
    return counts


def share(part: int, whole: int) -> str:
    """A share with what it is a share of."""
    return f"{part / whole:.3f} ({part} of {whole})" if whole else "–"


def structured(split: str) -> tuple[bool, dict[str, Found]]:
    """Print one table; whether our recall is nowhere lower."""
    labelled = rows(split)
    finders: dict[str, Found] = {"upright": ours, "Presidio": presidio()}
    told = {
        name: judge(labelled, [found(row["text"]) for row in labelled], STRUCTURED) for name, found in finders.items()
    }
    print(
        f"\n{split}: {len(labelled)} rows\n\n| kind | recall | Presidio | precision | Presidio |\n|---|---|---|---|---|"
    )
    fine = True
    for kind in STRUCTURED.values():
        mine, other = told["upright"][kind], told["Presidio"][kind]
        if mine[1]:
            cells = [share(*mine[:2]), share(*other[:2]), share(*mine[2:]), share(*other[2:])]
            print(f"| {kind} | {' | '.join(cells)} |")
            fine &= mine[0] >= other[0]
    return fine, finders


def speed(finders: dict[str, Found], texts: list[str]) -> bool:
    """Print the ratio of CPU times; whether the bound is kept."""
    gc.collect()
    gc.freeze()  # else whoever is measured pays for looking through what spaCy and torch left in memory
    loops = {name: repeated(lambda found=found: [found(text) for text in texts]) for name, found in finders.items()}
    times = interleave(loops, BLOCKS, 2)
    mid, low, high = ratio(times["Presidio"], times["upright"])
    size = sum(map(len, texts)) / 1e6
    print(
        f"\nCPU time of {len(texts)} rows: {min(times['upright']) * 1e3:.1f} ms ({size / min(times['upright']):.1f} million "
        f"characters a second), Presidio {min(times['Presidio']) * 1e3:.0f} ms: {mid:.1f} [{low:.1f}, {high:.1f}] times faster "
        f"(bound {BOUND:.0f}){' MISSED' if low < BOUND else ''}",
        flush=True,
    )
    return low >= BOUND


def words(row: dict[str, Any]) -> dict[str, Any]:
    """The row as words with labels, for training."""
    labels = {"PERSON": "PER", "GPE": "LOC", "STREET_ADDRESS": "LOC"}
    spans = [(span["start"], span["end"], labels[span["type"]]) for span in row["spans"] if span["type"] in labels]
    found: dict[str, list[str]] = {"tokens": [], "labels": []}
    last: tuple[int, int, str] | None = None
    for word in re.finditer(r"\w+|[^\w\s]", row["text"]):
        span = next((span for span in spans if span[0] < word.end() and word.start() < span[1]), None)
        found["tokens"].append(word.group())
        found["labels"].append("O" if span is None else f"{'I' if span == last else 'B'}-{span[2]}")
        last = span
    return found


def named() -> None:
    """Train on the train rows, print what the run finds on test as `ner` of `pii`."""
    import torch

    from upright import Stack
    from upright.engine.execute import execute
    from upright.progress import quiet_libraries
    from upright_privacy.token_classifier import token_classifier

    quiet_libraries()
    torch.set_num_threads(1)
    labelled = rows("test")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        train = [words(row) for row in rows("train")]
        (folder / "t.jsonl").write_text("".join(json.dumps(row) + "\n" for row in train), encoding="utf-8")
        stack = {
            "name": "names",
            "data": {"train": str(folder / "t.jsonl")},
            "model": {"base": "minilm", "task": "token-classification"},
            "tune": "full",
            "train": {"epochs": 4, "batch_size": 16, "learning_rate": 2e-4},
            "output": str(folder / "runs"),
        }
        run = execute(Stack.load(stack))
        kinds = frozenset({"person", "place"})
        ner = token_classifier(run.folder, {}, kinds, torch.device("cpu"), "bench")
        texts = [row["text"] for row in labelled]
        hits = [find(text, EVERY, more) for text, more in zip(texts, ner(texts), strict=True)]
    counts = judge(labelled, [[(hit.kind, hit.start, hit.end) for hit in found] for found in hits], NAMED)
    print("\n| kind | recall | precision |\n|---|---|---|")
    for kind in ("person", "place"):
        print(f"| {kind} | {share(*counts[kind][:2])} | {share(*counts[kind][2:])} |", flush=True)


def main() -> int:
    """Print the tables; 1 where a bound is missed."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--names", action="store_true", help="names and places only (trains a model: minutes)")
    parser.add_argument("--structured", action="store_true", help="patterns only")
    chosen = parser.parse_args()
    if not DATA.is_dir():
        print(f"presidio_pii is not at {DATA}; set UPRIGHT_DATA")
        return 1
    fine = True
    if not chosen.names:
        fine, finders = structured("test")
        fine &= structured("train")[0]
        fine &= speed(finders, [row["text"] for row in rows("test")])
    if not chosen.structured:
        named()
    return int(not fine)


if __name__ == "__main__":
    sys.exit(main())
