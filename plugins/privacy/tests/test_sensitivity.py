"""What one unit can change: adding or removing any of them moves the clipped sum by at most the clipping norm.

The sum is what `dp-sgd` itself releases, its noise taken away; the two runs of it share nothing but the weights.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from outside_steps import TokenNoise, with_steps

from conftest import toy_rows, write_rows
from upright import Batch, Run, Stack, Step, hook
from upright.engine.execute import execute, prepare_run
from upright.errors import UprightError
from upright_privacy import clipping

BOUND = 0.05
SEQUENCE, TOKENS, TEXT, PAIRS = "text-classification", "token-classification", "text-generation", "text2text-generation"
PRIVATE = {"use": "dp-sgd", "noise_multiplier": 1.0, "delta": 1e-3, "max_grad_norm": BOUND}
SICK, HUGE = "fever fever rash", 11


def rows(task: str) -> list[dict[str, Any]]:
    """Short and long ones, two that are equal, five that belong to one patient."""
    made = toy_rows(24, 3)
    texts = [row["text"] for row in made]
    texts[0], texts[1] = "rest", " ".join(["today fever has very mild cough"] * 4)
    texts[3] = texts[2]
    labels = [row["label"] for row in made]
    labels[:5] = ["sick"] * 5  # so that the patient's rows pull the same way
    who = [{"patient": f"p{max(0, n - 4)}"} for n in range(24)]  # rows 0 to 4 are one patient's
    if task == TOKENS:
        marked = [["B-d" if word in SICK else "O" for word in text.split()] for text in texts]
        return [{"tokens": t.split(), "labels": m, **w} for t, m, w in zip(texts, marked, who, strict=True)]
    if task == PAIRS:
        return [{"prompt": t, "completion": f"{t} rest", **w} for t, w in zip(texts, who, strict=True)]
    if task == TEXT:
        return [{"text": f"the {t}", **w} for t, w in zip(texts, who, strict=True)]
    sexes = [row["sex"] for row in made]
    return [{"text": t, "label": y, "sex": s, **w} for t, y, s, w in zip(texts, labels, sexes, who, strict=True)]


class Loud(Step):
    """Blow one row's loss up a million times."""

    @hook
    def weigh(self, batch: Batch, run: Run) -> Any:
        return torch.where(batch.rows == HUGE, 1e6, 1.0).to(torch.float64)


def silence(shape: torch.Size, scale: float, device: torch.device) -> torch.Tensor:
    """Noise of zero, in place of `upright_privacy.noise.gaussian`."""
    return torch.zeros(shape, device=device)


def prepared(base: Path, task: str, folder: Path, *steps: Any, **more: Any) -> tuple[Run, Any]:
    """A run before its first update, in float64 and away from where adapters start, and its private step."""
    (folder / "evidence").mkdir(parents=True)
    data = {"train": write_rows(folder / "train.jsonl", rows(task)), "validation": None, **more.pop("data", {})}
    data["validation"] = data["train"]
    train = {"max_steps": 2, "batch_size": 4, "micro_batch_size": 3, **more.pop("train", {})}
    model = {"base": str(base), "task": task, **more.pop("model", {})}
    stack = Stack.load(
        {"data": data, "model": model, "train": train, "privacy": PRIVATE, "output": str(folder), **more}
    )
    stack = with_steps(stack, ("train", "loud", Loud()), *steps)
    run = prepare_run(stack, folder)
    run.model.double()
    run.modules = {key: module.double() for key, module in run.modules.items()}
    torch.manual_seed(1)
    with torch.no_grad():
        for p in run.model.parameters():
            if p.requires_grad:
                p.add_(torch.randn_like(p) * 0.1)
    run.optimizer = run.calls.optimizer(run)
    run.calls.watch("started", run)
    return run, next(placed.step for placed in stack.steps if placed.key == "dp-sgd")


