"""What structured personal data looks like: one union of patterns, each hit confirmed by its own check digit or rule."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from typing import NamedTuple

from upright_privacy.checks import (
    always,
    cn_id,
    cn_id_15,
    de_tax_id,
    es_dni,
    fr_nir,
    iban,
    ip_address,
    luhn,
    phone,
    us_ssn,
)
from upright_privacy.chinese_names import CHINESE_NAME


class Hit(NamedTuple):
    """Personal data at characters ``start`` to ``end`` of a text."""

    kind: str
    start: int
    end: int


def find(text: str, kinds: frozenset[str], named: list[Hit] | None = None) -> list[Hit]:
    """Hits of the wanted kinds, left to right, none inside another; ``named`` are others' hits, which yield to ours.

    What lies between two hits is searched again on its own, since a replaced neighbour is another neighbour: a masked
    text has no hits.
    """
    hits = list(_scan(text, kinds))
    if named:
        hits = sorted([*hits, *_outside(text, named, hits)], key=lambda hit: hit.start)
    if not hits:
        return hits
    found: list[Hit] = []
    end = 0
    for hit in [*hits, Hit("", len(text), len(text))]:
        gap = text[end : hit.start]
        found += [Hit(more.kind, more.start + end, more.end + end) for more in find(gap, kinds)] if gap else []
        found.append(hit)
        end = hit.end
    return found[:-1]


def _outside(text: str, named: list[Hit], hits: list[Hit]) -> Iterator[Hit]:
    """The parts of others' hits that no hit of ours covers, without the space around them."""
    taken = bytearray(len(text))
    for hit in hits:
        taken[hit.start : hit.end] = b"\1" * (hit.end - hit.start)
    for hit in named:
        place = hit.start
        while place < hit.end:
            stop = place
            while stop < hit.end and not taken[stop]:
                stop += 1
            part = text[place:stop]
            if any(character.isalnum() for character in part):
                start = place + len(part) - len(part.lstrip())
                yield Hit(hit.kind, start, place + len(part.rstrip()))
            taken[place:stop] = b"\1" * (stop - place)
            place = stop + 1


def _scan(text: str, kinds: frozenset[str]) -> Iterator[Hit]:
    """Hits from the left; behind each, the text is read as if it began there."""
    place = gone = 0
    while match := UNION.search(text, place):
        first = NAMES[(match.lastindex or 1) - 1]
        hit = _confirmed(first, match, kinds) or _other(text, match.start(), first, kinds)
        if hit:
            yield Hit(hit.kind, gone + hit.start, gone + hit.end)
            gone += hit.end
            text, place = text[hit.end :], 0
        else:
            place = REST_OF_WORD.match(text, match.start() + 1).end()  # type: ignore[union-attr]


def _other(text: str, start: int, first: str, kinds: frozenset[str]) -> Hit | None:
    """What another pattern finds at the place where ``first`` was refused."""
    for name in PATTERNS:
        if name != first and KINDS[name][0] in kinds and (match := COMPILED[name].match(text, start)):
            hit = _confirmed(name, match, kinds)
            if hit:
                return hit
    return None


def _confirmed(name: str, match: re.Match[str], kinds: frozenset[str]) -> Hit | None:
    """The hit that a match is, less what it took too much of; None where the kind is not wanted or the check fails."""
    kind, check = KINDS[name]
    if kind not in kinds:
        return None
    value = match.group()
    if name in ("email", "url"):
        value = value.rstrip(".,;:!?)'\"")
    while not check(value):
        if name not in ("iban", "card", "phone"):
            return None
        value = re.sub(r"(?:^|[ -])[^ -]*$", "", value)  # a word or a number that follows
        if not value:
            return None
    return Hit(kind, match.start(), match.start() + len(value))


