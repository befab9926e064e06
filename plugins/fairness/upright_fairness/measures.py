"""All that `group-audit` says of one class and one way of grouping."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import numpy as np

from upright_fairness import auc, calibration, rates
from upright_fairness.intervals import Estimate, sidak, wilson

if TYPE_CHECKING:
    from upright import Predictions


def everything(
    predictions: Predictions, positive: int, codes: np.ndarray, names: list[str], constraint: str, seed: int
) -> Iterator[tuple[str, str, Estimate]]:
    """(measure, group or pair or nothing, estimate); rows without a label count in none."""
    label, decision = predictions.numpy("label"), predictions.numpy("decision")
    scores = predictions.numpy("scores")[:, positive]
    known = label >= 0
    truth, said, scores, codes = (label == positive)[known], (decision == positive)[known], scores[known], codes[known]
    yield "balanced_accuracy", "", balanced_accuracy(rates.cells(truth, said, np.zeros_like(codes), 1)[0])
    counts = rates.cells(truth, said, codes, len(names))
    drawn = rates.resample(counts, seed)
    by_group = rates.group_rates(counts)
    positives, rows = counts[:, 1].sum(-1), counts.sum((1, 2))
    low, high = wilson(positives, rows, sidak(len(names)))
    for number, name in enumerate(names):
        total, true = int(rows[number]), int(positives[number])
        for word, held in (("negatives", total - true), ("positives", true)):
            yield word, name, Estimate(float(held), float("nan"), float("nan"), total)
        if total:
            yield "base_rate", name, Estimate(true / total, float(low[number]), float(high[number]), total)
    yield "worst_group_accuracy", "", rates.worst(by_group["accuracy"])
    for kind in rates.GAPS:
        yield f"{kind}_difference", "", rates.gap(counts, kind, drawn)
        yield f"{kind}_ratio", "", rates.ratio(counts, kind, drawn)
    for rate, one, other, estimate in rates.differences(counts, constraint, drawn):
        yield f"difference/{rate}", f"{names[one]} - {names[other]}", estimate
    by_group |= auc.by_group(scores, truth, codes, len(names))
    by_group["brier_score"] = calibration.brier(scores, truth, codes, len(names))
    errors = calibration.expected_calibration_error(scores, truth, codes, len(names), seed)
    by_group["expected_calibration_error"] = errors
    for measure, estimates in by_group.items():
        for name, estimate in zip(names, estimates, strict=True):
            yield measure, name, estimate


def balanced_accuracy(counts: np.ndarray) -> Estimate:
    """(true positive rate + true negative rate) / 2 from counts ``[2, 2]``; 0.5 for whoever decides the same of everybody.

    Interval: of the difference of two rates, by squared distances to their score intervals (Newcombe, 1998, Statistics in
    Medicine 17:873, method 10).
    """
    hits, rows = counts[:, 1].astype(np.float64), counts.sum(1)
    if not rows.all():
        return Estimate(float("nan"), float("nan"), float("nan"), 0)
    false, true = hits / rows
    low, high = wilson(hits, rows, sidak(1))
    below = ((true - low[1]) ** 2 + (high[0] - false) ** 2) ** 0.5
    above = ((high[1] - true) ** 2 + (false - low[0]) ** 2) ** 0.5
    difference = true - false
    bounds = (1 + difference - below) / 2, (1 + difference + above) / 2
    return Estimate(float((1 + difference) / 2), float(bounds[0]), float(bounds[1]), int(rows.min()))
