"""What `label-issues` finds of planted label errors, beside cleanlab's default, and what `parity` says of both.

banking77's train rows with 20 of the 77 classes cut to 12 % and a tenth of all labels changed, drawn anew by each seed:
`uniform` to any other class (so a cut class ends with four wrong rows in ten), `by share` to the class of another row (so one
in ten of every class). Precision and recall are of the changed labels; banking77's own errors count as false. The ratio is the
share of clean rows of cut classes that is removed over that of the other classes, with its 95 % score interval; the last
line takes the rows of all seeds together. cleanlab is given what its guides take: scikit-learn's logistic regression with
its defaults (C = 1), cross-validated on the same embeddings; and, beside it, with our C. All share one process and the
same rows. Settings were chosen on seeds 100 to 105 of this and 100 and 101 of the second table's data.

The second table has the same labels changed in other data, nothing cut. The third is of rows of wikitext2 planted into
banking77.

    make bench-labels
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from datasets import Dataset

from upright import Decisions, Run, Scope, Stack, Step, hook
from upright.calls import Calls
from upright.engine.tasks import get
from upright_clean.label_issues import LabelIssues
from upright_clean.outliers import Outliers
from upright_clean.parity import Parity
from upright_clean.risk_ratio import risk_ratio

ROOT = Path(__file__).parents[2]
DATA = Path(os.environ.get("UPRIGHT_DATA", ROOT.parent / "shared" / "data"))
CUT, SHARE, NOISE = 20, 0.12, 0.10
PRECISION, RECALL, CAP = 0.80, 0.93, 1.25
OTHERS = ("financial_phrasebank", "davidson_dialect", "hatexplain")


class Cleanlab(Step):
    """An outside cleaner: drop what cleanlab's `find_label_issues` finds with its defaults."""

    scope: ClassVar[Scope] = Scope(splits=frozenset({"train"}))
    inverse_regularization: float = 1.0

    @hook
    def clean(self, rows: Dataset, run: Run) -> Decisions:
        from cleanlab.filter import find_label_issues
        from sklearn.linear_model import LogisticRegression
        from sklearn.model_selection import cross_val_predict

        labels = np.unique(rows["label"][:], return_inverse=True)[1]
        model = LogisticRegression(C=self.inverse_regularization, max_iter=400)
        probabilities = cross_val_predict(model, run.embed(rows), labels, cv=5, method="predict_proba")
        score = probabilities[np.arange(len(labels)), labels]
        found = np.flatnonzero(find_label_issues(labels, probabilities))
        decisions = Decisions()
        ids = rows["row_id"][:]
        decisions.extend([ids[n] for n in found], "drop", "label-issue", score=score[found].tolist(), threshold=1.0)
        return decisions


class Oracle(Step):
    """An outside cleaner that drops the changed labels and nothing else: the least that any cleaner can do to a class."""

    scope: ClassVar[Scope] = Scope(splits=frozenset({"train"}))
    wrong: frozenset[str]

    @hook
    def clean(self, rows: Dataset) -> Decisions:
        decisions = Decisions()
        decisions.extend(sorted(self.wrong), "drop", "label-issue")
        return decisions


class Embedded(Run):
    """A run whose embeddings are computed once."""

    table: dict[str, np.ndarray]

    def embed(self, rows: Any) -> np.ndarray:
        return np.stack([self.table[text] for text in rows["text"][:]])


def read(name: str, split: str = "train") -> list[dict[str, Any]]:
    """The rows of a data set."""
    return [json.loads(line) for line in (DATA / name / f"{split}.jsonl").read_text(encoding="utf-8").splitlines()]


def new_run(folder: Path, steps: dict[str, Step], table: dict[str, np.ndarray]) -> Embedded:
    """A run of these steps, as core makes it, up to cleaning."""
    (folder / "rows.jsonl").write_text("")
    stack = Stack.load({"data": {"train": str(folder / "rows.jsonl")}, "clean": "exact-dup", "output": str(folder)})
    stack.steps.clear()
    for name, step in steps.items():
        stack = stack.with_step("clean", name, step)
    run = Embedded(stack, folder, Calls(list(steps.values())))
    run.task, run.table = get("text-classification"), table
    return run


def embeddings(texts: list[str]) -> dict[str, np.ndarray]:
    """Text -> embedding by the default base."""
    with tempfile.TemporaryDirectory() as name:
        run = new_run(Path(name), {"outliers": Outliers()}, {})
        unique = sorted(set(texts))
        return dict(zip(unique, Run.embed(run, unique), strict=True))


