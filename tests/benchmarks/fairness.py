"""1,000 bootstrap resamples of six group metrics on a million rows and 20 groups, beside fairlearn's MetricFrame; and what
a constraint costs an update of LoRA on MiniLM.

CPU time, interleaved in one process, median of the rounds. MetricFrame takes few resamples and is extrapolated: it draws and
groups the million rows anew for each. Of the updates, the median of the turns' ratios with its 95 % bootstrap interval.

    make bench-fairness
    python tests/benchmarks/fairness.py --coverage     # how often intervals hold the truth, by simulation; a minute
"""

from __future__ import annotations

import argparse
import json
import random
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import fairlearn.metrics as fairlearn
import loop
import numpy as np
import torch
from sklearn.metrics import accuracy_score, precision_score

from upright_fairness import auc, calibration, rates

ROWS, GROUPS, RESAMPLES, ROUNDS, THEIRS = 1_000_000, 20, 1000, 3, 2
METRICS = {
    "selection_rate": fairlearn.selection_rate,
    "true_positive_rate": fairlearn.true_positive_rate,
    "false_positive_rate": fairlearn.false_positive_rate,
    "false_negative_rate": fairlearn.false_negative_rate,
    "precision": precision_score,
    "accuracy": accuracy_score,
}


CASES: list[tuple[list[float], list[int]]] = [
    ([0.5, 0.6], [100, 150]),
    ([0.9, 0.8], [100, 150]),
    ([0.1, 0.1], [50, 60]),
    ([0.3, 0.4, 0.5], [80, 100, 120]),
    ([0.6] * 3, [120] * 3),
    ([0.5] * 20, [1000] * 20),
]
SIMULATIONS = 1000


def coverage(shares: list[float], sizes: list[int]) -> tuple[float, float, float]:
    """How often all signed pairs, the largest gap and the smallest ratio of the true shares lie in their intervals."""
    chance, true, hits = np.random.default_rng(0), np.array(shares), np.zeros(3)
    for trial in range(SIMULATIONS):
        counts = np.zeros((len(shares), 2, 2), dtype=int)
        counts[:, 1, 1] = chance.binomial(sizes, shares)
        counts[:, 1, 0] = sizes - counts[:, 1, 1]
        counts[:, 0, 0] = 20
        drawn = rates.resample(counts, trial)
        pairs = rates.differences(counts, "equal_opportunity", drawn)
        gap, ratio = (of(counts, "equal_opportunity", drawn) for of in (rates.gap, rates.ratio))
        hits += [
            all(one.low <= true[a] - true[b] <= one.high for _, a, b, one in pairs),
            gap.low <= np.ptp(true) <= gap.high,
            ratio.low <= true.min() / true.max() <= ratio.high,
        ]
    pair, largest, smallest = hits / SIMULATIONS
    return float(pair), float(largest), float(smallest)


def others() -> dict[str, float]:
    """How often the intervals of all groups hold at once, for what is no single rate."""
    chance, hits = np.random.default_rng(1), dict.fromkeys(("odds", "auc", "brier", "calibration"), 0)
    tpr, fpr, normal = np.linspace(0.6, 0.8, 3), np.linspace(0.3, 0.2, 3), 0.8413447460685429
    centres = (np.arange(15) + 0.5) / 15
    for trial in range(SIMULATIONS):
        group, truth = chance.integers(0, 3, 600), chance.random(600) < 0.4
        said = chance.random(600) < np.where(truth, tpr[group], fpr[group])
        counts = rates.cells(truth, said, group, 3)
        pairs = rates.differences(counts, "equalized_odds", rates.resample(counts, trial))
        true = {"true_positive_rate": tpr, "false_positive_rate": fpr}
        hits["odds"] += all(e.low <= true[rate][a] - true[rate][b] <= e.high for rate, a, b, e in pairs)
        found = auc.by_group(chance.normal(0, 1, 600) + truth * 2**0.5, truth, group, 3)  # normals sqrt(2) apart
        hits["auc"] += all(e.low <= normal <= e.high for e in found["subgroup_auc"])
        scores = chance.beta(0.5, 0.5, 90)  # 30 rows a group; E[s(1 - s)] = 1/8
        briers = calibration.brier(scores, chance.random(90) < scores, np.arange(90) % 3, 3)
        hits["brier"] += all(e.low <= 0.125 <= e.high for e in briers)
        scores = centres[chance.integers(0, 15, 600)]  # calibrated: the true error is 0
        errors = calibration.expected_calibration_error(scores, chance.random(600) < scores, group, 3, trial)
        hits["calibration"] += all(e.low <= 1e-9 for e in errors)
    return {name: count / SIMULATIONS for name, count in hits.items()}


