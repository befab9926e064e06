"""Does the run do what its steps claim? Asked on a perturbed model before training and of the weights after it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.nn import Module

from upright.engine.batches import collate
from upright.engine.optimizer import trainable
from upright.errors import UprightError
from upright.step import Capability

if TYPE_CHECKING:
    from upright.run import Run

ROWS = 4
SPREAD = 0.1
"""Standard deviation of the perturbation: at initialisation LoRA's gradients are zero and all rows score alike."""


@dataclass(frozen=True)
class Check:
    """One soundness check for the evidence: ``status`` is ``ok`` or ``failed``."""

    check: str
    status: str
    detail: str

    def to_json(self) -> dict[str, Any]:
        """The form of evidence/training.json."""
        return {"check": self.check, "status": self.status, "detail": self.detail}


def probe(run: Run) -> list[Check]:
    """Check that every trainable parameter is reached by the loss, and that records stand alone where a step needs it.

    Raises UprightError naming the step to mend. Runs on the first rows of train, in eval mode; weights, gradients,
    mode and random streams are as before afterwards.
    """
    who = ", ".join(f"{placed} ({placed.where})" for placed in run.stack.answering("tune"))
    named = trainable(run)
    if not named:
        raise UprightError(f"{who}: no parameter is trainable; the step must leave some with requires_grad")
    rows = list(range(min(ROWS, len(run.data["train"]))))
    with _perturbed(run):
        batch = collate(run, rows, "train")
        losses, statistics = run.losses(batch)
        _shape(losses, rows)
        checks = [_reached(run, losses, named, who)]
        if any(Capability.INDEPENDENT_RECORDS in placed.step.needs for placed in run.stack.steps):
            checks.append(_alone(run, losses.detach(), rows))
    run.widths = {
        step: {name: int(value.shape[1]) for name, value in values.items()} for step, values in statistics.items()
    }
    return checks


def fingerprints(run: Run) -> dict[str, tuple[bool, int]]:
    """Each parameter's name -> (trainable, sum of its bit patterns): equal sums where nothing moved."""
    return {name: (p.requires_grad, _bits(p)) for name, p in run.model.named_parameters()}


def moved(run: Run, before: dict[str, tuple[bool, int]]) -> list[Check]:
    """Check after training that frozen weights did not move and trained ones did.

    A step that gives up a tensor while training (a pruned rank) freezes it, and its stillness is no failure.
    """
    now = {name: _bits(p) for name, p in run.model.named_parameters()}
    given_up = {name for name, p in run.model.named_parameters() if not p.requires_grad}
    frozen = [name for name, (trains, bits) in before.items() if not trains and now.get(name) != bits]
    still = [
        name for name, (trains, bits) in before.items() if trains and now.get(name) == bits and name not in given_up
    ]
    checks = [
        Check(
            "frozen weights did not move",
            "failed" if frozen else "ok",
            f"moved: {', '.join(frozen[:3])}" if frozen else f"{sum(not t for t, _ in before.values())} tensors",
        ),
        Check(
            "trained weights moved",
            "failed" if still else "ok",
            f"did not move: {', '.join(still[:3])}" if still else f"{sum(t for t, _ in before.values())} tensors",
        ),
    ]
    return checks


def _bits(parameter: Tensor) -> int:
    width = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}[parameter.element_size()]
    return int(parameter.detach().contiguous().view(width).sum(dtype=torch.int64))


def _shape(losses: Tensor, rows: list[int]) -> None:
    if losses.shape != (len(rows),):
        raise UprightError(
            f"the loss of {len(rows)} rows has the shape {list(losses.shape)}; a loss hook returns one number per row"
        )


def _reached(run: Run, losses: Tensor, named: list[tuple[str, nn.Parameter]], who: str) -> Check:
    gradients = torch.autograd.grad(losses.sum(), [p for _, p in named], allow_unused=True)
    unused = [
        (name, p)
        for (name, p), gradient in zip(named, gradients, strict=True)
        if (gradient is None) and not name.startswith("modules.")
    ]
    added = [name for name, p in unused if id(p) not in run.base_parameters]
    if added or len(unused) == len(named):
        raise UprightError(
            f"{who}: the loss does not reach {len(unused)} trainable parameters, {(added or [unused[0][0]])[0]!r} "
            "first; the step attaches them where the forward pass does not go"
        )
    for _, p in unused:  # the base's own unused parts (a pooler): say that they are not trained
        p.requires_grad_(False)
    return Check(
        "every trainable parameter receives a gradient",
        "ok",
        f"{len(named) - len(unused)} tensors; frozen because the loss does not use them: {len(unused)}",
    )


def _alone(run: Run, together: Tensor, rows: list[int]) -> Check:
    batch_norm = nn.modules.batchnorm._BatchNorm
    normed = next((name for name, module in run.model.named_modules() if isinstance(module, batch_norm)), None)
    needing = next(p for p in run.stack.steps if Capability.INDEPENDENT_RECORDS in p.step.needs)
    if normed:
        raise UprightError(
            f"{needing.where}  {needing} needs records that stand alone, but {normed!r} of the model is a batch norm; "
            "use a model without it"
        )
    alone = torch.cat([run.losses(collate(run, [row], "train"))[0].detach() for row in rows])
    error = float((together - alone).abs().max())
    # Padding and batch size change the order of float32 sums; coupling changes the loss itself.
    bound = (5e-2 if _low_precision(run) else 1e-4) * (1 + float(alone.abs().max()))
    if not error <= bound:
        hooks = ("loss", "objective", "weigh", "forward", "tune")
        adding = [f"{p} ({p.where})" for name in hooks for p in run.stack.answering(name)]
        raise UprightError(
            f"{needing.where}  {needing} needs records that stand alone, but a record's loss changes by {error:.2g} "
            f"with the others in its batch; look at {', '.join(dict.fromkeys(adding))}"
        )
    # The difference is of training records: a private run says that it is small, not how small.
    detail = "within tolerance" if run.private else f"largest difference {error:.1e}"
    return Check("a record's loss does not depend on its batch", "ok", detail)


def _low_precision(run: Run) -> bool:
    from contextlib import nullcontext

    from upright.engine.base import autocast

    return not isinstance(autocast(run), nullcontext)


@contextmanager
def _perturbed(run: Run) -> Iterator[Module]:
    """The model in eval mode with trainable weights moved a little; put back exactly."""
    named = trainable(run)
    saved = [p.detach().clone() for _, p in named]
    modes = {module: module.training for module in run.model.modules()}
    generator = torch.Generator().manual_seed(run.seed)
    try:
        with torch.no_grad():
            for _, p in named:
                p.add_(torch.randn(p.shape, generator=generator).to(p) * SPREAD)
        run.model.eval()
        yield run.model
    finally:
        with torch.no_grad():
            for (_, p), value in zip(named, saved, strict=True):
                p.copy_(value)
        for module, training in modes.items():
            module.training = training
