"""A search's part of the report: every trial as a row of a table and as a line over parallel axes (Inselberg, 1985)."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from html import escape
from typing import Any

from upright import Section
from upright.objects import Svg, Table, Text
from upright_tune.search_space import Parameter
from upright_tune.trials import Trial, best, shown

GAP, SIDE, TOP, TALL = 130, 70, 48, 220
Axis = tuple[str, Callable[[Any], float], list[Any]]
"""Name, where a value stands from 0 (below) to 1, and the values that are written beside it."""


def section(parameters: dict[str, Parameter], trials: list[Trial]) -> Section:
    """What was tried, and what came of it."""
    chosen = best(trials)
    metric = (chosen or trials[0]).metric  # a trial that failed early may not know its name
    better = "more" if trials[0].direction == "maximize" else "less"
    counts = [f"{sum(t.state == state for t in trials)} {state}" for state in ("complete", "pruned", "failed")]
    text = (
        f"{len(trials)} trials: {', '.join(counts)}. They were compared by {metric} on validation ({better} is better)."
    )
    if chosen is not None and chosen.value is not None:
        text += f" This run was trained with the settings of trial {chosen.number}, which reached {chosen.value:.4g}."
    text += (
        " Trials never read the test data. The best of many is by chance better on validation than it is elsewhere: the "
        "test figures of this run are the ones to quote."
    )
    rows = [
        [
            trial.number,
            f"{trial.state}, the best" if trial is chosen else trial.state,
            trial.value,
            *(shown(value) for value in trial.parameters.values()),
            trial.reason or "",
        ]
        for trial in trials
    ]
    blocks: list[Any] = [Text(text), Table(["trial", "state", metric, *parameters, "why"], rows)]
    if chosen is not None:
        caption = "One line for each trial: thick with dots the best, thin the complete, dashed the pruned, dotted the failed."
        blocks.insert(1, Svg(_picture(parameters, trials, chosen), caption))
    return Section("Search of settings", blocks)


def _picture(parameters: dict[str, Parameter], trials: list[Trial], chosen: Trial) -> str:
    axes = [*(_axis(path, parameter) for path, parameter in parameters.items()), _value_axis(trials, chosen)]
    wide, high = 2 * SIDE + GAP * (len(axes) - 1), TOP + TALL + 30
    parts = [
        f'<svg viewBox="0 0 {wide} {high}" role="img" xmlns="http://www.w3.org/2000/svg">'
        f"<title>Settings and {escape(chosen.metric)} of every trial; the best is trial {chosen.number}</title>"
    ]
    for place in range(len(axes)):
        x = SIDE + GAP * place
        parts.append(f'<line x1="{x}" y1="{TOP}" x2="{x}" y2="{TOP + TALL}" stroke="currentColor" opacity=".35"/>')
    for trial in sorted(trials, key=lambda trial: trial is chosen):
        points = _points(axes, trial)
        line = " ".join(f"{x},{y:.1f}" for x, y in points)
        dash = {"pruned": ' stroke-dasharray="6 4"', "failed": ' stroke-dasharray="1 4"'}.get(trial.state, "")
        look = 'stroke-width="3.5"' if trial is chosen else f'stroke-width="1.2" opacity=".5"{dash}'
        parts.append(f'<polyline points="{line}" fill="none" stroke="currentColor" {look}/>')
        if trial is chosen:
            parts += [f'<circle cx="{x}" cy="{y:.1f}" r="5" fill="currentColor"/>' for x, y in points]
            x, y = points[-1]
            words = f"trial {trial.number}: {trial.value:.4g}"
            parts.append(
                f'<text x="{x}" y="{max(y - 10, TOP - 8):.1f}" font-size="12" font-weight="700" text-anchor="middle" '
                f'fill="currentColor">{words}</text>'
            )
    for place, axis in enumerate(axes):
        parts += _words(axis, place, len(axes))
    return "".join([*parts, "</svg>"])


def _words(axis: Axis, place: int, count: int) -> list[str]:
    """Name and ticks of an axis: outside of the lines where there is an outside, else a little above them."""
    name, where, ticks = axis
    parts, x = [], SIDE + GAP * place
    # Names of neighbours stand below and above each other in turn, so that long ones do not meet.
    y = 14 if place % 2 else TOP + TALL + 24
    parts.append(f'<text x="{x}" y="{y}" font-size="12" text-anchor="middle" fill="currentColor">{escape(name)}</text>')
    right, down = (-9 if place == 0 else 9), (4 if place in (0, count - 1) else -6)
    for value in ticks:
        words = escape(_cut(shown(value), 16))
        y = TOP + TALL * (1 - where(value)) + down
        parts.append(
            f'<text x="{x + right}" y="{y:.1f}" font-size="11" text-anchor="{"end" if right < 0 else "start"}" '
            f'fill="currentColor">{words}</text>'
        )
    return parts


def _points(axes: list[Axis], trial: Trial) -> list[tuple[int, float]]:
    values = [*trial.parameters.values(), *([] if trial.value is None else [trial.value])]
    return [
        (SIDE + GAP * place, TOP + TALL * (1 - where(value)))
        for place, ((_, where, _), value) in enumerate(zip(axes, values, strict=False))
    ]


def _axis(path: str, parameter: Parameter) -> Axis:
    if parameter.choices is not None:
        names = [json.dumps(choice) for choice in parameter.choices]
        last = max(len(names) - 1, 1)
        return path, lambda value: names.index(json.dumps(value)) / last, parameter.choices
    low, high = float(parameter.low or 0), float(parameter.high or 0)
    if parameter.log:
        middle = math.sqrt(low * high)
        ticks = [parameter.low, round(middle) if parameter.whole else middle, parameter.high]
        return path, lambda value: math.log(value / low) / math.log(high / low), ticks
    ticks = [parameter.low, (low + high) / 2, parameter.high]
    if parameter.whole:
        ticks[1] = round((low + high) / 2)
    return path, lambda value: (value - low) / (high - low), list(dict.fromkeys(ticks))


def _value_axis(trials: list[Trial], chosen: Trial) -> Axis:
    """Better is up."""
    values = [trial.value for trial in trials if trial.value is not None]
    low, high = min(values), max(values)
    wide = (high - low) or 1.0
    flip = chosen.direction == "minimize"

    def where(value: float) -> float:
        share = (value - low) / wide if high > low else 0.5
        return 1 - share if flip else share

    return chosen.metric, where, list(dict.fromkeys([low, high]))


def _cut(text: str, length: int) -> str:
    return text if len(text) <= length else f"{text[: length - 1]}…"
