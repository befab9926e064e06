"""Is `vmap` right for this model? Its per-record gradients against the one-record loop's, on a perturbed copy."""

from __future__ import annotations

import torch

from upright import Run
from upright_privacy.per_unit import Losses, per_row, trainable

ROWS, SPREAD = 3, 0.02


def deviation(run: Run) -> float:
    """Largest difference of any record's gradient, relative to that record's norm.

    Weights are moved a little (at initialisation LoRA's gradients are zero and prove nothing) and put back; the model
    is in eval mode meanwhile, since dropout would differ between the two.
    """
    losses = Losses(run)
    named = trainable(losses)
    saved = {name: p.detach().clone() for name, p in named.items()}
    modes = {module: module.training for module in losses.modules()}
    generator = torch.Generator().manual_seed(run.seed)
    try:
        with torch.no_grad():
            for p in named.values():
                p.add_(torch.randn(p.shape, generator=generator).to(p) * SPREAD)
        losses.eval()
        worst = 0.0
        rows = range(min(ROWS, len(run.data["train"])))
        for batch in run.batches(rows, augment=False):
            fast, slow = per_row(losses, batch, "functorch")[0], per_row(losses, batch, "loop")[0]
            norms = torch.stack([g.flatten(1).square().sum(1) for g in slow.values()]).sum(0).sqrt().clamp(min=1e-12)
            for name in slow:
                far = (fast[name] - slow[name]).flatten(1).abs().amax(1)
                worst = max(worst, float((far / norms).max()))
        return worst
    finally:
        with torch.no_grad():
            for name, p in named.items():
                p.copy_(saved[name])
        for module, training in modes.items():
            module.training = training
