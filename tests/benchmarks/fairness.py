"""1,000 bootstrap resamples of six group metrics on a million rows and 20 groups, beside fairlearn's MetricFrame.

CPU time, interleaved in one process, median of the rounds. MetricFrame takes few resamples and is extrapolated: it draws and
groups the million rows anew for each.

    make bench-fairness
    python tests/benchmarks/fairness.py --coverage     # how often intervals hold the truth, by simulation; a minute
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable

import fairlearn.metrics as fairlearn
import numpy as np
from sklearn.metrics import accuracy_score, precision_score

from upright_fairness import rates

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


def seconds(work: Callable[[], object]) -> float:
    """CPU seconds of one call."""
    started = time.process_time()
    work()
    return time.process_time() - started


def main() -> None:
    """Print both, or the table of coverage."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--coverage", action="store_true")
    if parser.parse_args().coverage:
        for shares, sizes in CASES:
            found = " | ".join(f"{share:.3f}" for share in coverage(shares, sizes))
            print(f"| {shares[:3]} {sizes[:3]} x{len(shares)} | {found} |", flush=True)
        return
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


if __name__ == "__main__":
    main()
