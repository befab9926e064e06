"""`near-dup` beside datasketch and rensa: CPU time, and which pairs each finds, against the exact search over all pairs.

50,000 different paragraphs of docstrings of the installed packages, and 10,000 copies of some of them in which up to a tenth
of the words are replaced, left out or put in. All three take word trigrams, 128 permutations and the same bands; ours is
timed from the rows to the decisions, verification included, the others from the texts to the pairs of their LSH,
which they do not verify. Last comes the growth to a million rows.

    make bench-clean
"""

from __future__ import annotations

import gc
import random
import re
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import scipy.sparse as sparse
import torch
from datasets import Dataset
from loop import interleave, ratio

sys.path.insert(0, str(Path(__file__).parents[1]))
from all_pairs import shingle_set

from upright_clean.inputs import joined
from upright_clean.minhash import band_rows
from upright_clean.near_dup import NearDup
from upright_clean.near_pairs import near_pairs
from upright_clean.shingles import BETWEEN, shingles

REAL, COPIES, BLOCKS, BOUND = 50_000, 10_000, 7, 12.0
THRESHOLD, NUM_PERM, NGRAM = 0.7, 128, 3
SIZES = (50_000, 100_000, 200_000, 500_000, 1_000_000)
STEP = NearDup(threshold=THRESHOLD, num_perm=NUM_PERM, ngram=NGRAM)
BAND = band_rows(THRESHOLD, NUM_PERM)
RUN: Any = SimpleNamespace(device=torch.device("cpu"), emit=lambda *a, **k: None, key=lambda step: "near-dup")


def paragraphs() -> list[str]:
    """Different paragraphs of at least 20 words of the docstrings of all that is installed, in a seeded order."""
    found: dict[str, None] = {}
    for place in sorted({Path(name) for name in sys.path if name and Path(name).is_dir()}):
        for path in sorted(place.rglob("*.py")):
            for text in re.findall(r'"""(.*?)"""', path.read_text(encoding="utf-8", errors="ignore"), re.DOTALL):
                for paragraph in re.split(r"\n\s*\n", text):
                    if len(paragraph.split()) >= 20:
                        found[" ".join(paragraph.split())] = None
    texts = list(found)
    random.Random(1).shuffle(texts)
    return texts


