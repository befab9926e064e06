"""The pictures of the report, as inline SVG in the page's own colours."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from html import escape
from typing import Any
from xml.etree import ElementTree

from upright.objects import Metric

WIDTH, LEFT, ROW = 400, 90, 28
"""Narrow enough that a phone shows the words at a size that can be read."""
SVG = "{http://www.w3.org/2000/svg}"
ALLOWED = frozenset(
    "svg g path line polyline polygon rect circle ellipse text tspan title desc defs linearGradient stop clipPath".split()
)


def intervals(split: str, figures: dict[str, Metric]) -> str:
    """A split's figures between 0 and 1 as points with their 95 % intervals; empty where there is none."""
    bounded = {key: m for key, m in figures.items() if m.low is not None and m.high is not None and 0 <= m.value <= 1}
    shown = {key.removeprefix(f"{split}/"): metric for key, metric in bounded.items()}
    if not shown:
        return ""
    height = ROW * len(shown) + 30
    span = WIDTH - LEFT - 30
    parts = [_open(height, "Figures with 95 % intervals")]
    for tick in range(6):
        x = LEFT + span * tick / 5
        parts.append(f'<line x1="{x:.1f}" y1="6" x2="{x:.1f}" y2="{height - 24}" class="grid"/>')
        parts.append(f'<text x="{x:.1f}" y="{height - 8}" class="tick" text-anchor="middle">{tick / 5:g}</text>')
    for place, (name, metric) in enumerate(shown.items()):
        y = 20 + place * ROW
        low, mid, high = (LEFT + span * min(max(v or 0.0, 0.0), 1.0) for v in (metric.low, metric.value, metric.high))
        parts.append(f'<text x="{LEFT - 12}" y="{y + 4}" class="name" text-anchor="end">{escape(name)}</text>')
        parts.append(f'<line x1="{low:.1f}" y1="{y}" x2="{high:.1f}" y2="{y}" class="bar"/>')
        parts.append(f'<circle cx="{mid:.1f}" cy="{y}" r="5" class="dot"/>')
    return "".join([*parts, "</svg>"])


