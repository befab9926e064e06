"""Made-up values that look like what they replace: one entity has one surrogate in a record, and others elsewhere."""

from __future__ import annotations

import hmac
import random
import re
from collections.abc import Callable

from upright_privacy.chinese_names import DOUBLE_SURNAMES
from upright_privacy.made_up_names import family_name, given_name, place_name, script
from upright_privacy.patterns import EVERY, find

TRIES = 64
NUMBERS = ("phone", "card", "iban", "national-id", "passport")


class Surrogates:
    """The surrogates of one record, keyed by 32 secret bytes: who lacks them cannot try values until one fits.

    Letters stay letters and digits digits; e-mail and URL lead to reserved domains (RFC 2606) and addresses to the
    documentation ranges (RFC 5737, RFC 3849). Numbers with a check digit fail it on purpose, so that no surrogate is
    somebody's card, account or id. Names are drawn word by word: "Smith" is what "Ann Smith" became.
    """

    def __init__(self, key: bytes, record: str) -> None:
        self._key = hmac.digest(key, record.encode(), "sha256")
        self._given: set[str] = set()
        self._owners: dict[str, str] = {}

    def meet(self, names: list[str]) -> None:
        """The record's names of people, so that a first name that stands alone is known for one."""
        for name in names:
            self._given |= {word.casefold() for word in name.split()[:-1]}

    def __call__(self, kind: str, value: str) -> str:
        """The surrogate of a value. Two ways of writing one number are one entity."""
        if kind == "place":
            return self._drawn(kind, value, place_name)
        if kind in ("person", "chinese-name"):
            return self._name(value)
        return self._drawn(kind, value, lambda value, draw: _shaped(kind, value, draw))

    def _drawn(self, kind: str, value: str, make: Callable[[str, random.Random], str]) -> str:
        """The first draw that is not what it replaces, nor what another entity of the record became."""
        who = entity(kind, value)
        for attempt in range(TRIES):
            made = make(value, random.Random(hmac.digest(self._key, f"{kind}\0{who}\0{attempt}".encode(), "sha256")))
            if entity(kind, made) != who and self._owners.setdefault(f"{kind} {entity(kind, made)}", who) == who:
                break
        return made

    def _name(self, value: str) -> str:
        if script(value) == "CJK":
            end = 2 if value.startswith(DOUBLE_SURNAMES) else 1
            family, given = value[:end], value[end:]
            return self._drawn("family", family, family_name) + (given and self._drawn("given", given, given_name))
        return "".join(self._word(word) if any(map(str.isalpha, word)) else word for word in re.split(r"(\s+)", value))

    def _word(self, word: str) -> str:
        known = word.casefold() in self._given
        return self._drawn("given" if known else "family", word, given_name if known else family_name)


def entity(kind: str, value: str) -> str:
    """What is the same however it is written: digits and letters of a number, an address without its capitals."""
    if kind in NUMBERS:
        value = "".join(character for character in value if character.isalnum())
    return value.casefold()


def _shaped(kind: str, value: str, draw: random.Random) -> str:
    if kind == "email":
        return f"person{draw.randrange(10**6):06d}@example.org"
    if kind == "url":
        return f"https://example.org/{draw.randrange(10**6):06d}"
    if kind == "ip":
        return f"2001:db8::{draw.randrange(1, 2**16):x}" if ":" in value else f"192.0.2.{draw.randrange(1, 255)}"
    for _ in range(TRIES):
        shaped = "".join(_like(character, draw) for character in value)
        if kind == "phone" or not _confirmed(kind, shaped):
            break
    return shaped


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
