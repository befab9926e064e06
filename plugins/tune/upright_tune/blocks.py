"""Where a transformer keeps its layers."""

from __future__ import annotations

from typing import Any


def find_blocks(model: Any) -> list[tuple[str, Any]]:
    """Name and ``ModuleList`` of the model's stacks of layers: one, or an encoder's and a decoder's.

    They are the outermost lists of modules of one class that hold linear layers. Raises ValueError where there is none.
    """
    from torch.nn import ModuleList

    found: list[tuple[str, Any]] = []
    for name, module in model.named_modules():
        if any(name.startswith(f"{outer}.") for outer, _ in found) or not isinstance(module, ModuleList):
            continue
        if len({type(block) for block in module}) == 1 and any(map(is_linear, module.modules())):
            found.append((name, module))
    if not found:
        raise ValueError(f"{type(model).__name__} has no list of layers")
    return found


def is_linear(module: Any) -> bool:
    """Whether a module is a linear layer: torch's, or GPT-2's transposed one."""
    from torch.nn import Linear
    from transformers.pytorch_utils import Conv1D

    return isinstance(module, (Linear, Conv1D))


def linear_names(model: Any) -> list[str]:
    """The last part of the names of the linear layers inside the blocks (``query``, ``q_proj``, ``c_attn``), sorted."""
    return sorted(
        {
            name.rpartition(".")[2]
            for _, blocks in find_blocks(model)
            for name, module in blocks.named_modules()
            if is_linear(module)
        }
    )
