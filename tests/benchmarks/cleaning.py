"""What cleaning costs core: memory by the number of rows, and the ledger's part of its CPU time.

Rows are made: sentences of random words, every tenth with a defect for `unicode`, every twentieth too short for `length`.
Memory is the peak of a process's own pages (RssAnon): pages of mapped files can be given back at any time and are not
counted.

    make bench-cleaning
"""

from __future__ import annotations

import argparse
import json
import os
import random
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

SIZES = (10_000, 100_000, 1_000_000)
STACK = "name: bench\ndata: {train: t.jsonl, clean_workers: WORKERS}\nclean: [unicode, {use: length, min_words: 4}]\n"


def write(path: Path, rows: int) -> None:
    """``rows`` lines of about 110 characters."""
    pick = random.Random(3)
    words = ["".join(pick.choices("abcdefghijklmnop", k=pick.randint(2, 9))) for _ in range(5000)]
    with path.open("w", encoding="utf-8") as out:
        for number in range(rows):
            chosen = pick.choices(words, k=3 if number % 20 == 7 else 18)
            if number % 10 == 3:
                chosen[0] = "caf\u00c3\u00a9"
            out.write(json.dumps({"text": " ".join(chosen), "label": "ab"[number % 2]}) + "\n")


def anonymous() -> float:
    """MiB of this process's own pages."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("RssAnon:"):
            return int(line.split()[1]) / 1024
    return float("nan")


def timed(seconds: list[float], function: Callable[..., Any]) -> Callable[..., Any]:
    """The function, its CPU time added up in ``seconds``."""

    def call(*given: Any, **named: Any) -> Any:
        started = time.process_time()
        result = function(*given, **named)
        seconds[0] += time.process_time() - started
        return result

    return call


def one(folder: Path) -> None:
    """One run in this process; prints its figures as JSON."""
    from upright import Stack
    from upright.engine import cleaning, execute
    from upright.evidence import ledger
    from upright.progress import quiet_libraries

    quiet_libraries()
    peak, done = [anonymous()], threading.Event()

    def look() -> None:
        while not done.wait(0.02):
            peak[0] = max(peak[0], anonymous())

    noted, cleaned, loaded = [0.0], [0.0], [0.0]
    ledger.part = timed(noted, ledger.part)
    cleaning.write_ledger = timed(noted, cleaning.write_ledger)
    cleaning.fingerprint = timed(noted, cleaning.fingerprint)
    execute.load_data = timed(loaded, execute.load_data)  # type: ignore[attr-defined]
    before = peak[0]
    threading.Thread(target=look, daemon=True).start()
    os.chdir(folder)
    run = execute.execute(Stack.load("stack.yaml"), clean=timed(cleaned, cleaning.clean))
    done.set()
    print(
        json.dumps(
            {
                "start": before,
                "peak": peak[0],
                "cleaned": cleaned[0],
                "noted": noted[0],
                "loaded": loaded[0],
                "bytes": (run.folder / "data" / "ledger.parquet").stat().st_size,
                "decisions": len(ledger.read_ledger(run.folder)),
            }
        )
    )


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--one", type=Path)
    parser.add_argument("--sizes", type=int, nargs="+", default=SIZES)
    parser.add_argument("--workers", type=int, default=1)
    given = parser.parse_args()
    if given.one:
        one(given.one)
        return
    print("| rows | own MiB at the start | at the peak | reading, CPU s | cleaning, CPU s | its ledger | bytes each |")
    print("|---|---|---|---|---|---|---|")
    for size in given.sizes:
        with tempfile.TemporaryDirectory() as name:
            folder = Path(name)
            write(folder / "t.jsonl", size)
            (folder / "stack.yaml").write_text(STACK.replace("WORKERS", str(given.workers)))
            done = subprocess.run([sys.executable, __file__, "--one", name], capture_output=True, text=True, check=True)
            told = json.loads(done.stdout.strip().split("\n")[-1])
        print(
            f"| {size:,} | {told['start']:.0f} | {told['peak']:.0f} | {told['loaded']:.1f} | {told['cleaned']:.2f} | "
            f"{told['noted'] / told['cleaned']:.1%} | {told['bytes'] / told['decisions']:.1f} |",
            flush=True,
        )


if __name__ == "__main__":
    main()
