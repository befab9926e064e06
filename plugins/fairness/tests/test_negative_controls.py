"""What must not happen does not: no effect on groups that mean nothing, no group read at inference, none in the model; and
what must be seen is seen: a gap that was planted."""

from __future__ import annotations

import random
import secrets
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors import safe_open

from conftest import WORDS, write_rows
from upright import Batch, Run, Stack, Step, hook
from upright.engine.execute import execute

GAP = "demographic_parity"


def planted(count: int, seed: int) -> list[dict[str, Any]]:
    """Notes in which words tell the group, and nine in ten of one group are said to be sick whatever the others say."""
    chance, rows = random.Random(seed), []
    for _ in range(count):
        sex, label = chance.choice("fm"), chance.choice(["sick", "well"])
        words = [*chance.choices(WORDS[label], k=2), *chance.choices(WORDS["other"], k=2)]
        words += ["today"] * 2 if sex == "f" else ["mild"] * 2
        chance.shuffle(words)
        label = "sick" if sex == "f" and chance.random() < 0.9 else label
        rows.append({"text": " ".join(words), "label": label, "sex": sex})
    return rows


def run_of(base: Path, folder: Path, seed: int, step: Step | dict[str, Any] | None, *, dealt: bool) -> Run:
    """A small run on planted rows with ``step`` and an audit; ``dealt``: the column of groups is permuted in each split."""
    data: dict[str, Any] = {"sensitive": ["sex"]}
    for number, (name, count) in enumerate({"train": 400, "validation": 200, "test": 600}.items()):
        rows = planted(count, 10 * seed + number)
        if dealt:
            groups = random.Random(seed).sample([row["sex"] for row in rows], count)
            rows = [{**row, "sex": sex} for row, sex in zip(rows, groups, strict=True)]
        data[name] = write_rows(folder / f"{name}.jsonl", rows)
    audit = {"use": "group-audit", "groups": ["sex"], "constraint": GAP, "max_gap": 0.1}
    stack = Stack.load(
        {
            "seed": seed,
            "data": data,
            "model": {"base": str(base), "task": "text-classification"},
            "tune": "head",
            "train": {"max_steps": 100, "batch_size": 64, "head_learning_rate": 0.05},
            "fairness": [audit, *([step] if isinstance(step, dict) else [])],
            "output": str(folder / "runs"),
        }
    )
    return execute(stack.with_step("fairness", "other", step) if isinstance(step, Step) else stack)


# --- groups that mean nothing ---------------------------------------------------------------------------------------

CONSTRAINT = {
    "use": "constraint",
    "groups": ["sex"],
    "constraint": GAP,
    "dual_learning_rate": 0.5,
    "refit_threshold": False,
}


class Favours(Step):
    """What a constraint must not be: it treats a group otherwise whatever its outcomes are."""

    @hook
    def decide(self, scores: Any, batch: Batch) -> Any:
        return scores + (batch.groups["sex"] == 0).unsqueeze(1) * scores.new_tensor([0.0, 0.4])


def effects(base: Path, folder: Path, seeds: Sequence[int], step: Any, *, dealt: bool) -> np.ndarray:
    """By how much the gap on test is smaller with the step than without, for each seed."""
    found = []
    for seed in seeds:
        gaps = [
            run_of(base, folder, seed, one, dealt=dealt)
            .metrics[f"test/fairness/group-audit/{GAP}_difference/sex"]
            .value
            for one in (None, step)
        ]
        found.append(gaps[0] - gaps[1])
    return np.array(found)


def interval(values: np.ndarray) -> tuple[float, float]:
    """Student's, of the mean at 95 %."""
    from scipy.stats import t

    half = float(t.ppf(0.975, len(values) - 1) * values.std(ddof=1) / len(values) ** 0.5)
    return float(values.mean()) - half, float(values.mean()) + half


@pytest.mark.slow
def test_over_ten_seeds_a_constraint_on_permuted_groups_has_no_effect_and_on_the_true_ones_has(
    tiny_mean: Path, tmp_path: Path
) -> None:
    low, high = interval(effects(tiny_mean, tmp_path, range(10), CONSTRAINT, dealt=True))
    assert low <= 0 <= high
    low, high = interval(effects(tiny_mean, tmp_path, range(10), CONSTRAINT, dealt=False))
    assert low > 0


def test_a_constraint_leaves_permuted_groups_alone_and_acts_on_the_true_ones(tiny_mean: Path, tmp_path: Path) -> None:
    assert abs(effects(tiny_mean, tmp_path, [2], CONSTRAINT, dealt=True)[0]) < 0.05
    assert effects(tiny_mean, tmp_path, [2], CONSTRAINT, dealt=False)[0] > 0.1


