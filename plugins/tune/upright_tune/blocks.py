"""Where a transformer keeps its layers."""

from __future__ import annotations

from typing import Any


def find_blocks(model: Any) -> tuple[str, Any]:
    """Name and ``ModuleList`` of the model's layers: the longest list of modules of one class.

    Raises ValueError for a model without one.
    """
    from torch.nn import ModuleList

    lists = [
        (name, module)
        for name, module in model.named_modules()
        if isinstance(module, ModuleList) and len(module) and len({type(block) for block in module}) == 1
    ]
    if not lists:
        raise ValueError(f"{type(model).__name__} has no list of layers")
    return max(lists, key=lambda found: (len(found[1]), sum(p.numel() for p in found[1].parameters())))


def linear_names(model: Any) -> list[str]:
    """The last part of the names of the linear layers inside the blocks (``query``, ``q_proj``, ``c_attn``), sorted."""
    from torch.nn import Linear
    from transformers.pytorch_utils import Conv1D

    _, blocks = find_blocks(model)
    return sorted(
        {name.rpartition(".")[2] for name, module in blocks.named_modules() if isinstance(module, (Linear, Conv1D))}
    )