def edit(text: str, draw: random.Random) -> str:
    """Up to a tenth of the words replaced, left out, or with another before them."""
    words = text.split()
    for place in draw.sample(range(len(words)), draw.randint(1, max(1, len(words) // 10))):
        other = draw.choice(words)
        words[place] = draw.choice([other, "", f"{other} {words[place]}"])
    return " ".join(words)


def corpus(count: int) -> list[str]:
    """``count`` rows, a sixth of them copies; past the real paragraphs every third word is drawn anew."""
    draw, real = random.Random(2), paragraphs()
    words = sorted({word for text in real[:5000] for word in text.split()})
    draw.shuffle(words)
    own = count - count // 6
    texts = real[: min(own, REAL)]
    for n in range(own - len(texts)):
        other = real[n % REAL].split()
        start = draw.randrange(len(words))
        other[1::3] = [words[(start + place) % len(words)] for place in range(len(other[1::3]))]
        texts.append(" ".join(other))
    return texts + [edit(draw.choice(texts), draw) for _ in range(count - own)]


def rows_of(texts: list[str]) -> Dataset:
    """The rows as `near-dup` gets them."""
    return Dataset.from_dict({"row_id": [f"{n:016x}" for n in range(len(texts))], "text": texts})


def truth(texts: list[str]) -> Iterator[tuple[int, int, float]]:
    """All pairs at the threshold or above with their similarity: products of the sparse matrix of texts and shingles."""
    number: dict[tuple[str, ...], int] = {}
    sets = [[number.setdefault(shingle, len(number)) for shingle in shingle_set(text, NGRAM)] for text in texts]
    sizes = np.array([len(found) for found in sets])
    where = np.concatenate([[0], np.cumsum(sizes)])
    flat = np.concatenate([np.array(found, np.int64) for found in sets])
    matrix = sparse.csr_array((np.ones(len(flat), np.int32), flat, where), shape=(len(texts), len(number)))
    transposed = matrix.T.tocsr()
    for start in range(0, len(texts), 1000):
        shared = (matrix[start : start + 1000] @ transposed).tocoo()
        one, other = shared.row + start, shared.col
        alike = shared.data / (sizes[one] + sizes[other] - shared.data)
        for n in np.flatnonzero((alike >= THRESHOLD) & (one < other)).tolist():
            yield int(one[n]), int(other[n]), float(alike[n])


def pairs_of(texts: list[str]) -> set[tuple[int, int]]:
    """What ours verifies."""
    values, offsets = shingles(joined(rows_of(texts), BETWEEN), NGRAM)
    place = np.flatnonzero(np.diff(offsets))
    lengths = np.diff(offsets)[place]
    left, right, _ = near_pairs(values, offsets[place], lengths, np.zeros(len(place), np.int64), THRESHOLD, NUM_PERM)
    return set(zip(place[left].tolist(), place[right].tolist(), strict=True))


def trigrams(text: str) -> set[str]:
    """How the documentation of both packages makes shingles."""
    words = re.findall(r"\w+", text.lower())
    return {" ".join(words[n : n + NGRAM]) for n in range(max(1, len(words) - NGRAM + 1))}


def with_datasketch(texts: list[str]) -> set[tuple[int, int]]:
    """MinHash of batches, then one LSH index that is asked for each text."""
    from datasketch import MinHash, MinHashLSH

    sets = [[shingle.encode() for shingle in trigrams(text)] for text in texts]
    sketches = MinHash.bulk(sets, num_perm=NUM_PERM)
    index = MinHashLSH(num_perm=NUM_PERM, params=(NUM_PERM // BAND, BAND))
    found = set()
    for n, sketch in enumerate(sketches):
        found |= {(other, n) for other in index.query(sketch)}
        index.insert(n, sketch, check_duplication=False)
    return found


def with_rensa(texts: list[str]) -> set[tuple[int, int]]:
    """R-MinHash of all texts at once, then one LSH index that is asked for all."""
    from rensa import RMinHash, RMinHashLSH

    sketches = RMinHash.from_token_sets([list(trigrams(text)) for text in texts], NUM_PERM, 42)
    index = RMinHashLSH(THRESHOLD, NUM_PERM, BANDS)
    index.insert_many(sketches)
    return {(n, other) for n, found in enumerate(index.query_all(sketches)) for other in found if n < other}


BANDS = next(count for count in range(NUM_PERM // BAND, NUM_PERM + 1) if NUM_PERM % count == 0)
"""rensa wants a divisor of the permutations; the next one over ours finds more."""


def quality(texts: list[str], finders: dict[str, Callable[[list[str]], set[tuple[int, int]]]]) -> bool:
    """Print one line for each; whether ours keeps the bounds."""
    exact = {(one, other): alike for one, other, alike in truth(texts)}
    fine = True
    print(f"\n{len(exact)} pairs are alike at {THRESHOLD} or more\n")
    print("| | recall, J >= .7 | J >= .8 | precision |\n|---|---|---|---|")
    for name, finder in finders.items():
        found = finder(texts)
        recall = [
            len([pair for pair, alike in exact.items() if alike >= bound and pair in found])
            / sum(alike >= bound for alike in exact.values())
            for bound in (0.7, 0.8)
        ]
        precision = len(found & exact.keys()) / len(found)
        print(f"| {name} | {recall[0]:.4f} | {recall[1]:.4f} | {precision:.4f} |", flush=True)
        if name == "upright":
            fine = recall[0] >= 0.94 and recall[1] >= 0.98 and precision >= 0.999
    return fine


def speed(texts: list[str]) -> bool:
    """Print the ratios of CPU times; whether the bound is kept."""
    rows = rows_of(texts)
    gc.collect()
    gc.freeze()  # else whoever is measured pays for looking through the texts
    times = interleave(
        {
            "upright": lambda _: STEP.clean(rows, "train", RUN),
            "datasketch": lambda _: with_datasketch(texts),
            "rensa": lambda _: with_rensa(texts),
        },
        BLOCKS,
        1,
    )
    print("\n| | CPU seconds | rows a second | upright is faster by |\n|---|---|---|---|")
    for name, seconds in times.items():
        middle = float(np.median(seconds))
        mid, low, high = ratio(seconds, times["upright"])
        print(f"| {name} | {middle:.2f} | {len(texts) / middle:,.0f} | {mid:.1f} [{low:.1f}, {high:.1f}] |", flush=True)
    return ratio(times["datasketch"], times["upright"])[1] >= BOUND


def grown(count: int) -> None:
    """Print one line of the growth, in a process of its own."""
    rows = rows_of(corpus(count))
    gc.collect()
    told: dict[str, int] = {}
    run = SimpleNamespace(**vars(RUN) | {"emit": lambda event, **fields: told.update(fields)})
    started = time.process_time()
    decisions = STEP.clean(rows, "train", run)
    seconds = time.process_time() - started
    print(
        f"| {count:,} | {seconds:.2f} | {1e6 * seconds / count:.1f} | {len(decisions):,} | "
        f"{told['bytes'] / 2**20:.0f} |",
        flush=True,
    )


def main() -> int:
    """Print the tables; 1 where a bound is missed."""
    if sys.argv[1:]:
        grown(int(sys.argv[1]))
        return 0
    torch.set_num_threads(1)
    texts = corpus(REAL + COPIES)
    print(f"{len(texts)} texts, {sum(map(len, texts)) / 1e6:.1f} MB")
    fine = quality(
        texts,
        {
            "upright": pairs_of,
            "datasketch": with_datasketch,
            "rensa": with_rensa,
        },
    )
    fine &= speed(texts)
    print("\n| rows | CPU seconds | microseconds a row | decisions | MiB told by `plan` |")
    print("|---|---|---|---|---|", flush=True)
    for count in SIZES:
        subprocess.run([sys.executable, __file__, str(count)], check=True)
    return int(not fine)


if __name__ == "__main__":
    sys.exit(main())
