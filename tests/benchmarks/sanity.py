"""Do explainers depend on the model, and do the tokens that they name matter? On toxicity-dialect; needs UPRIGHT_DATA.

MiniLM with LoRA, 120 updates, 60 rows. Comprehensiveness and sufficiency (DeYoung et al., 2020, arXiv:1911.03429): what
the decided class's probability loses without a fifth of the tokens, the strongest, and with those alone. Then weights are
drawn anew from the head downwards, and each explanation is compared with the first by rank correlation of tokens (Adebayo
et al., 2018, arXiv:1810.03292). `random` orders tokens by lot.

    make bench-sanity
"""

from __future__ import annotations

import json
import os
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import torch

from upright import Attribution, Run, Stack
from upright.engine.execute import execute
from upright.engine.target import CoreTarget
from upright.models import head_parameters
from upright.progress import quiet_libraries

ROOT = Path(__file__).parents[2]
DATA = Path(os.environ.get("UPRIGHT_DATA", ROOT.parent / "shared" / "data")) / "davidson_dialect"
EXPLAINERS = ("integrated-gradients", "occlusion", "input-x-gradient", "attention")
ROWS, SHARE = {"train": 2569, "dev": 60, "test": 150}, 0.2
DEEPEST = {"head": 6, "and the top layer": 5, "and all six": 0}
"""Layers from this one upwards are drawn anew."""


def tuned(folder: Path) -> Run:
    """The run that is explained."""
    data = {}
    for split, count in ROWS.items():
        rows = [json.loads(line) for line in (DATA / f"{split}.jsonl").read_text().splitlines()[:count]]
        kept = [{"text": row["text"], "label": "neither" if row["label"] == "neither" else "toxic"} for row in rows]
        data[split] = str(folder / f"{split}.jsonl")
        (folder / f"{split}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in kept))
    data["validation"] = data.pop("dev")
    train = {"max_steps": 120, "batch_size": 16, "learning_rate": 2e-3, "head_learning_rate": 5e-3}
    stack: dict[str, Any] = {
        "data": data,
        "model": {"base": "minilm"},
        "tune": {"use": "lora", "rank": 8},
        "train": train,
    }
    return execute(
        Stack.load({**stack, "explain": [{"use": name, "samples": 60} for name in EXPLAINERS], "output": str(folder)})
    )


def probabilities(target: CoreTarget, batch: Any, embeds: torch.Tensor) -> torch.Tensor:
    """Of each class, ``[R, K]``."""
    with torch.no_grad():
        every = [target.scores(embeds, batch, torch.full((len(batch),), k)) for k in range(len(target.labels))]
    return torch.stack(every, 1).softmax(1)


def erased(run: Run, scores: dict[str, np.ndarray]) -> tuple[float, float]:
    """Mean comprehensiveness and sufficiency of the order of tokens that each row's scores give."""
    target, ids, lost = CoreTarget(run, "test"), run.data["test"]["row_id"][:], []
    for row_id, parts in scores.items():
        batch = next(iter(target.batches([ids.index(row_id)])))
        decided = int(target.decisions(batch)[0])
        embeds, blank = target.embed(batch), target.baseline(batch, "pad")
        content = (embeds != blank).any(-1)[0].nonzero().squeeze(1).tolist()
        chosen = sorted(content, key=lambda token: -parts[token])[: max(1, round(SHARE * len(content)))]
        without, alone = embeds.clone(), blank.clone()
        without[:, chosen], alone[:, chosen] = blank[:, chosen], embeds[:, chosen]
        full, less, only = (float(probabilities(target, batch, e)[0, decided]) for e in (embeds, without, alone))
        lost.append((full - less, full - only))
    comprehensiveness, sufficiency = np.mean(lost, 0)
    return float(comprehensiveness), float(sufficiency)


def rank_correlation(one: np.ndarray, other: np.ndarray) -> float:
    """Spearman's, of scores without ties."""
    ranks = [np.argsort(np.argsort(scores)) for scores in (one, other)]
    return float(np.corrcoef(*ranks)[0, 1])


def draw_anew(run: Run, deepest: int) -> None:
    """The head, and the matrices of the layers from ``deepest`` upwards, from normals of their own spread."""
    generator, head = torch.Generator().manual_seed(0), {id(p) for _, p in head_parameters(run.model)}
    with torch.no_grad():
        for name, parameter in run.model.named_parameters():
            above = any(f"layer.{number}." in name for number in range(deepest, 6)) and "LayerNorm" not in name
            if id(parameter) in head or above:
                spread = parameter.std() if parameter.numel() > 1 else 0.02
                parameter.copy_(torch.randn(parameter.shape, generator=generator) * spread)


def main() -> None:
    torch.set_num_threads(1)
    quiet_libraries()
    with tempfile.TemporaryDirectory() as name:
        run = tuned(Path(name))
        rows, chance = run.data["test"], np.random.default_rng(0)
        first = {key: {one.row_id: one for one in found} for key, found in run.attributions.items()}
        lots = {row_id: chance.random(len(one.scores)) for row_id, one in first["occlusion"].items()}
        table = {key: [*erased(run, {k: one.scores for k, one in found.items()})] for key, found in first.items()}
        table["random"] = [*erased(run, lots)]
        for deepest in DEEPEST.values():
            draw_anew(run, deepest)
            for placed in (placed for placed in run.stack.steps if placed.section == "explain"):
                step: Any = placed.step
                found: list[Attribution] = step.explain(CoreTarget(run, "test"), rows, run)
                before = first[placed.key]
                alike = [
                    rank_correlation(one.scores, before[one.row_id].scores) for one in found if len(one.scores) > 3
                ]
                table[placed.key].append(float(np.mean(alike)))
    print(
        "| explainer | comprehensiveness | sufficiency | "
        + " | ".join(DEEPEST)
        + " |\n|---|"
        + "---|" * (2 + len(DEEPEST))
    )
    for key, figures in table.items():
        print(f"| `{key}` | " + " | ".join(f"{figure:.2f}" for figure in figures) + " |")


if __name__ == "__main__":
    main()
