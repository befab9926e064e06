"""Each example's stack as it is, but on made-up rows, a tiny model and a few updates: seconds instead of minutes."""

from __future__ import annotations

import copy
import random
from pathlib import Path
from typing import Any

from tiny_models import WORDS

from conftest import ROOT, write_rows
from upright import Stack

PATHS = sorted((ROOT / "examples").glob("*/stack*.yaml"))
SIZES = {"train": 60, "validation": 40, "test": 80}
PLANTED = ("a.quartz@klinik.example", "+49 170 5550199", "患者：王小明")
"""Personal data in the rows: an address, a number, a name beside its label. None is anybody's."""
SECRETS = ("quartz", "5550199", "王小明")
"""What of it must be in no page, however it is cut into tokens."""


def tiny_example(path: Path, folder: Path, encoder: Path, writer: Path, **changes: Any) -> Stack:
    """The example's stack in ``folder``, on one of two tiny models; ``changes`` replace sections."""
    raw = copy.deepcopy(Stack.load(path).raw)
    task = raw["model"].get("task", "text-classification")
    raw["model"] = {**raw["model"], "base": str(writer if task == "text-generation" else encoder)}
    raw["model"].pop("max_length", None)
    raw["data"] = {**raw["data"], **_files(raw, task, folder)}
    if "train" in raw:
        raw["train"] = {**raw["train"], "max_steps": 6, "batch_size": 12, "micro_batch_size": 12, "eval_steps": 2}
        raw["train"] |= {} if raw["train"].get("eval_strategy") == "no" else {"eval_strategy": "steps"}
        raw["train"].pop("epochs", None)
    if isinstance(raw.get("tune"), dict):
        raw["tune"] = {name: value for name, value in raw["tune"].items() if name != "layers_to_transform"}
    if "explain" in raw:
        raw["explain"] = {**raw["explain"], "samples": 8}
    for step in _steps(raw, "privacy"):
        if step.pop("epsilon", None):  # the search for the noise of so small a run takes longer than the run
            step["noise_multiplier"] = 1.0
    raw.pop("demo", None)  # needs the truth that its generator writes
    return Stack.load({**raw, "output": str(folder / "runs"), **changes})


def _files(raw: dict[str, Any], task: str, folder: Path) -> dict[str, str]:
    """A file for each split that the stack names, with the columns that it names."""
    chance = random.Random(0)
    folder.mkdir(parents=True, exist_ok=True)
    splits = [split for split in SIZES if raw["data"].get(split)]
    return {
        split: write_rows(folder / f"{split}.jsonl", [_row(raw, task, n, chance) for n in range(SIZES[split])])
        for split in splits
    }


def _row(raw: dict[str, Any], task: str, number: int, chance: random.Random) -> dict[str, Any]:
    positive = next((step["positive"] for step in _steps(raw, "fairness") if "positive" in step), "sick")
    kind = chance.choice(["sick", "well"])
    words = chance.choices(WORDS[kind], k=3) + chance.choices(WORDS["other"], k=4) + [str(number)]
    chance.shuffle(words)
    if task == "token-classification":
        tags = ["B-Disease" if word in WORDS["sick"] else "O" for word in words]
        return {"tokens": words, "tags": tags}
    text = " ".join(words)
    if _steps(raw, "privacy") and number % 2:
        text = f"{PLANTED[number // 2 % len(PLANTED)]} {text}"
    if task == "text-generation":
        return {"text": text}
    groups = {column: chance.choice(["a", "b"]) for column in raw["data"].get("sensitive", [])}
    columns = raw["data"].get("columns", {})
    named = {theirs: f"{ours}-{number}" for ours, theirs in columns.items() if ours not in ("text", "label")}
    return {"text": text, "label": positive if kind == "sick" else "other", **groups, **named}


def _steps(raw: dict[str, Any], section: str) -> list[dict[str, Any]]:
    content = raw.get(section) or []
    return [step for step in (content if isinstance(content, list) else [content]) if isinstance(step, dict)]
