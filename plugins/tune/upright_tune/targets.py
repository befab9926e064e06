"""Which layers a method adapts, when nobody says so."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

from upright.errors import ConfigError
from upright_tune.blocks import find_blocks, is_linear, linear_names
from upright_tune.through_peft import refuse_adapted

if TYPE_CHECKING:
    from upright import Run, Step

BERT = ["query", "key", "value", "dense"]
LLAMA = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
LINEAR = {
    "bert": BERT,
    "roberta": BERT,
    "xlm-roberta": BERT,
    "camembert": BERT,
    "electra": BERT,
    "distilbert": ["q_lin", "k_lin", "v_lin", "out_lin", "lin1", "lin2"],
    "deberta": ["in_proj", "dense"],
    "deberta-v2": ["query_proj", "key_proj", "value_proj", "dense"],
    "gpt2": ["c_attn", "c_proj", "c_fc"],
    "llama": LLAMA,
    "mistral": LLAMA,
    "qwen2": LLAMA,
    "qwen3": LLAMA,
    "t5": ["q", "k", "v", "o", "wi", "wi_0", "wi_1", "wo"],
    "mt5": ["q", "k", "v", "o", "wi_0", "wi_1", "wo"],
}
"""Every linear layer of a block: that reaches full tuning where attention alone falls short (QLoRA, arXiv:2305.14314)."""

ATTENTION_OUTPUT = {
    "bert": "attention.output.dense",
    "distilbert": "attention.out_lin",
    "deberta": "attention.output.dense",
    "gpt2": "attn.c_proj",
    "llama": "self_attn.o_proj",
    "t5": "o",
}
FEEDFORWARD_OUTPUT = {
    "bert": "output.dense",
    "distilbert": "ffn.lin2",
    "deberta": "output.dense",
    "gpt2": "mlp.c_proj",
    "llama": "mlp.down_proj",
    "t5": "wo",
}
KEYS_AND_VALUES = {
    "bert": ["key", "value"],
    "distilbert": ["k_lin", "v_lin"],
    "deberta": ["in_proj"],
    "deberta-v2": ["key_proj", "value_proj"],
    "gpt2": ["c_attn"],
    "llama": ["k_proj", "v_proj"],
    "t5": ["k", "v"],
}
"""The last parts of the names of a block's layers, by family."""

FAMILIES = {
    "roberta": "bert",
    "xlm-roberta": "bert",
    "camembert": "bert",
    "electra": "bert",
    "deberta-v2": "deberta",
    "mistral": "llama",
    "qwen2": "llama",
    "qwen3": "llama",
    "mt5": "t5",
}


def architecture(model: Any) -> str:
    """The ``model_type`` of a model's config, or its class's name."""
    return str(getattr(getattr(model, "config", None), "model_type", type(model).__name__))


def of_family(table: dict[str, Any], model: Any) -> Any:
    """The entry of a model's architecture, else of its family; None for an unknown one."""
    kind = architecture(model)
    return table.get(kind, table.get(FAMILIES.get(kind, "")))


def linear_pattern(
    step: Step, model: Any, run: Run, asked: list[str] | None, usual: list[str] | None, numbers: list[int] | None = None
) -> str:
    """A pattern of the full names of the layers to adapt, inside the blocks only: a head called ``dense`` is left alone.

    ``asked`` are names that the stack gives, ``usual`` those of the architecture, ``numbers`` the blocks (default: all).
    Raises ConfigError with the stack's line and the layers that there are.
    """
    refuse_adapted(step, model, run)
    placed = run.stack.placed(step)
    try:
        blocks, there = find_blocks(model), linear_names(model)
    except ValueError as error:
        raise ConfigError(f"{placed.where}  {placed}: {error}, so {placed.use} cannot be put into it") from error
    names = asked or usual
    if names is None:
        raise ConfigError(
            f"{placed.where}  {placed}: {architecture(model)!r} is no known architecture; set target_modules to some of "
            f"its linear layers: {', '.join(there)}"
        )
    odd = [name for name in names if name.rpartition(".")[2] not in there]
    if len(odd) == len(names) or (asked and odd):
        raise ConfigError(
            f"{placed.where}  {placed}.target_modules: the model has no linear layer {odd[0]!r}; it has {', '.join(there)}"
        )
    depth = min(len(listed) for _, listed in blocks)
    chosen = range(depth) if numbers is None else numbers
    if max(chosen) >= depth or min(chosen) < 0:
        raise ConfigError(f"{placed.where}  {placed}.layers_to_transform: the model has blocks 0 to {depth - 1}")
    paths = "|".join(re.escape(path) for path, _ in blocks)
    digits = r"\d+" if numbers is None else "|".join(map(str, numbers))
    last = "|".join(re.escape(name) for name in names if name not in odd)
    return rf"(?:{paths})\.(?:{digits})\.(?:.*\.)?(?:{last})"


def check_rank(step: Step, model: Any, run: Run, pattern: str, name: str, rank: int) -> None:
    """Raise ConfigError where a rank is above the narrower side of a layer that it is meant for."""
    for path, module in model.named_modules():
        if is_linear(module) and re.fullmatch(pattern, path) and rank > min(module.weight.shape):
            placed = run.stack.placed(step)
            raise ConfigError(
                f"{placed.where}  {placed}.{name}: {rank} is above the width of {path!r} ({min(module.weight.shape)}), so "
                "nothing would be saved; lower it"
            )


def sublayer_outputs(model: Any) -> tuple[list[str], list[str]] | None:
    """Full names of the layers that end the attention and the feed-forward part of each block; None where unknown."""
    attention, feedforward = of_family(ATTENTION_OUTPUT, model), of_family(FEEDFORWARD_OUTPUT, model)
    if attention is None:
        return None
    names = [
        f"{path}.{name}"
        for path, blocks in find_blocks(model)
        for name, module in blocks.named_modules()
        if is_linear(module)
    ]
    first = [name for name in names if name.endswith(f".{attention}")]
    return first, [name for name in names if name.endswith(f".{feedforward}") and name not in first]
