"""Every two bundled steps, and every three of tune, fairness and privacy: they run together, or are refused with a reason.

Steps run on models of two layers, as many in one stack as go together: a stack that runs shows it for each two of its steps.
Where a stack is refused, fewer are tried together, and in the end its pairs by themselves. `make pairs` writes the table into
docs/compatibility.md.

    python tests/pairs.py [--write] [--only STEP]
"""

from __future__ import annotations

import argparse
import base64
import json
import os
import re
import sys
import tempfile
import time
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field
from functools import cache
from itertools import combinations, product
from pathlib import Path
from typing import Any

from test_bundled_steps import NO_TEXT, SETTINGS, STACKS

from upright import Stack, catalog
from upright.errors import ConfigError, PluginError, UprightError
from upright.hooks import HOOKS
from upright.stack import OF_CLEANING, answers
from upright.step import Capability
from upright.testing.toys import tiny_model, toy_files

ROOT = Path(__file__).parents[1]


TASKS = {
    "text-classification": "bert",
    "token-classification": "bert",
    "text-generation": "gpt2",
    "text2text-generation": "t5",
}
PAGE = ROOT / "docs" / "compatibility.md"
TOGETHER = (8, 4)
"""Steps of one stack at most: first many, then fewer of what was refused, then two (or three) by themselves."""
TRIPLE = ("tune", "fairness", "privacy")
REFUSALS = (ConfigError.exit_code, PluginError.exit_code)
LAST = ("faithfulness", "global", "calibrate")
OF_SEX = {"groups": ["sex"]}
MORE: dict[str, dict[str, Any]] = {
    "adversarial": OF_SEX,
    "constraint": OF_SEX,
    "group-dro": OF_SEX,
    "reweigh": OF_SEX,
    "optuna": {"space": {"train.learning_rate": [0.001, 0.01]}, "n_trials": 1},
}
"""Settings that the conformance kit gives elsewhere."""
Names = tuple[str, ...]


@dataclass
class Found:
    """What is known of each two (or three) steps: None where they run, else the sentence that refuses them."""

    told: dict[Names, str | None] = field(default_factory=dict)
    broken: dict[Names, str] = field(default_factory=dict)
    """What is no refusal: an error that core does not tell."""
    stacks: int = 0


@cache
def entries() -> dict[str, catalog.Entry]:
    """``section.name`` -> the bundled steps whose rows are texts and that can be made."""
    found = {}
    for entry in catalog.steps():
        if not entry.dist.startswith("upright-") or entry.dist == "upright-quickstart" or entry.name in NO_TEXT:
            continue
        try:
            catalog.load(entry)(**settings(entry.name))
        except ValueError:
            continue  # needs a file of the user's
        found[f"{entry.section}.{entry.name}"] = entry
    return found


def settings(name: str) -> dict[str, Any]:
    return {**SETTINGS.get(name, {}), **MORE.get(name, {})}


@cache
def made(name: str) -> Any:
    entry = entries()[name]
    return catalog.load(entry)(**settings(entry.name))


@cache
def place() -> Path:
    """This process's folder for models, rows and runs."""
    return Path(tempfile.mkdtemp(prefix="upright-pairs-"))


@cache
def model(architecture: str) -> str:
    return str(tiny_model(architecture, place() / architecture))


@cache
def data(task: str) -> dict[str, Any]:
    return toy_files(task, place() / f"rows-{task}")


def task_of(names: Iterable[str]) -> str | None:
    """The first task that all serve."""
    for task in TASKS:
        if all(made(name).tasks is None or task in made(name).tasks for name in names):
            return task
    return None


def stack_of(names: Names) -> dict[str, Any] | str:
    """A stack of these steps with what they must stand beside; or why there is none."""
    task = task_of(names)
    if task is None:
        told = " and ".join(f"{name} serves {', '.join(sorted(made(name).tasks or TASKS))}" for name in names)
        return f"{told}: no task is common to both"
    mapping: dict[str, Any] = {"name": "pairs", "seed": 1, "data": data(task), "output": str(place() / "runs")}
    steps: dict[str, list[dict[str, Any]]] = defaultdict(list)
    for name in names:
        entry = entries()[name]
        steps[entry.section].append({"use": entry.name, **settings(entry.name)})
    for name in names:
        for section, beside in STACKS.get(entries()[name].name, {}).items():
            if section == "model":
                mapping.setdefault("model", {}).update(beside)
                continue
            for one in beside if isinstance(beside, list) else [beside]:
                one = {"use": one} if isinstance(one, str) else one
                if all(one["use"] != other["use"] for other in steps[section]):
                    at = 0 if one["use"] == "template" else len(steps[section])
                    steps[section].insert(at, one)
    task = mapping.get("model", {}).get("task", task)
    for listed in steps.values():  # what renders comes before what reads, what sums up others after them
        listed.sort(key=lambda one: (one["use"] != "template", one["use"] in LAST))
    every = [made(name) for name in names]
    trains = any(answers(step, name) for step in every for name in set(HOOKS) - OF_CLEANING)
    only_cleans = not trains and all(entries()[name].section == "clean" for name in names)
    untuned = any(Capability.UNTUNED in step.needs for step in every)
    if not only_cleans:
        base = {"base": model(TASKS[task]), "task": task}
        mapping["model"] = {**base, **mapping.get("model", {})}
        mapping["data"] = data(task)
        if not untuned and not any(answers(step, "tune") for step in every) and not steps["tune"]:
            steps["tune"].append({"use": "lora", "rank": 2})
        if steps["tune"]:
            mapping["train"] = {"max_steps": 3, "batch_size": 8, "learning_rate": 0.01}
    for section, listed in steps.items():
        if section == "train" and listed:
            mapping.setdefault("train", {})["steps"] = listed
        elif listed:
            mapping[section] = listed
    return mapping


