"""What a cleaner takes from each group: counts, their comparison, and which drops are over a cap."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Sequence

    import numpy as np
    from datasets import Dataset

SMALL = "(small-groups)"
"""The groups that hold under half of an equal share of the rows, taken together: a class of twenty rows says little
alone, twenty such classes say much."""


@dataclass(frozen=True)
class Comparison:
    """One group, or the small ones together, against all other rows whose group is known.

    ``members [G]`` says which groups it is; ``rows`` is the smaller of the two sides.
    """

    name: str
    members: np.ndarray
    rows: int
    judged: bool
    value: float
    low: float
    high: float


def group_columns(rows: Dataset, sensitive: Sequence[str]) -> list[str]:
    """The columns to compare by: the sensitive ones, and the class where each row has one."""
    label = rows.features.get("label")
    classes = ["label"] if label is not None and getattr(label, "dtype", "") in ("string", "int64", "bool") else []
    return [column for column in (*sensitive, *classes) if column in rows.column_names]


def grouped(rows: Dataset, column: str) -> tuple[list[str], np.ndarray]:
    """The names of a column's groups, sorted, and each row's code ``[N]`` (-1: missing)."""
    import numpy as np
    import pyarrow as pa
    import pyarrow.compute as pc

    values = rows.select_columns([column]).with_format("arrow")[:].column(column)
    encoded = pc.cast(values, pa.string()).combine_chunks().dictionary_encode()
    names = encoded.dictionary.to_pylist()
    order = sorted(range(len(names)), key=names.__getitem__)
    place = np.empty(len(names) + 1, dtype=np.int64)
    place[order], place[-1] = np.arange(len(names)), -1
    codes = np.asarray(pc.fill_null(encoded.indices, len(names)).to_numpy(zero_copy_only=False))
    return [names[number] for number in order], place[codes]


def compared(names: Sequence[str], rows: np.ndarray, removed: np.ndarray, min_rows: int) -> list[Comparison]:
    """Each group against the rest; ``rows`` and ``removed`` are counts ``[G]``.

    A side of fewer than ``min_rows`` rows is not judged. The intervals of the judged ones hold together at 95 %
    (Bonferroni): the worst of 77 classes is far off by chance alone. Two groups are one comparison, seen from both ends.
    """
    import numpy as np

    from upright_clean.risk_ratio import risk_ratio

    members = [np.arange(len(names)) == number for number in range(len(names))] if len(names) > 1 else []
    small = (rows < rows.sum() / (2 * max(len(names), 1))) & (rows > 0)
    labels = list(names)
    if 1 < small.sum() < len(names):
        members, labels = [*members, small], [*labels, SMALL]
    if not members:
        return []
    inside = np.array(members)
    n1, x1 = inside @ rows, inside @ removed
    n2, x2 = rows.sum() - n1, removed.sum() - x1
    least = np.minimum(n1, n2)
    judged = least >= min_rows
    tests = 1 if len(names) == 2 else max(int(judged.sum()), 1)
    present = np.maximum(n1, 1), np.maximum(n2, 1)
    value, low, high = risk_ratio(x1, present[0], x2, present[1], 1 - 0.05 / tests)
    return [
        Comparison(name, inside[n], int(least[n]), bool(judged[n]), float(value[n]), float(low[n]), float(high[n]))
        for n, name in enumerate(labels)
    ]


def over_cap(
    columns: Sequence[tuple[list[str], np.ndarray, np.ndarray]], strength: np.ndarray, max_ratio: float, min_rows: int
) -> np.ndarray:
    """Which of D drops are more than the cap allows, as a mask ``[D]``.

    Each column gives its groups' names, their rows ``[G]`` and the group of each drop ``[D]`` (-1: missing). A group
    whose interval lies over ``max_ratio`` keeps as many drops as ``max_ratio`` times the rest's rate gives, those of
    the greatest ``strength`` (ties: the later one goes on being dropped), the clearest violation first. What one group
    is spared lowers the rate that others are compared with, so this is repeated until no group is over.
    """
    import numpy as np

    kept = np.ones(len(strength), dtype=bool)
    weakest_first = np.argsort(strength, kind="stable")
    while True:
        worst: tuple[float, Any] = (max_ratio, None)
        for names, rows, codes in columns:
            removed = np.bincount(codes[kept & (codes >= 0)], minlength=len(names))
            for found in compared(names, rows, removed, min_rows):
                if found.judged and found.low > worst[0]:
                    worst = (found.low, (found.members, rows, removed, codes))
        if worst[1] is None:
            return ~kept
        members, rows, removed, codes = worst[1]
        x1, n1 = int(removed[members].sum()), int(rows[members].sum())
        x2, n2 = int(removed.sum()) - x1, int(rows.sum()) - n1
        allowed = math.floor(max_ratio * x2 * n1 / n2 + 1e-9)
        candidates = weakest_first[(kept & np.append(members, False)[codes])[weakest_first]]
        kept[candidates[: x1 - allowed]] = False
