"""The shared-prefix scorer of `verbalizer` beside the naive loop over labels: CPU time and scores. One thread.

The naive loop reads the whole text again with each of 20 labels, rows batched alike; loops take turns in one process.

    make bench-prompts
"""

from __future__ import annotations

import os
import sys
import tempfile
from pathlib import Path
from typing import Any

import torch
from loop import interleave, ratio, repeated

from upright_prompt.label_scores import continued

ROOT = Path(__file__).parents[2]
MODELS = Path(os.environ.get("UPRIGHT_MODELS", ROOT.parent / "shared" / "models"))
ROWS, LABELS, BLOCKS = 8, 20, 7


def naive(model: Any, inputs: dict[str, torch.Tensor], words: list[list[int]]) -> torch.Tensor:
    """Each label on its own: the text and the label's tokens through the whole model."""
    lengths = inputs["attention_mask"].sum(1)
    scores = []
    for tokens in words:
        width = inputs["input_ids"].shape[1] + len(tokens)
        ids, mask = (
            torch.zeros(len(lengths), width, dtype=torch.long),
            torch.zeros(len(lengths), width, dtype=torch.long),
        )
        for row, length in enumerate(lengths.tolist()):
            ids[row, : length + len(tokens)] = torch.cat([inputs["input_ids"][row, :length], torch.tensor(tokens)])
            mask[row, : length + len(tokens)] = 1
        logits = torch.log_softmax(model(input_ids=ids, attention_mask=mask).logits, -1)
        said = [
            sum(logits[row, length - 1 + place, token] for place, token in enumerate(tokens))
            for row, length in enumerate(lengths.tolist())
        ]
        scores.append(torch.stack(said))
    return torch.stack(scores, 1)


def bases(folder: Path) -> dict[str, Any]:
    """stories260k where it is, and a random Llama with more layers and words."""
    from transformers import AutoModelForCausalLM, LlamaConfig, LlamaForCausalLM

    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=8000, hidden_size=256, num_hidden_layers=6, num_attention_heads=4, intermediate_size=688
    )
    found: dict[str, Any] = {"random Llama, 8 M": LlamaForCausalLM(config)}
    if (MODELS / "stories260k").is_dir():
        found = {"stories260k": AutoModelForCausalLM.from_pretrained(MODELS / "stories260k"), **found}
    return {name: model.eval() for name, model in found.items()}


def main() -> int:
    """Print one line per model and length of text; 1 where a bound is missed."""
    torch.set_num_threads(1)
    missed = False
    with tempfile.TemporaryDirectory() as name, torch.no_grad():
        for what, model in bases(Path(name)).items():
            for width in (64, 192):
                draw = torch.Generator().manual_seed(1)
                most = min(512, model.config.vocab_size)
                ids = torch.randint(5, most, (ROWS, width), generator=draw)
                lengths = torch.randint(width // 2, width + 1, (ROWS, 1), generator=draw)
                mask = (torch.arange(width) < lengths).long()
                inputs = {"input_ids": ids * mask, "attention_mask": mask}
                words = [torch.randint(5, most, (1 + n % 4,), generator=draw).tolist() for n in range(LABELS)]
                error = float((continued(model, inputs, words) - naive(model, inputs, words)).abs().max())
                times = interleave(
                    {
                        "naive": repeated(lambda i=inputs, w=words, m=model: naive(m, i, w)),
                        "shared": repeated(lambda i=inputs, w=words, m=model: continued(m, i, w)),
                    },
                    BLOCKS,
                    2,
                )
                mid, low, high = ratio(times["naive"], times["shared"])
                bad = low < 5 or error > 1e-3
                missed |= bad
                print(
                    f"{what}, {ROWS} texts of up to {width} tokens, {LABELS} labels: {mid:.1f} [{low:.1f}, {high:.1f}] times "
                    f"faster (bound 5), largest difference of a log-likelihood {error:.1e}{' MISSED' if bad else ''}",
                    flush=True,
                )
    return int(missed)


if __name__ == "__main__":
    sys.exit(main())
