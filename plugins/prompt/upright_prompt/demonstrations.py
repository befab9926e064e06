"""The pool of demonstrations, and which of them stand before a record."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from upright_prompt.rows import best

if TYPE_CHECKING:
    import numpy as np
    import torch

QUERIES = 1024
"""Queries whose cosines with the whole pool are held at a time."""

Embed = Callable[[list[str]], "np.ndarray"]


@dataclass(frozen=True)
class Demonstration:
    """A solved record: its row_id (or number), the normal form of what it asks, the columns it shows, how it reads."""

    name: str
    key: str
    values: dict[str, str]
    label: str
    text: str


@dataclass
class Pool:
    """What may be shown, each text once, and how many of it at a time.

    ``turns`` are the classes in the order in which they take turns, each a list of places in the pool. ``nearest`` holds
    for the key of a text the places of its neighbours, nearest first.
    """

    members: list[Demonstration]
    shots: int
    held_out: int = 0
    repeated: int = 0
    turns: list[list[int]] = field(default_factory=list)
    embeddings: np.ndarray | None = None
    nearest: dict[str, list[int]] = field(default_factory=dict)

    def shuffle(self, generator: torch.Generator, *, by_class: bool) -> None:
        """Put the pool, or each class of it and the classes, in a random order, once for the run."""
        import torch

        classes: dict[str, list[int]] = {}
        for place in torch.randperm(len(self.members), generator=generator).tolist():
            classes.setdefault(self.members[place].label if by_class else "", []).append(place)
        names = sorted(classes)
        self.turns = [classes[names[n]] for n in torch.randperm(len(names), generator=generator).tolist()]

    def in_turn(self, key: str) -> list[Demonstration]:
        """One of each class and again from the first, as long as there are any, without the record ``key`` itself."""
        left = [(place for place in turn if self.members[place].key != key) for turn in self.turns]
        found: list[Demonstration] = []
        while left and len(found) < self.shots:
            drawn = [next(members, None) for members in left]
            left = [members for members, place in zip(left, drawn, strict=True) if place is not None]
            found += [self.members[place] for place in drawn if place is not None]
        return found[: self.shots]

    def neighbours(self, key: str, values: Mapping[str, str], embed: Embed) -> list[Demonstration]:
        """The most similar ones without the record itself, the most similar last."""
        places = self.nearest[key] if key in self.nearest else self.find({key: values}, embed)[key]
        others = [self.members[place] for place in places if self.members[place].key != key]
        return others[: self.shots][::-1]

    def find(self, queries: Mapping[str, Mapping[str, str]], embed: Embed) -> dict[str, list[int]]:
        """Places of the highest cosines for each query: one more than is shown, since the record may be in the pool."""
        if self.embeddings is None:
            self.embeddings = embed([shown(member.values) for member in self.members])
        keys, embedded = list(queries), embed([shown(values) for values in queries.values()])
        found: dict[str, list[int]] = {}
        for start in range(0, len(keys), QUERIES):
            cosines = embedded[start : start + QUERIES] @ self.embeddings.T
            found |= {keys[start + n]: best(row, self.shots + 1) for n, row in enumerate(cosines)}
        return found


def without_own(members: Sequence[Demonstration], key: str) -> list[Demonstration]:
    """The given examples, without one that is the record itself."""
    return [member for member in members if member.key != key]


def shown(values: Mapping[str, str]) -> str:
    """What is embedded of a record: all that its template shows, without the answer."""
    return " ".join(values.values())
