"""Made-up values that look like what they replace: equal values of one run get equal surrogates."""

from __future__ import annotations

import hashlib
import random


def surrogate(kind: str, value: str, key: str) -> str:
    """A value of the same shape: letters stay letters, digits digits; e-mail and URL lead to reserved domains (RFC 2606).

    ``key`` is the run's: surrogates of two runs cannot be matched. Card numbers fail the Luhn check on purpose, and
    addresses are of the documentation ranges (RFC 5737, RFC 3849), so that no surrogate is somebody's.
    """
    draw = random.Random(hashlib.blake2b(f"{key}\0{kind}\0{value}".encode(), digest_size=16).digest())
    if kind == "email":
        return f"person{draw.randrange(10**6):06d}@example.org"
    if kind == "url":
        return f"https://example.org/{draw.randrange(10**6):06d}"
    if kind == "ip":
        if ":" in value:
            return f"2001:db8::{draw.randrange(1, 2**16):x}"
        return f"192.0.2.{draw.randrange(1, 255)}"
    shaped = "".join(_like(character, draw) for character in value)
    if kind == "card":
        from upright_privacy.patterns import luhn

        while luhn(shaped):
            shaped = "".join(_like(character, draw) for character in value)
    return shaped


def _like(character: str, draw: random.Random) -> str:
    if character.isdigit():
        return str(draw.randrange(10))
    if character.isalpha():
        letter = draw.choice("ABCDEFGHJKLMNPQRSTUVWXYZ")
        return letter if character.isupper() else letter.lower()
    return character
