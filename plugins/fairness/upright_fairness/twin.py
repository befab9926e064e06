"""Each group's rates beside those of another run on the same rows, such as the twin without privacy."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from upright import Metric, Predictions, Run
from upright.errors import ConfigError, IntegrityError, UprightError
from upright_fairness import groups, rates
from upright_fairness.groups import GroupSpec
from upright_fairness.intervals import sidak, wilson
from upright_fairness.positive import plain


def read(folder: Path, split: str, rows: list[str], labels: list[str], where: str) -> Predictions:
    """What the run in ``folder`` decided of ``split``, in the order of ``rows`` (row ids).

    Raises ConfigError where there is none, or it is of other rows or classes.
    """
    try:
        found = Run.load(folder).predictions(split)
    except (OSError, UprightError, ValueError) as error:
        raise ConfigError(f"{where}: {folder} holds no decisions of {split} ({error}); name a finished run") from error
    place = {row: number for number, row in enumerate(found.table["row_id"].to_pylist())}
    if place.keys() != set(rows):
        both = len(place.keys() & set(rows))
        raise ConfigError(
            f"{where}: {folder} decided other rows of {split} ({both} of this run's {len(rows)} are among its {len(place)}); "
            "run the twin on the same test file, cleaned alike"
        )
    if found.labels != labels:
        raise ConfigError(f"{where}: {folder} tells other classes apart ({', '.join(found.labels)})")
    ordered = found.table.take(np.array([place[row] for row in rows]))
    return Predictions(found.split, found.task, found.labels, ordered)


def beside(
    mine: Predictions, twin: Predictions, positive: int, spec: GroupSpec, suffix: str
) -> Iterator[tuple[str, Metric]]:
    """The twin's rates of each group, and this run's accuracy less the twin's in it, which is of the same rows.

    Groups are those of this run's rows. Intervals hold for all groups at once.
    """
    if not mine.table["row_id"].equals(twin.table["row_id"]):
        raise IntegrityError("the twin's decisions are not of this run's rows")
    codes, names = groups.codes(spec, mine)
    label = mine.numpy("label")
    known = (label >= 0) & (codes >= 0)
    truth, codes = (label == positive)[known], codes[known]
    said, told = ((one.numpy("decision") == positive)[known] for one in (mine, twin))
    end = f"{spec.name}{suffix}"
    for rate, estimates in rates.group_rates(rates.cells(truth, told, codes, len(names))).items():
        for name, one in zip(names, estimates, strict=True):
            if not np.isnan(one.value):
                yield f"{rate}/{end}/{plain(name)}", Metric(one.value, one.low, one.high, one.rows, "ledger")
    for code, name in enumerate(names):
        inside = codes == code
        if inside.any():
            value, low, high = paired((said == truth)[inside], (told == truth)[inside], sidak(len(names)))
            rows = int(inside.sum())
            yield f"accuracy_difference/{end}/{plain(name)}", Metric(value, low, high, rows, "ledger")


def paired(one: np.ndarray, other: np.ndarray, quantile: float) -> tuple[float, float, float]:
    """The difference of two shares of the same rows (bool[n] each) with its interval (Newcombe, 1998, Statistics in Medicine
    17:2635, method 10): squared distances to both score intervals, less what their correlation explains."""
    rows = len(one)
    both, first = int((one & other).sum()), int((one & ~other).sum())
    second, neither = int((~one & other).sum()), int((~one & ~other).sum())
    hits = np.array([both + first, both + second])
    low, high = wilson(hits, np.array([rows, rows]), quantile)
    share = hits / rows
    margins = float((both + first) * (second + neither) * (both + second) * (first + neither))
    product = both * neither - first * second
    if product > 0:  # as the paper: a continuity correction that makes a positive correlation smaller, not negative
        product = max(product - rows / 2, 0)
    correlation = product / margins**0.5 if margins > 0 else 0.0
    below, above = share - low, high - share

    def width(a: float, b: float) -> float:
        return float(max(a * a - 2 * correlation * a * b + b * b, 0.0) ** 0.5)

    difference = float(share[0] - share[1])
    return difference, difference - width(below[0], above[1]), difference + width(above[0], below[1])


def table(found: dict[str, Metric], mine: dict[str, Metric], spec: GroupSpec) -> list[tuple[Any, ...]]:
    """(figure, of the twin, of this run, difference) for each rate of each group; ``found`` and ``mine`` by key."""
    from upright_fairness.picture import row

    shown = []
    for key, metric in found.items():
        rate, _, group = key.partition("/")
        if spec.name not in key.split("/")[1:2] or rate == "accuracy_difference":
            continue
        difference = found.get(f"accuracy_difference/{group}") if rate == "accuracy" else None
        told = [f"{one.value:.3f} ({row('', one)[2]})" if one else "" for one in (metric, mine.get(key), difference)]
        shown.append((key, *told, metric.n))
    return shown
