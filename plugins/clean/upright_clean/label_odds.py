"""The odds of the likeliest other class against the given one, from features ``[N, D]`` of unit norm."""

from __future__ import annotations

import warnings

import numpy as np

NEIGHBOUR_WEIGHT = 5.0
"""Log odds for a difference of 1 in cosine similarity to the two classes."""
SMALL_CLASS_POWER = 0.75
"""Power of how many times smaller than the mean class a class is, by which the odds asked of its rows grow."""
REFERENCES = 2000
"""Rows of a class that are looked at for neighbours, so that time grows with rows times classes."""
BLOCK = 1024
LEAST = 1e-12
"""Probabilities below this count as this."""


def log_odds(
    features: np.ndarray, labels: np.ndarray, folds: int, inverse_regularization: float, neighbours: int, seed: int
) -> tuple[np.ndarray, np.ndarray]:
    """``log q[other] - log q[given]`` of each row, ``[N]``, and the number of the likeliest other class, ``[N]``.

    ``labels [N]`` are class numbers ``0 .. K - 1``, each with at least ``folds`` rows.
    """
    scores = prior_corrected(held_out(features, labels, folds, inverse_regularization, seed), labels)
    if neighbours:
        scores += NEIGHBOUR_WEIGHT * similarity(features, labels, neighbours)
    rows = np.arange(len(labels))
    given = scores[rows, labels].copy()
    scores[rows, labels] = -np.inf
    likelier = scores.argmax(1)
    return scores[rows, likelier] - given, likelier


def thresholds(labels: np.ndarray, odds: float) -> np.ndarray:
    """The log odds above which a row with the label of a class is taken for wrong, ``[K]``."""
    sizes = np.bincount(labels)
    # Wrong labels spread over the other classes, so odds are larger where there are more; the root is what fitted five data
    # sets of 2 to 77 classes, seeds 100 and 101 of tests/benchmarks/labels.py. The power of the size was chosen on
    # banking77, seeds 100 to 105: right rows of small classes are then found about as often as others.
    smaller = np.maximum(1, sizes.mean() / sizes)
    found: np.ndarray = np.log(odds * np.sqrt(len(sizes) - 1) * smaller**SMALL_CLASS_POWER)
    return found


def prior_corrected(probabilities: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """``log(p / prior)``, ``[N, K]``, with the classes' shares of the labels as priors (Menon et al., 2021, equation 9)."""
    prior = np.bincount(labels, minlength=probabilities.shape[1]) / len(labels)
    corrected: np.ndarray = np.log(np.maximum(probabilities, LEAST)) - np.log(prior)
    return corrected


def held_out(
    features: np.ndarray, labels: np.ndarray, folds: int, inverse_regularization: float, seed: int
) -> np.ndarray:
    """Probabilities ``[N, K]`` of a multinomial logistic regression that was fitted without the row's fold."""
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.linear_model import LogisticRegression
    from sklearn.model_selection import StratifiedKFold

    probabilities = np.zeros((len(labels), int(labels.max()) + 1))
    for train, rest in StratifiedKFold(folds, shuffle=True, random_state=seed % 2**32).split(features, labels):
        model = LogisticRegression(C=inverse_regularization, max_iter=300)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ConvergenceWarning)  # the last iterations move no decision
            model.fit(features[train], labels[train])
        probabilities[np.ix_(rest, model.classes_)] = model.predict_proba(features[rest])
    return probabilities


def similarity(features: np.ndarray, labels: np.ndarray, neighbours: int) -> np.ndarray:
    """The mean cosine similarity of each row to its nearest ``neighbours`` rows of each class, itself left out, ``[N, K]``."""
    members = [np.flatnonzero(labels == number)[:REFERENCES] for number in range(int(labels.max()) + 1)]
    columns = np.concatenate(members)
    ends = np.cumsum([len(one) for one in members])
    references = features[columns].T
    column_of = np.full(len(labels), -1)
    column_of[columns] = np.arange(len(columns))
    found = np.empty((len(labels), len(members)))
    for start in range(0, len(labels), BLOCK):
        block = features[start : start + BLOCK] @ references
        own = column_of[start : start + BLOCK]
        block[np.flatnonzero(own >= 0), own[own >= 0]] = -np.inf
        for number, part in enumerate(np.split(block, ends[:-1], axis=1)):
            most = min(neighbours, len(members[number]) - 1)
            found[start : start + BLOCK, number] = -np.partition(-part, most - 1, axis=1)[:, :most].mean(1)
    return found


def nearest(features: np.ndarray, labels: np.ndarray, rows: np.ndarray, classes: np.ndarray) -> np.ndarray:
    """For each of ``rows`` the row of its class in ``classes`` that is nearest to it, ``[R]``."""
    found = np.empty(len(rows), dtype=np.int64)
    for number in np.unique(classes):
        members, asking = np.flatnonzero(labels == number), np.flatnonzero(classes == number)
        found[asking] = members[(features[rows[asking]] @ features[members].T).argmax(1)]
    return found
