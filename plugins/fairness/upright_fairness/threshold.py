"""One threshold for all groups, chosen on validation, where accuracy and a gap are weighed against each other."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from upright.errors import ConfigError
from upright_fairness import groups, rates
from upright_fairness.positive import check_class

if TYPE_CHECKING:
    from upright import Predictions, Run, Step

Objective = Literal["accuracy", "balanced_accuracy"]
CANDIDATES = 101


def check_alone(step: Step, run: Run) -> None:
    """Raise ConfigError where another step moves decisions too: each is fitted on the scores as the model gives them."""
    for placed in run.stack.answering("decide"):
        if placed.step is not step and getattr(placed.step, "moves_decisions", True):
            own = run.stack.placed(step)
            aside = "set refit_threshold: false in it, or " if hasattr(placed.step, "refit_threshold") else ""
            raise ConfigError(
                f"{own.where}  {own} and {placed} ({placed.where}) would both move decisions, each as if alone: {aside}"
                "remove one of them"
            )


def check_fitted(step: Any, run: Run) -> None:
    """Raise ConfigError where a step after training may not read its groups, is not alone, or has nothing to be fitted on."""
    groups.check(step, step.groups, "train", run)
    if step.group_aware:
        groups.check(step, step.groups, "inference", run)
    check_class(step, step.positive, run)
    check_alone(step, run)
    if "validation" not in run.data:
        own = run.stack.placed(step)
        raise ConfigError(f"{own.where}  {own}: there is no validation split to fit on; name one in data.validation")


def calibrate(
    step: Any, predictions: Predictions, run: Run, number: int, kind: str, objective: Objective = "accuracy"
) -> None:
    """Choose the threshold for class ``number`` of two on validation, for the groups and ``max_gap`` of ``step``; keep it."""
    scores, truth, columns = known_rows(step, predictions, number)
    codes = [column for column, _ in columns]
    run.keep(step, "threshold", dict)["threshold"] = choose(scores, truth, codes, step.max_gap, kind, objective)


def known_rows(
    step: Any, predictions: Predictions, number: int
) -> tuple[np.ndarray, np.ndarray, list[tuple[np.ndarray, list[str]]]]:
    """Scores of class ``number``, whether that is the label, and each spec's groups and their names; labelled rows alone."""
    labels = predictions.numpy("label")
    known, found = labels >= 0, [groups.codes(spec, predictions) for spec in step.groups]
    columns = [(codes[known], names) for codes, names in found]
    return predictions.numpy("scores")[known, number], labels[known] == number, columns


def decide(step: Step, scores: Any, run: Run, number: int) -> Any:
    """The scores moved so that the kept threshold decides; as they are where none is kept. No group is read."""
    threshold = run.keep(step, "threshold", dict).get("threshold")
    return scores if threshold is None else moved(scores, threshold, number)


def moved(scores: Any, threshold: Any, number: int) -> Any:
    """``[R, 2]``: distances from the threshold (a number, or one a row); class ``number`` wins where its score is at it."""
    import torch

    distance = scores[:, number] - threshold
    distance = torch.where(distance == 0, torch.finfo(distance.dtype).tiny, distance)
    return torch.stack([-distance, distance] if number == 1 else [distance, -distance], dim=1)


def told(step: Step, run: Run) -> str:
    """The sentence of a report."""
    threshold = run.keep(step, "threshold", dict).get("threshold")
    if threshold is None:
        return "No threshold was refitted."
    return f"One threshold for all groups, chosen on validation: {threshold:.3f}."


def choose(
    scores: np.ndarray,
    truth: np.ndarray,
    columns: list[np.ndarray],
    max_gap: float,
    kind: str = "equalized_odds",
    objective: Objective = "accuracy",
) -> float:
    """The threshold of best accuracy less the part of the ``kind`` difference that is over ``max_gap``.

    ``scores`` float[n] of the positive class, ``truth`` bool[n], ``columns`` the groups int[n] (-1: missing) of each spec.
    A bound instead of the subtraction would be met best by refusing everybody.
    """
    best, chosen = -np.inf, 0.5
    shares = row_shares(truth, objective)
    for threshold in np.unique(np.append(np.quantile(scores, np.linspace(0, 1, CANDIDATES)), 0.5)):
        found = value(scores >= threshold, truth, columns, max_gap, kind, shares)
        if found > best:
            best, chosen = found, float(threshold)
    return chosen


def value(
    decision: np.ndarray, truth: np.ndarray, columns: list[np.ndarray], max_gap: float, kind: str, shares: np.ndarray
) -> float:
    """The objective of decisions less what the largest gap is over ``max_gap``."""
    gaps = [gap(rates.cells(truth, decision, column, int(column.max(initial=-1)) + 1), kind) for column in columns]
    return float(shares[decision == truth].sum()) - max(max(gaps, default=0.0) - max_gap, 0.0)


def row_shares(truth: np.ndarray, objective: Objective) -> np.ndarray:
    """What each row adds to the objective where it is decided rightly, float64[n]."""
    if objective == "accuracy":
        return np.full(len(truth), 1 / max(len(truth), 1))
    positives = truth.sum()
    return np.where(truth, 0.5 / max(positives, 1), 0.5 / max(len(truth) - positives, 1))


def gap(counts: np.ndarray, kind: str) -> float:
    """The largest difference between two groups' rates of ``kind``; a group without rows for a rate has none there."""
    found = [known for rate in rates.GAPS[kind] if len(known := _known(rates.value(counts, rate))) > 1]
    return max((float(np.ptp(known)) for known in found), default=0.0)


def _known(values: np.ndarray) -> np.ndarray:
    return values[np.isfinite(values)]
