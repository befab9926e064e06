"""Model randomisation (Adebayo et al., 2018, arXiv:1810.03292): of another model, an explanation is another one."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    import torch
    from torch.nn import Module, Parameter

STAGES = ("head", "top_half", "all")
"""What is drawn anew, from the top: the task's head, the upper half of the layers too, every layer. The table of input
embeddings stays."""


def stages(model: Module) -> dict[str, list[Parameter]]:
    """Each stage's parameters; those that a model has nothing for are left out.

    Parameters are registered in the order in which the input passes them, so the last ones are the upper ones.
    """
    from upright.models import head_parameters

    head = [parameter for _, parameter in head_parameters(model)]
    aside = {id(parameter) for parameter in [*head, *model.get_input_embeddings().parameters()]}  # type: ignore[operator]
    body = [parameter for parameter in model.parameters() if id(parameter) not in aside]
    below = np.cumsum([0, *(parameter.numel() for parameter in body)])
    upper = [parameter for parameter, size in zip(body, below, strict=False) if size >= below[-1] / 2]
    found = dict(zip(STAGES, (head, [*head, *upper], [*head, *body]), strict=True))
    return {stage: parameters for stage, parameters in found.items() if parameters}


@contextmanager
def drawn_anew(parameters: Iterable[Parameter], generator: torch.Generator, sign: int = 1) -> Iterator[None]:
    """For a ``with`` block: normal numbers of each tensor's own mean and spread; the same bytes as before when it ends.

    ``sign`` -1 mirrors them at the mean: an equally likely draw.

    Each tensor is copied before it is changed, so that whatever interrupts the block finds everything to put back.
    Integers (the packed weights of a quantised base) stay as they are.
    """
    import torch

    saved: list[tuple[Parameter, torch.Tensor]] = []
    try:
        with torch.no_grad():
            for parameter in parameters:
                if not parameter.is_floating_point() or parameter.numel() < 2:
                    continue
                saved.append((parameter, parameter.detach().clone()))
                spread, mean = torch.std_mean(parameter.detach().float())
                noise = torch.empty(parameter.shape, device=parameter.device).normal_(generator=generator)
                parameter.copy_(sign * noise * spread + mean)
        yield
    finally:
        with torch.no_grad():
            for parameter, value in saved:
                parameter.copy_(value)


def rank_correlation(one: np.ndarray, other: np.ndarray) -> float:
    """Spearman's. Where both are constant nothing changed: 1; where one is, nothing is left of the other's order: 0."""
    from scipy.stats import spearmanr

    constant = [bool(np.ptp(scores) == 0) for scores in (one, other)]
    if any(constant):
        return float(all(constant))
    return float(spearmanr(one, other).statistic)
