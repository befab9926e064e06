"""Fairness on real data: what each step does to a gap and to accuracy, beside fairlearn; the tables of docs/results.md.

The head alone is trained, on MiniLM's features. Validation is a quarter of the rows that are not test, drawn with the seed.
``--choose`` tries settings and prints figures on another quarter that neither training nor threshold has seen; test is not
read. Without it, test is evaluated once per seed with what stands in CHOSEN.

    make results-fairness
"""

from __future__ import annotations

import argparse
import json
import os
import random
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from fair_figures import BOUND, HEADER, Row, curve, line, measured, point
from frozen_features import Kept, Memory

from upright import Run, Stack
from upright.engine.execute import execute
from upright.progress import quiet_libraries

ROOT = Path(__file__).parents[2]
DATA = Path(os.environ.get("UPRIGHT_DATA", ROOT.parent / "shared" / "data"))
SEEDS = [0, 1, 2, 3, 4]
CHOOSING = [100, 101]
CATEGORIES = {
    "race": ["African", "Arab", "Asian", "Caucasian", "Hispanic", "Indian"],
    "religion": ["Islam", "Jewish", "Christian", "Hindu", "Buddhism"],
    "gender": ["Women", "Men"],
    "orientation": ["Homosexual", "Bisexual", "Heterosexual", "Asexual"],
    "refugee": ["Refugee"],
}
"""Of communities (Mathew et al., 2021, arXiv:2012.10289, table 3)."""
Settings = dict[str, Any]


def target(row: Row) -> str | None:
    """The one category of communities that a post names, ``none``, or nothing where there are several or another."""
    named = {next((key for key, of in CATEGORIES.items() if one in of), None) for one in row["targets"]}
    return "none" if not named else named.pop() if len(named) == 1 else None


class Task(NamedTuple):
    """A data set as two classes and groups."""

    group: str
    positive: str
    kind: str
    row: Callable[[Row], Row]


TASKS = {
    "davidson_dialect": Task(
        "dialect",
        "toxic",
        "false_positive_rate_parity",
        lambda row: {"label": "neither" if row["label"] == "neither" else "toxic", "dialect": row["dialect"]},
    ),
    "hatexplain": Task(
        "target",
        "hate",
        "false_positive_rate_parity",
        lambda row: {"label": "hate" if row["label"] == "hate" else "no hate", "target": target(row)},
    ),
    "adult": Task("sex", ">50K", "equalized_odds", lambda row: {"label": row["label"], "sex": row["sex"]}),
}
TRAIN = {"epochs": 10, "batch_size": 64, "micro_batch_size": 64, "head_learning_rate": 2e-3, "save_steps": 1_000_000}
PRIVATE = {
    "epochs": 64,
    "batch_size": 512,
    "micro_batch_size": 512,
    "head_learning_rate": 5e-3,
    "eval_strategy": "steps",
    "eval_steps": 32,
    "save_steps": 1_000_000,
}
PRIVACY = {"use": "dp-sgd", "epsilon": 8.0, "delta": 1e-5, "max_grad_norm": 0.5}
TRIED = [
    {"max_gap": gap, "dual_learning_rate": 0.1, "refit_threshold": refit}
    for gap, refit in ((0.0, True), (0.05, True), (0.08, True), (0.1, True), (0.15, True), (0.0, False))
]
"""Strengths of `constraint`; the other steps have their defaults."""
TRIED_PRIVATE: list[Settings] = (
    [
        {"max_gap": gap, "dual_learning_rate": rate, "momentum": 0.99, "max_multiplier": most}
        for gap, rate, most in (
            (0.05, 0.02, 2.0),
            (0.05, 0.1, 0.3),
            (0.1, 0.01, 2.0),
            (0.02, 0.1, 0.5),
            (0.02, 0.1, 0.3),
        )
    ]
    + [
        {"max_gap": gap, "dual_learning_rate": 0.1, "momentum": 0.99, "max_multiplier": 0.3, "refit_threshold": False}
        for gap in (0.0, 0.05)
    ]
    + [
        {"max_gap": 0.05, "dual_learning_rate": 0.1, "momentum": 0.99, "max_multiplier": 0.1, "refit_threshold": refit}
        for refit in (True, False)
    ]
)
"""The same at epsilon 8."""
CHOSEN: dict[tuple[str, str], Settings] = {
    ("davidson_dialect", "constraint"): {"max_gap": 0.0, "dual_learning_rate": 0.1, "refit_threshold": False},
    ("hatexplain", "constraint"): {"max_gap": 0.05, "dual_learning_rate": 0.1, "refit_threshold": True},
    ("adult", "constraint"): {"max_gap": 0.08, "dual_learning_rate": 0.1, "refit_threshold": True},
}
CHOSEN_PRIVATE: dict[tuple[str, str], Settings] = {
    ("davidson_dialect", "constraint"): {
        "max_gap": 0.05,
        "dual_learning_rate": 0.1,
        "momentum": 0.99,
        "max_multiplier": 0.3,
    },
    ("hatexplain", "constraint"): {
        "max_gap": 0.05,
        "dual_learning_rate": 0.1,
        "momentum": 0.99,
        "max_multiplier": 0.3,
    },
    ("adult", "constraint"): {
        "max_gap": 0.1,
        "dual_learning_rate": 0.01,
        "momentum": 0.99,
        "max_multiplier": 2.0,
    },
}
"""Task and method -> settings that test is evaluated with; nothing where the defaults are."""
METHODS = ["constraint", "group-dro", "reweigh", "adversarial"]


