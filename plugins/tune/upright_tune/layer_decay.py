"""Layer-wise learning-rate decay (Howard and Ruder, 2018, arXiv:1801.06146; Sun et al., 2019, arXiv:1905.05583)."""

from __future__ import annotations

from collections.abc import Generator
from typing import TYPE_CHECKING

from pydantic import Field

from upright import Capability, Run, Step, hook
from upright_tune.rates import multiply_rate

if TYPE_CHECKING:
    from torch.optim import Optimizer


class LayerDecay(Step):
    """Train lower layers more slowly: each block's learning rate is a fixed share of that of the block above it."""

    needs = frozenset({Capability.TRAINING})

    decay: float = Field(
        0.95, gt=0, le=1, description="Share from one block to the next below; embeddings are the lowest."
    )

    @hook(wrapper=True)
    def optimizer(self, run: Run) -> Generator[None, Optimizer, Optimizer]:
        from upright.models import head_parameters
        from upright_tune.blocks import find_blocks

        optimizer = yield
        depth: dict[int, int] = {}
        head = {id(parameter) for _, parameter in head_parameters(run.model)}
        for _, blocks in find_blocks(run.model):
            for number, block in enumerate(blocks):
                depth |= {id(parameter): len(blocks) - 1 - number for parameter in block.parameters()}
            below = len(blocks)
            for name, parameter in run.model.named_parameters():
                if "embed" in name or "wte" in name or "wpe" in name:
                    depth.setdefault(id(parameter), below)
        multiply_rate(optimizer, lambda p: 1.0 if id(p) in head else self.decay ** depth.get(id(p), 0))
        return optimizer
