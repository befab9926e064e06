"""What `parity` says of its counts: figures, verdicts and the report's tables."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from upright import Metric, Section, Verdict
from upright.objects import Table, Text
from upright_clean.removals import Comparison, compared

if TYPE_CHECKING:
    from collections.abc import Sequence

SHOWN = 10
"""Groups of a column that the report shows, the most affected first."""


def figures(records: Sequence[dict[str, Any]], min_rows: int) -> dict[str, Metric]:
    """Keyed ``<what>/<cleaner>/<split>``: ``drops_wanted``, ``drops_done``, and for each group ``/<column>/<group>``
    behind it ``removal_ratio_wanted``, ``removal_ratio_done``; ``n`` is the smaller side's rows."""
    found: dict[str, Metric] = {}
    for record in records:
        place = f"{record['cleaner']}/{record['split']}"
        for what in ("wanted", "done"):
            found[f"drops_{what}/{place}"] = Metric(float(record[what]), n=record["rows"], source="ledger")
            for column, one in _comparisons(record, what, min_rows):
                high = one.high if math.isfinite(one.high) else None
                key = f"removal_ratio_{what}/{place}/{_plain(column)}/{_plain(one.name)}"
                found[key] = Metric(one.value, one.low, high, one.rows, source="ledger")
    return found


def verdicts(
    found: dict[str, Metric], max_ratio: float, min_rows: int, on_fail: Literal["block", "warn"]
) -> list[Verdict]:
    """One for each cleaner, split and column; one in all where nothing was to be dropped."""
    dropping = [
        key.partition("/")[2] for key, metric in found.items() if key.startswith("drops_wanted/") and metric.value
    ]
    if not dropping:
        return [Verdict("removal parity", "met", "removal parity: no cleaner wanted to drop a row", on_fail)]
    result = []
    for place in sorted(dropping):
        prefix = f"removal_ratio_wanted/{place}/"
        columns: dict[str, dict[str, Metric]] = {}
        for key, metric in found.items():
            if key.startswith(prefix):
                column, group = key.removeprefix(prefix).split("/")
                columns.setdefault(column, {})[group] = metric
        reviewed = int(found[f"drops_wanted/{place}"].value - found[f"drops_done/{place}"].value)
        gate = f"removal parity of {place.replace('/', ' on ')}"
        if not columns:
            sentence = f"{gate}: there are no groups or classes to compare; name a column in data.sensitive"
            result.append(Verdict(gate, "insufficient evidence", sentence, on_fail))
        result += [
            _verdict(f"{gate} by {column}", groups, reviewed, max_ratio, min_rows, on_fail)
            for column, groups in sorted(columns.items())
        ]
    return result


def section(records: Sequence[dict[str, Any]], min_rows: int, max_ratio: float) -> Section:
    """A table for each cleaner that wanted to drop rows."""
    blocks: list[Text | Table] = [
        Text(
            "The rate at which a cleaner drops rows of a group, over the rate of all other rows: what it wanted and what was "
            f"done, after drops over the cap of {max_ratio:g} were turned to flags. Intervals are score intervals (Koopman, "
            "1984) that hold at 95 % for all groups of a column at once. Groups under half of an equal share are also "
            f"taken together. A group of fewer than {min_rows} rows is insufficient evidence."
        )
    ]
    for record in records:
        if not record["wanted"]:
            continue
        blocks.append(
            Text(
                f"{record['cleaner']} on {record['split']}: wanted to drop {record['wanted']} of {record['rows']} rows, "
                f"dropped {record['done']}, turned {record['wanted'] - record['done']} to flags."
            )
        )
        done = {(column, one.name): one for column, one in _comparisons(record, "done", min_rows)}
        by_column: dict[str, list[Comparison]] = {}
        for column, one in _comparisons(record, "wanted", min_rows):
            by_column.setdefault(column, []).append(one)
        header = ["group", "rows", "wanted", "ratio wanted", "95 % interval", "dropped", "ratio done"]
        for column, ones in by_column.items():
            shown = sorted(ones, key=lambda one: (one.judged, one.low, one.value), reverse=True)[:SHOWN]
            data = record["columns"][column]
            total, wanted, dropped = (np.array(data[what]) for what in ("rows", "wanted", "done"))
            if len(shown) < len(ones):
                blocks.append(Text(f"{column}: the {SHOWN} most affected of {len(ones)}."))
            blocks.append(
                Table(
                    [column, *header[1:]],
                    [
                        (
                            one.name,
                            int(total[one.members].sum()),
                            int(wanted[one.members].sum()),
                            one.value,
                            _interval(one.low, one.high) if one.judged else "too few rows",
                            int(dropped[one.members].sum()),
                            done[column, one.name].value,
                        )
                        for one in shown
                    ],
                )
            )
    if len(blocks) == 1:
        blocks.append(Text("No cleaner wanted to drop a row."))
    return Section("Removal parity", blocks)


def _comparisons(record: dict[str, Any], what: str, min_rows: int) -> Iterator[tuple[str, Comparison]]:
    for column, data in record["columns"].items():
        if data is not None:
            for one in compared(data["groups"], np.array(data["rows"]), np.array(data[what]), min_rows):
                yield column, one


def _verdict(
    gate: str, groups: dict[str, Metric], reviewed: int, cap: float, min_rows: int, on_fail: Literal["block", "warn"]
) -> Verdict:
    judged = {name: metric for name, metric in groups.items() if (metric.n or 0) >= min_rows}
    few = len(groups) - len(judged)
    if not judged:
        sentence = f"{gate}: every group holds fewer than {min_rows} rows; collect more"
        return Verdict(gate, "insufficient evidence", sentence, on_fail)
    over = {name: metric for name, metric in judged.items() if (metric.low or 0) > cap}
    if over:
        worst = max(over, key=lambda name: over[name].low or 0)
        also = f", and {len(over) - 1} more" if len(over) > 1 else ""
        sentence = (
            f"{gate}: {_told(worst, over[worst])}{also}: over {cap:g}; {reviewed} drops of this cleaner were turned to "
            "flags for review"
        )
        return Verdict(gate, "violated", sentence, on_fail)
    open_ = {name: metric for name, metric in judged.items() if metric.high is None or metric.high > cap}
    if open_ or few:
        worst = max(open_ or judged, key=lambda name: judged[name].low or 0)
        lies = f"{_told(worst, judged[worst])}: {cap:g} lies inside" if open_ else ""
        small = f"{few} groups hold fewer than {min_rows} rows" if few else ""
        sentence = f"{gate}: {'; '.join(part for part in (lies, small) if part)}; clean more rows"
        return Verdict(gate, "insufficient evidence", sentence, on_fail)
    worst = max(judged, key=lambda name: judged[name].high or 0)
    return Verdict(gate, "met", f"{gate}: at most {_told(worst, judged[worst])}: not over {cap:g}", on_fail)


def _told(name: str, metric: Metric) -> str:
    return f"{name} at {metric.value:.2f} {_interval(metric.low or 0.0, metric.high)} times the others' rate"


def _interval(low: float, high: float | None) -> str:
    top = "∞" if high is None or not math.isfinite(high) else f"{high:.2f}"
    return f"[{low:.2f}, {top}]"


def _plain(name: str) -> str:
    return name.replace("/", "_")