def write_splits(name: str, seed: int, folder: Path, choosing: bool) -> dict[str, Any]:
    """Write the rows of train, validation and test; the ``data`` section of a stack."""
    task = TASKS[name]

    def read(split: str) -> list[Row]:
        path = DATA / name / f"{split}.jsonl"
        rows = path.read_text(encoding="utf-8").splitlines() if path.is_file() else []
        return [{"text": row["text"], **task.row(row)} for row in map(json.loads, rows)]

    pool = read("train") + read("dev")
    random.Random(seed).shuffle(pool)
    quarter = len(pool) // 4
    splits = {"validation": pool[:quarter], "train": pool[quarter:], "test": [] if choosing else read("test")}
    if choosing:
        splits["test"], splits["train"] = splits["train"][:quarter], splits["train"][quarter:]
    for split, rows in splits.items():
        lines = [json.dumps(row, ensure_ascii=False) + "\n" for row in rows]
        (folder / f"{split}.jsonl").write_text("".join(lines), encoding="utf-8")
    return {**{split: str(folder / f"{split}.jsonl") for split in splits}, "sensitive": [task.group]}


def stack(
    name: str, method: str, settings: Settings, seed: int, folder: Path, choosing: bool, private: bool
) -> Settings:
    """The stack of one run."""
    task = TASKS[name]
    groups = [{"columns": [task.group], "provenance": "self-reported" if name == "adult" else "inferred"}]
    fairness: list[Settings] = [
        {
            "use": "group-audit",
            "groups": groups,
            "positive": task.positive,
            "constraint": task.kind,
            "max_gap": BOUND,
        }
    ]
    if method != "plain":
        asked: Settings = {"use": method, "groups": groups, **settings}
        if method in ("constraint", "equalized-odds"):
            asked["positive"] = task.positive
        if method == "constraint":
            asked["constraint"] = task.kind
        fairness.insert(0, asked)
    found = {
        "name": f"{name}-{method}",
        "seed": seed,
        "data": write_splits(name, seed, folder, choosing),
        "model": {"base": "minilm", "task": "text-classification"},
        "tune": "head",
        "train": PRIVATE if private else TRAIN,
        "fairness": fairness,
        "output": str(folder / "runs"),
    }
    return {**found, "privacy": PRIVACY} if private else found


def with_upright(name: str, given: Settings, seed: int) -> tuple[Row, Run]:
    """Run a stack; the figures of its test rows."""
    import pyarrow.parquet as pq

    task = TASKS[name]
    run = execute(Stack.load(given))
    table = pq.read_table(run.folder / "predictions" / "test.parquet")
    positive = run.labels.index(task.positive)
    truth, decision = (table[column].to_numpy() == positive for column in ("label", "decision"))
    found = measured(truth, decision, table[f"group/{task.group}"].to_pylist(), task.kind, seed)
    epsilon = run.metrics.get("run/privacy/dp-sgd/epsilon")
    return {**found, "epsilon": epsilon and epsilon.value}, run