def planted(labels: np.ndarray, seed: int, kind: str, cut: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Places of the rows that stay, their changed labels, and which are of a cut class."""
    chance = np.random.default_rng(seed)
    classes = int(labels.max()) + 1
    rare = chance.choice(classes, cut, replace=False)
    stay = np.ones(len(labels), dtype=bool)
    for one in rare:
        members = chance.permutation(np.flatnonzero(labels == one))
        stay[members[max(1, round(SHARE * len(members))) :]] = False
    place = np.flatnonzero(stay)
    true = labels[place]
    given = true.copy()
    for row in chance.choice(len(true), round(NOISE * len(true)), replace=False):
        if kind == "uniform":
            given[row] = (true[row] + chance.integers(1, classes)) % classes
        else:
            given[row] = chance.choice(true[true != true[row]])
    return place, given, np.isin(true, rare)


def found_by(run: Run, step: Step, rows: Dataset) -> tuple[np.ndarray, float]:
    """Which rows a cleaner decides on, ``[N]``, and the CPU seconds it took."""
    start = time.process_time()
    decisions = run.calls.clean(step, rows, "train", run)
    taken = time.process_time() - start
    chosen = set(decisions.columns["row_id"]) if decisions is not None else set()
    return np.array([row in chosen for row in rows["row_id"][:]]), taken


def figures(found: np.ndarray, wrong: np.ndarray, rare: np.ndarray) -> np.ndarray:
    """right, found, wrong; clean rows of cut classes: removed, all; of others: removed, all."""
    clean = ~wrong
    pairs = [(found & clean & rare, clean & rare), (found & clean & ~rare, clean & ~rare)]
    counts = [found & wrong, found, wrong, *(mask for pair in pairs for mask in pair)]
    return np.array([mask.sum() for mask in counts], dtype=np.int64)


def told(counts: np.ndarray) -> str:
    right, found, wrong, x1, n1, x2, n2 = counts
    line = f"precision {right / max(found, 1):.3f}  recall {right / wrong:.3f}"
    if n1:
        value, low, high = (float(part[0]) for part in risk_ratio(*(np.array([n]) for n in (x1, n1, x2, n2))))
        line += (
            f"  clean rows removed: cut {x1 / n1:.3f}, others {x2 / n2:.4f}, ratio {value:.2f} [{low:.2f}, {high:.2f}]"
        )
    return line


def first_table(seeds: list[int], table: dict[str, np.ndarray], source: list[dict[str, Any]]) -> bool:
    """banking77, both kinds of noise; returns whether what was asked for holds for `uniform` and `by share`."""
    names, labels = np.unique([row["label"] for row in source], return_inverse=True)
    fine = True
    for kind in ("uniform", "by share"):
        totals: dict[str, np.ndarray] = {}
        seconds: dict[str, float] = {}
        asked: list[tuple[dict[str, Step], Dataset, int]] = []
        for seed in seeds:
            place, given, rare = planted(labels, seed, kind, CUT)
            rows = Dataset.from_dict(
                {
                    "row_id": [f"{n:06d}" for n in place],
                    "text": [source[n]["text"] for n in place],
                    "label": [str(names[n]) for n in given],
                }
            )
            steps: dict[str, Step] = {
                "label-issues": LabelIssues(action="drop"),
                "cleanlab": Cleanlab(),
                "cleanlab-c10": Cleanlab(inverse_regularization=LabelIssues().inverse_regularization),
            }
            for name, counts, taken in measured(steps, rows, table, given != labels[place], rare):
                totals[name] = totals.get(name, 0) + counts
                seconds[name] = seconds.get(name, 0.0) + taken
                print(f"{kind:8s} seed {seed:3d}  {name:13s} {told(counts)}")
                if name == "label-issues":
                    low = risk_ratio(*(np.array([n]) for n in counts[3:]))[1][0]
                    fine &= bool(counts[0] >= PRECISION * counts[1] and counts[0] >= RECALL * counts[2] and low < CAP)
            wrong = {row for row, bad in zip(rows["row_id"][:], given != labels[place], strict=True) if bad}
            asked.append(({**steps, "oracle": Oracle(wrong=frozenset(wrong))}, rows, seed))
        for name, counts in totals.items():
            print(f"{kind:8s} all       {name:13s} {told(counts)}  {seconds[name] / len(seeds):.1f} CPU s a seed")
        for cleaners, rows, seed in asked:
            gate(cleaners, rows, table, kind, seed)
    return fine


def measured(
    steps: dict[str, Step], rows: Dataset, table: dict[str, np.ndarray], wrong: np.ndarray, rare: np.ndarray
) -> Iterator[tuple[str, np.ndarray, float]]:
    with tempfile.TemporaryDirectory() as folder:
        run = new_run(Path(folder), steps, table)
        for name, step in steps.items():
            found, taken = found_by(run, step, rows)
            yield name, figures(found, wrong, rare), taken


def gate(steps: dict[str, Step], rows: Dataset, table: dict[str, np.ndarray], kind: str, seed: int) -> None:
    """What `parity` says of each."""
    with tempfile.TemporaryDirectory() as folder:
        asked = {"label-issues": LabelIssues(), "label-issues-drop": steps["label-issues"]}
        asked |= {name: steps[name] for name in ("cleanlab", "oracle")}
        run = new_run(Path(folder), {**asked, "parity": Parity()}, table)
        for step in asked.values():
            run.calls.clean(step, rows, "train", run)
        metrics = run.calls.account(run.step_folder, run)
        flags = metrics["run/clean/parity/drops_wanted/label-issues/train"]
        print(f"{kind:8s} seed {seed:3d}  parity: label-issues, as it stands, wanted to drop {flags.value:.0f} rows")
        for verdict in run.calls.judge(metrics, run):
            print(f"{kind:8s} seed {seed:3d}  parity: {verdict.judgement:22s} {verdict.sentence}")


def second_table(seeds: list[int]) -> None:
    for name in OTHERS:
        source = [row for row in read(name) if row.get("label") is not None]
        names, labels = np.unique([str(row["label"]) for row in source], return_inverse=True)
        table = embeddings([row["text"] for row in source])
        totals: dict[str, np.ndarray] = {}
        for seed in seeds:
            _, given, rare = planted(labels, seed, "uniform", 0)
            rows = Dataset.from_dict(
                {
                    "row_id": [f"{n:06d}" for n in range(len(source))],
                    "text": [row["text"] for row in source],
                    "label": [str(names[n]) for n in given],
                }
            )
            steps: dict[str, Step] = {"label-issues": LabelIssues(), "cleanlab": Cleanlab()}
            for step, counts, _ in measured(steps, rows, table, given != labels, rare):
                totals[step] = totals.get(step, 0) + counts
        for step, counts in totals.items():
            print(f"{name:22s} {len(names)} classes  {step:13s} {told(counts)}")


def third_table(seeds: list[int], table: dict[str, np.ndarray], source: list[dict[str, Any]]) -> None:
    path = next((DATA / "wikitext2_valid").glob("*.txt"))
    lines = [line.strip() for line in path.read_text(encoding="utf-8").splitlines() if 40 < len(line.strip()) < 400]
    totals: dict[str, np.ndarray] = {}
    seconds: dict[str, float] = {}
    for seed in seeds:
        chance = np.random.default_rng(seed)
        strange = [lines[n] for n in chance.choice(len(lines), 100, replace=False)]
        texts = [row["text"] for row in source] + strange
        classes = [row["label"] for row in source]
        classes += [classes[n] for n in chance.integers(0, len(classes), len(strange))]
        full = table | embeddings(strange)
        rows = Dataset.from_dict({"row_id": [f"{n:06d}" for n in range(len(texts))], "text": texts, "label": classes})
        wrong = np.arange(len(texts)) >= len(source)
        steps: dict[str, Step] = {"outliers": Outliers(), "by_class": Outliers(by_class=True)}
        for step, counts, taken in measured(steps, rows, full, wrong, np.zeros(len(texts), dtype=bool)):
            totals[step] = totals.get(step, 0) + counts
            seconds[step] = taken
    for step, counts in totals.items():
        print(f"{step:10s} {told(counts)}; {seconds[step]:.1f} CPU s, embeddings left out")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, nargs="+", default=[40, 41, 42, 43, 44])
    seeds = parser.parse_args().seeds
    source = read("banking77")
    table = embeddings([row["text"] for row in source])
    fine = first_table(seeds, table, source)
    second_table(seeds)
    third_table(seeds, table, source)
    print(
        f"asked for, each seed: precision >= {PRECISION}, recall >= {RECALL}, the ratio's interval reaches below {CAP}: {fine}"
    )
    return 0 if fine else 1


if __name__ == "__main__":
    sys.exit(main())
