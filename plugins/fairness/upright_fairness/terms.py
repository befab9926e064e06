"""Identity terms and texts with them swapped (counterfactuals: Garg et al., 2019, arXiv:1809.10610)."""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path

from upright.errors import ConfigError

GENDER = Path(__file__).parent / "lists" / "gender.en.tsv"
"""The English gender terms that come with this distribution."""


def read_terms(path: Path) -> list[tuple[str, str]]:
    """The pairs of a list: a line holds two terms with a tab between, ``#`` begins a comment line.

    Raises ConfigError where the file cannot be read or a line is no pair.
    """
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: cannot be read ({error}); name a text file in UTF-8") from error
    pairs = []
    for number, line in enumerate(lines, 1):
        if line.strip() and not line.startswith("#"):
            terms = [term.strip() for term in line.split("\t")]
            if len(terms) != 2 or not all(terms) or terms[0].lower() == terms[1].lower():
                raise ConfigError(f"{path}:{number}: {line!r} is no pair; give two different terms with a tab between")
            pairs.append((terms[0], terms[1]))
    if not pairs:
        raise ConfigError(f"{path}: holds no pair; give two different terms with a tab between, a line each")
    return pairs


def checked(pairs: Sequence[tuple[str, str]]) -> list[tuple[str, str]]:
    """A list of a stack file, held to what a file is held to. Raises ConfigError."""
    for one, other in pairs:
        if not one.strip() or not other.strip() or one.lower() == other.lower():
            raise ConfigError(f"[{one!r}, {other!r}] is no pair; give two different terms")
    if not pairs:
        raise ConfigError("holds no pair; give two different terms each, or leave it out")
    return list(pairs)


def swapped(text: str, pairs: Sequence[tuple[str, str]]) -> tuple[str, int]:
    """The text with every term replaced by its partner, in one pass, and how many were.

    Whole words alone, in the case of what they replace. A term in several pairs becomes what the first of them says.
    """
    pattern, partner = _compiled(tuple(pairs))

    def replace(found: re.Match[str]) -> str:
        # Unicode folds letters (a long s) that `lower` leaves alone: such a word is no term.
        new = partner.get(found.group().lower())
        return found.group() if new is None else _cased(new, found.group())

    changed = pattern.sub(replace, text)
    return changed, sum(found.group().lower() in partner for found in pattern.finditer(text))


@lru_cache(maxsize=16)
def _compiled(pairs: tuple[tuple[str, str], ...]) -> tuple[re.Pattern[str], dict[str, str]]:
    partner: dict[str, str] = {}
    for one, other in pairs:
        partner.setdefault(one.lower(), other)
        partner.setdefault(other.lower(), one)
    longest_first = sorted(partner, key=lambda term: (-len(term), term))
    return re.compile(rf"(?<!\w)(?:{'|'.join(map(re.escape, longest_first))})(?!\w)", re.IGNORECASE), partner


def _cased(word: str, like: str) -> str:
    """``word`` UPPER or Capitalised where ``like`` is (a single letter counts as capitalised), else as the list has it."""
    if like.isupper() and len(like) > 1:
        return word.upper()
    return word[:1].upper() + word[1:] if like[:1].isupper() else word
