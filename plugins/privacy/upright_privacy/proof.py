"""Which method gives exact per-row gradients of this model: the first whose gradients are the one-record loop's."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch

from upright import Run
from upright_privacy.per_unit.methods import Losses, Mode, per_row, trainable
from upright_privacy.per_unit.tape import Contributions, Unserved

ROWS, SPREAD = 3, 0.02
AGREES = 1e-3
"""Relative difference of a record's gradient, over its norm, that float32 sums in another order explain."""
AGREES_BF16 = 5e-2
METHODS: tuple[Mode, ...] = ("direct", "functorch")


@dataclass
class Proof:
    """The method, which rule served which parameter, and why the ones before it were not taken."""

    mode: Mode
    served: dict[str, set[str]] = field(default_factory=dict)
    refused: list[str] = field(default_factory=list)


def prove(run: Run, asked: str = "auto") -> Proof:
    """Compare per-row gradients on a perturbed model, two batches of different sizes, with the one-record loop's.

    ``asked`` may name one method. The loop is the reference and needs no proof.
    """
    refused = []
    for mode in METHODS if asked == "auto" else (asked,):
        if mode == "loop":
            break
        served: dict[str, set[str]] = {}
        try:
            error = deviation(run, mode, served=served)
            _run_in_training(run, mode)
        except Unserved as unserved:
            refused.append(f"{mode}: {unserved}")
            continue
        except (RuntimeError, ValueError, NotImplementedError, TypeError) as raised:
            refused.append(
                f"{mode} cannot run this model ({(str(raised).strip() or type(raised).__name__).splitlines()[0]})"
            )
            continue
        if error <= tolerance(run):
            return Proof(mode, served, refused)
        refused.append(f"{mode}: per-record gradients differ from the one-record loop's by {error:.1e}")
    return Proof("loop", {}, refused)


def _run_in_training(run: Run, mode: Mode) -> None:
    """The comparison is made in eval mode; a layer may do in training alone what a method cannot follow."""
    losses = Losses(run)
    modes = {module: module.training for module in losses.modules()}
    try:
        with torch.random.fork_rng(devices=[run.device] if run.device.type == "cuda" else []):
            losses.train()
            for batch in run.batches(range(min(ROWS, len(run.data["train"]))), augment=False):
                per_row(losses, batch, mode)
    finally:
        for module, training in modes.items():
            module.training = training


def tolerance(run: Run) -> float:
    """Relative, of a record's gradient."""
    low = run.config.train.precision != "fp32" and run.device.type == "cuda"
    return AGREES_BF16 if low or run.config.train.precision == "bf16" or run.config.model.dtype != "float32" else AGREES


def deviation(run: Run, mode: Mode, served: dict[str, set[str]] | None = None, perturb: bool = True) -> float:
    """Largest difference of any record's gradient, relative to that record's norm; one not finite counts as zero anyway.

    Weights are moved a little (at initialisation LoRA's gradients are zero and prove nothing) and put back; the model
    is in eval mode meanwhile, since dropout would differ between the two.
    """
    losses = Losses(run)
    named = trainable(losses)
    saved = {name: p.detach().clone() for name, p in named.items()}
    modes = {module: module.training for module in losses.modules()}
    generator = torch.Generator().manual_seed(run.seed)
    there = len(run.data["train"])
    try:
        if perturb:
            with torch.no_grad():
                for p in named.values():
                    p.add_(torch.randn(p.shape, generator=generator).to(p) * SPREAD)
        losses.eval()
        worst = 0.0
        middle = there // 2  # rows that a step added stand at the end, and may be unlike the others
        for rows in (range(min(ROWS, there)), range(middle, min(there, middle + ROWS - 1))):
            for batch in run.batches(rows, augment=False):
                fast = _dense(per_row(losses, batch, mode, served)[0], named)
                slow = _dense(per_row(losses, batch, "loop")[0], named)
                norms = (
                    torch.stack([g.reshape(len(g), -1).square().sum(1) for g in slow.values()])
                    .sum(0)
                    .sqrt()
                    .clamp(min=1e-12)
                )
                counted = torch.isfinite(norms)
                for name in slow:
                    far = (fast[name] - slow[name]).reshape(len(norms), -1).abs().amax(1) / norms
                    far = far[counted].nan_to_num(nan=torch.inf)
                    worst = max(worst, float(far.max()) if len(far) else 0.0)
        return worst
    finally:
        with torch.no_grad():
            for name, p in named.items():
                p.copy_(saved[name])
        for module, training in modes.items():
            module.training = training


def _dense(contributions: Contributions, named: dict[str, torch.nn.Parameter]) -> dict[str, torch.Tensor]:
    """Parameter -> ``[R, *shape]``; zero where no row's loss depends on it."""
    rows = max(len(part.dense()) for parts in contributions.values() for part in parts)
    found = {}
    for name, parts in contributions.items():
        total = torch.zeros(rows, *named[name].shape, device=named[name].device)
        for part in parts:
            total = total + part.dense().view_as(total)
        found[name] = total
    return found