def curve(points: Sequence[dict[str, Any]], key: str, title: str) -> str:
    """One value over updates as a line; empty where fewer than two points have it."""
    found = [(float(p["update"]), float(p[key])) for p in points if isinstance(p.get(key), (int, float))]
    if len(found) < 2:
        return ""
    if len(found) > 400:
        found = [*found[:: len(found) // 400 + 1], found[-1]]
    height, top, bottom = 190, 14, 30
    marks = ticks(min(v for _, v in found), max(v for _, v in found))
    low, high = marks[0], marks[-1]
    first, last = found[0][0], found[-1][0]
    left, span = 50, WIDTH - 64

    def x(update: float) -> float:
        return left + span * (update - first) / ((last - first) or 1.0)

    def y(value: float) -> float:
        return top + (height - top - bottom) * (1 - (value - low) / (high - low))

    parts = [_open(height, title), *_levels({mark: y(mark) for mark in marks}, left, span)]
    for update, anchor in ((first, "start"), (last, "end")):
        at = left if anchor == "start" else left + span
        parts.append(f'<text x="{at}" y="{height - 8}" class="tick" text-anchor="{anchor}">update {update:g}</text>')
    places = [(f"{x(update):.1f}", f"{y(value):.1f}") for update, value in found]
    parts.append(f'<polyline class="curve" points="{" ".join(",".join(place) for place in places)}"/>')
    if len(found) < 40:
        parts += [f'<circle class="dot" cx="{cx}" cy="{cy}" r="3"/>' for cx, cy in places]
    return "".join([*parts, "</svg>"])


def tradeoff(gap: str, main: str, points: Sequence[tuple[str, Metric, Metric]]) -> str:
    """Runs by their gap and their main figure, with both intervals; empty where there are fewer than two."""
    if len(points) < 2:
        return ""
    height, top, left, span = 280, 14, 50, WIDTH - 64
    tall = height - top - 28
    across = [bound for _, metric, _ in points for bound in _bounds(metric)]
    up = [bound for _, _, metric in points for bound in _bounds(metric)]
    marks_x, marks_y = ticks(min(across), max(across)), ticks(min(up), max(up))

    def x(value: float) -> float:
        return left + span * (value - marks_x[0]) / (marks_x[-1] - marks_x[0])

    def y(value: float) -> float:
        return top + tall * (1 - (value - marks_y[0]) / (marks_y[-1] - marks_y[0]))

    parts = [_open(height, f"{main} against {gap}"), *_levels({mark: y(mark) for mark in marks_y}, left, span)]
    for mark in marks_x:
        parts.append(f'<line x1="{x(mark):.1f}" y1="{top}" x2="{x(mark):.1f}" y2="{top + tall}" class="grid"/>')
        parts.append(f'<text x="{x(mark):.1f}" y="{top + tall + 16}" class="tick" text-anchor="middle">{mark:g}</text>')
    for number, (name, gap_of, main_of) in enumerate(points):
        (near, far), (below, above) = _bounds(gap_of), _bounds(main_of)
        cx, cy = x(gap_of.value), y(main_of.value)
        kind = "mine" if number == len(points) - 1 else "other"
        side = ("end", -10) if cx > left + span / 2 else ("start", 10)
        parts.append(
            f'<g class="{kind}"><line x1="{x(near):.1f}" y1="{cy:.1f}" x2="{x(far):.1f}" y2="{cy:.1f}" class="bar"/>'
        )
        parts.append(f'<line x1="{cx:.1f}" y1="{y(below):.1f}" x2="{cx:.1f}" y2="{y(above):.1f}" class="bar"/>')
        parts.append(f'<circle cx="{cx:.1f}" cy="{cy:.1f}" r="5" class="dot"/>')
        parts.append(
            f'<text x="{cx + side[1]:.1f}" y="{cy - 8:.1f}" class="name" text-anchor="{side[0]}">{escape(name)}</text></g>'
        )
    return "".join([*parts, "</svg>"])


def _levels(marks: dict[float, float], left: int, span: int) -> Iterator[str]:
    """A line across and its number for each mark, by its height in the picture."""
    for mark, y in marks.items():
        yield f'<line x1="{left}" y1="{y:.1f}" x2="{left + span}" y2="{y:.1f}" class="grid"/>'
        yield f'<text x="{left - 8}" y="{y + 4:.1f}" class="tick" text-anchor="end">{mark:g}</text>'


def ticks(low: float, high: float) -> list[float]:
    """Three to six round numbers, the first at most ``low`` and the last at least ``high``."""
    span = (high - low) or abs(high) or 1.0
    size = 10.0 ** math.floor(math.log10(span / 4))
    step = next(factor * size for factor in (1, 2, 2.5, 5, 10) if span / (factor * size) <= 4)
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    return [round(number * step, 12) for number in range(first, max(last, first + 1) + 1)]


def _bounds(metric: Metric) -> tuple[float, float]:
    return (
        metric.value if metric.low is None else metric.low,
        metric.value if metric.high is None else metric.high,
    )


def checked(svg: str) -> str | None:
    """A step's picture, if it draws and does nothing else: no script, no style sheet, no reference to elsewhere."""
    if "<!" in svg:
        return None
    try:
        root = ElementTree.fromstring(svg)
    except ElementTree.ParseError:
        return None
    for element in root.iter():
        if not isinstance(element.tag, str) or element.tag.removeprefix(SVG) not in ALLOWED:
            return None
        for name, value in element.attrib.items():
            bare = name.rpartition("}")[2].lower()
            if bare.startswith("on") or bare in ("href", "src") or "url(" in value.replace("url(#", "").lower():
                return None
    ElementTree.register_namespace("", SVG[1:-1])
    return ElementTree.tostring(root, encoding="unicode")


def _open(height: int, title: str) -> str:
    return (
        f'<svg viewBox="0 0 {WIDTH} {height}" role="img" aria-label="{escape(title)}" '
        'xmlns="http://www.w3.org/2000/svg">'
    )
