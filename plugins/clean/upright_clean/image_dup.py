"""Pictures that show the same, however they were resized, encoded again or trimmed: by perceptual hash."""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from pydantic import Field

from upright import Decisions, Scope, Step, hook
from upright_clean.media import Unreadable, data, files, needs

if TYPE_CHECKING:
    import numpy as np
    from datasets import Dataset

    from upright import Run

FLAT = 10.0
"""Standard deviation of luma, of 255, below which a picture has nothing that a hash could hold on to: only the same one
repeats it. Of the tiles of scikit-learn's china.jpg, encoding anew turned up to 28 of 64 bits below 8, and 4 above 17."""
BATCH = 256


class ImageDup(Step):
    """Drop pictures that show what another one shows, after scaling, encoding anew or slight cropping.

    Pictures whose 64-bit perceptual hashes (pHash) are close are compared in colour, and only those that agree there are
    duplicates. The largest picture stays. Of train pictures that stand in validation or test as well, the train picture
    goes. A picture that is near one that goes, but near none that stays, is kept and flagged. Pages of text look alike at
    this size: for scans set `max_distance: 0`. Holds 0.8 KB a picture in memory.
    """

    scope: ClassVar[Scope] = Scope(reads=frozenset({"validation", "test"}))

    max_distance: int = Field(10, ge=0, le=16, description="Most bits of 64 in which the hashes of duplicates differ.")
    min_correlation: float = Field(
        0.85, ge=-1, le=1, description="Least correlation of duplicates at 16 x 16 pixels in colour."
    )
    other_label: Literal["flag", "drop"] = Field(
        "flag", description="What becomes of a repeated picture whose label differs from the first one's."
    )

    @hook
    def clean(self, rows: Dataset, split: str, run: Run) -> Decisions:
        needs(self, run, "PIL")
        decisions = Decisions()
        pictures = Pictures()
        for row_id, label, value in self._labelled(rows, run):
            try:
                pictures.add(split, row_id, label, data(value))
            except Unreadable as error:
                decisions.add(row_id, "flag", error.reason)
        order = list(run.data)
        for later in order[order.index(split) + 1 :] if split in ("train", "validation") else ():
            for row_id, label, value in self._labelled(run.data[later], run):
                try:
                    pictures.add(later, row_id, label, data(value))
                except Unreadable:  # told when that split is asked about
                    continue
        self._decide(split, pictures, decisions)
        return decisions

    def _labelled(self, rows: Dataset, run: Run) -> Iterator[tuple[str, Any, dict[str, Any] | None]]:
        labels = rows["label"] if "label" in rows.column_names else (None for _ in range(len(rows)))
        for (row_id, value), label in zip(files(rows, "image", self, run), labels, strict=True):
            yield row_id, label, value

    def _decide(self, split: str, pictures: Pictures, decisions: Decisions) -> None:
        """Best picture first: it goes if one that stays, or one of a later split, shows the same."""
        near = pictures.neighbours(self.max_distance, self.min_correlation)
        fate: dict[int, str] = {}
        for place in sorted(range(len(pictures.row_ids)), key=pictures.rank):
            if pictures.splits[place] != split:
                continue
            row_id, label = pictures.row_ids[place], pictures.labels[place]
            closest = sorted(near[place], key=lambda other: (other[0], pictures.rank(other[1])))
            examined = [pair for pair in closest if pictures.splits[pair[1]] != split]
            kept = [pair for pair in closest if fate.get(pair[1]) == "kept"]
            same = [pair for pair in kept if pictures.labels[pair[1]] == label]
            gone = [pair for pair in closest if fate.get(pair[1]) == "gone"]
            found, action, reason = (
                (examined, "drop", "also-in-" + pictures.splits[examined[0][1]])
                if examined
                else (same, "drop", "same-picture")
                if same
                else (kept, self.other_label, "same-picture-other-label")
                if kept
                else (gone, "flag", "near-a-dropped-picture")
            )
            fate[place] = "gone" if found and action == "drop" else "kept"
            if found:
                distance, other = found[0]
                evidence = pictures.row_ids[other]
                score, threshold = float(distance), float(self.max_distance)
                decisions.add(row_id, action, reason, score=score, threshold=threshold, evidence=evidence)


