"""A text around a row's columns."""

from __future__ import annotations

import difflib
from string import Formatter
from typing import TYPE_CHECKING, Any, ClassVar

from pydantic import Field, field_validator

from upright import Step, hook
from upright.errors import ConfigError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from upright import Run

SPECIAL = ("bos_token", "eos_token", "sep_token", "cls_token", "mask_token", "pad_token", "unk_token")


class Template(Step):
    """Render each row into one text: `{text}` is a column, `{mask_token}` one of the model's special tokens.

    Where the whole does not fit the model's window, the longest column is cut first; the template's own words stay.
    `{{` and `}}` are braces.
    """

    tasks: ClassVar[frozenset[str] | None] = frozenset({"text-classification", "text-generation"})

    text: str = Field(description="The template, such as `Note: {text}`.")

    @field_validator("text")
    @classmethod
    def _readable(cls, text: str) -> str:
        try:
            names = fields(text)
        except ValueError as error:
            raise ValueError(f"is no template ({error}); write a brace that is meant as one twice") from error
        if not set(names) - set(SPECIAL):
            raise ValueError("names no column, so that every row would read the same; write `{text}` where it goes")
        return text

    @hook
    def prepare(self, run: Run) -> None:
        """Refuse a name that no column and no token has, once, before the first row."""
        told = run.stack.where(run.stack.placed(self).section)
        split = next(iter(run.data))
        hidden = {"row_id", "unit", "label", "labels", "completion", *run.config.data.sensitive}
        known = [name for name in run.data[split].column_names if name not in hidden]
        for name in fields(self.text):
            if name not in (*known, *SPECIAL):
                near = difflib.get_close_matches(name, [*known, *SPECIAL], n=1)
                hint = f"did you mean {near[0]!r}?" if near else f"there are {', '.join(known)}"
                raise ConfigError(f"{told}  template: {{{name}}} is no column and no special token ({hint})")
            if name in SPECIAL and getattr(run.tokenizer, name) is None:
                raise ConfigError(f"{told}  template: the model has no {name}; leave {{{name}}} out")

    @hook
    def prompt(self, record: dict[str, Any], run: Run) -> dict[str, Any]:
        names = [name for name in dict.fromkeys(fields(self.text)) if name not in SPECIAL]
        tokens = {name: getattr(run.tokenizer, name) for name in SPECIAL}
        values = {name: _text(record[name]) for name in names}
        target = "prompt" if "prompt" in record and "completion" in record else "text"
        rendered = self._fitted(values, tokens, run.tokenizer, run.max_length)
        found = {**record, target: rendered}
        return {**found, "text_pair": None} if "text_pair" in found else found

    def _fitted(
        self, values: dict[str, str], tokens: dict[str, str], tokenizer: PreTrainedTokenizerBase, window: int
    ) -> str:
        whole = self.text.format(**values, **tokens)
        if len(whole) < window or count(tokenizer, whole) <= window:  # a token is one character or more
            return whole
        ends = {name: _ends(tokenizer, value) for name, value in values.items()}
        longest = max(map(len, ends.values()))
        # The greatest cap on every column's tokens under which the whole fits: the longest column is cut first.
        low, high = 0, longest
        while low < high:
            cap = (low + high + 1) // 2
            fits = count(tokenizer, self.text.format(**_cut(values, ends, cap), **tokens)) <= window
            low, high = (cap, high) if fits else (low, cap - 1)
        if not low:
            raise ConfigError(f"the template's own words leave no room in the model's {window} tokens; shorten it")
        return self.text.format(**_cut(values, ends, low), **tokens)


def fields(template: str) -> list[str]:
    """The names in braces, in order. Raises ValueError for braces that do not match, conversions and numbers."""
    found = []
    for _, name, form, conversion in Formatter().parse(template):
        if name is not None:
            if not name.isidentifier() or form or conversion:
                raise ValueError(f"{{{name}}} is not a plain name")
            found.append(name)
    return found


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


def _text(value: Any) -> str:
    return "" if value is None else " ".join(value) if isinstance(value, list) else str(value)
