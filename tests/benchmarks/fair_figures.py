"""Accuracy and gaps of decisions, as lines of a table and as a trade-off curve."""

from __future__ import annotations

from typing import Any

import numpy as np

Row = dict[str, Any]
BOUND = 0.1
"""The gap that the audit judges by."""
HEADER = (
    "| data | method | accuracy | change | gap | change | over rows | fall | rates by group | verdicts |\n"
    + "|---" * 10
    + "|"
)


def measured(truth: np.ndarray, decision: np.ndarray, group: list[str | None], kind: str, seed: int) -> Row:
    """Accuracy, each group's rates, the gap with its interval and the verdict on it, as group-audit has them."""
    from upright import Metric
    from upright_fairness import rates, verdicts

    names = sorted({one for one in group if one is not None})
    codes = np.array([-1 if one is None else names.index(one) for one in group])
    counts = rates.cells(truth, decision, codes, len(names))
    gap = rates.gap(counts, kind, rates.resample(counts, seed))
    metric = Metric(gap.value, gap.low, gap.high, gap.rows)
    told = {rate: rates.value(counts, rate).round(4).tolist() for rate in rates.GAPS[kind]}
    return {
        "accuracy": float((truth == decision).mean()),
        "gap": [gap.value, gap.low, gap.high],
        "rows": gap.rows,
        "verdict": verdicts.at_most("gap", metric, BOUND, 30, "warn").judgement,
        "rates": {rate: dict(zip(names, found, strict=True)) for rate, found in told.items()},
        "cells": [
            -1 if code < 0 else int(4 * code + 2 * t + d) for code, t, d in zip(codes, truth, decision, strict=True)
        ],
    }


def over_rows(rows: list[Row], before: list[Row], kind: str) -> str:
    """The 95 % interval of the change of the gap, the mean over seeds, from rows drawn with replacement (1,000 times).

    Every seed has the same rows.
    """
    from upright_fairness.threshold import gap

    count = len(rows[0]["cells"])
    drawn = np.random.default_rng(0).multinomial(count, np.full(count, 1 / count), size=1000).astype(float)

    def gaps(row: Row) -> np.ndarray:
        cells, width = np.array(row["cells"]), len(next(iter(row["rates"].values())))
        table = (cells[:, None] == np.arange(4 * width)).astype(float)
        return gap((drawn @ table).reshape(-1, width, 2, 2), kind)

    change = np.mean([gaps(after) - gaps(first) for after, first in zip(rows, before, strict=True)], axis=0)
    low, high = np.percentile(change, [2.5, 97.5])
    return f"[{low:+.3f}, {high:+.3f}]"


def spread(values: list[float]) -> str:
    """The mean over seeds and the half-width of its 95 % t interval."""
    from scipy.stats import t

    if len(values) < 2:
        return f"{np.mean(values):+.3f}"
    half = float(t.ppf(0.975, len(values) - 1) * np.std(values, ddof=1) / len(values) ** 0.5)
    return f"{np.mean(values):+.3f} ± {half:.3f}"


def line(name: str, method: str, rows: list[Row], before: list[Row], kind: str | None) -> str:
    """A line of the table: means over seeds, and what changed against the plain run of the same seed.

    ``kind`` where every seed has the same test rows.
    """
    accuracy, gap = [row["accuracy"] for row in rows], [row["gap"][0] for row in rows]
    fall = 1 - np.mean(gap) / np.mean([row["gap"][0] for row in before])
    change = [a["accuracy"] - b["accuracy"] for a, b in zip(rows, before, strict=True)]
    narrowed = [a["gap"][0] - b["gap"][0] for a, b in zip(rows, before, strict=True)]
    rates = "; ".join(
        f"{rate.split('_')[0][0].upper()}PR "
        + " ".join(f"{np.mean([row['rates'][rate][g] for row in rows]):.2f}" for g in of)
        for rate, of in rows[0]["rates"].items()
    )
    said = [row["verdict"] for row in rows]
    told = ", ".join(
        f"{said.count(word)} {word}" for word in ("met", "violated", "insufficient evidence") if word in said
    )
    cells = [name, method, f"{np.mean(accuracy):.3f}", spread(change), f"{np.mean(gap):.3f}", spread(narrowed)]
    cells.append(over_rows(rows, before, kind) if kind and rows is not before else "–")
    return "| " + " | ".join([*cells, f"{fall:.0%}", rates, told]) + " |"


def point(name: str, rows: list[Row]) -> tuple[str, float, float]:
    """The mean gap and accuracy over seeds, for `curve`."""
    return name, float(np.mean([row["gap"][0] for row in rows])), float(np.mean([row["accuracy"] for row in rows]))


WIDTH, HEIGHT, LEFT, TOP = 320, 250, 52, 34
"""Of a panel, and of the margins of its axes."""


def curve(panels: dict[str, list[tuple[str, float, float]]]) -> str:
    """An SVG of (name, gap, accuracy) by data set: points of no name are joined to a line, the others are named."""
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH * len(panels)} {HEIGHT}" role="img" '
        'font-family="sans-serif" font-size="11" stroke-width="1.5"><title>Accuracy against gap</title>'
        '<rect width="100%" height="100%" fill="white"/>'
    ]
    for place, (title, points) in enumerate(panels.items()):
        parts += _panel(place * WIDTH, title, points)
    return "".join([*parts, "</svg>\n"])


def _panel(left: int, title: str, points: list[tuple[str, float, float]]) -> list[str]:
    widest = max(gap for _, gap, _ in points) * 1.15
    low = min(accuracy for _, _, accuracy in points) - 0.01
    high = max(accuracy for _, _, accuracy in points) + 0.01
    right, bottom = WIDTH - 16, HEIGHT - 40

    def at(gap: float, accuracy: float) -> tuple[float, float]:
        across = left + LEFT + (right - LEFT) * gap / widest
        return round(across, 1), round(bottom - (bottom - TOP) * (accuracy - low) / (high - low), 1)

    def text(x: float, y: float, said: str, anchor: str = "middle") -> str:
        return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}">{said}</text>'

    (x0, y0), (x1, y1) = at(0, low), at(widest, high)
    parts = [f'<path d="M{x0} {y1}V{y0}H{x1}" fill="none" stroke="#888"/>']
    parts += [text((x0 + x1) / 2, 18, title), text((x0 + x1) / 2, HEIGHT - 8, "gap")]
    for n in range(4):
        gap, accuracy = widest * n / 3, low + (high - low) * n / 3
        parts.append(text(at(gap, low)[0], y0 + 15, f"{gap:.2f}"))
        parts.append(text(x0 - 5, at(0, accuracy)[1] + 4, f"{accuracy:.2f}", "end"))
    joined = [at(gap, accuracy) for name, gap, accuracy in points if not name]
    told = " ".join(f"{x},{y}" for x, y in joined)
    parts.append(f'<polyline points="{told}" fill="none" stroke="#0057b7"/>')
    parts += [f'<circle cx="{x}" cy="{y}" r="3.5" fill="#0057b7"/>' for x, y in joined]
    for name, gap, accuracy in points:
        if name:
            x, y = at(gap, accuracy)
            late = x > left + WIDTH * 0.55
            parts.append(f'<rect x="{x - 3.5:.1f}" y="{y - 3.5:.1f}" width="7" height="7" fill="#b35900"/>')
            parts.append(text(x - 7 if late else x + 7, y + 4, name, "end" if late else "start"))
    return parts
