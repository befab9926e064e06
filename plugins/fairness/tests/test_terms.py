"""Terms swapped in texts: every word by itself against a table by hand, nothing else of the text touched."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from upright.errors import ConfigError
from upright_fairness.terms import GENDER, read_terms, swapped

PAIRS = [("he", "she"), ("man", "woman"), ("police officer", "nurse"), ("his", "her"), ("him", "her")]
TABLE = {"he": "she", "she": "he", "man": "woman", "woman": "man", "his": "her", "her": "his", "him": "her"}
WORDS = ["he", "she", "man", "woman", "his", "her", "him", "the", "manly", "others", "human", "shed"]


def looped(text: str) -> tuple[str, int]:
    """Word by word."""
    done, count = [], 0
    for word in re.split(r"(\W)", text):
        new = TABLE.get(word.lower(), word)
        count += word.lower() in TABLE
        done.append(new.upper() if len(word) > 1 and word.isupper() else new.title() if word.istitle() else new)
    return "".join(done), count


def without_boundaries(text: str, pairs: list[tuple[str, str]]) -> tuple[str, int]:
    partner = dict([*pairs, *((other, one) for one, other in pairs)])
    return re.subn("|".join(partner), lambda found: partner[found.group()], text)


def one_after_the_other(text: str, pairs: list[tuple[str, str]]) -> tuple[str, int]:
    for one, other in [*pairs, *((other, one) for one, other in pairs)]:
        text = re.sub(rf"\b{one}\b", other, text)
    return text, 0


@given(
    st.lists(st.tuples(st.sampled_from(WORDS), st.sampled_from([str.lower, str.upper, str.title])), max_size=8),
    st.sampled_from([" ", ", ", "-", "'s "]),
)
def test_every_term_is_swapped_once_and_nothing_else(words: list[tuple[str, Callable[[str], str]]], mark: str) -> None:
    text = mark.join(case(word) for word, case in words)
    assert swapped(text, PAIRS) == looped(text)


@pytest.mark.parametrize("mutant", [without_boundaries, one_after_the_other])
def test_mutant_swaps_are_noticed(mutant: Callable[..., tuple[str, int]]) -> None:
    texts = ["the human shed", "he she"]
    assert any(mutant(text, PAIRS) != looped(text) for text in texts)
    assert all(swapped(text, PAIRS) == looped(text) for text in texts)


def test_phrases_and_letters_of_other_alphabets_are_whole() -> None:
    assert swapped("Police officer and nurses", PAIRS) == ("Nurse and nurses", 1)
    assert swapped("le fiancé, LA FIANCÉE", [("fiancé", "fiancée")]) == ("le fiancée, LA FIANCÉ", 2)
    assert swapped("hiſ ſhe", PAIRS) == ("hiſ ſhe", 0)


def test_the_shipped_list_goes_both_ways() -> None:
    pairs = read_terms(GENDER)
    for one, other in pairs:
        changed, count = swapped(one, pairs)
        assert count == 1
        assert changed != one
        assert swapped(other, pairs)[0] != other


@pytest.mark.parametrize("text", ["# nothing\n", "he\n", "he\tHe\n", "he\tshe\tthey\n", "\tshe\n"])
def test_a_list_that_is_none_is_refused(text: str, tmp_path: Path) -> None:
    path = tmp_path / "terms.tsv"
    path.write_text(text)
    with pytest.raises(ConfigError, match="pair"):
        read_terms(path)
    with pytest.raises(ConfigError, match="cannot be read"):
        read_terms(tmp_path / "none.tsv")


@pytest.mark.parametrize("pairs", [[], [("he", "He")], [("", "x")]])
def test_a_list_of_the_stack_is_held_to_what_a_file_is(pairs: list[tuple[str, str]]) -> None:
    from upright_fairness.terms import checked

    with pytest.raises(ConfigError, match="no pair"):
        checked(pairs)
