"""The tokens of the words that stand for labels."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


def label_tokens(tokenizer: PreTrainedTokenizerBase, words: dict[str, str]) -> dict[str, list[int]]:
    """Label -> the tokens of its word after other text. Raises ValueError: none, unknown, or two labels' are the same."""
    found: dict[str, list[int]] = {}
    for label, word in words.items():
        tokens = _continuation(tokenizer, word)
        if not tokens:
            raise ValueError(f"the word {word!r} of the label {label!r} has no token; give it another in label_words")
        if tokenizer.unk_token_id in tokens:
            raise ValueError(
                f"the tokenizer does not know all of {word!r}, the word of the label {label!r}; give it another in label_words"
            )
        twin = next((other for other, known in found.items() if known == tokens), None)
        if twin is not None:
            raise ValueError(f"the labels {twin!r} and {label!r} have the same word; tell them apart in label_words")
        found[label] = tokens
    return found


def masked_tokens(tokenizer: PreTrainedTokenizerBase, words: dict[str, str]) -> dict[str, list[int]]:
    """As `label_tokens`, one token each: a mask is one token. Raises ValueError for a longer word."""
    found = label_tokens(tokenizer, words)
    for label, tokens in found.items():
        if len(tokens) > 1:
            parts = " ".join(tokenizer.convert_ids_to_tokens(tokens))
            raise ValueError(
                f"the word {words[label]!r} of the label {label!r} is {len(tokens)} tokens ({parts}) and a mask is one; give "
                "it a word of one token in label_words"
            )
    return found


def trailing_tokens(tokenizer: PreTrainedTokenizerBase) -> int:
    """How many special tokens the tokenizer puts behind a text; a text that is to be continued ends before them."""
    whole, own = tokenizer("a")["input_ids"], tokenizer("a", add_special_tokens=False)["input_ids"]
    start = next(n for n in range(len(whole)) if whole[n : n + len(own)] == own)
    return len(whole) - start - len(own)


def _continuation(tokenizer: PreTrainedTokenizerBase, word: str) -> list[int]:
    """Tokens of ``word`` behind other text and a blank: many tokenizers write the blank into the word."""
    before = tokenizer("a", add_special_tokens=False)["input_ids"]
    both = tokenizer(f"a {word}", add_special_tokens=False)["input_ids"]
    found: list[int] = both[len(before) :] if both[: len(before)] == before else []
    return found or list(tokenizer(word, add_special_tokens=False)["input_ids"])
