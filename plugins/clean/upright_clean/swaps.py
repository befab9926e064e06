"""Identity terms swapped in one pass (counterfactual data augmentation: Lu et al., 2018, arXiv:1807.11714)."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from upright_clean.words import cased, is_han, pattern

Edit = tuple[int, int, str]
"""Start, end and new characters: one word of an alphabet, or one Han character."""

FUNCTION_WORDS = frozenset(
    """a about after again against ago all along alone already also although always am among an and any anymore anyway
    are around as asked at away be because been before behind being below beside between both but by came can could did do
    does down during each either else even ever every everything for forever from go had has have he here how however i if
    in inside instead into is it just last later like may me might more much must near never next no not nothing now of off
    often on once one only onto or our out outside over per please rather she should since so some something sometimes soon
    still than that the their them then there these they this those though through till to today together tomorrow tonight
    too toward towards under unless until up upon us was we were what whatever when whenever where whether which while who
    whom why will with within without would yesterday yet you your""".split()
)
"""Words that begin no noun phrase after `her` (so it was an object) or after `his` (so it stood alone)."""


class Swaps:
    """A table of swaps: ``(kind, one, other)``, both ways, the first line wins; kind ``keep`` stays as it is."""

    def __init__(self, lines: Iterable[tuple[str, str, str]]) -> None:
        self.table: dict[str, str] = {}
        self.kind: dict[str, str] = {}
        lines = [(kind, one.lower(), other.lower()) for kind, one, other in lines]
        for kind, one, other in lines:
            for source, target in ((one, other), (other, one)):
                self.table.setdefault(source, target)
                self.kind.setdefault(source, kind)
        # `black man` -> `white woman` where men become women as well: shared words follow their own line.
        phrases = {source: target for source, target in self.table.items() if " " in source}
        for source, target in phrases.items():
            pairs = zip(source.split(), target.split(), strict=True)
            self.table[source] = " ".join(self.table.get(new, new) if old == new else new for old, new in pairs)
        self.pattern = pattern(self.table)

    def find(self, text: str) -> tuple[list[Edit], set[str]]:
        """The edits that swap a text, in order and apart from each other, and the kinds of terms that were found."""
        edits: list[Edit] = []
        kinds: set[str] = set()
        for match in self.pattern.finditer(text):
            old, kind = match.group(), self.kind[match.group().lower()]
            if kind == "keep" or (kind == "names" and not old[0].isupper()):
                continue
            kinds.add(kind)
            new = self._new(old.lower(), text[match.end() :])
            place = match.start()
            units = zip(old, new, strict=True) if is_han(old) else zip(old.split(" "), new.split(" "), strict=True)
            for one, other in units:
                if one.lower() != other:
                    edits.append((place, place + len(one), cased(other, one)))
                place += len(one) + (not is_han(old))
        return edits, kinds

    def _new(self, old: str, after: str) -> str:
        """`her` is `his` before a noun and `him` elsewhere; `his` is `her` before a noun and `hers` elsewhere."""
        if old == "her" and self.table.get("hers") == "his":
            return "his" if _noun_follows(after) else "him"
        if old == "his" and self.table.get("hers") == "his":
            return "her" if _noun_follows(after) else "hers"
        return self.table[old]


def _noun_follows(after: str) -> bool:
    """Whether a word that may begin a noun phrase comes next, with nothing but blanks and opening marks before it."""
    rest = after.lstrip(" \t\n\"'“‘(")
    if rest == after or not rest[:1].isalnum():
        return False
    end = next((n for n, c in enumerate(rest) if not (c.isalnum() or c in "-'’")), len(rest))
    return rest[:end].lower() not in FUNCTION_WORDS


def applied(text: str, edits: list[Edit]) -> str:
    """The text with the edits made."""
    parts, place = [], 0
    for start, end, new in edits:
        parts += [text[place:start], new]
        place = end
    return "".join([*parts, text[place:]])


def swapped(value: str | list[str], swaps: Swaps) -> tuple[Any, int, set[str]]:
    """A text, or a list of as many words, with its terms swapped; how many edits that took; which kinds were found."""
    if isinstance(value, str):
        edits, kinds = swaps.find(value)
        return applied(value, edits), len(edits), kinds
    starts, text = [], ""
    for n, word in enumerate(value):
        glued = not text or (is_han(value[n - 1][-1:]) and is_han(word))
        text += word if glued else " " + word
        starts.append(len(text) - len(word))
    edits, kinds = swaps.find(text)
    words, ahead = [], iter([*edits, (len(text) + 1, 0, "")])
    edit = next(ahead)
    for word, start in zip(value, starts, strict=True):
        own = []
        while edit[0] < start + len(word):  # an edit lies within one word: it holds no blank, or is one Han character
            own.append((edit[0] - start, edit[1] - start, edit[2]))
            edit = next(ahead)
        words.append(applied(word, own))
    return words, len(edits), kinds
