"""What the lines of a text look like (Rae et al., 2021, arXiv:2112.11446, appendix A.1)."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np
    import pyarrow as pa

BULLET = re.compile(r"[•‣▪▶◦●*·–-]\s|\d{1,3}[.)]\s|\d{1,3}、")


def lines(column: pa.Array, least: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Of each text: the shares of lines that begin with a bullet and that end in an ellipsis, and the share of characters
    in lines that stood before; ``float64[N]``, NaN for texts of fewer than ``least`` lines. Empty lines do not count.
    """
    import numpy as np
    import pyarrow.compute as pc

    shares = np.full((3, len(column)), np.nan)
    many = np.flatnonzero(pc.count_substring(column, "\n").to_numpy(zero_copy_only=False) >= least - 1)
    for place, text in zip(many.tolist(), column.take(many).to_pylist(), strict=True):
        found = [line for line in map(str.strip, text.split("\n")) if line]
        if len(found) >= least:
            bullets = sum(BULLET.match(line) is not None for line in found)
            ellipses = sum(line.endswith(("...", "…")) for line in found)
            characters = sum(map(len, found))
            repeated = characters - sum(map(len, set(found)))
            shares[:, place] = bullets / len(found), ellipses / len(found), repeated / characters
    return shares[0], shares[1], shares[2]
