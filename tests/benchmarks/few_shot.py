"""What a model of 260 thousand parameters can and cannot do without training: prints one line of docs/results.md each.

Two tasks: how a child feels at the end of a made-up story of the kind that the model was trained on, and whether a tweet is
toxic. Every way of asking that is printed was tried once; nothing was chosen on test.

    make results-prompts
"""

from __future__ import annotations

import json
import os
import random
import sys
import tempfile
from collections import Counter
from pathlib import Path
from typing import Any

from upright import Stack
from upright.progress import quiet_libraries

ROOT = Path(__file__).parents[2]
DATA = Path(os.environ.get("UPRIGHT_DATA", ROOT.parent / "shared" / "data"))
MODELS = Path(os.environ.get("UPRIGHT_MODELS", ROOT.parent / "shared" / "models"))
GLAD = [
    "got a new ball",
    "found a big cake",
    "played with a nice friend",
    "saw a pretty bird",
    "won the game",
    "got a hug",
]
SORRY = [
    "lost a red toy",
    "fell and got hurt",
    "broke the big cup",
    "could not find mom",
    "lost the game",
    "had no friend",
]
CALM = ["One day, {name} went to the park. ", "It was a sunny day. ", "{name} liked to play. ", ""]
SHOTS: list[dict[str, Any]] = [
    {"shots": 4, "selection": "random"},
    {"shots": 4, "selection": "balanced"},
    {"shots": 8, "selection": "balanced"},
    {"shots": 8, "selection": "nearest"},
]


def stories(count: int, seed: int) -> list[dict[str, str]]:
    """Short made-up stories that end well or badly."""
    draw = random.Random(seed)
    rows = []
    for number in range(count):
        name, glad = draw.choice(["Lily", "Tom", "Sue", "Ben", "Mia", "Max"]), number % 2 == 0
        text = draw.choice(CALM).format(name=name) + f"{name} {draw.choice(GLAD if glad else SORRY)}."
        rows.append({"text": text, "name": name, "label": "happy" if glad else "sad"})
    return rows


def tweets(split: str) -> list[dict[str, str]]:
    """davidson_dialect: hate and offensive are toxic."""
    lines = (DATA / "davidson_dialect" / f"{split}.jsonl").read_text(encoding="utf-8").splitlines()
    rows = [json.loads(line) for line in lines]
    return [{"text": row["text"], "label": "nice" if row["label"] == "neither" else "mean"} for row in rows]


def ways(pattern: str) -> dict[str, list[Any]]:
    """Name of a way of asking -> the ``prompt`` section; ``pattern`` holds ``{label}`` where the answer goes."""
    question = {"use": "template", "text": pattern.partition("{label}")[0].rstrip()}
    found: dict[str, list[Any]] = {
        "zero-shot": [question, "verbalizer"],
        "zero-shot, calibrated": [question, "verbalizer", "calibrate"],
    }
    for shots in SHOTS:
        name = f"{shots['shots']} examples, {shots['selection']}"
        found[name] = [{"use": "few-shot", "template": pattern, "separator": "\n", **shots}, "verbalizer"]
    return found


def main() -> int:
    """Print the table."""
    quiet_libraries()
    if not (MODELS / "stories260k").is_dir() or not DATA.is_dir():
        print(f"needs {MODELS / 'stories260k'} and {DATA}; set UPRIGHT_MODELS and UPRIGHT_DATA")
        return 1
    tasks = {
        "story endings (made up)": (stories(60, 1), stories(400, 2), "{text} {name} was very {label}"),
        "toxic tweets": (tweets("train"), tweets("test"), 'Tom said: "{text}" That was {label}'),
    }
    print("| task | asked | accuracy | most frequent class |\n|---|---|---|---|", flush=True)
    for task, (train, test, pattern) in tasks.items():
        most = Counter(row["label"] for row in test).most_common(1)[0][1] / len(test)
        for way, prompts in ways(pattern).items():
            with tempfile.TemporaryDirectory() as folder:
                for name, rows in {"train": train, "test": test}.items():
                    path = Path(folder) / f"{name}.jsonl"
                    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
                columns = {key: key for key in test[0]}
                stack = {
                    "seed": 13,
                    "data": {"train": f"{folder}/train.jsonl", "test": f"{folder}/test.jsonl", "columns": columns},
                    "model": {"base": str(MODELS / "stories260k")},
                    "prompt": prompts,
                    "output": f"{folder}/runs",
                }
                figure = Stack.load(stack).run().metrics["test/accuracy"]
            print(
                f"| {task} | {way} | {figure.value:.3f} [{figure.low:.3f}, {figure.high:.3f}] | {most:.3f} |",
                flush=True,
            )
    return 0


if __name__ == "__main__":
    sys.exit(main())
