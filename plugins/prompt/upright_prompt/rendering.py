"""Templates over a row's columns, rendered into the model's window."""

from __future__ import annotations

import difflib
from string import Formatter
from typing import TYPE_CHECKING, Any

from upright.errors import ConfigError
from upright_prompt.cut_texts import count_cut
from upright_prompt.fitting import fit
from upright_prompt.rows import asked, room

if TYPE_CHECKING:
    from upright import Run, Step

ANSWERS = ("label", "labels", "completion")
"""Columns that a prompt must not show."""
SPECIAL = ("bos_token", "eos_token", "sep_token", "cls_token", "mask_token", "pad_token", "unk_token")


def readable(template: str) -> str:
    """The template, where it is one. Raises ValueError for wrong braces and for one that names no column."""
    try:
        names = fields(template)
    except ValueError as error:
        raise ValueError(f"is no template ({error}); write a brace that is meant as one twice") from error
    if not set(names) - set(SPECIAL):
        raise ValueError("names no column, so that every row would read the same; write `{text}` where it goes")
    return template


def refuse_unknown_tokens(step: Step, run: Run, template: str) -> None:
    """Raise ConfigError for a special token in a template that the model does not have."""
    for name in fields(template):
        if name in SPECIAL and getattr(run.tokenizer, name) is None:
            placed = run.stack.placed(step)
            raise ConfigError(f"{placed.where}  {placed}: the model has no {name}; leave {{{name}}} out")


def render(step: Step, template: str, record: dict[str, Any], run: Run) -> dict[str, Any]:
    """The record with ``template`` as its text (or prompt), cut to the window; what was cut is told once and counted.

    Raises ConfigError for a name that is no column of the record, and where the template alone fills the window.
    """
    placed = run.stack.placed(step)
    names = [name for name in dict.fromkeys(fields(template)) if name not in SPECIAL]
    known = [name for name in record if name not in ANSWERS]
    for name in names:
        if name not in known:
            near = difflib.get_close_matches(name, [*known, *SPECIAL], n=1)
            hint = f"did you mean {near[0]!r}?" if near else f"there are {', '.join(known)}"
            raise ConfigError(f"{placed.where}  {placed}: {{{name}}} is no column and no special token ({hint})")
    tokens = {name: getattr(run.tokenizer, name) for name in SPECIAL}
    values = {name: as_text(record[name]) for name in names}
    try:
        text, cut = fit(lambda kept: template.format(**kept, **tokens), values, run.tokenizer, room(record, run))
    except ConfigError as error:
        raise ConfigError(f"{placed.where}  {placed}: {error}") from error
    count_cut(step, run, cut)
    found = {**record, asked(run): text}
    return {**found, "text_pair": None} if "text_pair" in found else found


def fields(template: str) -> list[str]:
    """The names in braces, in order. Raises ValueError for braces that do not match, conversions and numbers."""
    found = []
    for _, name, form, conversion in Formatter().parse(template):
        if name is not None:
            if not name.isidentifier() or form or conversion:
                raise ValueError(f"{{{name}}} is not a plain name")
            found.append(name)
    return found


def as_text(value: Any) -> str:
    """A column's value as it reads in a prompt."""
    return "" if value is None else " ".join(value) if isinstance(value, list) else str(value)
