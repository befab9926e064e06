"""Edits of a template's own words: delete, swap, add (Prasad et al., 2023, arXiv:2203.07281, without its paraphrases)."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch

PHRASE = re.compile(r"\{\w+\}|\{\{|\}\}|[^\s{}][^{}.,:;!?\n]*[.,:;!?]*|\s+")
"""A field, a brace, a phrase up to its punctuation, or blanks."""


def phrases(template: str) -> list[str]:
    """The template in pieces; joined they are the template."""
    return PHRASE.findall(template)


def edited(template: str, deleted: list[str], generator: torch.Generator) -> str:
    """The template after one random edit of its phrases; fields stay. ``deleted`` collects what may be added again."""
    pieces = phrases(template)
    own = [n for n, piece in enumerate(pieces) if piece.strip() and "{" not in piece and "}" not in piece]
    kinds = ["delete"] * bool(own) + ["swap"] * (len(own) > 1) + ["add"] * bool(deleted)
    if not kinds:
        return template
    kind = kinds[_draw(len(kinds), generator)]
    if kind == "delete":
        place = own[_draw(len(own), generator)]
        deleted.append(pieces[place].strip())
        del pieces[place]
    elif kind == "swap":
        one = _draw(len(own), generator)
        other = (one + 1 + _draw(len(own) - 1, generator)) % len(own)
        one, other = own[one], own[other]
        pieces[one], pieces[other] = pieces[other], pieces[one]
    else:
        phrase = deleted[_draw(len(deleted), generator)]
        place = _draw(len(pieces) + 1, generator)
        pieces.insert(place, f"{phrase} " if place == 0 else f" {phrase} ")
    return re.sub(r" {2,}", " ", "".join(pieces)).strip()


def _draw(count: int, generator: torch.Generator) -> int:
    import torch

    return int(torch.randint(count, (1,), generator=generator))
