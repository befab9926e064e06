"""Made-up values that look like what they replace: one entity has one surrogate in a record, and others elsewhere."""

from __future__ import annotations

import hmac
import random
import re

from upright_privacy.chinese_names import DOUBLE_SURNAMES
from upright_privacy.made_up_names import family_name, given_name, place_name, script
from upright_privacy.patterns import EVERY, find

TRIES = 64


class Surrogates:
    """The surrogates of one record, keyed by 32 secret bytes: who lacks them cannot try values until one fits.

    Letters stay letters and digits digits; e-mail and URL lead to reserved domains (RFC 2606) and addresses to the
    documentation ranges (RFC 5737, RFC 3849). Numbers with a check digit fail it on purpose, so that no surrogate is
    somebody's card, account or id. Names are drawn word by word: "Smith" is what "Ann Smith" became.
    """

    def __init__(self, key: bytes, record: str) -> None:
        self._key = hmac.digest(key, record.encode(), "sha256")
        self._given: set[str] = set()

    def meet(self, names: list[str]) -> None:
        """The record's names of people, so that a first name that stands alone is known for one."""
        for name in names:
            self._given |= {word.casefold() for word in name.split()[:-1]}

    def __call__(self, kind: str, value: str) -> str:
        """The surrogate of a value. Two ways of writing one number are one entity."""
        if kind in ("person", "chinese-name", "place"):
            return self._name(kind, value)
        draw = self._draw(kind, entity(kind, value))
        if kind == "email":
            return f"person{draw.randrange(10**6):06d}@example.org"
        if kind == "url":
            return f"https://example.org/{draw.randrange(10**6):06d}"
        if kind == "ip":
            if ":" in value:
                return f"2001:db8::{draw.randrange(1, 2**16):x}"
            return f"192.0.2.{draw.randrange(1, 255)}"
        for _ in range(TRIES):
            shaped = "".join(_like(character, draw) for character in value)
            if shaped != value and (kind == "phone" or not _confirmed(kind, shaped)):
                break
        return shaped

    def _draw(self, kind: str, value: str) -> random.Random:
        return random.Random(hmac.digest(self._key, f"{kind}\0{value}".encode(), "sha256"))

    def _name(self, kind: str, value: str) -> str:
        if kind == "place":
            return place_name(value, self._draw(kind, value.casefold()))
        if script(value) == "CJK":
            long = value.startswith(DOUBLE_SURNAMES)
            family, given = value[: 2 if long else 1], value[2 if long else 1 :]
            made = family_name(family, self._draw("family", family))
            return made + (given_name(given, self._draw("given", given)) if given else "")
        words = re.split(r"(\s+)", value)
        return "".join(word if word.isspace() or not word else self._word(word) for word in words)

    def _word(self, word: str) -> str:
        bare = word.casefold()
        draw = self._draw("word", bare)
        return given_name(word, draw) if bare in self._given else family_name(word, draw)


def entity(kind: str, value: str) -> str:
    """What is the same however it is written: digits and letters of a number, an address without its capitals."""
    if kind in ("email", "url", "ip", "person", "place", "chinese-name"):
        return value.casefold()
    return "".join(character for character in value if character.isalnum()).casefold()


def _confirmed(kind: str, value: str) -> bool:
    """Whether somebody could take it for real: some check of ours accepts it whole."""
    return any(hit.kind == kind and hit.end - hit.start == len(value) for hit in find(value, EVERY))


def _like(character: str, draw: random.Random) -> str:
    if character.isdigit():
        return str(draw.randrange(10))
    if character.isalpha():
        letter = draw.choice("ABCDEFGHJKLMNPQRSTUVWXYZ")
        return letter if character.isupper() else letter.lower()
    return character