def refused(names: Names) -> str | None:
    """Why the stack of these steps is refused before anything is loaded; None where it is not."""
    mapping = stack_of(names)
    if isinstance(mapping, str):
        return mapping
    try:
        Stack.load(mapping)
    except UprightError as error:
        return str(error).split("\n")[0]
    return None


def ran(names: Names) -> tuple[Names, str | None, str | None]:
    """Run the stack: (steps, the sentence that refused it, what else went wrong)."""
    import torch

    from upright.progress import quiet_libraries

    torch.set_num_threads(1)
    quiet_libraries()
    os.environ.setdefault("UPRIGHT_KEY", base64.b64encode(bytes(32)).decode())
    mapping = stack_of(names)
    assert not isinstance(mapping, str)
    try:
        run = Stack.load(mapping).run()
    except UprightError as error:
        told = str(error).split("\n")[0]
        return (names, told, None) if error.exit_code in REFUSALS else (names, None, told)
    except Exception as error:  # a finding: neither run nor refused
        return names, None, f"{type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}"
    return names, None, None if run.exit_code in (0, 4) else f"ended with {run.exit_code}"


def stacks(
    wanted: set[Names], known: dict[Names, str | None], size: int, together: int = TOGETHER[0]
) -> Iterator[Names]:
    """Stacks of steps that go together two by two, each with as many of the ``wanted`` sets of ``size`` as it can."""
    left, names = set(wanted), sorted(entries())
    while left:
        chosen = list(min(left))
        while len(chosen) < together:
            best, gain = None, 0
            for name in names:
                if name in chosen or any(known.get(pair(name, other), "") is not None for other in chosen):
                    continue
                new = sum(_key((*some, name)) in left for some in combinations(chosen, size - 1))
                if new > gain:
                    best, gain = name, new
            if best is None:
                break
            chosen.append(best)
        got = {_key(some) for some in combinations(chosen, size)} & left
        left -= got
        yield tuple(sorted(chosen))


def pair(one: str, other: str) -> Names:
    return _key((one, other))


def _key(names: Iterable[str]) -> Names:
    return tuple(sorted(names))


def look(wanted: list[Names], workers: int) -> Found:
    """Say of each of the ``wanted`` pairs or triples whether it runs."""
    if not wanted:
        return Found()
    found, size = Found(), len(wanted[0])
    names = sorted({name for some in wanted for name in some})
    known = {pair(*some): refused(pair(*some)) for some in combinations(names, 2)}
    with ProcessPoolExecutor(workers) as pool:
        alone = {name: (why, wrong) for (name,), why, wrong in pool.map(ran, [(name,) for name in names])}
        found.stacks += len(names)
        for some in wanted:
            wrong = next((alone[name][1] for name in some if alone[name][1]), None)
            if wrong:
                found.broken[some] = wrong
                continue
            reasons = [alone[name][0] for name in some] + [known[pair(*two)] for two in combinations(some, 2)]
            why = next((reason for reason in reasons if reason), None) or (refused(some) if size > 2 else None)
            if why:
                found.told[some] = why
        for together in (*TOGETHER, size):
            left = {some for some in wanted if some not in found.told and some not in found.broken}
            groups = [group for group in stacks(left, known, size, together) if refused(group) is None] if left else []
            for group, why, wrong in pool.map(ran, groups):
                found.stacks += 1
                inside = {_key(some) for some in combinations(group, size)} & left
                if not why and not wrong:
                    found.told |= dict.fromkeys(inside)
                elif together == size:
                    found.told |= {} if wrong else dict.fromkeys(inside, why)
                    found.broken |= dict.fromkeys(inside, wrong) if wrong else {}
            print(f"{len(groups)} stacks of {together} or fewer, {len(left)} were open", file=sys.stderr, flush=True)
    return found


def every_pair() -> list[Names]:
    return [pair(*some) for some in combinations(sorted(entries()), 2)]


