"""How good an iterate is on validation: accuracy less what is violated there (Cotter et al., 2019, arXiv:1809.04198)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from upright_fairness import groups, threshold

if TYPE_CHECKING:
    from collections.abc import Generator

    from upright import Metric, Predictions, Run

FIGURE = "accuracy_less_violation"


def measured(step: Any, predictions: Predictions, run: Run, classes: list[int], kind: str) -> dict[str, float]:
    """The figure of validation; with a threshold to be chosen, at the one that this iterate would get."""
    if predictions.split != "validation" or not (predictions.numpy("label") >= 0).any():
        return {}
    if step.moves_decisions and len(predictions.labels) == 2:
        scores, truth, named = threshold.known_rows(step, predictions, classes[0])
        columns = [codes for codes, _ in named]
        chosen = threshold.bagged(scores, truth, columns, step.max_gap, kind, seed=run.seed)
        shares = threshold.row_shares(truth, "accuracy")
        return {FIGURE: threshold.value(scores >= chosen, truth, columns, step.max_gap, kind, shares)}
    label, decision = predictions.numpy("label"), predictions.numpy("decision")
    accuracy = float((decision == label)[label >= 0].mean())
    return {FIGURE: accuracy - violation(step, predictions, classes, kind)}


def violation(step: Any, predictions: Predictions, classes: list[int], kind: str) -> float:
    """What the worst gap is over ``max_gap``, or the worst group over its bound; 0 where none is."""
    label, decision = predictions.numpy("label"), predictions.numpy("decision")
    known = label >= 0
    columns = [groups.codes(spec, predictions)[0][known] for spec in step.groups]
    label, decision = label[known], decision[known]
    if getattr(step, "bound", None) is None:
        gaps = [threshold.largest(decision == one, label == one, columns, kind) for one in classes]
        return max(max(gaps) - step.max_gap, 0.0)
    losses = (decision != label).astype(float)
    bound = 1 - step.bound
    if kind == "bounded_group_loss":
        losses, bound = 1 - predictions.numpy("scores")[known][np.arange(len(label)), label], step.bound
    means = [losses[column == one].mean() for column in columns for one in np.unique(column[column >= 0])]
    return max(max(means, default=0.0) - bound, 0.0)


def judged(step: Any, metrics: dict[str, Metric], run: Run) -> Generator[None, float, float]:
    """Surrounds `select`: the score as it is asked for, with accuracy replaced by the figure."""
    score = yield
    figure = metrics.get(f"validation/{run.home(step)}/{FIGURE}")
    return score if figure is None else score + figure.value - metrics["validation/accuracy"].value
