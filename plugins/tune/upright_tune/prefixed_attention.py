"""Attention with trained keys and values before the text's own, for every model that uses transformers' interface."""

from __future__ import annotations

from collections.abc import Generator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.nn.functional import pad

from upright.errors import ConfigError
from upright.models import exported_part
from upright_tune.blocks import find_blocks
from upright_tune.through_peft import refuse_adapted

if TYPE_CHECKING:
    from upright import Run, Step

NAME = "prefix"
FILE = "prefix.safetensors"
INTERFACE = "upright-prefix"
LOADER = """\

# The prefixes: keys and values that come before the text's own in every attention.
import torch
from safetensors.torch import load_file
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

def attend(module, query, key, value, mask, is_causal=None, position_bias=None, **others):
    causal = getattr(module, "is_causal", False) if is_causal is None else is_causal
    if mask is None and causal and query.shape[2] > 1:
        mask = torch.ones(query.shape[2], key.shape[2], dtype=torch.bool).tril()[None, None]
    count, rows = module.prefix.shape[2], len(query)
    def before(table):
        return None if table is None else torch.nn.functional.pad(table, (count, 0), value=table.dtype == torch.bool)
    key = torch.cat([module.prefix[0].expand(rows, -1, -1, -1), key], dim=2)
    value = torch.cat([module.prefix[1].expand(rows, -1, -1, -1), value], dim=2)
    others |= {"is_causal": False, "position_bias": before(position_bias)}
    return sdpa_attention_forward(module, query, key, value, before(mask), **others)

AttentionInterface.register("upright-prefix", attend)
AttentionMaskInterface.register("upright-prefix", sdpa_mask)
for name, tensor in load_file(f"{folder}/prefix.safetensors").items():
    model.get_submodule(name).prefix = tensor
model.set_attn_implementation("upright-prefix")
"""


class Keys(nn.Module):
    """The prefix of one attention: keys and values ``[R, H, count, d]`` each, one copy for each record."""

    def __init__(self, count: int, heads: int, width: int, inner: int | None, generator: torch.Generator) -> None:
        super().__init__()
        self.count, self.heads, self.width = count, heads, width
        first = nn.Embedding(count, inner or 2 * heads * width)
        with torch.no_grad():
            first.weight.copy_(torch.randn(first.weight.shape, generator=generator) * 0.02)
        if inner is None:
            self.table: nn.Module = first
        else:
            last = nn.Linear(inner, 2 * heads * width)
            with torch.no_grad():
                last.weight.copy_(torch.randn(last.weight.shape, generator=generator) * inner**-0.5)
                last.bias.zero_()
            self.table = nn.Sequential(first, nn.Tanh(), last)

    def forward(self, rows: int, device: torch.device) -> tuple[Tensor, Tensor]:
        """For ``rows`` records."""
        numbers = torch.arange(self.count, device=device).expand(rows, -1)
        both = self.table(numbers).view(rows, self.count, 2, self.heads, self.width)
        keys, values = both.permute(2, 0, 3, 1, 4)
        return keys, values


def attend(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    is_causal: bool | None = None,
    position_bias: Tensor | None = None,
    **others: Any,
) -> tuple[Tensor, None]:
    """transformers' scaled dot-product attention, the module's prefix before keys and values; masks let it through."""
    from transformers.integrations.sdpa_attention import sdpa_attention_forward

    prefix = getattr(module, NAME, None)
    if prefix is None:
        return sdpa_attention_forward(
            module, query, key, value, attention_mask, is_causal=is_causal, position_bias=position_bias, **others
        )
    causal = getattr(module, "is_causal", False) if is_causal is None else is_causal
    if attention_mask is None and causal and query.shape[2] > 1:
        attention_mask = torch.ones(query.shape[2], key.shape[2], dtype=torch.bool, device=key.device).tril()[
            None, None
        ]
    keys, values = prefix(query.shape[0], key.device)

    def widened(table: Tensor | None) -> Tensor | None:
        return None if table is None else pad(table, (prefix.count, 0), value=table.dtype == torch.bool)

    return sdpa_attention_forward(
        module,
        query,
        torch.cat([keys.to(key.dtype), key], dim=2),
        torch.cat([values.to(value.dtype), value], dim=2),
        widened(attention_mask),
        is_causal=False,
        position_bias=widened(position_bias),
        **others,
    )


def put_in(step: Step, model: Any, run: Run, count: int, inner: int | None) -> Any:
    """The model with a prefix in every attention of its blocks. Raises ConfigError where it has none of the interface."""
    placed = run.stack.placed(step)
    refuse_adapted(step, model, run)
    root = exported_part(model)
    config = root.config
    try:
        found = [m for _, blocks in find_blocks(root) for m in blocks.modules() if hasattr(m, "is_causal")]
    except ValueError:
        found = []
    if not found:
        raise ConfigError(
            f"{placed.where}  {placed}: {type(root).__name__} has no attention of transformers' interface; use soft-prompt"
        )
    heads = getattr(config, "num_key_value_heads", None) or config.num_attention_heads
    width = getattr(config, "head_dim", None) or getattr(config, "d_kv", None)
    width = width or config.hidden_size // config.num_attention_heads
    register()
    generator = run.generator(step)
    for attention in found:
        attention.add_module(NAME, Keys(count, heads, width, inner, generator).to(run.device))
    root.set_attn_implementation(INTERFACE)
    return model


def register() -> None:
    """Make transformers know the attention by its name."""
    from transformers import AttentionInterface, AttentionMaskInterface
    from transformers.masking_utils import sdpa_mask

    AttentionInterface.register(INTERFACE, attend)
    AttentionMaskInterface.register(INTERFACE, sdpa_mask)


def fold(model: Any) -> None:
    """Networks that compute prefixes give way to tables of what they compute."""
    for keys in model.modules():
        if isinstance(keys, Keys) and not isinstance(keys.table, nn.Embedding):
            numbers = torch.arange(keys.count, device=next(keys.parameters()).device)
            with torch.no_grad():
                keys.table = nn.Embedding.from_pretrained(keys.table(numbers).clone())


def write(folder: Path, run: Run) -> Generator[None, str, str]:
    """Around core's export: the plain model, and the prefixes ``[2, H, count, d]`` in a file of their own."""
    from safetensors.torch import save_file

    root = exported_part(run.model)
    owners = {name: module for name, module in root.named_modules() if isinstance(getattr(module, NAME, None), Keys)}
    taken = {name: getattr(module, NAME) for name, module in owners.items()}
    tensors = {}
    for name, keys in taken.items():
        both = keys.table.weight.detach().cpu().view(keys.count, 2, keys.heads, keys.width)
        tensors[name] = both.permute(1, 2, 0, 3).contiguous()
    for module in owners.values():
        delattr(module, NAME)
    root.set_attn_implementation("sdpa")
    try:
        loader = yield
    finally:
        root.set_attn_implementation(INTERFACE)
        for name, module in owners.items():
            module.add_module(NAME, taken[name])
    save_file(tensors, folder / FILE)
    return loader + LOADER
