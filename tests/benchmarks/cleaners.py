"""Rows a second of the row-local text cleaners on real rows, and what they decide there; CPU time, median of seven rounds.

The second table is of `language` on davidson_dialect's test rows: what goes of each dialect, and what the likeliest language
alone would say. The third is of `leakage`: ChnSentiCorp's test rows that repeat a train row, as the folder stands (3,500 of
9,600 train rows) and with the leaked ones of the others put back: each is equal to a dev or test row that `in_full_train`
names.

    make bench-cleaners
"""

from __future__ import annotations

import json
import os
import statistics
import time
from collections import Counter
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from datasets import Dataset

from upright_clean.language import Language
from upright_clean.leakage import Leakage
from upright_clean.length import Length
from upright_clean.markup import Markup
from upright_clean.quality import Quality
from upright_clean.unicode import Unicode

ROOT = Path(__file__).parents[2]
DATA = Path(os.environ.get("UPRIGHT_DATA", ROOT.parent / "shared" / "data"))
ROUNDS = 7
SETS = {"banking77/train": "en", "davidson_dialect/train": "en", "chnsenticorp/train": "zh", "medquad/qa": "en"}


def read(name: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (DATA / f"{name}.jsonl").read_text(encoding="utf-8").splitlines()]


def rows(given: list[dict[str, Any]], prefix: str = "") -> Dataset:
    texts = [row.get("text") or row["answer"] for row in given]
    return Dataset.from_dict({"row_id": [f"{prefix}{n:06}" for n in range(len(texts))], "text": texts})


def speeds() -> None:
    print("| rows | cleaner | rows/s | decisions |\n|---|---|---|---|")
    for name, language in SETS.items():
        data = rows(read(name))
        steps = [Length(), Unicode(), Markup(), Quality(), Language(keep=[language])]
        took: dict[int, list[float]] = {}
        found: dict[int, Any] = {}
        for turn in range(ROUNDS + 1):  # the first one loads models
            for place, step in enumerate(steps):
                given = (data, SimpleNamespace()) if isinstance(step, Language) else (data,)
                start = time.process_time()
                found[place] = step.clean(*given)
                if turn:
                    took.setdefault(place, []).append(time.process_time() - start)
        for place, step in enumerate(steps):
            speed = len(data) / statistics.median(took[place])
            actions = Counter(found[place].columns["action"])
            told = ", ".join(f"{count} {action}" for action, count in sorted(actions.items())) or "none"
            print(f"| {name} ({len(data):,}) | {type(step).__name__.lower()} | {speed:,.0f} | {told} |")


def leaks() -> None:
    train, dev, test = (read(f"chnsenticorp/{name}") for name in ("train", "dev", "test"))
    back = [row for row in (*dev, *test) if row["in_full_train"]]
    print(
        "\n| train rows | leaked test rows | found | missed | false | nearly the same | seconds |"
        "\n|---|---|---|---|---|---|---|"
    )
    for held in (train, [*train, *back]):
        run: Any = SimpleNamespace(data={"train": rows(held, "a"), "test": rows(test, "b")})
        start = time.process_time()
        decided = Leakage().clean(run.data["test"], "test", run).rows
        took = time.process_time() - start
        texts = {" ".join(row["text"].split()) for row in held}
        leaked = {
            f"b{n:06}" for n, row in enumerate(test) if row["in_full_train"] and " ".join(row["text"].split()) in texts
        }
        found = {one["row_id"] for one in decided if one["reason"] == "also-in-train"}
        nearly = len(decided) - len(found)
        print(
            f"| {len(held):,} | {len(leaked)} | {len(found & leaked)} | {len(leaked - found)} | {len(found - leaked)} | "
            f"{nearly} | {took:.2f} |"
        )


def dialects() -> None:
    from py3langid.langid import MODEL_FILE, LanguageIdentifier

    likeliest = LanguageIdentifier.from_model_file(MODEL_FILE, norm_probs=True).classify
    given = read("davidson_dialect/test")
    decided = Language(keep=["en"]).clean(rows(given), SimpleNamespace()).rows  # type: ignore[arg-type]
    dropped = {int(one["row_id"]) for one in decided if one["action"] == "drop"}
    flagged = {int(one["row_id"]) for one in decided if one["action"] == "flag"}
    print(
        "\n| dialect | rows | dropped | flagged | likeliest language another one, at .5 or more |\n|---|---|---|---|---|"
    )
    for dialect in ("white", "aae"):
        among = {n for n, row in enumerate(given) if row["dialect"] == dialect}
        guesses = [likeliest(given[n]["text"]) for n in among]
        other = sum(language != "en" and share >= 0.5 for language, share in guesses) / len(among)
        shares = (len(dropped & among) / len(among), len(flagged & among) / len(among), other)
        print(f"| {dialect} | {len(among)} | " + " | ".join(f"{share:.4f}" for share in shares) + " |")


if __name__ == "__main__":
    speeds()
    dialects()
    leaks()