KEPT = 0.95
"""Of plain LoRA's updates per second."""
CONSTRAINED = {
    "one-spec": {"use": "constraint", "groups": ["sex"]},
    "two-specs": {"use": "constraint", "groups": ["sex", {"columns": ["sex", "race"]}]},
}


def updates(blocks: int = 21, each: int = 6) -> bool:
    """Print how many of plain LoRA's updates per second are left under a constraint; whether that is enough."""
    with tempfile.TemporaryDirectory() as name:
        folder, draw = Path(name), random.Random(0)
        data: dict[str, Any] = {"sensitive": ["sex", "race"]}
        for split in ("train", "validation"):
            loop.rows(folder / "plain.jsonl", 24)
            told = [json.loads(line) for line in (folder / "plain.jsonl").read_text().splitlines()]
            with (folder / f"{split}.jsonl").open("w") as out:
                for row in told:
                    out.write(json.dumps({**row, "sex": draw.choice("fm"), "race": draw.choice("abc")}) + "\n")
            data[split] = str(folder / f"{split}.jsonl")
        tune = {"use": "lora", "rank": 8}
        loops = {"plain": loop.repeated(loop.ours(folder, "plain", tune, {"data": data})[1])}
        for kind, step in CONSTRAINED.items():
            loops[kind] = loop.repeated(loop.ours(folder, kind, tune, {"data": data, "fairness": step})[1])
        times = loop.interleave(loops, blocks, each)
    print(f"LoRA on MiniLM, {loop.BATCH} rows of 24 words: {1000 * statistics.median(times['plain']):.1f} ms an update")
    kept = True
    for kind in CONSTRAINED:
        share, low, high = loop.ratio(times["plain"], times[kind])
        kept = kept and share >= KEPT
        print(f"constraint, {kind}: {100 * share:.1f} % [{100 * low:.1f}, {100 * high:.1f}] of its updates per second")
    print("bound kept" if kept else "BOUND BROKEN")
    return kept


def seconds(work: Callable[[], object]) -> float:
    """CPU seconds of one call."""
    started = time.process_time()
    work()
    return time.process_time() - started


def main() -> int:
    """Print all of it, or the table of coverage."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--coverage", action="store_true")
    if parser.parse_args().coverage:
        for shares, sizes in CASES:
            found = " | ".join(f"{share:.3f}" for share in coverage(shares, sizes))
            print(f"| {shares[:3]} {sizes[:3]} x{len(shares)} | {found} |", flush=True)
        print(others())
        return 0
    chance = np.random.default_rng(0)
    truth, decision = chance.random(ROWS) < 0.4, chance.random(ROWS) < 0.5
    groups = chance.integers(0, GROUPS, ROWS)

    def ours() -> None:
        counts = rates.cells(truth, decision, groups, GROUPS)
        drawn = rates.resample(counts, 0, RESAMPLES)
        for rate in rates.RATES:
            np.nanpercentile(rates.value(drawn, rate), [2.5, 97.5], axis=0)
        for kind in rates.GAPS:  # and all signed pairs' differences, at once
            rates.gap(counts, kind, drawn)

    def theirs() -> None:
        fairlearn.MetricFrame(
            metrics=METRICS,
            y_true=truth,
            y_pred=decision,
            sensitive_features=groups,
            n_boot=THEIRS,
            ci_quantiles=[0.025, 0.975],
            random_state=0,
        )

    pairs = [(seconds(ours), seconds(theirs)) for _ in range(ROUNDS)]
    mine = statistics.median(one for one, _ in pairs)
    per = statistics.median(other for _, other in pairs) / (THEIRS + 1)  # one more for the data themselves
    print(f"{ROWS:,} rows, {GROUPS} groups, {len(METRICS)} metrics, {RESAMPLES:,} resamples, CPU seconds")
    print(f"upright (with bands over all {GROUPS * (GROUPS - 1) // 2} pairs): {mine:.2f}")
    print(f"MetricFrame: {per:.2f} a resample, so {per * RESAMPLES:,.0f} for {RESAMPLES:,}")
    torch.set_num_threads(1)
    return 0 if updates() else 1


if __name__ == "__main__":
    sys.exit(main())