def every_triple() -> list[Names]:
    kinds = [[name for name, entry in entries().items() if entry.section == kind] for kind in TRIPLE]
    return [_key(some) for some in product(*kinds)]


# --- the page -------------------------------------------------------------------------------------------------------


def reason(some: Names, sentence: str) -> str:
    """The sentence without places and files, its steps called A, B and C, so that equal reasons are told once."""
    sentence = re.sub(r"^\S+  ", "", sentence)
    sentence = re.sub(r" \((?:a mapping|[^()\s]*:\d+:\d+)[^()]*\)", "", sentence)
    sentence = re.sub(r"(/[^/\s]+)+/", "", sentence)
    for letter, name in zip("ABC", sorted((n for n in some if n in sentence), key=sentence.index), strict=False):
        sentence = re.sub(rf"{re.escape(name)}(?![\w-])", letter, sentence)
    return sentence


def page(pairs: Found, triples: Found, seconds: float) -> str:
    """docs/compatibility.md."""
    names = sorted(entries())
    number = {name: n for n, name in enumerate(names, 1)}
    lines = [
        "# What goes with what",
        "",
        INTRODUCTION,
        "",
        f"{len(names)} steps; {_counted(pairs)} pairs and {_counted(triples)} triples, in {pairs.stacks + triples.stacks} "
        f"stacks, {seconds / 60:.0f} minutes on {os.cpu_count()} cores.",
        "",
        "```",
        *(f"{number[name]:>3} {name:<28} {_row(name, names, pairs)}" for name in names),
        "```",
        "",
        "The columns are the rows' numbers, from 1.",
        "",
        "## Why pairs are refused",
        "",
        "| pairs | reason |",
        "|---|---|",
    ]
    by_reason: dict[str, list[Names]] = defaultdict(list)
    for some, why in pairs.told.items():
        if why:
            by_reason[reason(some, why)].append(some)
    for why, refusals in sorted(by_reason.items(), key=lambda one: -len(one[1])):
        lines.append(f"| {_listed(refusals)} | {why} |".replace("||", "| |"))
    alone = {
        some: why
        for some, why in triples.told.items()
        if why and all(pairs.told.get(pair(*two)) is None for two in combinations(some, 2))
    }
    lines += ["", "## Triples", "", "Each refused triple holds a refused pair" + (", but for these:" if alone else ".")]
    lines += [f"* {', '.join(some)}: {reason(some, why)}" for some, why in sorted(alone.items())]
    for found in (pairs, triples):
        if found.broken:
            lines += ["", "## Neither run nor refused", ""]
            lines += [f"* {', '.join(some)}: {wrong}" for some, wrong in sorted(found.broken.items())]
    return "\n".join(lines) + "\n"


INTRODUCTION = """\
Written by `make pairs`: every two bundled steps, and every three of tune, fairness and privacy, on models of two layers with
random weights. `+`: they ran in one stack; `-`: the stack is refused with one sentence, and the sentences are below. What a
step must stand beside is added (a verbalizer's template, LoRA where nothing tunes). Cleaners of images and sounds, which go
into stacks of their own, are left out, and so is what needs a file of the user's."""


def _row(name: str, names: list[str], pairs: Found) -> str:
    """One sign for each step before this one."""
    keys = [pair(name, other) for other in names[: names.index(name)]]
    return "".join("?" if key not in pairs.told else "+" if pairs.told[key] is None else "-" for key in keys)


def _counted(found: Found) -> str:
    told = Counter("run" if why is None else "are refused" for why in found.told.values())
    parts = [f"{count:,} {what}" for what, count in sorted(told.items(), reverse=True)]
    parts += [f"{len(found.broken)} do neither"] if found.broken else []
    return f"{len(found.told) + len(found.broken):,} ({', '.join(parts)})"


def _listed(some: list[Names]) -> str:
    told = [" + ".join(f"`{name}`" for name in names) for names in some[:3]]
    return "; ".join(told) + (f" and {len(some) - 3} more" if len(some) > 3 else "")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--write", action="store_true", help="write docs/compatibility.md")
    parser.add_argument("--only", help="pairs with this step, such as tune.lora")
    asked = parser.parse_args()
    started, workers = time.time(), os.cpu_count() or 1
    wanted = [some for some in every_pair() if asked.only is None or asked.only in some]
    pairs = look(wanted, workers)
    triples = look([some for some in every_triple() if asked.only is None or asked.only in some], workers)
    text = page(pairs, triples, time.time() - started)
    if asked.write:
        PAGE.write_text(text, encoding="utf-8")
    print(text)
    print(
        json.dumps(
            {"broken": {" + ".join(some): wrong for some, wrong in (pairs.broken | triples.broken).items()}}, indent=1
        )
    )
    return 1 if pairs.broken or triples.broken else 0


if __name__ == "__main__":
    sys.exit(main())
