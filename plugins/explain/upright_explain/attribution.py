"""The rows that an explainer explains, and what it found for one of them as core's `Attribution`."""

from __future__ import annotations

from typing import TYPE_CHECKING

from upright import Attribution

if TYPE_CHECKING:
    from collections.abc import Sequence

    from datasets import Dataset
    from torch import Tensor

    from upright import Run, Step
    from upright.objects import Target


def drawn(rows: Dataset, samples: int, step: Step, run: Run) -> list[int]:
    """Numbers of at most ``samples`` of ``rows``, drawn without replacement from the step's generator."""
    import torch

    return [int(row) for row in torch.randperm(len(rows), generator=run.generator(step))[:samples]]


def attribution(
    target: Target,
    rows: Dataset,
    row: int,
    decided: Tensor,
    tokens: Sequence[tuple[str, int, int]],
    scores: Tensor,
    error: float | None = None,
) -> Attribution:
    """What row number ``row`` got for class ``decided``: its true ``tokens``, and ``scores[T]`` less the padding."""
    return Attribution(
        rows[row]["row_id"],
        target.labels[int(decided)],
        [token for token, _, _ in tokens],
        [(start, end) for _, start, end in tokens],
        scores[: len(tokens)].detach().double().cpu().numpy(),
        error,
    )
