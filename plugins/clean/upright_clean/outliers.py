"""Rows far from all others: the distance to the k-th nearest neighbour (Ramaswamy et al., 2000, doi:10.1145/342009.335437)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from pydantic import Field

from upright import Decisions, Run, Step, hook
from upright.errors import ConfigError

if TYPE_CHECKING:
    import numpy as np
    from datasets import Dataset

REFERENCES = 20_000
"""Rows that neighbours are looked for among, so that time grows with the rows and not with their square."""
BLOCK = 1024


class Outliers(Step):
    """Flag rows that lie far from every other row of their split, or of their class, in the base's embedding space.

    The distance is the cosine distance to the k-th nearest row. A row is an outlier where its distance is over the median by
    more than `threshold` robust standard deviations (1.4826 times the median absolute deviation; Iglewicz and Hoaglin,
    1993). Rare groups and classes lie far from others: look before you drop, and put `parity` beside it.
    """

    action: Literal["flag", "drop"] = Field("flag", description="What becomes of such a row.")
    by_class: bool = Field(False, description="Compare each row with the rows of its class only.")
    neighbours: int = Field(5, ge=1, description="Which nearest row the distance is measured to.")
    threshold: float = Field(3.5, gt=0, description="Robust standard deviations over the median distance.")

    @hook
    def clean(self, rows: Dataset, split: str, run: Run) -> Decisions:
        import numpy as np

        decisions = Decisions()
        if self.by_class and "label" not in rows.column_names:
            raise ConfigError(
                f"{run.stack.placed(self).where}  {run.stack.placed(self)}.by_class needs a label for each row: map a column "
                "to `label` in data.columns, or set it to false"
            )
        ids = rows["row_id"][:]
        order = np.argsort(np.array(ids))  # by id, so that the order of the rows decides nothing
        features = run.embed(rows.select(order))
        run.emit("memory", step=run.key(self), split=split, bytes=2 * features.nbytes)
        classes = np.zeros(len(ids), dtype=np.int64)
        if self.by_class:
            labels = np.array([str(label) for label in rows["label"][:]])
            classes = np.unique(labels, return_inverse=True)[1][order]
        for number in range(int(classes.max(initial=-1)) + 1):
            members = np.flatnonzero(classes == number)
            if len(members) <= 2 * self.neighbours:
                continue  # too few to say what is usual
            score = robust_score(distance(features[members], self.neighbours))
            found = np.flatnonzero(score > self.threshold)
            decisions.extend(
                [ids[order[members[place]]] for place in found],
                self.action,
                "outlier-of-class" if self.by_class else "outlier",
                score=score[found].tolist(),
                threshold=self.threshold,
            )
        return decisions


def distance(features: np.ndarray, neighbours: int) -> np.ndarray:
    """The cosine distance of each row of ``features [N, D]`` (unit norm) to its k-th nearest other row, ``[N]``.

    Beyond 20,000 rows neighbours are looked for among the first 20,000.
    """
    import numpy as np

    references = features[:REFERENCES].T
    found = np.empty(len(features))
    for start in range(0, len(features), BLOCK):
        block = features[start : start + BLOCK] @ references
        own = np.arange(start, min(start + BLOCK, references.shape[1]))
        block[own - start, own] = -np.inf
        found[start : start + BLOCK] = 1 - -np.partition(-block, neighbours - 1, axis=1)[:, neighbours - 1]
    return found


def robust_score(values: np.ndarray) -> np.ndarray:
    """Deviation from the median in robust standard deviations, ``[N]``; 0 everywhere where most values are equal."""
    import numpy as np

    median = np.median(values)
    deviation = 1.4826 * np.median(np.abs(values - median))
    score: np.ndarray = (values - median) / deviation if deviation > 0 else np.zeros_like(values)
    return score
