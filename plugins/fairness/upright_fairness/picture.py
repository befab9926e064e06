"""Pictures of the audit as inline SVG in the page's own colour: read by place, form and words, never by hue."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape
from typing import Any

from upright import Metric

WIDTH, LEFT, ROW = 480, 190, 26
"""Narrow enough for a phone to show the words at a size that can be read."""
PANEL, GAP, ACROSS = 124, 26, 3
"""Side of a reliability diagram, the space between two, and how many stand side by side."""


def row(key: str, metric: Metric) -> tuple[Any, ...]:
    """A figure as a row of a table."""
    told = "undefined" if metric.low is None or metric.high is None else f"{metric.low:.3f} to {metric.high:.3f}"
    return key, metric.value, told, metric.n


def points(figures: Sequence[tuple[str, Metric]], bound: float | None = None, low: float = 0.0) -> str:
    """Figures between ``low`` and 1 as points with their intervals, a row each; ``bound`` as a dashed line (and its mirror)."""
    shown = [(name, metric) for name, metric in figures if metric.low is not None and metric.high is not None]
    height = ROW * len(shown) + 30
    parts = [_open(WIDTH, height, "Figures with 95 % intervals")]
    for tick in range(5):
        value = low + (1 - low) * tick / 4
        faint = "opacity=" + ('".5"' if value == 0 and low < 0 else '".15"')
        parts.append(_line(_across(value, low), 6, _across(value, low), height - 22, faint))
        parts.append(_text(_across(value, low), height - 6, f"{value:g}", 11))
    for value in sorted({bound, -bound} if bound is not None and low < 0 else {bound} - {None}):
        parts.append(_line(_across(value, low), 6, _across(value, low), height - 22, 'stroke-dasharray="5 4"'))
    for place, (name, metric) in enumerate(shown):
        y = 18 + place * ROW
        parts.append(_text(LEFT - 12, y + 4, name, 12, "end"))
        parts.append(_line(_across(metric.low, low), y, _across(metric.high, low), y, 'stroke-width="2"'))
        parts.append(f'<circle cx="{_across(metric.value, low):.1f}" cy="{y}" r="4.5" fill="currentColor"/>')
    return "".join([*parts, "</svg>"])


def reliability(panels: Sequence[tuple[str, Sequence[tuple[float, float, float, float, int]]]]) -> str:
    """Reliability diagrams (Murphy and Winkler, 1977), one a group: (title, bins).

    A bin is (mean score, share of the class, low, high, rows). On the diagonal, scores mean what they say. Bars at the foot
    are the share of the group's rows in the bin.
    """
    tall = -(-len(panels) // ACROSS)
    deep = PANEL + 48
    parts = [_open(WIDTH, tall * deep, "Reliability diagrams")]
    for number, (title, bins) in enumerate(panels):
        left, top = 34 + number % ACROSS * (PANEL + GAP), 20 + number // ACROSS * deep
        foot = top + PANEL
        parts.append(_text(left + PANEL / 2, top - 6, title, 12))
        parts.append(
            f'<rect x="{left}" y="{top}" width="{PANEL}" height="{PANEL}" fill="none" stroke="currentColor" opacity=".3"/>'
        )
        parts.append(_line(left, foot, left + PANEL, top, 'stroke-dasharray="4 4" opacity=".5"'))
        for tick in (0, 0.5, 1):
            parts.append(_text(left + PANEL * tick, foot + 14, f"{tick:g}", 10))
            parts.append(_text(left - 4, foot - PANEL * tick + 4, f"{tick:g}", 10, "end"))
        total = sum(rows for *_, rows in bins) or 1
        for score, share, low, high, rows in bins:
            x = left + PANEL * score
            bar = PANEL / 4 * rows / total
            parts.append(
                f'<rect x="{x - 2:.1f}" y="{foot - bar:.1f}" width="4" height="{bar:.1f}" fill="currentColor" opacity=".25"/>'
            )
            parts.append(_line(x, foot - PANEL * low, x, foot - PANEL * high, 'stroke-width="1.5"'))
            parts.append(f'<circle cx="{x:.1f}" cy="{foot - PANEL * share:.1f}" r="3.5" fill="currentColor"/>')
    return "".join([*parts, "</svg>"])


def _across(value: float | None, low: float) -> float:
    return LEFT + (WIDTH - LEFT - 20) * (min(max(value or 0.0, low), 1.0) - low) / (1 - low)


def _open(width: int, height: int, title: str) -> str:
    return f'<svg viewBox="0 0 {width} {height}" role="img" aria-label="{escape(title)}" xmlns="http://www.w3.org/2000/svg">'


def _line(x1: float, y1: float, x2: float, y2: float, more: str = "") -> str:
    return f'<line x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" y2="{y2:.1f}" stroke="currentColor" {more}/>'


def _text(x: float, y: float, words: str, size: int, anchor: str = "middle") -> str:
    return f'<text x="{x:.1f}" y="{y:.1f}" font-size="{size}" text-anchor="{anchor}" fill="currentColor">{escape(words)}</text>'
