"""LoRA, dp-sgd, equalized odds, a penalty, a perturbing step that repeats rows, and early stopping in one stack:
the gradient of an update is what a plain loop over single records gives, in float64."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from outside_steps import Plateau, Ridge, TokenNoise, with_steps

from upright import Run, Stack, Step, hook
from upright.engine.execute import execute
from upright.evidence.status import read_status

CLIP, BATCH, RIDGE = 0.5, 8, 0.05


class Witness(Step):
    """Keep what an update saw and left: the weights before it, the drawn rows and the gradient."""

    @hook(wrapper=True)
    def sample(self, update: int, run: Run) -> Any:
        rows = yield
        SEEN["rows"] = list(rows)
        SEEN["update"] = update
        SEEN["weights"] = {n: p.detach().clone() for n, p in run.model.named_parameters() if p.requires_grad}
        SEEN["random"] = torch.get_rng_state()
        return rows

    @hook
    def watch(self, moment: str, run: Run) -> None:
        if moment == "updated" and len(SEEN["rows"]) > 2:
            HISTORY.append({**SEEN, "gradient": {n: p.grad.clone() for n, p in run.model.named_parameters() if p.requires_grad}})


SEEN: dict[str, Any] = {}
HISTORY: list[dict[str, Any]] = []