def with_fairlearn(name: str, run: Run, seed: int) -> Iterator[tuple[str, Row]]:
    """fairlearn's reduction and its post-processor on the run's rows: logistic regression on frozen embeddings.

    The first is given no group at inference, the second is. A row without a group has no part in a fit; the second leaves
    it, and a group of one class in validation, to the plain classifier.
    """
    from fairlearn.postprocessing import ThresholdOptimizer
    from fairlearn.reductions import EqualizedOdds, ExponentiatedGradient, FalsePositiveRateParity
    from sklearn.linear_model import LogisticRegression

    task, parts = TASKS[name], {}
    for split in ("train", "validation", "test"):
        rows = run.data[split]
        truth = np.array([label == task.positive for label in rows["label"][:]])
        parts[split] = run.embed(rows).astype(np.float64), truth, np.array(rows[task.group][:], dtype=object)
    (x, y, g), (tune_x, tune_y, tune_g), (test_x, test_y, test_g) = parts.values()
    plain = LogisticRegression(C=10, max_iter=1000).fit(x, y)
    groups = {one for one in tune_g if one is not None and len(set(tune_y[tune_g == one])) == 2}
    known = np.array([one is not None for one in g])
    tune_known, test_known = (np.array([one in groups for one in of]) for of in (tune_g, test_g))
    constraint = {"false_positive_rate_parity": FalsePositiveRateParity, "equalized_odds": EqualizedOdds}[task.kind]
    reduction = ExponentiatedGradient(LogisticRegression(C=10, max_iter=1000), constraint(difference_bound=0.02))
    reduction.fit(x[known], y[known].astype(int), sensitive_features=g[known])
    optimizer = ThresholdOptimizer(
        estimator=plain, constraints=task.kind, objective="accuracy_score", prefit=True, predict_method="predict_proba"
    )
    optimizer.fit(tune_x[tune_known], tune_y[tune_known].astype(int), sensitive_features=tune_g[tune_known])
    decided = {"logistic regression": plain.predict(test_x).astype(bool)}
    decided["ExponentiatedGradient"] = reduction.predict(test_x, random_state=seed).astype(bool)
    both = decided["logistic regression"].copy()
    both[test_known] = optimizer.predict(
        test_x[test_known], sensitive_features=test_g[test_known], random_state=seed
    ).astype(bool)
    decided["ThresholdOptimizer"] = both
    for method, decision in decided.items():
        yield method, measured(test_y, decision, test_g.tolist(), task.kind, seed)


def one(name: str, method: str, settings: Settings, seed: int, kept: Kept, choosing: bool, private: bool) -> Row:
    """One run's figures; fairlearn's of the same rows come with the plain run."""
    key = json.dumps([name, method, settings, seed, choosing, private])

    def make() -> Row:
        started = time.process_time()
        with tempfile.TemporaryDirectory() as folder:
            given = stack(name, method, settings, seed, Path(folder), choosing, private)
            found, run = with_upright(name, given, seed)
            seconds = time.process_time() - started
            beside = dict(with_fairlearn(name, run, seed)) if method == "plain" and not private else {}
        return {**found, "seconds": seconds, "beside": beside}

    return kept.of(key, make)


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--tasks", nargs="+", default=list(TASKS), choices=list(TASKS))
    parser.add_argument("--methods", nargs="+", default=METHODS, choices=METHODS)
    parser.add_argument("--seeds", type=int, nargs="+", default=None)
    parser.add_argument("--choose", action="store_true", help="try settings; test is not read")
    parser.add_argument("--private", action="store_true", help="at epsilon 8, `constraint` alone")
    parser.add_argument("--keep", type=Path, help="folder in which figures and features are kept between calls")
    parser.add_argument("--curve", type=Path, help="with --choose: the SVG that is written")
    arguments = parser.parse_args()
    quiet_libraries()
    torch.set_num_threads(1)
    choosing, private = arguments.choose, arguments.private
    seeds = arguments.seeds or (CHOOSING if choosing else SEEDS)
    panels: dict[str, list[tuple[str, float, float]]] = {}
    with tempfile.TemporaryDirectory() as temporary:
        folder = arguments.keep or Path(temporary)
        kept = Kept(folder)
        print(HEADER, flush=True)
        for name in arguments.tasks:
            kind = None if choosing else TASKS[name].kind
            with Memory(folder / f"{name}.pt").in_place():
                plain = [one(name, "plain", {}, seed, kept, choosing, private) for seed in seeds]
                told = [(name, "plain", plain, plain)]
                for method in plain[0]["beside"]:
                    first = [row["beside"]["logistic regression"] for row in plain]
                    told.append((name, method, [row["beside"][method] for row in plain], first))
                for each in told:
                    print(line(*each, kind), flush=True)
                panels[name] = [point(method, rows) for _, method, rows, _ in told]
                for method in METHODS[:1] if private else arguments.methods:
                    tried = [(CHOSEN_PRIVATE if private else CHOSEN).get((name, method), {})]
                    if choosing and method == "constraint":
                        tried = TRIED_PRIVATE if private else TRIED
                    for settings in tried:
                        rows = [one(name, method, settings, seed, kept, choosing, private) for seed in seeds]
                        said = ", ".join(f"{key}: {value}" for key, value in settings.items())
                        print(line(name, f"`{method}` {said}".strip(), rows, plain, kind), flush=True)
                        if settings.get("refit_threshold", False):
                            panels[name].append(point("", rows))
    if arguments.curve:
        arguments.curve.write_text(curve(panels), encoding="utf-8")


if __name__ == "__main__":
    main()