_TLD = (
    "com|org|net|edu|gov|mil|int|info|biz|name|io|ai|co|app|dev|me|tv|us|uk|de|fr|es|it|nl|be|ch|at|se|no|dk|fi|pl|cz|sk|hu|"
    "ro|bg|gr|pt|ie|lu|ru|ua|by|tr|il|in|cn|jp|kr|tw|hk|sg|my|th|vn|id|ph|au|nz|ca|mx|br|ar|cl|pe|za|ng|ke|eg|eu|gl|is"
)
W = r"0-9A-Za-z_\u00c0-\u052f"
"""Characters of scripts that put spaces between words (Latin, Greek, Cyrillic): a number does not begin or end beside
them. Chinese characters are none: there a number stands in the middle of a line."""
_EXTENSION = r"(?:x\d{1,5}|-\d{1,6}|转\d{1,6})?"
_URL = r"[^\s<>\"'()\u3000-\u303f\u3400-\u9fff\uff00-\uffef]"

_NO = rf"(?![{W}])"

PATTERNS: dict[str, tuple[str, ...]] = {
    "email": (
        r"[A-Za-z0-9_][A-Za-z0-9._%+'-]{0,127}@[A-Za-z0-9](?:[A-Za-z0-9-]*[A-Za-z0-9])?(?:\.[A-Za-z0-9-]+)*\.[A-Za-z]{2,}",
    ),
    "url": (
        rf"[Hh][Tt][Tt][Pp][Ss]?://{_URL}+",
        rf"[Ww][Ww][Ww]\.{_URL}+",
        rf"[A-Za-z0-9](?<![@.-].)[A-Za-z0-9-]*(?:\.[A-Za-z0-9-]+)*\.(?:{_TLD}){_NO}(?:/{_URL}*)?(?![{W}@-]|\.[{W}])",
    ),
    "ipv4": (rf"\d(?<![.].)\d{{0,2}}(?:\.\d{{1,3}}){{3}}(?![{W}.]*\d)",),
    "ipv6": (
        rf"[0-9A-Fa-f](?<!:.)[0-9A-Fa-f]{{0,3}}:(?:[0-9A-Fa-f]{{0,4}}:){{1,6}}[0-9A-Fa-f]{{0,4}}(?![{W}:])",
        rf":(?<!:.):(?:[0-9A-Fa-f]{{1,4}}:){{0,6}}[0-9A-Fa-f]{{1,4}}(?![{W}:])",
    ),
    "iban": (
        rf"[A-Z][A-Z]\d{{2}}(?:[ -]?[A-Z0-9]{{4}}){{2,7}}(?:[ -]?[A-Z0-9]{{1,4}})?{_NO}",
        rf"[a-z][a-z]\d{{2}}[a-z0-9]{{11,30}}{_NO}",
    ),
    "card": (rf"\d(?<![.-].)(?:[ -]?\d){{11,18}}(?![{W}-]|\.\d)",),
    "us_ssn": (rf"\d(?<!-.)\d{{2}}[- ]\d{{2}}[- ]\d{{4}}(?![{W}-])",),
    "uk_nino": (
        rf"[A-CEGHJ-PR-TW-Z][A-CEGHJ-NPR-TW-Z](?<!BG|GB|NK|KN|TN|NT|ZZ) ?\d{{2}} ?\d{{2}} ?\d{{2}} ?[A-D]{_NO}",
    ),
    "fr_nir": (rf"[12] ?\d{{2}} ?\d{{2}} ?(?:\d{{2}}|2[ABab]) ?\d{{3}} ?\d{{3}} ?\d{{2}}{_NO}",),
    "cn_id": (rf"[1-9]\d{{5}}(?:19|20)\d{{2}}(?:0[1-9]|1[0-2])(?:0[1-9]|[12]\d|3[01])\d{{3}}[\dXx]{_NO}",),
    "cn_id_15": (rf"[1-8]\d{{7}}(?:0[1-9]|1[0-2])(?:0[1-9]|[12]\d|3[01])\d{{3}}{_NO}",),
    "cn_mobile": (
        rf"1(?<!\d[.-].)[3-9]\d[ -]?\d{{4}}[ -]?\d{{4}}{_NO}",
        rf"8(?<!\d[.-].)6[ -]?1[3-9]\d[ -]?\d{{4}}[ -]?\d{{4}}{_NO}",
        rf"0(?<!\d[.-].)086[ -]?1[3-9]\d[ -]?\d{{4}}[ -]?\d{{4}}{_NO}",
    ),
    "de_tax_id": (rf"[1-9](?<!-.)\d(?: \d{{3}}){{3}}(?![{W}-])", rf"[1-9](?<!-.)\d{{10}}(?![{W}-])"),
    "es_dni": (rf"[0-9XYZxyz]\d{{7}}[- ]?[A-Za-z]{_NO}", rf"[XYZxyz]-\d{{7}}[- ]?[A-Za-z]{_NO}"),
    "passport": (rf"[EG]\d{{8}}{_NO}", rf"E[A-HJ-NP-Z]\d{{7}}{_NO}"),
    "phone": (
        rf"\+(?<![.-].)\d{{1,3}}(?:[ .-]?\(\d{{1,4}}\))?(?:[ .-]?\d{{1,8}}){{2,5}}{_EXTENSION}{_NO}",
        rf"\+(?<![.-].)\d{{8,15}}{_NO}",
        rf"[(（]\+?\d{{2,5}}[)）][ .-]?\d{{2,8}}(?:[ .-]?\d{{2,5}}){{0,3}}{_EXTENSION}{_NO}",
        rf"\d(?<![.-].)\d{{1,4}}[ .-]?\(0?\d{{1,4}}\)(?:[ .-]\d{{2,5}}){{0,2}}[ .-]\d{{2,8}}{_EXTENSION}{_NO}",
        rf"\d(?<![.-].)\d{{1,4}}(?:[ .-]\d{{2,5}}){{1,3}}[ .-]\d{{2,8}}{_EXTENSION}{_NO}",
        rf"\d(?<![.-].)\d{{1,4}}[ .-]\d{{4,8}}{_EXTENSION}{_NO}",
        rf"0(?<![.-].)\d{{9,11}}{_NO}",
        rf"0(?<![.-].)0\d{{8,15}}{_NO}",
        rf"[2-9](?<![.-].)\d{{2}}[2-9]\d{{6}}(?![{W}-]|\.\d)",
    ),
    "chinese_name": CHINESE_NAME,
}
"""Alternatives of each, in the order of preference where two fit at one place. Each begins with a character, and what
stands before it is looked at behind that one: so the search passes over most places by their character alone."""

