"""Are explanations what they say, and are they of the model?"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from upright.testing.outcome import Failed, Skipped

if TYPE_CHECKING:
    from upright.objects import Attribution
    from upright.testing.subject import Subject

ROUNDING = 0.01
"""What a completeness error may be understated by: float32 scores of a tiny model."""
SMALL = 0.05
"""Logits. A score that differs less from the baseline's has nothing to be divided among tokens."""
BLANKS = ("pad", "mask", "zero")


def explainer_complete(subject: Subject) -> str:
    """The parts add up to the score less a baseline's, within the error that is told; None declares that they do not."""
    import torch

    found, target = _explained(subject)
    claiming = {one.row_id: one for one in found if one.completeness_error is not None}
    if not claiming:
        return "declares that its parts need not add up (completeness_error is None)"
    rows = subject.finished().data["test"]
    places = [place for place, row_id in enumerate(rows["row_id"][:]) if row_id in claiming]
    for batch in target.batches(places):
        classes = [target.labels.index(claiming[rows[int(row)]["row_id"]].target) for row in batch.rows]
        chosen = torch.tensor(classes, device=batch.rows.device)
        target.decisions(batch)
        with torch.no_grad():
            whole = target.scores(target.embed(batch), batch, chosen).double().cpu()
            blanks = [target.scores(target.baseline(batch, kind), batch, chosen).double().cpu() for kind in BLANKS]
        for place, row in enumerate(batch.rows.tolist()):
            one = claiming[rows[row]["row_id"]]
            told = float(one.completeness_error or 0.0)
            parts = float(np.sum(one.scores))
            wholes = [float(whole[place] - blank[place]) for blank in blanks]
            errors = [abs(parts - total) / max(abs(total), SMALL) for total in wholes]
            if min(errors) > told + ROUNDING:
                raise Failed(
                    f"the parts of row {one.row_id} miss the whole by {min(errors):.1%}, but its completeness_error says "
                    f"{told:.1%}; tell the error, or None where parts need not add up"
                )
    return f"{len(claiming)} rows add up within the error that is told"


def explainer_depends_on_model(subject: Subject) -> str:
    """With the head's weights drawn anew, explanations change (Adebayo et al., 2018, arXiv:1810.03292)."""
    import torch

    from upright.models import head_parameters

    found, target = _explained(subject)
    run = subject.finished()
    head = head_parameters(run.model) or [(n, p) for n, p in run.model.named_parameters() if p.requires_grad]
    saved = [p.detach().clone() for _, p in head]
    generator = torch.Generator().manual_seed(0)
    try:
        with torch.no_grad():
            for _, p in head:
                p.copy_(torch.randn(p.shape, generator=generator).to(p))
        other = {one.row_id: one for one in _explain(subject, target)}
    finally:
        with torch.no_grad():
            for (_, p), value in zip(head, saved, strict=True):
                p.copy_(value)
    pairs = [(one, other[one.row_id]) for one in found if one.row_id in other and len(one.scores) > 2]
    alike = [_rank_correlation(one.scores, two.scores) > 0.99 for one, two in pairs]
    if pairs and all(alike):
        raise Failed(
            "explanations keep their order of tokens whatever the head's weights are, so they do not explain the decision"
        )
    return f"{len(pairs) - sum(alike)} of {len(pairs)} rows order their tokens otherwise"


def _explained(subject: Subject) -> tuple[list[Attribution], Any]:
    """What the step says of the finished run's test rows, and the target that it was asked with."""
    from upright.engine.target import CoreTarget

    if not subject.answers("explain"):
        raise Skipped("it explains nothing")
    target = CoreTarget(subject.finished(), "test")
    return _explain(subject, target), target


def _explain(subject: Subject, target: Any) -> list[Attribution]:
    run = subject.finished()
    given = {"target": target, "rows": run.data["test"], "run": run}
    answer = next(answer for answer in run.calls.answers("explain") if answer.step is subject.step)
    try:
        found: list[Attribution] = answer(given)
    except Exception as error:  # whatever it is, the whole run met it too
        raise Skipped(f"it failed ({type(error).__name__}: {error}); see `runs`") from error
    return found


def _rank_correlation(one: Any, other: Any) -> float:
    ranks = np.array([np.argsort(np.argsort(np.asarray(scores))) for scores in (one, other)], dtype=np.float64)
    return float(np.corrcoef(ranks[0], ranks[1]).ravel()[1])
