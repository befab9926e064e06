"""What each tuning method of our own costs in Upright's loop over the plainest PyTorch for the same method. CPU time.

First table: the median time per update of both and their ratio with its 95 % interval, as `loop.py` measures them (MiniLM,
16 rows of 24 words, one thread); both start from the same weights and train the same tensors. Second table: what `head`
saves by reading each text once. Third: the time per update by the number of upper layers that are trained, which must
fall with it, since nothing is computed backwards through what is frozen below.

    make bench-methods
"""

from __future__ import annotations

import argparse
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from loop import BATCH, ROWS, by_hand, interleave, ours, ratio, repeated, rows
from torch import Tensor, nn
from transformers import DynamicCache
from transformers.modeling_outputs import ModelOutput

from upright import Run
from upright.engine.heads import mean_pool
from upright.progress import quiet_libraries

BUDGET = 1.05
WORDS = 24
COUNT = 20
"""Virtual tokens, and keys and values of a prefix."""


class Classifier(nn.Module):
    """MiniLM and its head as one writes them by hand; everything is frozen but the head."""

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.encoder, self.classifier = model.encoder.requires_grad_(False), model.classifier.requires_grad_(True)
        self.dropout = nn.Dropout(0.1)

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> ModelOutput:
        pooled = mean_pool(self.hidden(input_ids, attention_mask), attention_mask)
        return ModelOutput(logits=self.classifier(self.dropout(pooled)))

    def hidden(self, ids: Tensor, mask: Tensor) -> Tensor:
        return self.encoder(input_ids=ids, attention_mask=mask).last_hidden_state


class FrozenBody(Classifier):
    """Linear probing: the body reads without dropout and without a graph."""

    def train(self, mode: bool = True) -> FrozenBody:
        super().train(mode)
        self.encoder.eval()
        return self

    def hidden(self, ids: Tensor, mask: Tensor) -> Tensor:
        with torch.no_grad():
            return super().hidden(ids, mask)


class TopLayers(Classifier):
    """The last layers are trained; the ones below run without a graph."""

    def __init__(self, model: Any, layers: int) -> None:
        super().__init__(model)
        self.layers = layers
        self.encoder.encoder.layer[-layers:].requires_grad_(True)

    def hidden(self, ids: Tensor, mask: Tensor) -> Tensor:
        blocks = self.encoder.encoder.layer
        with torch.no_grad():
            wide = None if mask.all() else mask[:, None, None, :].bool()
            hidden = self.encoder.embeddings(input_ids=ids)
            for block in blocks[: -self.layers]:
                hidden = block(hidden, wide)
        for block in blocks[-self.layers :]:
            hidden = block(hidden, wide)
        return hidden


class Adapted(nn.Module):
    """A linear layer with a bottleneck after it."""

    def __init__(self, dense: nn.Linear, inner: int) -> None:
        super().__init__()
        self.dense = dense
        self.down, self.up = nn.Linear(dense.out_features, inner), nn.Linear(inner, dense.out_features)
        nn.init.zeros_(self.up.weight)
        nn.init.zeros_(self.up.bias)

    def forward(self, given: Tensor) -> Tensor:
        given = self.dense(given)
        return given + self.up(nn.functional.gelu(self.down(given)))


class SoftPrompt(Classifier):
    """Trained embeddings after the first token, in every text."""

    def __init__(self, model: Any) -> None:
        super().__init__(model)
        self.prompt = nn.Parameter(self.encoder.embeddings.word_embeddings.weight[:COUNT].clone())

    def hidden(self, ids: Tensor, mask: Tensor) -> Tensor:
        words = self.encoder.embeddings.word_embeddings(ids)
        prompt = self.prompt.expand(len(ids), -1, -1)
        embeds = torch.cat([words[:, :1], prompt, words[:, 1:]], dim=1)
        longer = torch.cat([mask.new_ones(len(ids), COUNT), mask], dim=1)
        hidden = self.encoder(inputs_embeds=embeds, attention_mask=longer).last_hidden_state
        return torch.cat([hidden[:, :1], hidden[:, 1 + COUNT :]], dim=1)


