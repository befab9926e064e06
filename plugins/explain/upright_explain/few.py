"""A few of the rows that an explainer asks for, so that it can be asked again at little cost."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    import torch
    from torch import Tensor

    from upright import Batch
    from upright.objects import Target

RADIUS = 0.02
"""Bound of the noise, as in captum's sensitivity, but in parts of the embeddings' root mean square."""


class Few:
    """A target that has only the rows of ``decided``, and tells the class that was explained before for each.

    An explainer that draws its rows draws the same ones again, whatever is left of them. With ``noise`` the input embeddings
    move, less those of special tokens, which no baseline replaces.
    """

    def __init__(self, target: Target, decided: dict[int, int], noise: torch.Generator | None = None) -> None:
        self._target, self.wanted, self._noise = target, decided, noise

    def __getattr__(self, name: str) -> Any:
        return getattr(self._target, name)

    def batches(self, rows: Sequence[int]) -> Iterator[Batch]:
        """Those of the rows that are wanted."""
        return self._target.batches([row for row in rows if row in self.wanted])

    def decisions(self, batch: Batch) -> Tensor:
        """The class that was explained, whatever the model now decides."""
        import torch

        return torch.tensor([self.wanted[row] for row in batch.rows.tolist()], device=batch.rows.device)

    def embed(self, batch: Batch) -> Tensor:
        """The target's, with the noise."""
        import torch

        embeds = self._target.embed(batch)
        if self._noise is None:
            return embeds
        content = (embeds != self._target.baseline(batch, "zero")).any(-1, keepdim=True)
        noise = 2 * torch.rand(embeds.shape, generator=self._noise).to(embeds) - 1
        return embeds + RADIUS * embeds.square().mean().sqrt() * noise * content
