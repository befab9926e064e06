"""A hundred runs that are killed at random moments and resumed; imports nothing heavy, so that a fork is cheap.

Prints, for each, how often it was killed, what its ledger holds and how many draws were released.
"""

from __future__ import annotations

import json
import os
import random
import sys
from pathlib import Path

from upright_privacy.ledger import Ledger, read_ledger

MOMENTS = (*["none"] * 14, "before", "torn", "unsynced", "charged")
LINE = b'{"entry": 1, "noise_multiplier": 1.0, "sample_rate": 0.05, "previous": "'


def one_attempt(path: Path, released: Path, chance: random.Random, updates: int) -> None:
    """Charge and release until the schedule says to die: before a charge, inside one, or between it and the release."""
    ledger = Ledger(path)
    for update in range(updates):
        moment = chance.choice(MOMENTS)
        if moment == "before":
            os._exit(1)
        if moment == "torn":
            with path.open("ab") as out:
                out.write(LINE[: chance.randrange(1, len(LINE))])
            os._exit(1)
        if moment == "unsynced":
            os.fsync = lambda handle: os._exit(1)
        ledger.charge(update=update, noise_multiplier=1.0, sample_rate=0.05)
        if moment == "charged":
            os._exit(1)
        with released.open("ab", buffering=0) as out:
            out.write(b"x")
    os._exit(0)


def schedule(number: int, folder: Path) -> dict[str, int]:
    """Attempts until one ends well."""
    path, released, chance = folder / f"{number}.jsonl", folder / f"{number}.released", random.Random(number)
    released.touch()
    crashes = 0
    while True:
        seed = chance.random()
        child = os.fork()
        if child == 0:
            one_attempt(path, released, random.Random(seed), updates=6)
        if os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0:
            break
        crashes += 1
    return {"crashes": crashes, "charged": len(read_ledger(path)), "released": len(released.read_bytes())}


if __name__ == "__main__":
    print(json.dumps([schedule(number, Path(sys.argv[1])) for number in range(100)]))