def clipped(run: Run, drawn: list[int]) -> torch.Tensor:
    """What the step leaves in ``.grad``, times the batch size that it divides by."""
    run.optimizer.zero_grad(set_to_none=True)
    run.model.eval()  # with dropout, two runs of the same rows differ by chance
    run.calls.gradients(drawn, run)
    parameters = [p for group in run.optimizer.param_groups for p in group["params"]]
    found = torch.cat([torch.zeros_like(p).flatten() if p.grad is None else p.grad.flatten() for p in parameters])
    return found * run.config.train.batch_size


def farthest(run: Run) -> float:
    """The largest move over every unit's removal from one sample that holds each odd one, in clipping norms."""
    units = run.data["train"]["unit"][:]
    odd = [0, 1, 2, 3, HUGE, 17]
    owners = dict.fromkeys(units[row] for row in odd)
    drawn = [row for row, unit in enumerate(units) if unit in owners]
    whole = clipped(run, drawn)
    moves = []
    for owner in owners:
        rest = [row for row in drawn if units[row] != owner]
        moves.append(float((whole - clipped(run, rest)).norm()))
    assert min(moves) > 0, "a unit that changes nothing proves nothing"
    assert max(moves) > BOUND / 2
    return max(moves) / BOUND


@pytest.fixture(autouse=True)
def _no_noise(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("upright_privacy.noise.gaussian", silence)


CASES: list[tuple[str, str, Any, list[Any]]] = [
    ("bert", SEQUENCE, {"use": "lora", "rank": 2}, []),
    ("bert", SEQUENCE, "full", []),
    ("bert", TOKENS, "full", []),
    ("bert", TOKENS, "bitfit", []),
    ("gpt2", TEXT, "full", []),
    ("gpt2", SEQUENCE, {"use": "adapter", "bottleneck": 4}, []),
    ("llama", TEXT, {"use": "lora", "rank": 2}, []),
    # FACTS of libraries that hook layers: a batch of soft prompts clipped as one record moved by 1.25 C.
    ("llama", TEXT, {"use": "soft-prompt", "num_virtual_tokens": 3}, []),
    ("llama", TEXT, {"use": "p-tuning", "num_virtual_tokens": 3, "encoder_hidden_size": 8}, []),
    ("t5", PAIRS, {"use": "lora", "rank": 2}, []),
    ("t5", PAIRS, "full", []),
    ("bert", SEQUENCE, {"use": "lora", "rank": 2}, ["focal"]),
    ("bert", SEQUENCE, {"use": "lora", "rank": 2}, ["label-smoothing"]),
    ("bert", TOKENS, {"use": "lora", "rank": 2}, ["label-smoothing"]),
    ("bert", SEQUENCE, "full", ["mixout"]),
]


@pytest.mark.parametrize("unit", [None, "patient"])
@pytest.mark.parametrize(
    ("architecture", "task", "tune", "more"),
    CASES,
    ids=[f"{c[0]}-{c[1]}-{c[2] if isinstance(c[2], str) else c[2]['use']}{'-'.join(['', *c[3]])}" for c in CASES],
)
def test_no_unit_moves_the_clipped_sum_by_more_than_the_bound(
    tiny: Callable[[str], Path], architecture: str, task: str, tune: Any, more: list[Any], unit: Any, tmp_path: Path
) -> None:
    changes: dict[str, Any] = {"tune": tune, "train": {"steps": more}, "data": {"unit": unit}}
    run, _ = prepared(tiny(architecture), task, tmp_path / "run", **changes)
    assert farthest(run) <= 1 + 1e-6


@pytest.mark.parametrize("unit", [None, "patient"])
@pytest.mark.parametrize("mode", ["direct", "functorch", "loop"])
def test_each_way_of_taking_gradients_keeps_the_bound(tiny_bert: Path, mode: str, unit: Any, tmp_path: Path) -> None:
    changes = {"tune": "full", "data": {"unit": unit}, "privacy": {**PRIVATE, "grad_sample_mode": mode}}
    run, _ = prepared(tiny_bert, SEQUENCE, tmp_path / "run", **changes)
    assert farthest(run) <= 1 + 1e-6


@pytest.mark.parametrize("unit", [None, "patient"])
def test_a_step_that_repeats_rows_keeps_the_bound(tiny_bert: Path, unit: Any, tmp_path: Path) -> None:
    """FACTS: a perturbation that runs backward twice let one record move the sum by 1.89 C."""
    changes = {"tune": "full", "data": {"unit": unit}}
    run, _ = prepared(tiny_bert, SEQUENCE, tmp_path / "run", ("train", "noise", TokenNoise()), **changes)
    assert farthest(run) <= 1 + 1e-6


def test_checkpointed_activations_keep_the_bound(tiny_bert: Path, tmp_path: Path) -> None:
    changes = {"tune": "full", "train": {"gradient_checkpointing": True}}
    run, _ = prepared(tiny_bert, SEQUENCE, tmp_path / "run", **changes)
    assert farthest(run) <= 1 + 1e-6


@pytest.mark.parametrize("clip", ["automatic", "adaptive"])
def test_other_ways_of_clipping_keep_the_bound(tiny_bert: Path, clip: str, tmp_path: Path) -> None:
    changes = {"tune": "full", "privacy": {**PRIVATE, "clipping": clip, "clipbound_learning_rate": 1e-9}}
    run, _ = prepared(tiny_bert, SEQUENCE, tmp_path / "run", **changes)
    assert farthest(run) <= 1 + 1e-6


def test_fairness_under_privacy_keeps_the_bound(tiny_bert: Path, tmp_path: Path) -> None:
    """FACTS: a penalty on a batch's gap let one record of a minority move the sum by up to 36 C."""
    changes = {
        "tune": "full",
        "data": {"sensitive": ["sex"]},
        "fairness": {"use": "equalized-odds", "groups": ["sex"], "positive": "sick"},
    }
    run, _ = prepared(tiny_bert, SEQUENCE, tmp_path / "run", **changes)
    assert farthest(run) <= 1 + 1e-6


class TokenMean(Step):
    """Hugging Face's own loss: the mean over all tokens of the batch. One record's length changes another's gradient."""

    @hook
    def objective(self, batch: Batch, output: Any, run: Run) -> Any:
        from torch.nn.functional import cross_entropy

        loss = cross_entropy(output.logits.flatten(0, 1), batch.labels.flatten())
        return loss.expand(len(batch)) / len(batch)


def test_a_mean_over_the_tokens_of_a_batch_is_refused(tiny_bert: Path, tmp_path: Path) -> None:
    """FACTS: it moved the clipped sum by 1.28 C without a word."""
    stack = Stack.load(
        {
            "data": {"train": write_rows(tmp_path / "t.jsonl", rows(TOKENS))},
            "model": {"base": str(tiny_bert), "task": TOKENS},
            "tune": "full",
            "train": {"max_steps": 2, "batch_size": 4},
            "privacy": PRIVATE,
            "output": str(tmp_path / "runs"),
        }
    )
    with pytest.raises(UprightError, match="dp-sgd") as error:
        execute(with_steps(stack, ("train", "mean", TokenMean())))
    assert "train.mean" in str(error.value)


# --- mutants: the tests above must notice them ----------------------------------------------------------------------


def test_mutant_that_clips_to_twice_the_norm_is_noticed(
    tiny_bert: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    true = clipping.factors
    monkeypatch.setattr(clipping, "factors", lambda norms, bound, *how: true(norms, 2 * bound, *how))
    run, _ = prepared(tiny_bert, SEQUENCE, tmp_path / "run", tune="full")
    assert farthest(run) > 1.5


def test_mutant_that_clips_rows_where_units_have_several_is_noticed(
    tiny_bert: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run, step = prepared(tiny_bert, SEQUENCE, tmp_path / "run", tune="full", data={"unit": "patient"})
    count = len(run.data["train"])
    monkeypatch.setattr(type(step), "_members", lambda self, run: [[row] for row in range(count)])
    object.__setattr__(run.encoded["train"], "unit", torch.arange(count))
    assert farthest(run) > 1.2
