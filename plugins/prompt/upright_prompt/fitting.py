"""A text that fits the model's window: the longest field is cut first, the words around the fields stay."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from upright.errors import ConfigError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

Render = Callable[[dict[str, str]], str]


def fit(
    render: Render, values: dict[str, str], tokenizer: PreTrainedTokenizerBase, window: int
) -> tuple[str, dict[str, int]]:
    """``render(values)`` in at most ``window`` tokens, and how many characters each cut field lost at its end.

    Every field keeps at most the same number of tokens: the greatest under which the whole fits, so that only the longest
    are cut. Raises ConfigError where what ``render`` adds leaves no room.
    """
    whole = render(values)
    if count(tokenizer, whole) <= window:
        return whole, {}
    ends = {name: _ends(tokenizer, value) for name, value in values.items()}
    low, high = 0, max(map(len, ends.values()))
    while low < high:
        cap = (low + high + 1) // 2
        fits = count(tokenizer, render(_cut(values, ends, cap))) <= window
        low, high = (cap, high) if fits else (low, cap - 1)
    if not low:
        raise ConfigError(f"the template's own words leave no room in the model's {window} tokens; shorten it")
    kept = _cut(values, ends, low)
    return render(kept), {name: len(values[name]) - len(kept[name]) for name in values if kept[name] != values[name]}


def count(tokenizer: PreTrainedTokenizerBase, text: str) -> int:
    """Tokens of a text with the special ones that the tokenizer adds."""
    return len(tokenizer(text, verbose=False)["input_ids"])


def _ends(tokenizer: PreTrainedTokenizerBase, text: str) -> list[int]:
    """Where each token of a text ends, in characters."""
    encoded = tokenizer(text, add_special_tokens=False, return_offsets_mapping=True, verbose=False)
    return [end for _, end in encoded["offset_mapping"]]


def _cut(values: dict[str, str], ends: dict[str, list[int]], cap: int) -> dict[str, str]:
    return {
        name: value if len(ends[name]) <= cap else value[: ends[name][cap - 1]] if cap else ""
        for name, value in values.items()
    }
