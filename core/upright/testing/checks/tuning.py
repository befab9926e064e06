"""What training moves."""

from __future__ import annotations

from typing import TYPE_CHECKING

from upright.testing.outcome import Failed, Skipped

if TYPE_CHECKING:
    from upright.testing.subject import Subject


def trains_what_it_claims(subject: Subject) -> str:
    """Every parameter that ``tune`` leaves trainable moves, and no other does, by a single bit."""
    import torch

    from upright.engine.loop import train

    subject.needs_training()
    if not subject.answers("tune", "modules", "watch", "finalize", "optimizer", "penalty"):
        raise Skipped("it touches no parameter")
    with subject.prepared() as run:
        named = dict(run.model.named_parameters())
        before = {name: (p.requires_grad, p.detach().clone()) for name, p in named.items()}
        try:
            train(run)
        except Exception as error:  # whatever it is, the whole run meets it too
            raise Skipped(f"the run stopped ({error}); see `runs`") from error
        still, moved = [], []
        for name, p in run.model.named_parameters():
            trains, value = before.get(name, (True, None))
            same = value is not None and value.shape == p.shape and torch.equal(value, p.detach())
            if same and trains and p.requires_grad:
                still.append(name)
            if not same and not trains:
                moved.append(name)
    if moved:
        raise Failed(f"{moved[0]!r} is frozen and moved; change nothing but what has requires_grad")
    if still:
        raise Failed(f"{still[0]!r} has requires_grad and did not move; freeze it, or let the forward pass use it")
    trained = sum(trains for trains, _ in before.values())
    return f"{trained} tensors moved, {len(before) - trained} stayed"
