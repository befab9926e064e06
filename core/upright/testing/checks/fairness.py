"""Does a fairness step leave groups alone that mean nothing?"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from upright.testing.outcome import Failed, Skipped

if TYPE_CHECKING:
    from upright.testing.subject import Subject

ACTING = (
    "batch",
    "objective",
    "weigh",
    "loss",
    "statistics",
    "modules",
    "gradients",
    "tune",
    "calibrate",
    "decide",
    "finalize",
)
GAP = 0.1
CHANCE = 1e-3
"""A gap counts where it is wider than GAP and a relabelling of the rows at random is as wide with this chance at most."""
RELABELLINGS = 4000


def fairness_permuted_group(subject: Subject) -> str:
    """Groups that were drawn by lot are decided alike afterwards: the step treats no one otherwise for nothing.

    The toy rows' ``sex`` is such a column. Compared are the rates of each decision and the mean scores, by a permutation
    test on the test rows. What makes a smaller difference than that between groups is not seen.
    """
    from upright.evidence.predictions import read_predictions

    if subject.section != "fairness" or not subject.answers(*ACTING):
        raise Skipped("no fairness step that acts on the model or its decisions")
    if subject.task != "text-classification":
        raise Skipped("looked at for text-classification only")
    run = subject.finished()
    predictions = read_predictions(run.folder, "test", run)
    group = predictions.groups("sex") == "f"
    decided, scores = predictions.numpy("decision").astype(float), predictions.numpy("scores")[:, 1]
    chance = np.random.default_rng(0)
    drawn = np.array([chance.permutation(group) for _ in range(RELABELLINGS)])
    widest = 0.0
    for name, values in (("decisions", decided), ("scores", scores)):
        gap = _gap(values, group[None])[0]
        share = float((_gap(values, drawn) >= gap - 1e-12).mean())
        if gap > GAP and share <= CHANCE:
            raise Failed(
                f"the {name} of groups drawn by lot differ by {gap:.2f} (chance {share:.4f}); let the step act on what "
                "the groups' outcomes are, not on which group it is"
            )
        widest = max(widest, gap)
    return f"groups drawn by lot differ by {widest:.2f} at the most"


def _gap(values: np.ndarray, groups: np.ndarray) -> np.ndarray:
    """The difference of the two groups' means, for each row of ``groups`` (booleans)."""
    inside = groups.sum(1)
    sums = groups @ values
    gaps: np.ndarray = np.abs(sums / inside - (values.sum() - sums) / (len(values) - inside))
    return gaps
