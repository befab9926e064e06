"""What Upright's loop costs over a hand-written PyTorch loop, and transformers.Trainer beside it. CPU time.

Prints two lines per model: the median time per update of each loop, and the ratio to the hand-written one with its 95 %
interval. The loops take turns, block by block, in one process, so that the machine's moods meet all alike; the interval
is a bootstrap of the median over the blocks' ratios.

    make bench
"""

from __future__ import annotations

import argparse
import itertools
import random
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
from torch import nn

from upright import Run, Stack, Step, hook
from upright.engine.execute import prepare_run
from upright.engine.loop import _update
from upright.engine.optimizer import make_schedule, trainable
from upright.stack import Placed

ROWS, BATCH = 512, 16


class Nothing(nn.Module):
    """The null model: one embedding and one linear layer, so that what is measured is the loop."""

    def __init__(self, vocabulary: int) -> None:
        super().__init__()
        self.embedding = nn.Embedding(vocabulary, 4)
        self.classifier = nn.Linear(4, 2)
        self.config = SimpleNamespace(model_type="nothing", num_labels=2)

    def forward(self, input_ids: torch.Tensor, **_: Any) -> Any:
        return SimpleNamespace(logits=self.classifier(self.embedding(input_ids).mean(1)))


class NullModel(Step):
    """Provide the null model with MiniLM's tokenizer."""

    @hook
    def model(self, run: Run) -> Any:
        from upright.engine.base import load_model

        load_model(run)
        return Nothing(len(run.tokenizer))


class EverythingTrains(Step):
    """Leave every parameter trainable."""

    @hook
    def tune(self, model: Any, run: Run) -> Any:
        return model.requires_grad_(True)


def rows(path: Path, words: int) -> None:
    """A file of ROWS random rows of ``words`` words."""
    import json

    draw = random.Random(0)
    bank = "fever cough pain knee heart lung chest arm leg head skin blood urine sleep diet rest".split()
    with path.open("w") as out:
        for n in range(ROWS):
            out.write(json.dumps({"text": " ".join(draw.choices(bank, k=words)), "label": n % 2}) + "\n")


def ours(
    folder: Path, kind: str, tune: Any = "full", more: dict[str, Any] | None = None
) -> tuple[Run, Callable[[], None]]:
    """A prepared run and the function that makes one update of it; ``more`` is what of the stack is to be otherwise."""
    settings: dict[str, Any] = {
        "name": kind,
        "data": {"train": str(folder / "train.jsonl"), "validation": str(folder / "valid.jsonl")},
        "model": {"base": "minilm"},
        "tune": tune,
        "train": {"epochs": 10_000, "batch_size": BATCH, "micro_batch_size": BATCH, "learning_rate": 1e-4},
        "output": str(folder / "runs"),
        **(more or {}),
    }
    stack = Stack.load(settings)
    if kind == "null":
        stack.steps[:] = [
            Placed("model", "null", "null", NullModel(), "bench"),
            Placed("tune", "all", "all", EverythingTrains(), "bench"),
        ]
    (folder / kind).mkdir()
    run = prepare_run(stack, folder / kind)
    run.optimizer = run.calls.optimizer(run)
    schedule = make_schedule(run)
    parameters = [p for _, p in trainable(run)]
    run.model.train()

    def update() -> None:
        _update(run, schedule, parameters)
        run.calls.watch("updated", run)
        run.optimizer.zero_grad(set_to_none=True)

    return run, update


def by_hand(run: Run, model: nn.Module) -> Callable[[], None]:
    """The loop that an expert would write for the same model and rows: collate, forward, backward, clip, step."""
    from torch.nn.utils.rnn import pad_sequence
    from transformers import get_linear_schedule_with_warmup

    encoded = [run.tokenizer(text)["input_ids"] for text in run.data["train"]["text"]]
    ids = [torch.tensor(row) for row in encoded]
    labels = torch.tensor([run.labels.index(str(label)) for label in run.data["train"]["label"]])
    parameters = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(parameters, lr=1e-4)
    schedule = get_linear_schedule_with_warmup(optimizer, 10, run.updates)
    draw = _epochs(len(ids))
    model.train()

    def update() -> None:
        chosen = next(draw)
        padded = pad_sequence([ids[row] for row in chosen], batch_first=True)
        mask = pad_sequence([torch.ones_like(ids[row]) for row in chosen], batch_first=True)
        logits = model(input_ids=padded, attention_mask=mask).logits
        loss = nn.functional.cross_entropy(logits, labels[torch.tensor(chosen)])
        loss.backward()
        norm = torch.nn.utils.clip_grad_norm_(parameters, 1.0)
        if not torch.isfinite(norm):
            raise FloatingPointError
        optimizer.step()
        schedule.step()
        optimizer.zero_grad(set_to_none=True)

    return update