KINDS: dict[str, tuple[str, Callable[[str], bool]]] = {
    "email": ("email", always),
    "url": ("url", always),
    "ipv4": ("ip", ip_address),
    "ipv6": ("ip", ip_address),
    "iban": ("iban", iban),
    "card": ("card", luhn),
    "us_ssn": ("national-id", us_ssn),
    "uk_nino": ("national-id", always),
    "fr_nir": ("national-id", fr_nir),
    "cn_id": ("national-id", cn_id),
    "cn_id_15": ("national-id", cn_id_15),
    "cn_mobile": ("phone", always),
    "de_tax_id": ("national-id", de_tax_id),
    "es_dni": ("national-id", es_dni),
    "passport": ("passport", always),
    "phone": ("phone", phone),
    "chinese_name": ("chinese-name", always),
}

_START = rf"(?<![{W}])"
NAMES = tuple(name for name, alternatives in PATTERNS.items() for _ in alternatives)
UNION = re.compile(f"{_START}(?:{'|'.join(f'{one}()' for alternatives in PATTERNS.values() for one in alternatives)})")
COMPILED = {name: re.compile(f"{_START}(?:{'|'.join(alternatives)})") for name, alternatives in PATTERNS.items()}
REST_OF_WORD = re.compile(f"[{W}]*")
EVERY = frozenset(found for found, _ in KINDS.values())
