"""Tuning methods on real tasks: quality, trained parameters, seconds and memory, one line of docs/results.md for each.

``--choose`` tries learning rates on a part of train and prints validation figures alone; what did best stands in METHODS.
Then each method is trained once per seed and test is evaluated once, each in a process of its own, on one thread.

    make results-methods
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
DATA = Path(os.environ.get("UPRIGHT_DATA", ROOT.parent / "shared" / "data"))
TASKS: dict[str, dict[str, Any]] = {
    "banking77": {"task": "text-classification", "metric": "accuracy", "batch_size": 32},
    "ncbi_disease": {"task": "token-classification", "metric": "span_f1", "batch_size": 16},
}
METHODS: dict[str, tuple[dict[str, Any], list[float]]] = {
    "full": ({"use": "full"}, [1e-4, 2e-4]),
    "lora": ({"use": "lora", "rank": 16, "alpha": 32}, [1e-3, 2e-3]),
    "adapter": ({"use": "adapter", "bottleneck": 48}, [1e-3, 2e-3, 4e-3]),
    "ia3": ({"use": "ia3"}, [5e-3, 1e-2, 3e-2]),
    "prefix": ({"use": "prefix"}, [1e-2, 3e-2, 1e-1]),
    "bitfit": ({"use": "bitfit"}, [2e-3, 4e-3, 1e-2]),
}
"""Method -> its settings and the learning rates that were tried."""
CHOSEN: dict[tuple[str, str], tuple[float, int]] = {
    ("banking77", "full"): (2e-4, 3),
    ("banking77", "lora"): (2e-3, 3),
    ("banking77", "adapter"): (2e-3, 3),
    ("banking77", "ia3"): (1e-2, 3),
    ("banking77", "prefix"): (1e-2, 3),
    ("banking77", "bitfit"): (2e-3, 3),
    ("ncbi_disease", "full"): (2e-4, 4),
    ("ncbi_disease", "lora"): (2e-3, 4),
    ("ncbi_disease", "adapter"): (2e-3, 4),
    ("ncbi_disease", "ia3"): (1e-2, 4),
    ("ncbi_disease", "prefix"): (3e-2, 4),
    ("ncbi_disease", "bitfit"): (4e-3, 4),
}
"""Task and method -> the learning rate and the number of epochs that test is evaluated with."""
HEAD_RATE = 5e-3
TRIED_ROWS, TRIED_EPOCHS = 1500, 2


def stack(name: str, method: str, rate: float, seed: int, folder: Path, choosing: bool) -> dict[str, Any]:
    """The stack of one run; choosing leaves test out and takes the first rows of train."""
    task, data = TASKS[name], {"train": str(DATA / name / "train.jsonl")}
    if name == "ncbi_disease":
        data["validation"] = str(DATA / name / "dev.jsonl")
    if choosing:
        lines = (DATA / name / "train.jsonl").read_text(encoding="utf-8").splitlines(keepends=True)
        step = max(1, len(lines) // TRIED_ROWS)
        (folder / "train.jsonl").write_text("".join(lines[::step]), encoding="utf-8")
        data["train"] = str(folder / "train.jsonl")
    else:
        data["test"] = str(DATA / name / "test.jsonl")
    return {
        "name": f"{name}-{method}",
        "seed": seed,
        "data": {**data, "columns": {"tokens": "tokens", "labels": "tags"} if name == "ncbi_disease" else {}},
        "model": {"base": "minilm", "task": task["task"]},
        "tune": METHODS[method][0],
        "train": {
            "epochs": TRIED_EPOCHS if choosing else CHOSEN[name, method][1],
            "batch_size": task["batch_size"],
            "learning_rate": rate,
            "head_learning_rate": max(HEAD_RATE, rate) if method != "full" else 1e-3,
        },
        "output": str(folder / "runs"),
    }


def one(name: str, method: str, rate: float, seed: int, choosing: bool) -> dict[str, Any]:
    """Train and measure once, in this process."""
    import torch

    from upright import Stack
    from upright.engine.execute import execute
    from upright.progress import quiet_libraries

    torch.set_num_threads(1)
    quiet_libraries()
    started = time.process_time()
    with tempfile.TemporaryDirectory() as folder:
        run = execute(Stack.load(stack(name, method, rate, seed, Path(folder), choosing)))
        key = TASKS[name]["metric"]
        found = {split: run.metrics[f"{split}/{key}"].to_json() for split in run.data if split != "train"}
        plan = json.loads((run.folder / "plan.json").read_text())
    return {
        **found,
        "parameters": plan["parameters"],
        "seconds": time.process_time() - started,
        "memory": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
    }


def asked(name: str, method: str, rate: float, seed: int, choosing: bool) -> dict[str, Any]:
    """The same in a process of its own, so that its memory is its own."""
    words = [sys.executable, __file__, "--one", name, method, str(rate), str(seed), str(int(choosing))]
    done = subprocess.run(
        words, capture_output=True, text=True, check=False, env={**os.environ, "OMP_NUM_THREADS": "1"}
    )
    if done.returncode:
        raise SystemExit(f"{name} {method}: {done.stderr[-2000:]}")
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--tasks", nargs="+", default=list(TASKS), choices=list(TASKS))
    parser.add_argument("--methods", nargs="+", default=list(METHODS), choices=list(METHODS))
    parser.add_argument("--seeds", type=int, nargs="+", default=[13])
    parser.add_argument("--choose", action="store_true", help="try learning rates on validation; test is not read")
    parser.add_argument("--one", nargs=5, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.one:
        name, method, rate, seed, choosing = arguments.one
        print(json.dumps(one(name, method, float(rate), int(seed), choosing == "1")))
        return
    if arguments.choose:
        print("| task | method | learning rate | validation |\n|---|---|---|---|", flush=True)
        for name in arguments.tasks:
            for method in arguments.methods:
                for rate in METHODS[method][1]:
                    found = asked(name, method, rate, arguments.seeds[0], True)
                    print(f"| {name} | `{method}` | {rate:g} | {found['validation']['value']:.3f} |", flush=True)
        return
    print(
        "| task | method | learning rate | epochs | validation | test | trained | CPU seconds | memory |\n"
        + "|---" * 9
        + "|",
        flush=True,
    )
    for name in arguments.tasks:
        for method in arguments.methods:
            rate, epochs = CHOSEN[name, method]
            for seed in arguments.seeds:
                found = asked(name, method, rate, seed, False)
                test, parts = found["test"], found["parameters"]
                chosen = f"{rate:g} | {epochs} | {found['validation']['value']:.3f}"
                figure = f"{test['value']:.3f} [{test['low']:.3f}, {test['high']:.3f}]"
                share = f"{parts['trainable']:,} ({parts['trainable'] / parts['total']:.1%})"
                cost = f"{found['seconds']:.0f} | {found['memory']:.0f} MiB"
                line = f"| {name} | `{method}` | {chosen} | {figure} | {share} | {cost} |"
                print(line, flush=True)


if __name__ == "__main__":
    main()
