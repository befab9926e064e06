"""Every number of a report against the run's files, by a reader and a rounding of its own; imports nothing of Upright."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

UNREAD = {"pre", "code", "style", "title", "svg"}
"""Elements whose numbers are settings, hashes, or the axes of pictures; so is the index, whose numbers are paragraphs."""
DECIMAL = re.compile(r"(?<![\w.])[-+]?\d[\d,]*\.\d+(?:e[-+]?\d+)?%?(?![\dA-Za-z]|\.\d)")


class _Reader(HTMLParser):
    """Collects the rows that name a figure, and the text of everything else that is read."""

    def __init__(self) -> None:
        super().__init__()
        self.figures: list[tuple[str, list[str]]] = []
        self.words: list[str] = []
        self.inside: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = dict(attrs)
        if tag in ("meta", "wbr", "br", "link"):
            return
        if "data-figure" in given:
            self.figures.append((str(given["data-figure"]), []))
        kind = given.get("class")
        kept = "svg" if kind == "index" else "quiet" if kind == "row" or "data-figure" in given else tag
        self.inside.append(kept)

    def handle_endtag(self, tag: str) -> None:
        if tag not in ("wbr", "br") and self.inside:
            self.inside.pop()

    def handle_data(self, data: str) -> None:
        if UNREAD & set(self.inside):
            return
        if self.figures and "quiet" in self.inside:
            self.figures[-1][1].append(data)
        elif "quiet" not in self.inside:
            self.words.append(data)


def problems(folder: Path, page: str | None = None) -> list[str]:
    """What the page says otherwise than metrics.json, and decimals that no file of the run holds."""
    reader = _Reader()
    reader.feed(page if page is not None else (folder / "report.html").read_text(encoding="utf-8"))
    metrics = json.loads((folder / "metrics.json").read_text(encoding="utf-8"))
    found = []
    for key, words in reader.figures:
        shown = [
            number for word in words for number in re.findall(r"-?\d[\d,]*\.?\d*(?:e[-+]?\d+)?", word.split("/")[-1])
        ]
        told = metrics.get(key)
        if told is None:
            found.append(f"{key}: is in no metrics.json")
            continue
        asked = [told[name] for name in ("value", "low", "high", "n") if name in told]
        numbers = [float(text.replace(",", "")) for text in shown if not text.endswith("-")]
        if not all(any(rounds(value, number) for number in numbers) for value in asked):
            found.append(f"{key}: {asked} is shown as {words}")
    held = [*_numbers(folder)]
    for text in DECIMAL.findall(" ".join(reader.words)):
        number = float(text.rstrip("%").replace(",", "")) / (100 if text.endswith("%") else 1)
        digits = len(text.rstrip("%").partition("e")[0].partition(".")[2]) + (2 if text.endswith("%") else 0)
        half = 0.5 * 10.0 ** (int(text.rstrip("%").partition("e")[2] or 0) - digits) * 1.001
        if not any(abs(abs(value) - abs(number)) <= half for value in held):
            found.append(f"{text}: is in no file of the run")
    return found


def rounds(value: float, shown: float) -> bool:
    """Whether ``shown`` is ``value`` to four significant digits (counts: whole)."""
    if value == 0 or abs(value) < 1e-12:
        return shown == 0
    place = math.floor(math.log10(abs(value))) - 3
    return abs(value - shown) <= 0.5001 * 10.0**place


def _numbers(folder: Path) -> Iterator[float]:
    """All numbers of the run's JSON files, those within sentences, and the shares of base rates."""
    for path in [*folder.glob("*.json"), *(folder / "evidence").glob("*.json"), folder / "events.jsonl"]:
        lines = path.read_text(encoding="utf-8")
        for content in map(json.loads, lines.splitlines() if path.suffix == ".jsonl" else [lines]):
            yield from _within(content)
    for path in (folder / "stack.resolved.yaml", folder / "stack.yaml"):
        yield from map(float, re.findall(r"\d+\.\d+", path.read_text(encoding="utf-8")))


def _within(content: Any) -> Iterator[float]:
    if isinstance(content, dict):
        if "labels" in content and "rows" in content and isinstance(content["labels"], dict):
            yield from (count / content["rows"] for count in content["labels"].values())
        for inner in content.values():
            yield from _within(inner)
    elif isinstance(content, list):
        for inner in content:
            yield from _within(inner)
    elif isinstance(content, bool) or content is None:
        return
    elif isinstance(content, (int, float)):
        yield float(content)
    else:
        for text in re.findall(r"\d+\.\d+", content):
            yield float(text)
            yield float(text) / 100