@dataclass
class Pictures:
    """What is kept of each picture that was read: one entry a picture in every list."""

    splits: list[str] = field(default_factory=list)
    row_ids: list[str] = field(default_factory=list)
    labels: list[Any] = field(default_factory=list)
    sizes: list[int] = field(default_factory=list)
    digests: list[int] = field(default_factory=list)
    hashes: list[np.ndarray] = field(default_factory=list)
    colours: list[np.ndarray] = field(default_factory=list)
    flat: list[bool] = field(default_factory=list)
    waiting: list[np.ndarray] = field(default_factory=list)

    def add(self, split: str, row_id: str, label: Any, content: bytes) -> None:
        """Raises Unreadable."""
        from upright_clean.perceptual import small

        picture, pixels = small(content)
        self.waiting.append(picture)
        self.splits.append(split)
        self.row_ids.append(row_id)
        self.labels.append(label)
        self.sizes.append(pixels)
        if len(self.waiting) == BATCH:
            self._hash()

    def rank(self, place: int) -> tuple[int, str]:
        """The largest first; of equal ones by row_id, which does not depend on order."""
        return -self.sizes[place], self.row_ids[place]

    def neighbours(self, distance: int, correlation: float) -> dict[int, list[tuple[int, int]]]:
        """Place -> (bits that differ, other place) of each picture that shows the same."""
        import numpy as np

        from upright_clean.perceptual import close_pairs, correlations

        self._hash()
        found: dict[int, list[tuple[int, int]]] = defaultdict(list)
        if not self.row_ids:
            return found
        digests, flat = np.array(self.digests, dtype=np.uint64), np.array(self.flat)
        hashes = np.where(flat, digests, np.concatenate(self.hashes))
        colours = np.concatenate(self.colours)
        equal, place = self._equal()
        one, other = close_pairs(hashes[equal], distance)
        one, other = equal[one], equal[other]
        same = (correlations(colours, one, other) >= correlation) & ~flat[one] & ~flat[other]
        same |= digests[one] == digests[other]
        bits = np.bitwise_count(hashes[one] ^ hashes[other])
        for i, j, differ in zip(one[same].tolist(), other[same].tolist(), bits[same].tolist(), strict=True):
            found[i].append((differ, j))
            found[j].append((differ, i))
        for repeated, first in place.items():
            found[repeated] = [(0, first), *found[first]]
        return found

    def _equal(self) -> tuple[np.ndarray, dict[int, int]]:
        """The best of each set of equal pictures with one label in one split, and the others with theirs: a picture that
        is there a million times makes no million squared pairs."""
        import numpy as np

        best: dict[tuple[Any, ...], int] = {}
        others: dict[int, int] = {}
        for place in sorted(range(len(self.row_ids)), key=self.rank):
            first = best.setdefault((self.splits[place], self.digests[place], self.labels[place]), place)
            if first != place:
                others[place] = first
        return np.array(sorted(best.values()), dtype=np.int64), others

    def _hash(self) -> None:
        import numpy as np

        from upright_clean.perceptual import luma, phash

        if not self.waiting:
            return
        pictures = np.stack(self.waiting)
        self.waiting.clear()
        self.hashes.append(phash(pictures))
        self.colours.append(pictures.reshape(-1, 16, 2, 16, 2, 3).mean((2, 4)).round().astype(np.uint8))
        self.flat += (luma(pictures).std(axis=(1, 2)) < FLAT).tolist()
        self.digests += [
            int.from_bytes(hashlib.blake2b(picture.tobytes(), digest_size=8).digest()) for picture in pictures
        ]
