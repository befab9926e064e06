"""What structured personal data looks like: one union of patterns, each hit confirmed by its own check digit or rule.

Check rules: Luhn (ISO/IEC 7812-1), IBAN mod 97 (ISO 13616), US SSN (SSA, 2011), UK NINO (HMRC NIM39110), French NIR key
(INSEE), German tax id (ISO 7064 MOD 11,10), Spanish DNI/NIE letter, Chinese resident id (GB 11643, ISO 7064 MOD 11-2).
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Callable, Iterator
from typing import NamedTuple


class Hit(NamedTuple):
    """Personal data at characters ``start`` to ``end`` of a text."""

    kind: str
    start: int
    end: int


def find(text: str, kinds: frozenset[str]) -> Iterator[Hit]:
    """Hits of the wanted kinds, left to right, none inside another."""
    place = 0
    while match := UNION.search(text, place):
        kind = str(match.lastgroup)
        start, end = match.span()
        value = match.group()
        if kind == "url" or kind == "email":
            trimmed = value.rstrip(".,;:!?)'\"")
            end, value = start + len(trimmed), trimmed
        found = KINDS[kind][0]
        if found in kinds and KINDS[kind][1](value):
            yield Hit(found, start, end)
            place = max(end, start + 1)
        else:
            # Another pattern may fit at the same place or a little further on.
            other = _second(text, start, kind, kinds)
            if other:
                yield other
                place = other.end
            else:
                place = _after(text, start)


def _after(text: str, start: int) -> int:
    """The end of the run of letters and digits at ``start``: nothing begins inside a word."""
    end = start + 1
    while end < len(text) and text[end].isalnum():
        end += 1
    return end


def _second(text: str, start: int, refused: str, kinds: frozenset[str]) -> Hit | None:
    for name in PATTERNS:
        if name == refused or KINDS[name][0] not in kinds:
            continue
        match = COMPILED[name].match(text, start)
        if match and KINDS[name][1](match.group()):
            return Hit(KINDS[name][0], start, match.end())
    return None


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


DATE = re.compile(r"(?:19|20)\d\d[-. ]\d\d[-. ]\d\d|\d\d[-. ]\d\d[-. ](?:19|20)\d\d")


def phone(text: str) -> bool:
    """Seven to fifteen digits (E.164), not all alike, that read as no date."""
    if DATE.fullmatch(text):
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


def _always(text: str) -> bool:
    return True


_TLD = (
    "com|org|net|edu|gov|mil|int|info|biz|name|io|ai|co|app|dev|me|tv|us|uk|de|fr|es|it|nl|be|ch|at|se|no|dk|fi|pl|cz|sk|hu|"
    "ro|bg|gr|pt|ie|lu|ru|ua|by|tr|il|in|cn|jp|kr|tw|hk|sg|my|th|vn|id|ph|au|nz|ca|mx|br|ar|cl|pe|za|ng|ke|eg|eu|gl|is"
)

PATTERNS = {
    "email": r"[A-Za-z0-9._%+'-]+@[A-Za-z0-9](?:[A-Za-z0-9-]*[A-Za-z0-9])?(?:\.[A-Za-z0-9-]+)*\.[A-Za-z]{2,}",
    "url": r"(?:https?://|www\.)[^\s<>\"'()]+"
    rf"|(?<![@\w.-])(?:[A-Za-z0-9](?:[A-Za-z0-9-]*[A-Za-z0-9])?\.)+(?:{_TLD})\b(?:/[^\s<>\"'()]*)?(?![\w@-]|\.\w)",
    "ipv4": r"(?<![\w.])(?:\d{1,3}\.){3}\d{1,3}(?![\w.]*\d)",
    "ipv6": r"(?<![\w:])(?:[0-9A-Fa-f]{0,4}:){2,7}[0-9A-Fa-f]{0,4}(?![\w:])",
    "iban": r"(?<!\w)[A-Z]{2}\d{2}(?:[ -]?[A-Z0-9]{4}){2,7}(?:[ -]?[A-Z0-9]{1,4})?(?!\w)",
    "card": r"(?<![\w.-])\d(?:[ -]?\d){11,18}(?![\w-]|\.\d)",
    "us_ssn": r"(?<![\w-])\d{3}[- ]\d{2}[- ]\d{4}(?![\w-])",
    "uk_nino": r"(?<!\w)(?!BG|GB|NK|KN|TN|NT|ZZ)[A-CEGHJ-PR-TW-Z][A-CEGHJ-NPR-TW-Z] ?\d{2} ?\d{2} ?\d{2} ?[A-D](?!\w)",
    "fr_nir": r"(?<!\w)[12] ?\d{2} ?\d{2} ?(?:\d{2}|2[ABab]) ?\d{3} ?\d{3} ?\d{2}(?!\w)",
    "cn_id": r"(?<!\w)[1-9]\d{5}(?:19|20)\d{2}(?:0[1-9]|1[0-2])(?:0[1-9]|[12]\d|3[01])\d{3}[\dXx](?!\w)",
    "de_tax_id": r"(?<![\w-])[1-9]\d (?:\d{3} ){2}\d{3}(?![\w-])|(?<![\w-])[1-9]\d{10}(?![\w-])",
    "es_dni": r"(?<!\w)(?:\d{8}|[XYZxyz]\d{7})[- ]?[A-Za-z](?!\w)",
    "phone": r"(?<![\w.-])\+\d{1,3}(?:[ .-]?\(\d{1,4}\))?(?:[ .-]?\d{1,8}){2,5}(?!\w)"
    r"|(?<![\w.-])(?:(?:\+|00)\d{1,3}[ .-]?)?(?:\(0?\d{1,4}\)[ .-]?)?\d{2,5}(?:[ .-]\d{2,5}){1,4}(?:x\d{1,5}|(?!\w))"
    r"|(?<![\w.-])\+\d{8,15}(?!\w)|(?<![\w.-])0\d{9,10}(?!\w)|(?<!\w)\(\d{2,5}\)[ .-]?\d{2,4}(?:[ .-]?\d{2,5}){1,3}(?!\w)",
}
"""In the order of preference where two fit at one place."""

KINDS: dict[str, tuple[str, Callable[[str], bool]]] = {
    "email": ("email", _always),
    "url": ("url", _always),
    "ipv4": ("ip", ip_address),
    "ipv6": ("ip", ip_address),
    "iban": ("iban", iban),
    "card": ("card", luhn),
    "us_ssn": ("national-id", us_ssn),
    "uk_nino": ("national-id", _always),
    "fr_nir": ("national-id", fr_nir),
    "cn_id": ("national-id", cn_id),
    "de_tax_id": ("national-id", de_tax_id),
    "es_dni": ("national-id", es_dni),
    "phone": ("phone", phone),
}

COMPILED = {name: re.compile(pattern) for name, pattern in PATTERNS.items()}
UNION = re.compile("|".join(f"(?P<{name}>{pattern})" for name, pattern in PATTERNS.items()))
EVERY = frozenset(found for found, _ in KINDS.values())