def trainer(run: Run, model: nn.Module, folder: Path) -> Callable[[int], None]:
    """transformers.Trainer on the same model and rows; takes a number of updates."""
    from transformers import DataCollatorWithPadding, PrinterCallback, Trainer, TrainingArguments

    class Plain(Trainer):
        def compute_loss(self, model: nn.Module, inputs: Any, return_outputs: bool = False, **_: Any) -> Any:
            labels = inputs.pop("labels")
            outputs = model(**inputs)
            loss = nn.functional.cross_entropy(outputs.logits, labels)
            return (loss, outputs) if return_outputs else loss

    data = [
        {**run.tokenizer(text), "labels": run.labels.index(str(label))}
        for text, label in zip(run.data["train"]["text"], run.data["train"]["label"], strict=True)
    ]

    def update(count: int) -> None:
        arguments = TrainingArguments(
            output_dir=str(folder / "trainer"),
            max_steps=count,
            per_device_train_batch_size=BATCH,
            learning_rate=1e-4,
            report_to=[],
            save_strategy="no",
            logging_strategy="no",
            disable_tqdm=True,
            remove_unused_columns=False,
            use_cpu=True,
        )
        loop = Plain(
            model=model, args=arguments, train_dataset=data, data_collator=DataCollatorWithPadding(run.tokenizer)
        )
        loop.remove_callback(PrinterCallback)
        loop.train()

    return update


def _epochs(count: int) -> Iterator[list[int]]:
    for epoch in itertools.count():
        order = torch.randperm(count, generator=torch.Generator().manual_seed(epoch)).tolist()
        for start in range(0, count - BATCH + 1, BATCH):
            yield order[start : start + BATCH]


def repeated(update: Callable[[], None]) -> Callable[[int], None]:
    """A loop of so many updates."""

    def loop(count: int) -> None:
        for _ in range(count):
            update()

    return loop


def interleave(loops: dict[str, Callable[[int], None]], blocks: int, updates: int) -> dict[str, list[float]]:
    """CPU seconds per update of each loop in each block; the order changes from block to block."""
    for loop in loops.values():
        loop(updates)
    times: dict[str, list[float]] = {name: [] for name in loops}
    draw = random.Random(1)
    for _ in range(blocks):
        for name in draw.sample(sorted(loops), len(loops)):
            started = time.process_time()
            loops[name](updates)
            times[name].append((time.process_time() - started) / updates)
    return times


def ratio(over: list[float], under: list[float]) -> tuple[float, float, float]:
    """Median of the blocks' ratios with a 95 % bootstrap interval."""
    ratios = np.array(over) / np.array(under)
    draws = np.random.default_rng(0).choice(ratios, (2000, len(ratios)))
    low, high = np.percentile(np.median(draws, axis=1), [2.5, 97.5])
    return float(np.median(ratios)), float(low), float(high)


def compare(kind: str, words: int, blocks: int, updates: int) -> bool:
    """Measure one model; print; return whether the budget of the design is kept."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for split in ("train", "valid"):
            rows(folder / f"{split}.jsonl", words)
        run, update = ours(folder, kind, {"use": "lora", "rank": 8} if kind == "lora" else "full")
        hand = by_hand(run, run.model)
        loops: dict[str, Callable[[int], None]] = {
            "upright": repeated(update),
            "by hand": repeated(hand),
            "Trainer": trainer(run, run.model, folder),
        }
        times = interleave(loops, blocks, updates)
    middle = {name: 1000 * statistics.median(values) for name, values in times.items()}
    print(f"{kind}: " + ", ".join(f"{name} {value:.3f} ms/update" for name, value in middle.items()))
    for name in ("upright", "Trainer"):
        mid, low, high = ratio(times[name], times["by hand"])
        print(
            f"  {name} / by hand: {mid:.3f} [{low:.3f}, {high:.3f}], {middle[name] - middle['by hand']:+.3f} ms/update"
        )
    if kind == "null":
        return middle["upright"] - middle["by hand"] <= 0.3
    return ratio(times["upright"], times["by hand"])[2] <= 1.03


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--blocks", type=int, default=21)
    blocks = parser.parse_args().blocks
    torch.set_num_threads(1)
    kept = [compare("null", 8, blocks, 100), compare("lora", 24, blocks, 6)]
    print("budgets kept" if all(kept) else "BUDGET BROKEN")
    return 0 if all(kept) else 1


if __name__ == "__main__":
    sys.exit(main())
