"""What HTML leaves in a text, found by patterns that read each character a bounded number of times.

A tree builder is no choice here: it takes `a <b and c` for an unclosed element and loses the rest, and deeply nested input
costs it quadratic time. So only what is surely a tag counts: the name of an HTML element (HTML Living Standard, index of
elements) with well-formed attributes, closed by `>`. Every repetition is possessive or stops at the next `<`.
"""

from __future__ import annotations

import re
from html import unescape

BLOCKS = (
    "address article aside blockquote body br caption center colgroup dd details dialog dir div dl dt fieldset figcaption "
    "figure footer form frameset h1 h2 h3 h4 h5 h6 head header hgroup hr html legend li main menu nav ol optgroup option p "
    "pre search section select summary table tbody template textarea tfoot thead title tr ul"
).split()
CELLS = ("td", "th")
INLINE = (
    "a abbr acronym area audio b base basefont bdi bdo big button canvas cite code col data datalist del dfn em embed font "
    "frame i iframe img input ins kbd label link map mark meta meter noframes noscript object output param picture progress "
    "q rp rt ruby samp script slot small source span strike strong style sub sup svg time track tt u var video wbr"
).split()
"""Without `s`, which marks the ends of a sequence in many prompts."""
ALONE = "body br dd dt head hr html li option p tbody td tfoot th thead tr wbr".split()
"""Elements whose opening tag stands without attributes and without an end tag: void, or the end may be left out."""
UNSEEN = ("script", "style", "template", "noframes")
"""Elements whose content nobody reads."""
AROUND = ("nav", "footer", "aside", "menu", "button", "select", "svg")
"""Elements that hold what stands around the text of a page."""

_NAMES = "|".join(sorted((*BLOCKS, *CELLS, *INLINE), key=len, reverse=True))
_FLAGS = (
    "allowfullscreen|async|autofocus|autoplay|checked|compact|controls|default|defer|disabled|hidden|inert|ismap|itemscope|"
    "loop|multiple|muted|nohref|noshade|novalidate|nowrap|open|playsinline|readonly|required|reversed|selected"
)
_VALUE = r"\"[^\"<]*+\"|'[^'<]*+'|[^\s\"'<>=`]++"
_ATTRIBUTES = rf"(?:\s++(?:[A-Za-z_:@][\w:.@-]*+\s*+=\s*+(?:{_VALUE})|(?:{_FLAGS})(?=[\s/>])))*+"
TAG = re.compile(rf"<(/?)({_NAMES})(?![\w:.-]){_ATTRIBUTES}\s*+/?>", re.IGNORECASE)
COMMENT = re.compile(r"<!--(?:(?!<!--|-->).)*+-->|<!doctype\b[^<>]*+>|<\?xml\b[^<>]*+>", re.IGNORECASE | re.DOTALL)
ENTITY = re.compile(r"&(?:#[0-9]{1,7}|#[xX][0-9a-fA-F]{1,6}|[A-Za-z][A-Za-z0-9]{1,31});")
SEEN = r"<[A-Za-z/!?]|&[#A-Za-z]"
"""RE2: a text without a match has neither tags nor entities."""


def _elements(names: tuple[str, ...]) -> re.Pattern[str]:
    """Whole elements of these names; one that opens again before it is closed counts from its last opening."""
    return re.compile(
        rf"<({'|'.join(names)})\b{_ATTRIBUTES}\s*+>(?:(?!<\1\b|</\1\b).)*+</\1\s*+>", re.IGNORECASE | re.DOTALL
    )


_UNSEEN, _AROUND = _elements(UNSEEN), _elements(AROUND)


def without_tags(text: str, *, around: bool) -> str:
    """The text without tags, comments and unseen elements, and without what stands ``around`` it where that is asked for.

    Blocks end lines, cells are set apart by a blank. White space is that of the text where there was no tag, else runs
    of it count once, as a browser shows it. A bare opening tag that needs an end counts only where that end is there:
    ``<time>`` is a placeholder in many data sets.
    """
    if "<" not in text:
        return text
    bare = COMMENT.sub("", text)
    bare = _UNSEEN.sub("", bare)
    if around:
        bare = _AROUND.sub("\n", bare) or bare
    found = list(TAG.finditer(bare))
    closed = {tag[2].lower() for tag in found if tag[1]}

    def shown(tag: re.Match[str]) -> str:
        name = tag[2].lower()
        if len(tag[0]) == len(name) + 2 and name not in ALONE and name not in closed:
            return tag[0]
        return "\n" if name in BLOCKS else " " if name in CELLS else ""

    bare = TAG.sub(shown, bare)
    if bare == text or any(tag[2].lower() == "pre" for tag in found):
        return bare
    lines = [" ".join(line.split()) for line in bare.splitlines()]
    return re.sub(r"\n{3,}+", "\n\n", "\n".join(lines)).strip()


def without_entities(text: str) -> str:
    """Character references that end in a semicolon, decoded once; a no-break space becomes a blank."""
    return ENTITY.sub(lambda found: unescape(found[0]).replace("\xa0", " "), text) if "&" in text else text
