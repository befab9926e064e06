"""The audit's pictures show what a loop over the rows gives, need no colour, and do nothing but draw."""

from __future__ import annotations

import math
import re
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from conftest import toy_rows, write_rows
from upright import Metric, Stack
from upright.engine.execute import execute
from upright.report.pictures import checked
from upright_fairness import calibration, picture

SVG = "{http://www.w3.org/2000/svg}"
Bins = list[tuple[float, float, int]]


def looped(scores: list[float], truth: list[bool]) -> Bins:
    """Mean score, share and rows of each of 15 bins, the last with its right end."""
    found = []
    for number in range(15):
        inside = [
            (score, true)
            for score, true in zip(scores, truth, strict=True)
            if number == min(math.floor(score * 15), 14)
        ]
        if inside:
            count = len(inside)
            found.append((sum(score for score, _ in inside) / count, sum(true for _, true in inside) / count, count))
    return found


def binned(scores: list[float], truth: list[bool]) -> Bins:
    found = calibration.bins(np.array(scores), np.array(truth, dtype=bool))
    assert all(low <= share <= high for _, share, low, high, _ in found)
    return [(score, share, rows) for score, share, _, _, rows in found]


@given(st.lists(st.tuples(st.floats(0, 1), st.booleans()), max_size=60))
def test_bins_are_those_of_a_loop(rows: list[tuple[float, bool]]) -> None:
    scores, truth = [score for score, _ in rows], [true for _, true in rows]
    np.testing.assert_allclose(binned(scores, truth), looped(scores, truth), atol=1e-12)


def test_mutant_bins_of_another_width_are_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    scores, truth = [n / 100 for n in range(100)], [n % 3 == 0 for n in range(100)]
    assert len(binned(scores, truth)) == len(looped(scores, truth)) == 15
    monkeypatch.setattr(calibration, "BINS", 10)
    assert len(binned(scores, truth)) != 15


def test_a_diagram_shows_each_bin_where_it_is() -> None:
    bins = [(0.1, 0.0, 0.0, 0.3, 20), (0.9, 1.0, 0.7, 1.0, 60)]
    svg = picture.reliability([("f (80 rows)", bins), ("<m>", bins[:1])])
    root = ElementTree.fromstring(svg)
    dots = [(float(dot.get("cx", 0)), float(dot.get("cy", 0))) for dot in root.iter(f"{SVG}circle")]
    frames = [frame for frame in root.iter(f"{SVG}rect") if frame.get("fill") == "none"]
    assert len(frames) == 2
    left, top = float(frames[0].get("x", 0)), float(frames[0].get("y", 0))
    np.testing.assert_allclose(
        dots[:2], [(left + 0.1 * picture.PANEL, top + picture.PANEL), (left + 0.9 * picture.PANEL, top)], atol=0.1
    )
    assert len(dots) == 3
    assert {"f (80 rows)", "<m>"} <= {text.text for text in root.iter(f"{SVG}text")}


@pytest.mark.parametrize(
    "svg",
    [
        picture.reliability([("a & <b>", [(0.5, 0.5, 0.2, 0.8, 9)])] * 5),
        picture.points([("<rate>", Metric(0.2, 0.1, 0.3, 9)), ("undefined", Metric(0.2))], 0.05, low=-1),
        picture.points([]),
    ],
)
def test_pictures_are_read_without_colour_and_pass_the_reports_check(svg: str) -> None:
    assert checked(svg) is not None
    assert set(re.findall(r'(?:fill|stroke)="([^"]*)"', svg)) <= {"currentColor", "none"}


def test_a_bound_is_drawn_on_both_sides_of_zero() -> None:
    figure = [("f - m", Metric(-0.3, -0.5, -0.1, 50))]
    assert picture.points(figure, 0.1, low=-1).count("stroke-dasharray") == 2
    assert picture.points(figure, None, low=-1).count("stroke-dasharray") == 0
    assert picture.points([("f", Metric(0.3, 0.1, 0.5, 50))], 0.1).count("stroke-dasharray") == 1


def test_the_report_says_who_is_in_the_rows_and_shows_every_picture(toy: dict[str, Any], tmp_path: Path) -> None:
    rows = toy_rows(60, 3)
    for row in rows[::10]:
        row["sex"] = None
    toy["data"]["test"] = write_rows(tmp_path / "test.jsonl", rows)
    toy["fairness"] = {"use": "group-audit", "groups": ["sex"], "max_gap": 0.2}
    run = execute(Stack.load(toy))
    page = (run.folder / "report.html").read_text(encoding="utf-8")
    for sex in "fm":
        mine = [row for row in rows if row["sex"] == sex]
        positives = sum(row["label"] == "well" for row in mine)
        found = run.metrics[f"test/fairness/group-audit/base_rate/sex/{sex}"]
        assert (found.value, found.n) == (positives / len(mine), len(mine))
        assert f"{sex} ({len(mine)} rows)" in page
    for told in (
        "Rows without a value of sex: 6 of 60",
        "They may be used for train, audit",
        "who is in the rows",
        "Reliability by sex on test",
        "Differences of groups on test, 0 is equal; dashed: the gap of 0.2 that is accepted",
        "Rates by sex on test",
    ):
        assert told in page
    assert "a picture was refused" not in page
