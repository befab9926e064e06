"""What integrated gradients cost over their floor: each row's points forward and backward, at the row's true length.

MiniLM, 20 points of each row, CPU time. The floor is plain PyTorch: one forward and one backward pass of a row's points.
Upright adds decisions, tokens, completeness and captum; the third is captum called on all rows as one padded batch. The
three take turns in one process; the ratio is the median of the rounds' with its 95 % bootstrap interval.

    make bench-explain
"""

from __future__ import annotations

import argparse
import json
import random
import statistics
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

import torch
from captum.attr import IntegratedGradients as Captum
from loop import interleave, ratio, repeated

from upright import Run, Stack
from upright.engine.execute import prepare_run
from upright.engine.target import CoreTarget
from upright.progress import quiet_libraries

STEPS = 20
BANK = "fever cough pain knee heart lung chest arm leg head skin blood urine sleep diet rest".split()
CASES = {
    "one short example": ([24], 1.15),
    "one long example": ([60], 1.15),
    "ragged batch": ([4, 7, 11, 14, 18, 24, 36, 60], 1.2),
}
"""Words of each row, and the largest ratio to the floor."""


def prepared(folder: Path, words: list[int]) -> Run:
    """An untrained run whose test split has rows of so many words, in random order."""
    draw = random.Random(0)
    rows = [{"text": " ".join(draw.choices(BANK, k=count)), "label": n % 2} for n, count in enumerate(words)]
    draw.shuffle(rows)
    data = {}
    for split, some in {"train": [{"text": "a", "label": 0}, {"text": "b", "label": 1}], "test": rows}.items():
        data[split] = str(folder / f"{split}.jsonl")
        (folder / f"{split}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in some))
    data["validation"] = data["train"]
    explain = {"use": "integrated-gradients", "samples": len(words), "n_steps": STEPS, "max_error": 1e9}
    stack = {"data": data, "model": {"base": "minilm"}, "tune": "full", "explain": explain, "output": str(folder)}
    return prepare_run(Stack.load(stack), folder)


def upright(run: Run) -> Callable[[], None]:
    """The step, as a run asks it."""
    step, target, rows = run.stack.steps[-1].step, CoreTarget(run, "test"), run.data["test"]
    return lambda: step.explain(target, rows, run)


def by_hand(run: Run, target: CoreTarget, numbers: list[int]) -> Callable[[], None]:
    """The floor."""
    texts = []
    for number in numbers:
        batch = next(iter(target.batches([number])))
        texts.append((target.embed(batch), target.baseline(batch, "pad"), batch.inputs["attention_mask"]))
    along = ((torch.arange(STEPS) + 0.5) / STEPS).view(-1, 1, 1)

    def pass_through() -> None:
        for embeds, blank, mask in texts:
            path = (blank + along * (embeds - blank)).requires_grad_(True)
            logits = run.model(inputs_embeds=path, attention_mask=mask.expand(STEPS, -1)).logits
            torch.autograd.grad(logits[:, 0].sum(), path)

    return pass_through


def padded(run: Run, target: CoreTarget, numbers: list[int]) -> Callable[[], None]:
    """captum on one batch, padded to its longest row."""
    (batch,) = target.batches(numbers)
    embeds, blank, mask = target.embed(batch), target.baseline(batch, "pad"), batch.inputs["attention_mask"]

    def score(points: torch.Tensor, own: torch.Tensor) -> torch.Tensor:
        return run.model(inputs_embeds=points, attention_mask=own).logits[:, 0]

    asked = {"n_steps": STEPS, "internal_batch_size": 64, "additional_forward_args": (mask,)}
    return lambda: Captum(score).attribute(embeds, baselines=blank, **asked)


def compare(name: str, words: list[int], budget: float, rounds: int) -> bool:
    """Measure; print; return whether the budget is kept."""
    with tempfile.TemporaryDirectory() as folder:
        run = prepared(Path(folder), words)
    target, numbers = CoreTarget(run, "test"), list(range(len(words)))
    times = interleave(
        {
            "upright": repeated(upright(run)),
            "floor": repeated(by_hand(run, target, numbers)),
            "captum, padded": repeated(padded(run, target, numbers)),
        },
        rounds,
        1,
    )
    medians = ", ".join(f"{key} {statistics.median(seconds):.2f} s" for key, seconds in times.items())
    print(f"{name}, words {words}: {medians}", flush=True)
    for one in ("upright", "captum, padded"):
        print("  {} / floor: {:.3f} [{:.3f}, {:.3f}]".format(one, *ratio(times[one], times["floor"])), flush=True)
    return ratio(times["upright"], times["floor"])[0] <= budget


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=15)
    rounds = parser.parse_args().rounds
    torch.set_num_threads(1)
    quiet_libraries()
    kept = [compare(name, words, budget, rounds) for name, (words, budget) in CASES.items()]
    print("budgets kept" if all(kept) else "BUDGET BROKEN")
    return 0 if all(kept) else 1


if __name__ == "__main__":
    sys.exit(main())
