"""Does `audit` notice a mechanism that is broken, and leave an honest one in peace? Whole runs on a tiny model.

Twenty seeds each of dp-sgd as it is, with half the noise, with twice the clipping norm, and with every unit in every
update where a half is charged. Prints how often the claimed epsilon was refuted.

    make bench-audit
"""

from __future__ import annotations

import argparse
import contextlib
import os
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch

ROOT = Path(__file__).parents[2]
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]
os.environ["HF_HUB_OFFLINE"] = "1"

from tiny_models import make_model  # noqa: E402

from conftest import toy_rows, write_rows  # noqa: E402
from upright import Run, Stack  # noqa: E402
from upright.engine.execute import execute  # noqa: E402
from upright.progress import quiet_libraries  # noqa: E402

SEEDS, CANARIES = 20, 300
FAULTS = ("none", "half the noise", "twice the clipping norm", "every unit in every update")


@contextlib.contextmanager
def planted(fault: str) -> Iterator[None]:
    """dp-sgd with a fault while the block runs; its ledger knows nothing of it."""
    from upright_privacy import clipping, noise

    gaussian, factors = noise.gaussian, clipping.factors
    changed: dict[str, Any] = {
        "none": (noise, "gaussian", gaussian),
        "half the noise": (noise, "gaussian", lambda shape, scale, device: gaussian(shape, scale / 2, device)),
        "twice the clipping norm": (clipping, "factors", lambda *given: 2 * factors(*given)),
        "every unit in every update": (noise.Source, "chosen", lambda self, count, rate: np.ones(count, dtype=bool)),
    }
    place, name, wrong = changed[fault]
    before = getattr(place, name)
    setattr(place, name, wrong)
    try:
        yield
    finally:
        setattr(place, name, before)


def stack(folder: Path, canaries: int = CANARIES) -> dict[str, Any]:
    """LoRA on a random BERT of two layers, 300 notes, 12 updates of about half of all units."""
    folder.mkdir(parents=True, exist_ok=True)
    sizes = {"train": 300, "validation": 20}
    return {
        "name": "audited",
        "data": {s: write_rows(folder / f"{s}.jsonl", toy_rows(n, k)) for k, (s, n) in enumerate(sizes.items())},
        "model": {"base": str(make_model("bert", folder / "model"))},
        "tune": {"use": "lora", "rank": 2},
        "train": {"max_steps": 12, "batch_size": 220, "micro_batch_size": 128, "eval_strategy": "no"},
        "privacy": [
            {"use": "dp-sgd", "noise_multiplier": 3.0, "delta": 1e-5},
            {"use": "audit", "canaries": canaries, "attack_rows": 0},
        ],
        "output": str(folder / "runs"),
    }


def audited(asked: dict[str, Any], fault: str, seed: int) -> Run:
    """One run; coins, sampling and noise are of the operating system, whatever the seed."""
    with planted(fault):
        return execute(Stack.load({**asked, "seed": seed}))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, default=SEEDS)
    parser.add_argument("--faults", nargs="+", choices=FAULTS, default=FAULTS)
    seeds, faults = vars(parser.parse_args()).values()
    torch.set_num_threads(1)
    quiet_libraries()
    with tempfile.TemporaryDirectory() as made:
        asked = stack(Path(made))
        for fault in faults:
            started, refuted, found = time.process_time(), 0, []
            for seed in range(seeds):
                run = audited(asked, fault, seed)
                refuted += run.verdicts[0].judgement == "violated"
                found.append({key.split("/")[-1]: metric.value for key, metric in run.metrics.items() if "run/" in key})
            middle = {key: float(np.median([one[key] for one in found])) for key in found[0]}
            print(
                f"{fault}: refuted in {refuted} of {seeds}; claimed epsilon {middle['epsilon']:.2f}, lower bounds "
                f"{middle['epsilon_lower']:.2f} and {middle['epsilon_lower_gaussian']:.2f}, guessed right "
                f"{middle['guessed_right']:.3f} of {middle['guessed_right_allowed']:.3f} allowed, power "
                f"{middle['power']:.2f} (medians); {(time.process_time() - started) / seeds:.1f} CPU s a run",
                flush=True,
            )


if __name__ == "__main__":
    main()
