"""Can a group be told from features? Linear and non-linear probes (Alain and Bengio, 2016, arXiv:1610.01644; that what linear
probes miss is still there: Gonen and Goldberg, 2019, arXiv:1903.03862), and how sure the answer is."""

from __future__ import annotations

import warnings
from typing import TYPE_CHECKING, Any

import numpy as np

from upright_fairness.auc import auc
from upright_fairness.intervals import Estimate, bonferroni

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

KINDS = ("linear", "non_linear")
FOLDS = 3
PERMUTATIONS = 1000
BLOCK = 50
"""Permutations at a time; bounds memory at BLOCK x rows."""


def fitted(kind: str, features: np.ndarray, codes: np.ndarray, seed: int) -> Callable[[np.ndarray], np.ndarray]:
    """A probe of ``features [N, D]`` for ``codes`` int[N]: a function that gives each group's score, ``[n, G]``.

    Linear: logistic regression. Non-linear: the better of a support vector machine with Gaussian kernels and a network of
    one hidden layer. Which, and how regularised, is chosen by cross-validated AUC on the rows that are given.
    """
    from sklearn.linear_model import LogisticRegression
    from sklearn.model_selection import GridSearchCV, StratifiedKFold
    from sklearn.neural_network import MLPClassifier
    from sklearn.pipeline import Pipeline
    from sklearn.preprocessing import StandardScaler
    from sklearn.svm import SVC

    state = seed % 2**32
    candidates = {
        "linear": [LogisticRegression(C=c, max_iter=1000) for c in (1e-3, 1e-2, 1e-1, 1.0)],
        "non_linear": [SVC(C=1.0), SVC(C=10.0), MLPClassifier(alpha=1.0, max_iter=200, random_state=state)],
    }
    search = GridSearchCV(
        Pipeline([("scaled", StandardScaler()), ("probe", None)]),
        {"probe": candidates[kind]},
        scoring=lambda model, rows, truth: balanced_auc(_scores(model, rows), truth).value,
        cv=StratifiedKFold(FOLDS, shuffle=True, random_state=state),
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # a network that is still learning after its last pass is a probe all the same
        search.fit(features, codes)
    return lambda rows: _scores(search.best_estimator_, rows)


def balanced_auc(scores: np.ndarray, codes: np.ndarray) -> Estimate:
    """The mean over groups of the AUC of each against the others (of two groups: the AUC), whatever their sizes.

    ``scores [n, G]``, ``codes`` int[n]. The interval of a mean lies between the means of simultaneous intervals' ends.
    """
    found = list(by_group(scores, codes))
    value, low, high = (float(np.mean([getattr(one, end) for one in found])) for end in ("value", "low", "high"))
    return Estimate(value, low, high, len(codes))


def by_group(scores: np.ndarray, codes: np.ndarray) -> Iterator[Estimate]:
    """The AUC of each group against the others, with intervals that hold for all at once; of two groups one says it all."""
    count = scores.shape[1]
    for group in range(count) if count > 2 else (1,):
        mine = scores[:, group] if count > 2 else scores[:, 1] - scores[:, 0]
        yield auc(mine[codes == group], mine[codes != group], bonferroni(count if count > 2 else 1))


def permuted(scores: np.ndarray, codes: np.ndarray, seed: int, permutations: int = PERMUTATIONS) -> np.ndarray:
    """The balanced AUC of the same scores with the groups dealt anew to the rows, ``[permutations]``: what chance gives."""
    from scipy.stats import rankdata

    count, rows = scores.shape[1], len(codes)
    sizes = np.bincount(codes, minlength=count)
    if count == 2:
        scores = np.stack([scores[:, 0] - scores[:, 1], scores[:, 1] - scores[:, 0]], axis=1)
    ranks = rankdata(scores, axis=0)
    chance, found = np.random.default_rng(seed), []
    for start in range(0, permutations, BLOCK):
        dealt = chance.permuted(np.tile(codes, (min(BLOCK, permutations - start), 1)), axis=1)
        sums = np.stack([((dealt == group) @ ranks[:, group]) for group in range(count)], axis=1)
        found.append(((sums - sizes * (sizes + 1) / 2) / (sizes * (rows - sizes))).mean(1))
    return np.concatenate(found)


def _scores(model: Any, rows: np.ndarray) -> np.ndarray:
    """``[n, G]``, more for a likelier group."""
    found: np.ndarray = (
        model.decision_function(rows) if hasattr(model, "decision_function") else model.predict_proba(rows)
    )
    return np.stack([-found, found], axis=1) if found.ndim == 1 else found