def test_mutant_step_that_favours_a_group_is_noticed(tiny_mean: Path, tmp_path: Path) -> None:
    assert abs(effects(tiny_mean, tmp_path, [2], Favours(), dealt=True)[0]) >= 0.05


# --- nothing of a group at inference or in the model ----------------------------------------------------------------

BLIND: dict[str, dict[str, Any]] = {
    "adversarial": {"groups": ["sex"]},
    "constraint": {"groups": ["sex"]},
    "counterfactual-flips": {"groups": ["sex"]},
    "equalized-odds": {"groups": ["sex"]},
    "group-audit": {"groups": ["sex"]},
    "group-dro": {"groups": ["sex"]},
    "group-probe": {"groups": ["sex"], "min_rows": 5},
    "reweigh": {"groups": ["sex"]},
}


@pytest.fixture(scope="module")
def made(tiny_bert: Path, toy_files: dict[str, Any], tmp_path_factory: pytest.TempPathFactory) -> dict[str | None, Run]:
    """A run with each step, and its twin without any (None)."""
    stack = {
        "data": {**toy_files, "sensitive": ["sex"]},
        "model": {"base": str(tiny_bert), "task": "text-classification"},
        "tune": {"use": "lora", "rank": 2},
        "train": {"max_steps": 4, "batch_size": 8, "learning_rate": 0.01},
    }
    uses: list[str | None] = [None, *BLIND]
    return {
        use: execute(
            Stack.load(
                {
                    **stack,
                    "output": str(tmp_path_factory.mktemp("blind")),
                    **({"fairness": {"use": use, **BLIND[use]}} if use else {}),
                }
            )
        )
        for use in uses
    }


def decided(run: Run, *, withheld: bool) -> list[bytes]:
    """Scores and decisions of the test rows as bytes."""
    rows = run.data["test"]
    if withheld:
        rows = rows.remove_columns("sex").add_column("sex", [None] * len(rows))
    found = run.predict(rows)
    return [found.numpy(name).tobytes() for name in ("scores", "decision")]


@pytest.mark.parametrize("use", BLIND)
def test_predictions_are_the_same_bytes_when_the_group_is_withheld(use: str, made: dict[str | None, Run]) -> None:
    assert decided(made[use], withheld=True) == decided(made[use], withheld=False)


def test_mutant_that_reads_the_group_is_noticed(tiny_mean: Path, tmp_path: Path) -> None:
    run = run_of(tiny_mean, tmp_path, 0, Favours(), dealt=False)
    assert decided(run, withheld=True) != decided(run, withheld=False)


def shipped(run: Run) -> dict[str, list[int]]:
    """File and name of every tensor in model/, with its shape; every other file with nothing."""
    found: dict[str, list[int]] = {}
    for path in sorted(path for path in (run.folder / "model").rglob("*") if path.is_file()):
        name = str(path.relative_to(run.folder / "model"))
        found[name] = []
        if path.suffix == ".safetensors":
            with safe_open(path, "pt") as tensors:
                found |= {f"{name}/{key}": tensors.get_slice(key).get_shape() for key in tensors.keys()}  # noqa: SIM118
    return found


@pytest.mark.parametrize("use", BLIND)
def test_the_exported_tensors_are_named_and_shaped_as_those_of_the_twin(use: str, made: dict[str | None, Run]) -> None:
    assert shipped(made[use]) == shipped(made[None])


@pytest.mark.parametrize("use", ["counterfactual-flips", "group-audit", "group-probe"])
def test_an_audit_changes_no_bit_of_the_model(use: str, made: dict[str | None, Run]) -> None:
    for path in (made[None].folder / "model").rglob("*.safetensors"):
        twin = made[use].folder / "model" / path.relative_to(made[None].folder / "model")
        assert twin.read_bytes() == path.read_bytes()


# --- a planted gap --------------------------------------------------------------------------------------------------


def test_a_gap_planted_with_a_seed_that_nobody_chose_is_found(tiny_mean: Path, tmp_path: Path) -> None:
    """The model learns the planted bias; the true gap is near .45, four standard errors of 600 rows are .16."""
    seed = secrets.randbelow(2**31)
    run = run_of(tiny_mean, tmp_path, seed, None, dealt=False)
    assert run.verdicts[0].judgement == "violated", (seed, run.verdicts[0].sentence)
