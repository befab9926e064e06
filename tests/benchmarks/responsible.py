"""The whole responsible run beside the bare one: CPU time by stage, on toxicity-dialect.

Bare is LoRA with an evaluation after each epoch. Responsible is the same with cleaning, differential privacy, a group
constraint, an audit, 50 explanations and the report. Both train the same epochs with the same batches, at the same time,
each in a process of its own on one thread. Explanations and the report cost the same however long a run trains.

    make bench-responsible
    python tests/benchmarks/responsible.py --epochs 2
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

EXAMPLE = Path(__file__).parents[2] / "examples" / "toxicity-dialect"
EPOCHS = 5
"""Those of the example."""
BOUND = 1.4
TRAIN = {"batch_size": 256, "micro_batch_size": 32, "learning_rate": 2e-3, "head_learning_rate": 3e-2}
AUDIT = {"use": "group-audit", "groups": ["dialect"], "positive": "toxic"}
RESPONSIBLE: dict[str, Any] = {
    "clean": ["unicode", {"use": "leakage", "near": False}, "exact-dup", "near-dup"],
    "fairness": [{"use": "equalized-odds", "groups": ["dialect"], "positive": "toxic"}, AUDIT],
    "privacy": ["pii", {"use": "dp-sgd", "epsilon": 8.0, "delta": 1e-5}],
    "explain": {"use": "integrated-gradients", "samples": 50},
}
PARTS = {
    "clean": "cleaning",
    "model": "model, prompts, tokens",
    "prompt": "model, prompts, tokens",
    "tune": "model, prompts, tokens",
    "train": "training and validation",
    "finalize": "training and validation",
    "measure": "test figures",
    "explain": "50 explanations",
    "save": "export, report, manifest",
    "report": "export, report, manifest",
}
"""Stage of a run's events -> the part that the table tells."""


def stack(responsible: bool, epochs: float) -> dict[str, Any]:
    """The example's stack, bare or with everything."""
    from upright import Stack

    raw = dict(Stack.load(EXAMPLE).raw)
    raw["data"] = {
        **raw["data"],
        **{name: str(EXAMPLE / raw["data"][name]) for name in ("train", "validation", "test")},
    }
    raw["train"] = {**TRAIN, "epochs": epochs}
    raw.pop("fairness")
    return {**raw, **(RESPONSIBLE if responsible else {})}


def measured(responsible: bool, epochs: float) -> dict[str, Any]:
    """CPU seconds of each part of one run, and what came of it."""
    from upright import Stack
    from upright.engine.execute import execute
    from upright.progress import quiet_libraries

    quiet_libraries()
    stages: list[tuple[str, float]] = []

    def listen(event: dict[str, Any]) -> None:
        if event["event"] == "stage":
            stages.append((event["stage"], time.process_time()))

    with tempfile.TemporaryDirectory() as folder:
        run = execute(Stack.load({**stack(responsible, epochs), "output": folder}), listen=listen)
    ends = [at for _, at in stages[1:]] + [time.process_time()]
    parts: dict[str, float] = {}
    for (stage, start), end in zip(stages, ends, strict=True):
        parts[PARTS[stage]] = parts.get(PARTS[stage], 0.0) + end - start
    keys = ("test/accuracy", "run/privacy/dp-sgd/epsilon")
    return {"parts": parts, "figures": {key: run.metrics[key].value for key in keys if key in run.metrics}}


def main() -> int:
    """Print the table; 1 where the ratio is over its bound."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--epochs", type=float, default=EPOCHS)
    parser.add_argument("--child", choices=["bare", "responsible"], help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.child:
        print(json.dumps(measured(arguments.child == "responsible", arguments.epochs)))
        return 0
    subprocess.run([sys.executable, str(EXAMPLE / "prepare.py")], check=True, stdout=subprocess.DEVNULL)
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    running = {}
    for kind in ("bare", "responsible"):
        command = [sys.executable, "-W", "ignore", __file__, "--child", kind, "--epochs", str(arguments.epochs)]
        running[kind] = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment)
    found = {kind: json.loads(child.communicate()[0].splitlines()[-1]) for kind, child in running.items()}
    totals = {kind: sum(told["parts"].values()) for kind, told in found.items()}
    print(f"{platform.machine()}, one thread, {arguments.epochs:g} epochs, CPU seconds\n")
    print("| part | bare | responsible | of the bare run |\n|---|---|---|---|")
    for part in dict.fromkeys(PARTS.values()):
        one, other = (found[kind]["parts"].get(part, 0.0) for kind in ("bare", "responsible"))
        print(f"| {part} | {one:.1f} | {other:.1f} | {(other - one) / totals['bare']:+.1%} |")
    ratio = totals["responsible"] / totals["bare"]
    print(f"| all | {totals['bare']:.1f} | {totals['responsible']:.1f} | **{ratio:.3f}** times |")
    print("\n" + "; ".join(f"{kind}: {told['figures']}" for kind, told in found.items()))
    return int(ratio > BOUND)


if __name__ == "__main__":
    sys.exit(main())
