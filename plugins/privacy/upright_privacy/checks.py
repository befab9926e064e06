"""Check digits and other rules that a number must keep to be what it looks like.

Luhn (ISO/IEC 7812-1), IBAN mod 97 (ISO 13616), US SSN (SSA, 2011), French NIR key (INSEE), German tax id (ISO 7064 MOD
11,10), Spanish DNI/NIE letter, Chinese resident id (GB 11643, ISO 7064 MOD 11-2; the form of fifteen digits that was given
until 1999 has no check digit, only a province and a date).
"""

from __future__ import annotations

import datetime
import ipaddress
import re


def _digits(text: str) -> str:
    return "".join(character for character in text if character.isdigit())


def luhn(text: str) -> bool:
    """13 to 19 digits whose Luhn sum is a multiple of ten."""
    digits = [int(character) for character in _digits(text)]
    if not 12 <= len(digits) <= 19 or len(set(digits)) == 1:
        return False
    doubled = [d if n % 2 == 0 else (2 * d - 9 if d > 4 else 2 * d) for n, d in enumerate(reversed(digits))]
    return sum(doubled) % 10 == 0


def iban(text: str) -> bool:
    """Country, check digits, account: the rearranged number is 1 modulo 97."""
    plain = re.sub(r"[\s-]", "", text).upper()
    if not 15 <= len(plain) <= 34:
        return False
    turned = plain[4:] + plain[:4]
    return int("".join(str(int(character, 36)) for character in turned)) % 97 == 1


def us_ssn(text: str) -> bool:
    """Area not 000, 666 or 9xx; group not 00; serial not 0000."""
    area, group, serial = re.split(r"[- ]", text)
    return area not in ("000", "666") and area < "900" and group != "00" and serial != "0000"


def fr_nir(text: str) -> bool:
    """The last two digits are 97 minus the rest modulo 97 (2A and 2B count as 19 and 18)."""
    plain = re.sub(r"\s", "", text).upper().replace("2A", "19").replace("2B", "18")
    return plain.isdigit() and len(plain) == 15 and 97 - int(plain[:13]) % 97 == int(plain[13:])


def de_tax_id(text: str) -> bool:
    """Eleven digits, one repeated, with an ISO 7064 MOD 11,10 check digit."""
    digits = [int(character) for character in _digits(text)]
    if len(digits) != 11 or digits[0] == 0 or len(set(digits[:10])) not in (8, 9):
        return False
    product = 10
    for digit in digits[:10]:
        total = (digit + product) % 10 or 10
        product = total * 2 % 11
    return (11 - product) % 10 == digits[10]


def es_dni(text: str) -> bool:
    """The letter is the number modulo 23."""
    plain = re.sub(r"[-\s]", "", text).upper()
    number = plain[:-1].replace("X", "0", 1).replace("Y", "1", 1).replace("Z", "2", 1)
    return number.isdigit() and "TRWAGMYFPDXBNJZSQVHLCKE"[int(number) % 23] == plain[-1]


def cn_id(text: str) -> bool:
    """Eighteen places with a date of birth and an ISO 7064 MOD 11-2 check character."""
    weights = (7, 9, 10, 5, 8, 4, 2, 1, 6, 3, 7, 9, 10, 5, 8, 4, 2)
    total = sum(int(digit) * weight for digit, weight in zip(text[:17], weights, strict=True))
    return "10X98765432"[total % 11] == text[17].upper()


DATE = re.compile(
    r"(?:(?:19|20)\d\d[-. ]\d\d[-. ]\d\d|\d\d[-. ]\d\d[-. ](?:19|20)\d\d)(?!\d)|(?:19|20)\d\d[- ](?:19|20)\d\d$"
)
PROVINCES = frozenset(
    "11 12 13 14 15 21 22 23 31 32 33 34 35 36 37 41 42 43 44 45 46 50 51 52 53 54 61 62 63 64 65".split()
)
"""The first two digits of a Chinese resident id (GB/T 2260)."""


def cn_id_15(text: str) -> bool:
    """Fifteen digits: a province and a date of birth of the twentieth century; there is no check digit."""
    try:
        datetime.date(1900 + int(text[6:8]), int(text[8:10]), int(text[10:12]))
    except ValueError:
        return False
    return text[:2] in PROVINCES


def phone(text: str) -> bool:
    """Seven to fifteen digits (E.164), not all alike, that read as no date or years."""
    if DATE.match(text):
        return False
    digits = _digits(text)
    return 7 <= len(digits) <= 15 and len(set(digits)) > 2


def ip_address(text: str) -> bool:
    """What the standard library reads as an IPv4 or IPv6 address."""
    try:
        ipaddress.ip_address(text)
    except ValueError:
        return False
    return True


def always(text: str) -> bool:
    """No rule: the pattern says enough."""
    return True
