"""Gradual unfreezing's last stage: the upper layers and the head are trained (Howard and Ruder, 2018, arXiv:1801.06146)."""

from __future__ import annotations

from typing import Any

from pydantic import Field

from upright import Run, Step, hook
from upright.errors import ConfigError


class TopLayers(Step):
    """Train the last encoder or decoder blocks and the head; the layers below stay frozen."""

    layers: int = Field(2, ge=1, description="How many blocks, counted from the last.")

    @hook
    def tune(self, model: Any, run: Run) -> Any:
        from upright_tune.blocks import find_blocks

        where = run.stack.placed(self).where
        try:
            _, blocks = find_blocks(model)[-1]  # of an encoder and a decoder, the decoder
        except ValueError as error:
            raise ConfigError(f"{where}  tune.top-layers: {error}; use `full` or `head`") from error
        if self.layers > len(blocks):
            raise ConfigError(
                f"{where}  tune.top-layers: layers is {self.layers}, the model has {len(blocks)}; lower it"
            )
        for block in blocks[len(blocks) - self.layers :]:
            block.requires_grad_(True)
        return model
