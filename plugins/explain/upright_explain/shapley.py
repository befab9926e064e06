"""Shapley values by sampled permutations (Castro, Gómez and Tejada, 2009, doi:10.1016/j.cor.2008.04.004)."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, Literal

from pydantic import Field

from upright import Attribution, Capability, Section, Step, hook
from upright.objects import Text
from upright_explain.attribution import Parts, attributions, drawn
from upright_explain.coalitions import Coalitions, coalition_scores, content
from upright_explain.completeness import relative_errors, told
from upright_explain.strongest import strongest

if TYPE_CHECKING:
    from datasets import Dataset
    from torch import Tensor

    from upright import Batch, Run
    from upright.objects import Target


class Shapley(Step):
    """Give each token its mean gain: what the score of the decided class wins when the token joins those before it.

    Tokens join a text without content in `n_samples` random orders. Parts add up to the whole in every order; each is told
    with its standard error. Needs no gradients, and `n_samples` forward passes for each token.
    """

    needs: ClassVar[frozenset[Capability]] = frozenset({Capability.CLASS_SCORES})
    tasks: ClassVar[frozenset[str] | None] = frozenset({"text-classification", "token-classification"})

    samples: int = Field(50, ge=1, description="Rows that are explained, drawn with the seed.")
    n_samples: int = Field(25, ge=2, description="Random orders of each row's tokens, as in captum.")
    baseline: Literal["pad", "mask", "zero"] = Field("pad", description="What stands in the place of absent tokens.")
    internal_batch_size: int = Field(64, ge=1, description="Texts per forward pass.")

    @hook
    def explain(self, target: Target, rows: Dataset, run: Run) -> list[Attribution]:
        wanted = drawn(rows, self.samples, self, run)
        return attributions(target, rows, wanted, lambda batch, decided: self._divide(target, batch, decided, run))

    def _divide(self, target: Target, batch: Batch, decided: Tensor, run: Run) -> Parts:
        import torch

        embeds, blank = target.embed(batch), target.baseline(batch, self.baseline)
        scores = torch.zeros(embeds.shape[:2], dtype=torch.float64, device=embeds.device)
        spread, total = torch.zeros_like(scores), scores.new_zeros(len(batch))
        for place, players in enumerate(content(embeds, blank)):
            tokens = players.nonzero().squeeze(1)
            orders = self._orders(len(tokens), int(batch.rows[place]), run).to(tokens.device)
            kept = _joined(tokens[orders], players)
            texts = Coalitions(torch.full((len(kept),), place, device=tokens.device), kept)
            found = coalition_scores(target, batch, decided, embeds, blank, texts, self.internal_batch_size)
            empty, full, between = found[0], found[1], found[2:].view(self.n_samples, -1)
            ends = [end.expand(self.n_samples, 1) for end in (empty, full)]
            steps = torch.cat([ends[0], between, ends[1]], 1).diff(dim=1) if len(tokens) else between[:, :0]
            gains = torch.zeros_like(steps).scatter(1, orders, steps)
            scores[place, tokens] = gains.mean(0)
            spread[place, tokens] = gains.std(0) / self.n_samples**0.5
            total[place] = full - empty
        return Parts(scores, relative_errors(scores, total), spread)

    def _orders(self, tokens: int, row: int, run: Run) -> Tensor:
        """``Long[n_samples, tokens]``: random orders, the same whichever rows are explained beside this one."""
        import torch

        generator = run.generator(self, row)
        return torch.stack([torch.randperm(tokens, generator=generator) for _ in range(self.n_samples)])

    @hook
    def report(self, run: Run) -> Section | None:
        import numpy as np

        found = run.attributions.get(run.key(self))
        if not found:
            return None
        spread = np.concatenate([one.standard_errors for one in found if one.standard_errors is not None])
        strong = np.concatenate([np.abs(one.scores) for one in found])
        text = (
            f"{len(found)} rows, {self.n_samples} orders of each. {told(found)}. The standard error of a token's part is "
            f"{spread.mean():.3f} in the mean and {spread.max():.3f} at most; parts are {strong.mean():.3f} in the mean. "
            f"Baseline: {self.baseline}."
        )
        return Section("Shapley values", [Text(text), strongest(found)])


def _joined(orders: Tensor, players: Tensor) -> Tensor:
    """The texts of all orders, ``Bool[2 + S (n - 1), T]``: none of the players, all, then those between, order by order.

    ``orders [S, n]`` are token numbers; what is no player is the same in every text.
    """
    import torch

    count = orders.shape[1]
    time = torch.full((len(orders), len(players)), -1, device=orders.device)  # when a token joins
    time.scatter_(1, orders, torch.arange(count, device=orders.device).expand_as(orders))
    moments = torch.arange(max(count - 1, 0), device=orders.device)
    between = (time.unsqueeze(1) <= moments.view(1, -1, 1)).flatten(0, 1)
    return torch.cat([~players.unsqueeze(0), torch.ones_like(players).unsqueeze(0), between])
