"""The membership attack on the tuned model of a run: which rows, what the model says of them, how well they are told apart."""

from __future__ import annotations

from collections.abc import Container
from typing import Any

import numpy as np

from upright import Run
from upright_privacy.membership import calibrated, confidence, estimate

FEWEST = 10
"""Rows of each side below which nothing is tried."""


def held_out(run: Run) -> str | None:
    """The first test split, else validation."""
    splits = [split for split in run.data if split not in ("train", "validation")]
    return splits[0] if splits else "validation" if "validation" in run.data else None


def choose(run: Run, count: int, without: Container[int]) -> dict[str, list[int]]:
    """``count`` rows of train and as many of the split that is held out, or fewer, drawn by the seed."""
    import torch

    rows = {"train": [place for place in range(len(run.data["train"])) if place not in without]}
    held = held_out(run)
    if held:
        rows[held] = list(range(len(run.data[held])))
    count = min(count, *map(len, rows.values()))
    chosen = {}
    for split, numbers in rows.items():
        order = torch.randperm(len(numbers), generator=torch.Generator().manual_seed(run.seed)).tolist()
        chosen[split] = [numbers[place] for place in order[:count]]
    return chosen


def confidences(run: Run, split: str, rows: list[int]) -> np.ndarray:
    """The model's confidence in the truth of each row, ``float64 [n]``."""
    import torch

    found: dict[int, float] = {}
    training = run.model.training
    run.model.eval()
    with torch.no_grad():
        for batch in run.batches(rows, split, augment=False):
            losses = run.calls.objective(batch, run.forward(batch), run)
            found.update(zip(batch.rows.tolist(), losses.double().tolist(), strict=True))
    run.model.train(training)
    return confidence(np.array([found[row] for row in rows]))


def attack(run: Run, rows: dict[str, list[int]], untuned: dict[str, np.ndarray]) -> dict[str, dict[str, Any]]:
    """Each figure with its interval; none where too few rows were held out.

    ``untuned`` are the confidences of the untuned model, empty where it was not asked.
    """
    if len(rows) < 2 or len(rows["train"]) < FEWEST:
        return {}
    members, others = (
        (confidences(run, split, rows[split]), _features(run, split, rows[split], untuned)) for split in rows
    )
    plain = (members[0], others[0])
    scores = calibrated(*plain, members[1], others[1], run.seed)
    figures = {
        "attack_auc": estimate("auc", *scores, run.seed),
        "attack_tpr_at_1_percent_fpr": estimate("tpr", *scores, run.seed),
        "loss_attack_auc": estimate("auc", *plain, run.seed),
        "loss_attack_tpr_at_1_percent_fpr": estimate("tpr", *plain, run.seed),
    }
    count = len(rows["train"])
    return {key: {"value": one.value, "low": one.low, "high": one.high, "n": count} for key, one in figures.items()}


def _features(run: Run, split: str, rows: list[int], untuned: dict[str, np.ndarray]) -> np.ndarray:
    """What is known of a row without the tuned model: its class, and the untuned model's confidence, ``[n, D]``."""
    columns = [np.ones(len(rows))]
    if split in untuned:
        columns.append(untuned[split])
    if run.labels and "label" in run.data[split].column_names:
        labels = run.data[split]["label"][:]
        columns += [np.array([labels[row] == name for row in rows], dtype=float) for name in run.labels]
    return np.stack(columns, axis=1)
