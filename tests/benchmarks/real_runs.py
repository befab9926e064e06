"""The real runs of docs/results.md: each example's stack once per seed; prints one line of the table for each.

Settings were chosen on validation; test is evaluated once per seed, by this command alone.

    make results
"""

from __future__ import annotations

import argparse
import os
import platform
import subprocess
import sys
import tempfile
import time
from importlib import metadata
from pathlib import Path

from upright import Metric, Stack
from upright.engine.execute import execute
from upright.progress import quiet_libraries

ROOT = Path(__file__).parents[2]
FIGURES = {
    "census-income/stack.private.yaml": [
        "test/accuracy",
        "test/fairness/group-audit/false_positive_rate_parity_difference/sex",
        "run/privacy/dp-sgd/epsilon",
    ],
    "disease-ner/stack.yaml": ["test/span_f1"],
    "disease-ner/stack.lora.yaml": ["test/span_f1"],
    "support-intents/stack.yaml": ["test/accuracy"],
    "support-intents/stack.zero-shot.yaml": ["test/accuracy"],
    "toxicity-dialect/stack.yaml": [
        "test/accuracy",
        "test/fairness/group-audit/false_positive_rate_parity_difference/dialect",
    ],
    "support-intents/stack.private.yaml": ["test/accuracy", "run/privacy/dp-sgd/epsilon"],
    "toxicity-dialect/stack.private.yaml": [
        "test/accuracy",
        "test/fairness/group-audit/false_positive_rate_parity_difference/dialect",
        "run/privacy/dp-sgd/epsilon",
    ],
    "story-writer/stack.yaml": ["test/perplexity"],
}
UNTUNED = "story-writer/stack.yaml"


def told(metric: Metric) -> str:
    """Value and interval."""
    return (
        f"{metric.value:.4g} [{metric.low:.4g}, {metric.high:.4g}]" if metric.low is not None else f"{metric.value:.4g}"
    )


def untuned(stack: Stack) -> Metric:
    """The same base, data and figure without any training."""
    raw = {key: value for key, value in stack.raw.items() if key not in ("tune", "train")}
    raw["data"] = {"test": str(stack.root / stack.raw["data"]["test"])}
    raw["model"] = {**raw["model"], "base": str((stack.root / raw["model"]["base"]).resolve())}
    with tempfile.TemporaryDirectory() as folder:
        return execute(Stack.load({**raw, "output": folder})).metrics["test/perplexity"]


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser()
    parser.add_argument("names", nargs="*", help="stacks such as disease-ner/stack.yaml; default: all")
    parser.add_argument(
        "--set",
        dest="overrides",
        action="append",
        default=[],
        help="as of `upright run`, such as privacy=null for a twin",
    )
    parser.add_argument("--seeds", type=int, nargs="+", default=[13])
    arguments = parser.parse_args()
    quiet_libraries()
    versions = ", ".join(f"{name} {metadata.version(name)}" for name in ("torch", "transformers", "peft", "upright"))
    print(f"Python {platform.python_version()}, {versions}, {os.cpu_count()} cores\n", flush=True)
    print("| stack | seed | figure on test | rows | seconds |\n|---|---|---|---|---|", flush=True)
    for name in arguments.names or FIGURES:
        path = ROOT / "examples" / name
        prepare = path.parent / "prepare.py"
        if prepare.is_file():
            subprocess.run([sys.executable, str(prepare)], check=True, stdout=subprocess.DEVNULL)
        for seed in arguments.seeds:
            started = time.perf_counter()
            stack = Stack.load(path, [f"seed={seed}", *arguments.overrides])
            run = execute(stack)
            seconds = time.perf_counter() - started
            for key in FIGURES[name]:
                if key.startswith("run/privacy/") and not run.private:
                    continue  # a twin without privacy has no epsilon
                metric = run.metrics[key]
                figure = f"{key.removeprefix('test/')} {told(metric)}"
                print(f"| {name} | {seed} | {figure} | {metric.n} | {seconds:.0f} |", flush=True)
            if name == UNTUNED:
                print(f"| {name}, untuned | – | perplexity {told(untuned(stack))} | | |", flush=True)


if __name__ == "__main__":
    main()
