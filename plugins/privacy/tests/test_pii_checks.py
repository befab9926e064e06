"""Each check digit agrees with an oracle that is written another way, on numbers at random; a check left out is noticed."""

from __future__ import annotations

import random
import re
import socket
import string
from collections.abc import Callable

import pytest

from upright_privacy import checks
from upright_privacy.patterns import EVERY, find

Check = Callable[[str], bool]


def by_table(text: str) -> bool:
    """Luhn by the table of doubled digits, from the right."""
    digits = [c for c in text if c in string.digits]
    if not 12 <= len(digits) <= 19 or len(set(digits)) == 1:
        return False
    return sum(int("0246813579"[int(d)]) if n % 2 else int(d) for n, d in enumerate(reversed(digits))) % 10 == 0


def by_remainders(text: str) -> bool:
    """IBAN by remainders of one character after the other."""
    plain = text.replace(" ", "").replace("-", "").upper()
    remainder = 0
    for character in plain[4:] + plain[:4]:
        value = string.digits.find(character)
        value = value if value >= 0 else 10 + string.ascii_uppercase.index(character)
        remainder = (remainder * (10 if value < 10 else 100) + value) % 97
    return 15 <= len(plain) <= 34 and remainder == 1


def pure_system(text: str) -> bool:
    """GB 11643 by the recursion of ISO 7064's pure system: ((a1 * 2 + a2) * 2 + ...) = 1 modulo 11."""
    total = 0
    for character in text[:17]:
        total = (total + int(character)) * 2 % 11
    return (total + (10 if text[17] in "xX" else int(text[17]))) % 11 == 1


def hybrid_system(text: str) -> bool:
    """ISO 7064 MOD 11,10 by trying every check digit, and the tax office's rule on repeated digits."""
    digits = list(map(int, text.replace(" ", "")))

    def state(upto: list[int]) -> int:
        product = 10
        for digit in upto:
            product = ((product + digit) % 10 or 10) * 2 % 11
        return product

    (right,) = [d for d in range(10) if (state(digits[:10]) + d) % 10 == 1]
    counts = {d: digits[:10].count(d) for d in digits[:10]}
    return digits[10] == right and digits[0] != 0 and 8 <= len(counts) <= 9


def french_key(text: str) -> bool:
    plain = text.replace(" ", "").upper()
    body = int(plain[:13].replace("2A", "19").replace("2B", "18"))
    return (body + int(plain[13:])) % 97 == 0 and 1 <= int(plain[13:]) <= 97


def spanish_letter(text: str) -> bool:
    plain = text.upper()
    number = str("XYZ".index(plain[0])) + plain[1:-1] if plain[0] in "XYZ" else plain[:-1]
    return (
        plain[-1]
        == dict(enumerate("TRWAGMYFPDXBNJZSQVHLCKE"))[sum(int(d) * 10**n for n, d in enumerate(number[::-1])) % 23]
    )


def security_number(text: str) -> bool:
    return bool(re.fullmatch(r"(?!000|666|9)\d{3}[- ](?!00)\d{2}[- ](?!0000)\d{4}", text))


def by_the_system(text: str) -> bool:
    for family in (socket.AF_INET, socket.AF_INET6):
        try:
            socket.inet_pton(family, text)
            return True
        except OSError:
            continue
    return False


def digits(draw: random.Random, count: int) -> str:
    return "".join(draw.choices(string.digits, k=count))


MADE: dict[str, tuple[Check, Callable[[random.Random], str]]] = {
    "luhn": (by_table, lambda draw: digits(draw, draw.randint(12, 19))),
    "iban": (
        by_remainders,
        lambda draw: "".join(draw.choices(string.ascii_uppercase, k=2)) + digits(draw, draw.randint(13, 32)),
    ),
    "cn_id": (pure_system, lambda draw: "1" + digits(draw, 16) + draw.choice("0123456789Xx")),
    "de_tax_id": (hybrid_system, lambda draw: "".join(draw.sample("123456789", 9)) + digits(draw, 2)),
    "fr_nir": (french_key, lambda draw: "1" + digits(draw, 4) + draw.choice(["2A", "2B", "75"]) + digits(draw, 8)),
    "es_dni": (
        spanish_letter,
        lambda draw: draw.choice("0123456789XYZ") + digits(draw, 7) + draw.choice("TRWAGMYFPDXBNJZSQVHLCKE"),
    ),
    "us_ssn": (
        security_number,
        lambda draw: "-".join(
            draw.choice(parts)
            for parts in (["000", "666", "900", "999", digits(draw, 3)], ["00", "12"], ["0000", "6789"])
        ),
    ),
    "ip_address": (
        by_the_system,
        lambda draw: draw.choice([".", ":"]).join(f"{draw.randint(0, 300)}" for _ in range(draw.choice([4, 8]))),
    ),
}
SAMPLES = 4000


def disagreements(name: str, check: Check) -> int:
    """Numbers, of `SAMPLES` at random, on which a check and its oracle differ."""
    oracle, make = MADE[name]
    draw = random.Random(name)
    return sum(check(text) != oracle(text) for text in (make(draw) for _ in range(SAMPLES)))


@pytest.mark.parametrize("name", MADE)
def test_a_check_agrees_with_its_oracle(name: str) -> None:
    assert disagreements(name, getattr(checks, name)) == 0


@pytest.mark.parametrize("name", MADE)
def test_a_check_that_is_left_out_is_noticed(name: str) -> None:
    assert disagreements(name, checks.always) > 0
    assert disagreements(name, lambda text: False) > 0


def test_wrong_factors_are_noticed() -> None:
    assert disagreements("luhn", lambda text: sum(map(int, text)) % 10 == 0) > 0
    assert disagreements("cn_id", lambda text: pure_system(text[16::-1] + text[17])) > 0


@pytest.mark.parametrize(
    ("kind", "text"),
    [
        ("card", "4111111111111111"),
        ("iban", "GB82WEST12345698765432"),
        ("national-id", "11010519491231002X"),
        ("national-id", "12345678Z"),
    ],
)
def test_every_other_check_digit_is_refused(kind: str, text: str) -> None:
    place = 3 if kind == "iban" else len(text) - 1
    wrong = [text[:place] + c + text[place + 1 :] for c in string.digits + string.ascii_uppercase if c != text[place]]
    assert [hit.kind for hit in find(text, EVERY)] == [kind]
    assert not [other for other in wrong if any(hit.kind == kind for hit in find(other, EVERY))]


def test_an_old_chinese_id_has_a_province_and_a_date() -> None:
    assert checks.cn_id_15("130503670401001")
    assert not checks.cn_id_15("990503670401001")
    assert not checks.cn_id_15("130503670230001")
