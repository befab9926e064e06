"""The rows that an explainer explains, and what it found for one of them as core's `Attribution`."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, NamedTuple

from upright import Attribution
from upright_explain.unpadded import unpadded

if TYPE_CHECKING:
    from collections.abc import Sequence

    import numpy as np
    from datasets import Dataset
    from torch import Tensor

    from upright import Batch, Run, Step
    from upright.objects import Target


class Parts(NamedTuple):
    """What each token of R rows got: ``scores [R, T]``; where there are such, relative completeness ``errors [R]`` and
    the ``standard_errors [R, T]`` of what was sampled."""

    scores: Tensor
    errors: Tensor | None = None
    standard_errors: Tensor | None = None


def drawn(rows: Dataset, samples: int, step: Step, run: Run) -> list[int]:
    """Numbers of at most ``samples`` of ``rows``, drawn without replacement from the step's generator."""
    import torch

    return [int(row) for row in torch.randperm(len(rows), generator=run.generator(step))[:samples]]


def attributions(
    target: Target, rows: Dataset, wanted: Sequence[int], divide: Callable[[Batch, Tensor], Parts]
) -> list[Attribution]:
    """What ``divide(batch, decided)`` makes of the decided classes of the rows that the target yields of ``wanted``.

    It is given rows of equal length together, without padding.
    """
    found: dict[int, Attribution] = {}
    for given in target.batches(wanted):
        tokens = target.tokens(given)
        for places, batch in unpadded(given):
            decided = target.decisions(batch)
            parts = divide(batch, decided)
            for number, (place, row) in enumerate(zip(places.tolist(), batch.rows.tolist(), strict=True)):
                error = None if parts.errors is None else float(parts.errors[number])
                spread = None if parts.standard_errors is None else parts.standard_errors[number]
                told = (decided[number], tokens[place], parts.scores[number], error, spread)
                found[row] = attribution(target, rows, row, *told)
    return [found[row] for row in sorted(found)]


def attribution(
    target: Target,
    rows: Dataset,
    row: int,
    decided: Tensor,
    tokens: Sequence[tuple[str, int, int]],
    scores: Tensor,
    error: float | None = None,
    standard_errors: Tensor | None = None,
) -> Attribution:
    """What row number ``row`` got for class ``decided``: its true ``tokens``, and ``scores[T]`` less the padding."""

    def own(values: Tensor) -> np.ndarray:
        return values[: len(tokens)].detach().double().cpu().numpy()

    return Attribution(
        rows[row]["row_id"],
        target.labels[int(decided)],
        [token for token, _, _ in tokens],
        [(start, end) for _, start, end in tokens],
        own(scores),
        error,
        None if standard_errors is None else own(standard_errors),
    )
