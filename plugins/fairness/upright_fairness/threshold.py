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
RESAMPLES = 100


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
    given = [codes for codes, _ in columns], step.max_gap, kind, objective
    run.keep(step, "threshold", dict)["threshold"] = bagged(scores, truth, *given, seed=run.seed)


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


def bagged(
    scores: np.ndarray,
    truth: np.ndarray,
    columns: list[np.ndarray],
    max_gap: float,
    kind: str = "equalized_odds",
    objective: Objective = "accuracy",
    *,
    seed: int,
) -> float:
    """The mean of what `choose` finds on resampled rows (bagging: Breiman, 1996, doi:10.1007/BF00058655).

    A small group's rate takes few values, so the best threshold of the rows themselves jumps with single ones of them.
    """
    chance = np.random.default_rng(seed)
    drawn = (chance.integers(0, len(scores), len(scores)) for _ in range(RESAMPLES if len(scores) else 0))
    found = [choose(scores[n], truth[n], [column[n] for column in columns], max_gap, kind, objective) for n in drawn]
    return float(np.mean(found)) if found else 0.5


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
    thresholds = np.unique(np.append(np.quantile(scores, np.linspace(0, 1, CANDIDATES)), 0.5))
    reached = np.searchsorted(thresholds, scores, side="right")  # row n is positive at the first reached[n] thresholds
    shares = row_shares(truth, objective)
    right = _counts(reached, truth, np.zeros(len(truth), dtype=np.int64), len(thresholds), shares)[:, 0]
    gaps = [gap(_counts(reached, truth, column, len(thresholds)), kind) for column in columns]
    excess = np.clip(np.max(gaps, axis=0) - max_gap, 0, None) if gaps else 0.0
    return float(thresholds[(right[:, 0, 0] + right[:, 1, 1] - excess).argmax()])


def _counts(
    reached: np.ndarray, truth: np.ndarray, group: np.ndarray, thresholds: int, weights: np.ndarray | None = None
) -> np.ndarray:
    """`rates.cells` at each threshold, ``[T, G, 2, 2]``; rows may have weights."""
    count, known = int(group.max(initial=-1)) + 1, group >= 0
    place = (reached * count + group) * 2 + truth
    held = np.bincount(
        place[known],
        minlength=2 * count * (thresholds + 1),
        weights=None if weights is None else weights[known],
    ).reshape(thresholds + 1, count, 2)
    positive = held[::-1].cumsum(0)[::-1][1:]
    return np.stack([held.sum(0) - positive, positive], axis=3)


def value(
    decision: np.ndarray, truth: np.ndarray, columns: list[np.ndarray], max_gap: float, kind: str, shares: np.ndarray
) -> float:
    """The objective of decisions less what the largest gap is over ``max_gap``."""
    return float(shares[decision == truth].sum()) - max(largest(decision, truth, columns, kind) - max_gap, 0.0)


def largest(decision: np.ndarray, truth: np.ndarray, columns: list[np.ndarray], kind: str) -> float:
    """The largest gap of decisions over all ways of telling groups apart."""
    tables = [rates.cells(truth, decision, column, int(column.max(initial=-1)) + 1) for column in columns]
    return max((float(gap(table, kind)) for table in tables), default=0.0)


def row_shares(truth: np.ndarray, objective: Objective) -> np.ndarray:
    """What each row adds to the objective where it is decided rightly, float64[n]."""
    if objective == "accuracy":
        return np.full(len(truth), 1 / max(len(truth), 1))
    positives = truth.sum()
    return np.where(truth, 0.5 / max(positives, 1), 0.5 / max(len(truth) - positives, 1))


def gap(counts: np.ndarray, kind: str) -> np.ndarray:
    """The largest difference of two groups' rates of ``kind``, ``[...]`` of ``[..., G, 2, 2]``.

    A group without rows for a rate has none there.
    """
    if not counts.shape[-3]:
        return np.zeros(counts.shape[:-3])
    known = [rates.value(counts, rate) for rate in rates.GAPS[kind]]
    spreads = [np.fmax.reduce(one, -1) - np.fmin.reduce(one, -1) for one in known]
    found: np.ndarray = np.nan_to_num(np.fmax.reduce(spreads))
    return found
