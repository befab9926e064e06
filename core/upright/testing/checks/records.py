"""Does each record's loss, and its gradient, depend on that record alone? Differential privacy counts on it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from upright.step import Capability
from upright.testing.outcome import Failed, Skipped

if TYPE_CHECKING:
    from torch import Tensor

    from upright.run import Run
    from upright.testing.subject import Subject

ROWS = 5
CLOSE = 1e-4
"""Relative. Padding changes the order of float32 sums, by some 1e-6; coupling changes the loss itself."""
TOUCHING = ("tune", "modules", "batch", "forward", "objective", "weigh", "loss", "statistics")


def losses_alone(subject: Subject) -> str:
    """Each record's loss by itself is its loss in the batch, or the step breaks INDEPENDENT_RECORDS and says so."""
    import torch

    from upright.engine.batches import collate

    with _perturbed(subject) as run:
        together = run.losses(collate(run, list(range(ROWS)), "train"))[0].detach()
        alone = torch.cat([run.losses(collate(run, [row], "train"))[0].detach() for row in range(ROWS)])
    error = float((together - alone).abs().max() / (1 + alone.abs().max()))
    if not error <= CLOSE:
        raise Failed(
            f"a record's loss changes by {error:.2g} with the others in its batch; make it the record's own, or say "
            "breaks = {Capability.INDEPENDENT_RECORDS}"
        )
    return f"largest relative difference {error:.1e}"


def per_unit_gradients(subject: Subject) -> str:
    """The gradient of a batch is the sum of its records' own gradients: compared under random weights, one a record."""
    import torch

    from upright.engine.batches import collate
    from upright.engine.optimizer import trainable

    subject.needs("losses-alone")
    with _perturbed(subject) as run:
        parameters = [p for _, p in trainable(run)]
        factors = torch.rand(ROWS, generator=torch.Generator().manual_seed(0)).to(run.device) + 0.5

        def gradient(rows: list[int]) -> Tensor:
            losses = run.losses(collate(run, rows, "train"))[0] * factors[rows]
            found = torch.autograd.grad(losses.sum(), parameters, allow_unused=True)
            parts = [torch.zeros_like(p) if g is None else g for p, g in zip(parameters, found, strict=True)]
            return torch.cat([part.flatten().double() for part in parts])

        together = gradient(list(range(ROWS)))
        alone = torch.stack([gradient([row]) for row in range(ROWS)]).sum(0)
    error = float((together - alone).norm() / (alone.norm() + 1e-12))
    if not error <= CLOSE:
        raise Failed(
            f"the batch's gradient differs by {error:.2g} from the sum of its records' own; let no record's loss reach "
            "another's activations, or say breaks = {Capability.INDEPENDENT_RECORDS}"
        )
    return f"relative difference {error:.1e}"


@contextmanager
def _perturbed(subject: Subject) -> Iterator[Run]:
    """A prepared run in eval mode with weights moved a little: at the start LoRA's gradients are exactly zero."""
    import torch

    from upright.engine.optimizer import trainable

    subject.needs_training()
    if not subject.answers(*TOUCHING):
        raise Skipped("it touches neither loss nor model")
    if Capability.INDEPENDENT_RECORDS in subject.step.breaks:
        raise Skipped("it says that it couples records")
    with subject.prepared() as run:
        generator = torch.Generator().manual_seed(1)
        with torch.no_grad():
            for _, p in trainable(run):
                p.add_(torch.randn(p.shape, generator=generator).to(p) * 0.1)
        run.model.eval()
        yield run
