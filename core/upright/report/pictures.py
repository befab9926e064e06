"""The pictures of the report, as inline SVG in the page's own colours."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape
from typing import Any
from xml.etree import ElementTree

from upright.objects import Metric

WIDTH, LEFT, ROW = 640, 190, 28
SVG = "{http://www.w3.org/2000/svg}"
ALLOWED = frozenset(
    "svg g path line polyline polygon rect circle ellipse text tspan title desc defs linearGradient stop clipPath".split()
)


def intervals(figures: dict[str, Metric]) -> str:
    """Figures between 0 and 1 as points with their 95 % intervals; empty where there is none."""
    shown = {name: m for name, m in figures.items() if m.low is not None and m.high is not None and 0 <= m.value <= 1}
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
    low, high = min(v for _, v in found), max(v for _, v in found)
    first, last = found[0][0], found[-1][0]
    wide, tall = (last - first) or 1.0, (high - low) or 1.0
    left, span = 70, WIDTH - 90

    def place(update: float, value: float) -> str:
        x = left + span * (update - first) / wide
        return f"{x:.1f},{top + (height - top - bottom) * (1 - (value - low) / tall):.1f}"

    parts = [_open(height, title)]
    for share in (0.0, 0.5, 1.0):
        y = top + (height - top - bottom) * (1 - share)
        parts.append(f'<line x1="{left}" y1="{y:.1f}" x2="{left + span}" y2="{y:.1f}" class="grid"/>')
        parts.append(
            f'<text x="{left - 8}" y="{y + 4:.1f}" class="tick" text-anchor="end">{low + share * tall:.4g}</text>'
        )
    for update, anchor in ((first, "start"), (last, "end")):
        x = left if anchor == "start" else left + span
        parts.append(f'<text x="{x}" y="{height - 8}" class="tick" text-anchor="{anchor}">update {update:g}</text>')
    parts.append(f'<polyline class="curve" points="{" ".join(place(*point) for point in found)}"/>')
    if len(found) < 40:
        for point in found:
            cx, cy = place(*point).split(",")
            parts.append(f'<circle class="dot" cx="{cx}" cy="{cy}" r="3"/>')
    return "".join([*parts, "</svg>"])


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
