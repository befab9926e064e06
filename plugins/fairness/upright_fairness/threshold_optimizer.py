"""fairlearn's ThresholdOptimizer, as numbers: chances between two thresholds a group (Hardt et al., 2016, arXiv:1610.02413)."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from upright import Batch

CONSTRAINTS = {
    "demographic_parity": "demographic_parity",
    "equal_opportunity": "true_positive_rate_parity",
    "false_positive_rate_parity": "false_positive_rate_parity",
    "equalized_odds": "equalized_odds",
}
"""Our name of a kind -> fairlearn's."""
Mixture = dict[str, Any]
"""Two rules ``[operator, threshold]``, the chance of each, and of a constant instead of both; JSON values."""


def fit(scores: np.ndarray, truth: np.ndarray, group: np.ndarray, kind: str, objective: str) -> dict[str, Mixture]:
    """Each group's mixture, from scores (float64[n]), truth (bool[n]) and the groups' names (object[n])."""
    from fairlearn.postprocessing import ThresholdOptimizer
    from sklearn.base import BaseEstimator

    class Scores(BaseEstimator):
        """An estimator that is fitted already: what it is given are the scores."""

        def __sklearn_is_fitted__(self) -> bool:
            return True

        def fit(self, X: Any, y: Any = None) -> Any:
            return self

        def predict(self, X: Any) -> Any:
            return np.asarray(X, dtype=np.float64)[:, 0]

    optimizer = ThresholdOptimizer(
        estimator=Scores(),
        constraints=CONSTRAINTS[kind],
        objective=f"{objective}_score",
        prefit=True,
        predict_method="predict",
    )
    # float32 ends in a TypeError with pandas 3
    optimizer.fit(scores.astype(np.float64).reshape(-1, 1), truth.astype(int), sensitive_features=group)
    fitted = optimizer.interpolated_thresholder_.interpolation_dict
    return {str(name): _numbers(one) for name, one in fitted.items()}


def chance(scores: np.ndarray, mixture: Mixture) -> np.ndarray:
    """The chance that a row of each score is decided positive, float64[n]."""
    found = np.zeros(len(scores))
    for share, (operator, threshold) in mixture["rules"]:
        found += share * (scores > threshold if operator == ">" else scores < threshold)
    constant: np.ndarray = mixture["ignored"] * mixture["constant"] + (1 - mixture["ignored"]) * found
    return constant


def lots(batch: Batch, salt: int) -> np.ndarray:
    """A number in [0, 1) for each row, float64[R], that follows from ``salt`` and the row's tokens alone.

    So the same text is decided alike, whoever else is in its batch and however often it is asked.
    """
    numbers = []
    masks = batch.inputs["attention_mask"].bool().cpu()
    for ids, mask in zip(batch.inputs["input_ids"].cpu(), masks, strict=True):
        said = f"{salt}/{ids[mask].tolist()}".encode()
        numbers.append(int.from_bytes(hashlib.blake2b(said, digest_size=6).digest(), "big") / 2**48)
    return np.array(numbers, dtype=np.float64)


def _numbers(fitted: Any) -> Mixture:
    """Scores lie in [0, 1]: -1 and 2 stand for the infinities, which JSON does not have."""
    pairs = [(fitted.p0, fitted.operation0), (fitted.p1, fitted.operation1)]
    rules = [[float(share), [rule.operator, float(np.clip(rule.threshold, -1, 2))]] for share, rule in pairs]
    ignored, constant = fitted.get("p_ignore", 0.0), fitted.get("prediction_constant", 0.0)
    return {"rules": rules, "ignored": float(ignored), "constant": float(constant)}
