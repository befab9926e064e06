"""Does one unit move an update by no more than it may?"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, ClassVar

from upright.stack import Placed
from upright.step import Capability, Step, hook
from upright.testing.outcome import Failed, Skipped

if TYPE_CHECKING:
    from torch import Tensor

    from upright.objects import Batch
    from upright.run import Run
    from upright.testing.subject import Subject

CLIP = 0.1
"""Small against the tiny model's gradients, so that every unit's is clipped and a raised sensitivity shows."""
ROWS = 8
TOUCHING = ("tune", "modules", "batch", "forward", "objective", "weigh", "loss", "statistics", "gradients", "sample")


class Loud(Step):
    """The kit's own: the loss of the first row times ``factor``, which is the kit's and no setting."""

    factor: ClassVar[float] = 1.0

    @hook
    def weigh(self, batch: Batch) -> Tensor:
        """As the hook says."""
        import torch

        return torch.where(batch.rows == 0, type(self).factor, 1.0).to(torch.float32)


def privacy_sensitivity(subject: Subject) -> str:
    """One unit moves an update's gradient by a bounded amount, however large its loss is.

    A step that answers ``gradients`` is asked with one row's loss a million times and then ten thousand million times
    what it was: bounded contributions stay as they are. Whether the bound is the very one that the step accounts for
    cannot be seen through its noise. For any other step the kit bounds each unit's gradient itself, and the sum without
    one unit may differ by that bound.
    """
    private = Capability.OPEN_TRAINING in subject.step.breaks
    if subject.section != "privacy" and not private:
        raise Skipped("no privacy step")
    subject.needs_training()
    if not subject.answers(*TOUCHING):
        raise Skipped("it touches no gradient")
    return _loud(subject) if subject.answers("gradients") else _without_one(subject)


def noise_not_seeded(subject: Subject) -> str:
    """The noise of a private update follows from no seed: two runs of one stack draw other noise."""
    import torch

    if not (subject.answers("gradients") and Capability.OPEN_TRAINING in subject.step.breaks):
        raise Skipped("it adds no noise to gradients")
    found = []
    for _ in range(2):
        with subject.prepared() as run:
            torch.manual_seed(0)
            found.append(_gradient(run, range(ROWS)))
    if torch.equal(*found):
        raise Failed("two runs of one seed drew the same noise, which anyone can subtract; draw it from the system")
    return "two runs of one seed draw other noise"


def _loud(subject: Subject) -> str:
    norms = []
    try:
        with subject.prepared(Placed("train", "loud", "loud", Loud(), "the kit")) as run:
            for factor in (1e6, 1e10):
                Loud.factor = factor
                norms.append(max(float(_gradient(run, range(ROWS)).norm()) for _ in range(3)))
    finally:
        Loud.factor = 1.0
    if not norms[1] <= 10 * norms[0]:
        raise Failed(
            f"one record's loss times 10,000 makes the update's gradient {norms[1] / norms[0]:.3g} times as large; "
            "bound each unit's contribution before it is added"
        )
    return f"a row whose loss is 10,000 times as large moves the gradient by {norms[1] / norms[0]:.2f}"


def _without_one(subject: Subject) -> str:
    worst = 0.0
    with subject.prepared() as run:
        run.model.eval()
        whole = _clipped_sum(run, list(range(ROWS)))
        for row in range(ROWS):
            without = _clipped_sum(run, [other for other in range(ROWS) if other != row])
            worst = max(worst, float((whole - without).norm()) / CLIP)
    if worst > 1 + 1e-3:
        raise Failed(
            f"without one unit the sum of bounded gradients moves by {worst:.2f} times the bound; keep `rows` and `unit` of "
            "every row, and let no record change another's loss"
        )
    return f"a unit moves the sum of bounded gradients by {worst:.3f} times the bound at the most"


def _clipped_sum(run: Run, rows: list[int]) -> Tensor:
    """The sum over units of each one's own gradient, bounded to `CLIP`: by a loop, through the step's own hooks."""
    import torch

    from upright.engine.optimizer import trainable

    parameters = [p for _, p in trainable(run)]
    total = torch.zeros(sum(p.numel() for p in parameters), dtype=torch.float64, device=run.device)
    for batch in run.batches(rows):
        losses, _ = run.losses(batch)
        for unit in sorted(set(batch.unit.tolist())):
            mine = losses[batch.unit == unit].mean()
            found = torch.autograd.grad(mine, parameters, retain_graph=True, allow_unused=True)
            parts = [torch.zeros_like(p) if g is None else g for p, g in zip(parameters, found, strict=True)]
            gradient = torch.cat([part.flatten().double() for part in parts])
            total += gradient * min(1.0, CLIP / (float(gradient.norm()) + 1e-30))
    return total


def _gradient(run: Run, rows: Sequence[int]) -> Tensor:
    """What ``gradients`` leaves in ``.grad``, as one vector."""
    import torch

    from upright.engine.optimizer import trainable

    run.optimizer.zero_grad(set_to_none=True)
    run.calls.gradients(list(rows), run)
    found: list[Any] = [p.grad for _, p in trainable(run)]
    run.optimizer.zero_grad(set_to_none=True)
    return torch.cat([gradient.flatten().double() for gradient in found if gradient is not None])
