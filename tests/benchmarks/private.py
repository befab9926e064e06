"""What an update under `dp-sgd` costs over the same update without it, and opacus's hooks and ghost clipping beside it.

CPU time of one thread, MiniLM, rows of 128 tokens. The updates take turns in one process on the same rows; the ratio is the
median over the turns with its 95 % bootstrap interval. Memory is the peak of a process that makes two updates.

    make bench-dp
"""

from __future__ import annotations

import argparse
import copy
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from loop import interleave, ratio, repeated, rows
from torch import nn

from upright import Run, Stack
from upright.engine.batches import collate
from upright.engine.execute import prepare_run
from upright.engine.optimizer import make_schedule, trainable
from upright.progress import quiet_libraries

LENGTH = 128
NORM = 1.0
METHODS: dict[str, tuple[Any, float]] = {
    "lora": ({"use": "lora", "rank": 8}, 1.05),
    "adapter": ("adapter", 1.15),
    "bitfit": ("bitfit", 1.15),
    "ia3": ("ia3", 1.15),
    "soft-prompt": ({"use": "soft-prompt", "num_virtual_tokens": 20}, 1.15),
    "full": ("full", 1.7),
}
"""Settings, and the bound on the ratio."""
MEMORY = 1.05


def prepared(folder: Path, tune: Any, batch: int, private: bool) -> tuple[Run, Callable[[], None]]:
    """A run and the function that makes one update of it, always on the same rows."""
    settings: dict[str, Any] = {
        "data": {split: str(folder / "rows.jsonl") for split in ("train", "validation")},
        "model": {"base": "minilm", "max_length": LENGTH},
        "tune": tune,
        "train": {"max_steps": 100_000, "batch_size": batch, "micro_batch_size": batch, "learning_rate": 1e-4},
        "output": str(folder / "runs"),
    }
    if private:
        settings["privacy"] = {"use": "dp-sgd", "noise_multiplier": 1.0, "delta": 1e-5, "max_grad_norm": NORM}
    home = Path(tempfile.mkdtemp(dir=folder))
    (home / "evidence").mkdir()
    torch.manual_seed(0)
    run = prepare_run(Stack.load(settings), home)
    run.optimizer = run.calls.optimizer(run)
    schedule = make_schedule(run)
    parameters = [p for _, p in trainable(run)]
    run.calls.watch("started", run)
    run.model.train()
    chosen = list(range(batch))

    def update() -> None:
        run.calls.sample(run.update, run)  # drawn, and when private charged; rows of one number make fair turns
        run.calls.gradients(chosen, run)
        torch.nn.utils.clip_grad_norm_(parameters, 1.0)
        run.optimizer.step()
        schedule.step()
        run.optimizer.zero_grad(set_to_none=True)

    return run, update


def of_opacus(run: Run, batch: int, ghost: bool) -> Callable[[], None]:
    """The same update as one writes it with opacus: hooks, or ghost clipping with its second backward pass."""
    from opacus.grad_sample import GradSampleModule, GradSampleModuleFastGradientClipping
    from opacus.optimizers import DPOptimizer, DPOptimizerFastGradientClipping
    from opacus.utils.fast_gradient_clipping_utils import DPLossFastGradientClipping

    model = copy.deepcopy(run.model).train()
    inner = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=1e-4)
    noise = {"noise_multiplier": 1.0, "max_grad_norm": NORM, "expected_batch_size": batch}
    given = collate(run, list(range(batch)), "train")
    criterion: Any = nn.CrossEntropyLoss()
    if ghost:
        wrapped = GradSampleModuleFastGradientClipping(model, max_grad_norm=NORM, use_ghost_clipping=True)
        optimizer = DPOptimizerFastGradientClipping(inner, **noise)
        criterion = DPLossFastGradientClipping(wrapped, optimizer, criterion)
    else:
        wrapped = GradSampleModule(model)
        optimizer = DPOptimizer(inner, **noise)

    def update() -> None:
        collate(run, list(range(batch)), "train")
        criterion(wrapped(**given.inputs).logits, given.labels).backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)

    return update


def compare(folder: Path, name: str, batch: int, blocks: int) -> bool:
    """One line of the table; whether the bound is kept."""
    tune, bound = METHODS[name]
    run, plain = prepared(folder, tune, batch, private=False)
    loops = {"plain": repeated(plain), "private": repeated(prepared(folder, tune, batch, private=True)[1])}
    said = {}
    for kind in ("hooks", "ghost"):
        try:
            update = of_opacus(run, batch, kind == "ghost")
            update()
            loops[kind] = repeated(update)
        except Exception as error:  # the table says what it said
            said[kind] = f"fails ({type(error).__name__})"
    times = interleave(loops, blocks, 1)
    told = []
    for kind in ("private", "hooks", "ghost"):
        if kind in times:
            middle, low, high = ratio(times[kind], times["plain"])
            said[kind] = f"{middle:.3f} [{low:.3f}, {high:.3f}]"
        told.append(said[kind])
    here, private = (1000 * statistics.median(times[kind]) for kind in ("plain", "private"))
    plainly, privately = (memory(name, batch, kind) for kind in ("plain", "private"))
    more = privately / plainly
    kept = ratio(times["private"], times["plain"])[0] <= bound and (name != "lora" or more <= MEMORY)
    print(
        f"| {name} | {batch} | {here:.0f} | {private:.0f} | {' | '.join(told)} | {plainly:.0f} | {more:.3f} |"
        f"{'' if kept else f' over {bound}'}",
        flush=True,
    )
    return kept


def memory(name: str, batch: int, kind: str) -> float:
    """Peak resident memory in MiB of a process of its own that makes two updates."""
    command = [sys.executable, __file__, "--peak", name, kind, "--batches", str(batch)]
    return float(subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()[-1])


def peak(name: str, batch: int, kind: str) -> None:
    """What the process of `memory` does."""
    with tempfile.TemporaryDirectory() as folder:
        rows(Path(folder) / "rows.jsonl", LENGTH + 20)
        _, update = prepared(Path(folder), METHODS[name][0], batch, kind == "private")
        update()
        update()
    # ru_maxrss would begin with what the parent held when it forked
    status = Path("/proc/self/status").read_text()
    print(int(status.split("VmHWM:")[1].split()[0]) / 1024)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--blocks", type=int, default=21, help="turns at 16 rows; half as many at 64")
    parser.add_argument("--batches", type=int, nargs="*", default=[16, 64])
    parser.add_argument("--only", nargs="*", default=list(METHODS))
    parser.add_argument("--peak", nargs=2, help=argparse.SUPPRESS)
    asked = parser.parse_args()
    torch.set_num_threads(1)
    quiet_libraries()
    if asked.peak:
        peak(asked.peak[0], asked.batches[0], asked.peak[1])
        return 0
    print("| method | rows | plain ms | private ms | private | opacus hooks | opacus ghost | plain MiB | memory |")
    print("|---" * 9 + "|")
    kept = []
    with tempfile.TemporaryDirectory() as folder:
        rows(Path(folder) / "rows.jsonl", LENGTH + 20)
        for name in asked.only:
            for batch in asked.batches:
                blocks = asked.blocks if batch <= 16 else max(5, asked.blocks // 2)
                kept.append(compare(Path(folder), name, batch, blocks))
    print("bounds kept" if all(kept) else "BOUND BROKEN")
    return 0 if all(kept) else 1


if __name__ == "__main__":
    sys.exit(main())
