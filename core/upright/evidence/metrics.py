"""Core's figures, from predictions alone: each with a 95 % percentile bootstrap interval over rows.

Bootstrap: Efron and Tibshirani (1993), percentile interval, B = 1000. Every figure is a function of per-row counts, so
a resample is one matrix product of resampling weights and counts.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np

from upright.evidence.files import write_atomic
from upright.objects import Metric, Predictions

RESAMPLES = 1000
BLOCK = 100
"""Resamples per matrix product; bounds memory at BLOCK x rows."""


def measure(predictions: Predictions, seed: int, resamples: int = RESAMPLES) -> dict[str, Metric]:
    """The task's figures, keyed without the split. Rows whose label is unknown (-1) count in none."""
    measures = {
        "text-classification": _classification,
        "token-classification": _tokens,
        "text-generation": _generation,
        "text2text-generation": _generation,
    }
    return measures[predictions.task](predictions, seed, resamples)


def write_metrics(folder: Path, metrics: dict[str, Metric]) -> None:
    """Write metrics.json, sorted by key."""
    content = {key: metrics[key].to_json() for key in sorted(metrics)}
    write_atomic(folder / "metrics.json", json.dumps(content, indent=2, ensure_ascii=False) + "\n")


def read_metrics(folder: Path) -> dict[str, Metric]:
    """The figures of a run."""
    content = json.loads((folder / "metrics.json").read_text(encoding="utf-8"))
    return {key: Metric.from_json(fields) for key, fields in content.items()}


def intervals(
    counts: np.ndarray, figures: Callable[[np.ndarray], np.ndarray], seed: int, resamples: int = RESAMPLES
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Values and 95 % bounds of figures that are functions of summed per-row counts.

    ``counts [n, C]``; ``figures`` maps sums ``[B, C]`` to figures ``[B, F]``. Returns three arrays ``[F]``.
    """
    sums = counts.sum(0, dtype=np.float64)
    values = figures(sums[None])[0]
    if not resamples or not len(counts):
        return values, values, values
    drawn = np.concatenate([figures(block) for block in _resampled(counts, seed, resamples)])
    with np.errstate(all="ignore"):
        low, high = np.nanpercentile(drawn, [2.5, 97.5], axis=0)
    return values, low, high


def _resampled(counts: np.ndarray, seed: int, resamples: int) -> Iterator[np.ndarray]:
    generator = np.random.default_rng(seed)
    n = len(counts)
    counts = counts.astype(np.float64)
    for start in range(0, resamples, BLOCK):
        size = min(BLOCK, resamples - start)
        drawn = generator.integers(0, n, (size, n)) + np.arange(size)[:, None] * n
        weights = np.bincount(drawn.ravel(), minlength=size * n).reshape(size, n).astype(np.float64)
        yield weights @ counts


def _metrics(names: list[str], result: tuple[np.ndarray, np.ndarray, np.ndarray], n: int) -> dict[str, Metric]:
    return {
        name: Metric(float(value), float(low), float(high), n)
        for name, value, low, high in zip(names, *result, strict=True)
        if np.isfinite(value)
    }


def _share(part: np.ndarray, whole: np.ndarray) -> np.ndarray:
    """part / whole, 0 where there is nothing to divide by (scikit-learn's ``zero_division=0``)."""
    share: np.ndarray = np.divide(part, whole, out=np.zeros_like(part), where=whole > 0)
    return share


def _classification(predictions: Predictions, seed: int, resamples: int) -> dict[str, Metric]:
    label, decision = predictions.numpy("label"), predictions.numpy("decision")
    known = label >= 0
    label, decision = label[known], decision[known]
    classes = len(predictions.labels)
    if not len(label):
        return {}
    eye = np.eye(classes, dtype=np.float64)
    counts = np.concatenate([eye[label] * (label == decision)[:, None], eye[label], eye[decision]], axis=1)

    def figures(sums: np.ndarray) -> np.ndarray:
        right, true, said = np.split(sums, 3, axis=1)
        precision, recall = _share(right, said), _share(right, true)
        f1 = _share(2 * right, true + said)
        # As scikit-learn: the mean over classes that occur among labels or decisions.
        present = (true + said) > 0
        macro = _share((f1 * present).sum(1), present.sum(1).astype(np.float64))
        accuracy = right.sum(1) / true.sum(1)
        return np.concatenate([accuracy[:, None], macro[:, None], precision, recall, f1], axis=1)

    names = ["accuracy", "macro_f1"]
    names += [f"{kind}/{name}" for kind in ("precision", "recall", "f1") for name in predictions.labels]
    return _metrics(names, intervals(counts, figures, seed, resamples), len(label))


def spans(tags: list[str]) -> set[tuple[str, int, int]]:
    """Entities ``(type, start, end)`` of BIO tags, strictly: an entity begins with ``B-`` and goes on with ``I-`` of its type.

    An ``I-`` that continues nothing belongs to no entity (seqeval's strict mode, scheme IOB2).
    """
    found = set()
    kind, start = "", -1
    for place, tag in enumerate([*tags, "O"]):
        prefix, _, name = tag.partition("-")
        if start >= 0 and not (prefix == "I" and name == kind):
            found.add((kind, start, place))
            start = -1
        if prefix == "B":
            kind, start = name, place
    return found


def _tokens(predictions: Predictions, seed: int, resamples: int) -> dict[str, Metric]:
    names = predictions.labels
    kinds = sorted({name.partition("-")[2] for name in names} - {""})
    rows = []
    labels, decisions = (predictions.table.column(column).to_pylist() for column in ("label", "decision"))
    for label, decision in zip(labels, decisions, strict=True):
        pairs = [(names[a], names[b]) for a, b in zip(label, decision, strict=True) if a >= 0]
        true, said = spans([a for a, _ in pairs]), spans([b for _, b in pairs])
        row = [sum(a == b for a, b in pairs), len(pairs)]
        for kind in kinds:
            of = [{span for span in found if span[0] == kind} for found in (true & said, true, said)]
            row += [len(found) for found in of]
        rows.append(row)
    counts = np.array(rows, dtype=np.float64).reshape(len(rows), 2 + 3 * len(kinds))

    def figures(sums: np.ndarray) -> np.ndarray:
        by_kind = sums[:, 2:].reshape(len(sums), len(kinds), 3)
        right, true, said = by_kind.sum(1).T
        columns = [_share(sums[:, 0], sums[:, 1])]
        columns += [_share(right, said), _share(right, true), _share(2 * right, true + said)]
        columns += [_share(2 * k[:, 0], k[:, 1] + k[:, 2]) for k in np.moveaxis(by_kind, 1, 0)]
        return np.stack(columns, axis=1)

    keys = ["token_accuracy", "span_precision", "span_recall", "span_f1", *(f"span_f1/{kind}" for kind in kinds)]
    return _metrics(keys, intervals(counts, figures, seed, resamples), len(rows))


def _generation(predictions: Predictions, seed: int, resamples: int) -> dict[str, Metric]:
    counts = np.stack([predictions.numpy("log_likelihood"), predictions.numpy("tokens")], axis=1).astype(np.float64)

    def figures(sums: np.ndarray) -> np.ndarray:
        loss = -sums[:, 0] / np.maximum(sums[:, 1], 1)
        return np.stack([np.exp(np.minimum(loss, 700.0)), loss], axis=1)

    return _metrics(["perplexity", "loss"], intervals(counts, figures, seed, resamples), len(counts))