class Prefix(Classifier):
    """Trained keys and values as a cache that was there before, as in P-tuning v2."""

    def __init__(self, model: Any) -> None:
        super().__init__(model)
        config = self.encoder.config
        heads = config.num_attention_heads
        shape = (config.num_hidden_layers, 2, 1, heads, COUNT, config.hidden_size // heads)
        self.prefix = nn.Parameter(torch.randn(shape) * 0.02)

    def hidden(self, ids: Tensor, mask: Tensor) -> Tensor:
        cache = DynamicCache()
        for number, (keys, values) in enumerate(self.prefix.expand(-1, -1, len(ids), -1, -1, -1)):
            cache.update(keys, values, number)
        return self.encoder(
            input_ids=ids,
            attention_mask=torch.cat([mask.new_ones(len(ids), COUNT), mask], dim=1),
            position_ids=torch.arange(ids.shape[1]).unsqueeze(0),
            past_key_values=cache,
        ).last_hidden_state


def full(model: Any) -> nn.Module:
    plain = Classifier(model)
    plain.encoder.requires_grad_(True)
    return plain


def bitfit(model: Any) -> nn.Module:
    plain = Classifier(model)
    for name, parameter in plain.encoder.named_parameters():
        parameter.requires_grad_(name.endswith("bias"))
    return plain


def adapter(model: Any) -> nn.Module:
    plain = Classifier(model)
    for block in plain.encoder.encoder.layer:
        for output in (block.attention.output, block.output):
            output.dense = Adapted(output.dense, 32)
    return plain


METHODS: dict[str, tuple[Any, Callable[[Any], nn.Module]]] = {
    "full": ("full", full),
    "head": ("head", FrozenBody),
    "top-layers": ("top-layers", lambda model: TopLayers(model, 2)),
    "bitfit": ("bitfit", bitfit),
    "adapter": ("adapter", adapter),
    "soft-prompt": ({"use": "soft-prompt", "num_virtual_tokens": COUNT}, SoftPrompt),
    "prefix": ({"use": "prefix", "num_virtual_tokens": COUNT}, Prefix),
}


def beside_by_hand(folder: Path, name: str, blocks: int) -> bool:
    """One line of the first table; whether the budget is kept. One update a turn: what disturbs one disturbs the other."""
    tune, plainly = METHODS[name]
    run, update = ours(folder, name, tune)
    torch.manual_seed(0)
    plain = plainly(untuned(run))
    check_same(run, plain, name)
    loops = {"upright": repeated(update), "by hand": repeated(by_hand(run, plain))}
    times = interleave(loops, blocks, 1)
    middle, low, high = ratio(times["upright"], times["by hand"])
    upright, hand = (1000 * statistics.median(times[key]) for key in ("upright", "by hand"))
    print(f"| {name} | {upright:.1f} | {hand:.1f} | {middle:.3f} [{low:.3f}, {high:.3f}] |", flush=True)
    return high <= BUDGET


def untuned(run: Run) -> Any:
    """The same base with the same head, read from its files again."""
    model: Any = run.calls.model(run)
    model.classifier.load_state_dict(classifier(run).state_dict())
    return model


def classifier(run: Run) -> nn.Module:
    return next(module for name, module in run.model.named_modules() if name.endswith("classifier"))


def check_same(run: Run, plain: nn.Module, name: str) -> None:
    """Both train as many numbers (ours leaves a prefix in one tensor per layer); else the comparison is void."""
    trained = [
        sum(p.numel() for n, p in model.named_parameters() if p.requires_grad and "pooler" not in n)
        for model in (run.model, plain)
    ]
    if trained[0] != trained[1]:
        raise AssertionError(f"{name}: Upright trains {trained[0]} numbers, the plain implementation {trained[1]}")


def once_per_run(folder: Path, blocks: int) -> None:
    """The second table: an epoch of `head` with its memory and without."""
    _, plain = ours(folder, "head-plain", "head")
    remembering, cached = ours(folder, "head-cached", "head")
    started = time.process_time()
    remembering.calls.watch("started", remembering)
    reading = time.process_time() - started
    times = interleave({"plain": repeated(plain), "cached": repeated(cached)}, blocks, 2)
    per_epoch = -(-ROWS // BATCH)
    slow, fast = (per_epoch * statistics.median(times[key]) for key in ("plain", "cached"))
    middle, low, high = ratio(times["plain"], times["cached"])
    print(f"| {slow:.2f} | {fast:.3f} | {middle:.0f} [{low:.0f}, {high:.0f}] | {reading:.2f} |")


def by_layers(folder: Path, blocks: int) -> bool:
    """The third table; whether each further layer costs more than the ones above it alone."""
    loops = {}
    for layers in range(7):
        tune = {"use": "top-layers", "layers": layers} if layers else "head"
        loops[f"{layers}"] = repeated(ours(folder, f"top-{layers}", tune)[1])
    times = interleave(loops, blocks, 1)
    rising = True
    for layers in range(7):
        one = times[f"{layers}"]
        print(f"| {layers} | {1000 * statistics.median(one):.1f} |", end=" ")
        if layers:
            middle, low, high = ratio(one, times[f"{layers - 1}"])
            rising = rising and low > 1
            print(f"{middle:.3f} [{low:.3f}, {high:.3f}] |")
        else:
            print("|")
    return rising


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--blocks", type=int, default=101)
    parser.add_argument("--methods", nargs="*", default=list(METHODS), choices=list(METHODS))
    asked = parser.parse_args()
    torch.set_num_threads(1)
    quiet_libraries()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for split in ("train", "valid"):
            rows(folder / f"{split}.jsonl", WORDS)
        print("| method | Upright, ms/update | by hand, ms/update | ratio [95 %] |\n|---|---|---|---|")
        kept = [beside_by_hand(folder, method, asked.blocks) for method in asked.methods]
        print(
            "\n| head, s/epoch | with its memory | ratio [95 %] | reading train and validation once, s |\n|---|---|---|---|"
        )
        once_per_run(folder, asked.blocks // 5)
        print("\n| layers trained | ms/update | over one layer fewer [95 %] |\n|---|---|---|")
        kept.append(by_layers(folder, asked.blocks // 5))
    print("budgets kept" if all(kept) else "BUDGET BROKEN")
    return 0 if all(kept) else 1


if __name__ == "__main__":
    sys.exit(main())
