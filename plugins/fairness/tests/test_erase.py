"""LEACE against its published form in numpy, against other edits that erase, and the folded head against head(LEACE(x))."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from conftest import write_rows
from upright import Run, Stack
from upright.engine.evaluate import predict
from upright.engine.execute import execute, prepare_run
from upright.engine.probe import probe
from upright.errors import ConfigError
from upright_fairness.leace import Moments

Fit = Callable[[np.ndarray, np.ndarray], tuple[np.ndarray, np.ndarray]]
SMALL = 1e-9
"""Of covariances of order one, in float64, after two inversions of well-conditioned matrices."""


def ours(x: np.ndarray, z: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    moments = Moments()
    for part in np.array_split(np.arange(len(x)), 3):
        moments.add(torch.from_numpy(x[part]), torch.from_numpy(z[part]))
    projection, mean = moments.eraser()
    return projection.numpy(), mean.numpy()


def published(x: np.ndarray, z: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Whitened, projected onto what the concept spans there, unwhitened (theorem 4.2 of the paper)."""
    centred, concept = x - x.mean(0), z - z.mean(0)
    values, vectors = np.linalg.eigh(centred.T @ centred / len(x))
    there = values > 1e-11 * values.max()
    root = vectors[:, there] * np.sqrt(values[there])
    whiten, unwhiten = (vectors[:, there] / np.sqrt(values[there])) @ vectors[:, there].T, root @ vectors[:, there].T
    left, sizes, _ = np.linalg.svd(whiten @ (centred.T @ concept / len(x)), full_matrices=False)
    left = left[:, sizes > 1e-7]
    return unwhiten @ left @ left.T @ whiten, x.mean(0)


def drawn(seed: int, groups: int, width: int, crossed: bool, flat: bool) -> tuple[np.ndarray, np.ndarray]:
    """Features that go with the group; ``crossed``: two specs; ``flat``: features that depend on one another."""
    chance = np.random.default_rng(seed)
    codes = chance.integers(0, groups, 120)
    z = np.eye(groups)[codes]
    if crossed:
        z = np.concatenate([z, np.eye(2)[chance.integers(0, 2, 120)]], axis=1)
    x = chance.normal(size=(120, width)) @ chance.normal(size=(width, width)) + z @ chance.normal(
        size=(z.shape[1], width)
    )
    if flat:
        x[:, -1] = x[:, 0] - x[:, 1]
    return x + 3, z


def complaints(fit: Fit, seed: int, groups: int, width: int, crossed: bool, flat: bool) -> list[str]:
    x, z = drawn(seed, groups, width, crossed, flat)
    projection, mean = fit(x, z)
    erased = x - (x - mean) @ projection.T
    scale = x.std()
    found = []
    if np.abs((erased - erased.mean(0)).T @ (z - z.mean(0)) / len(x)).max() > SMALL * scale:
        found.append("covariance with the group")
    if np.abs(erased.mean(0) - x.mean(0)).max() > SMALL * scale:
        found.append("the mean moved")
    size = np.square(erased - x).sum(1).mean()
    centred, chance = x - x.mean(0), np.random.default_rng(seed + 1)
    crossing = centred.T @ (z - z.mean(0)) / len(x)
    others = [crossing.T, *(chance.normal(size=crossing.T.shape) for _ in range(5))]
    for other in others:  # (I - Sxz (B Sxz)+ B) Sxz = 0 for any B of full rank
        edit = crossing @ np.linalg.pinv(other @ crossing, rcond=1e-9) @ other
        if np.square(centred @ edit.T).sum(1).mean() < size * (1 - 1e-9):
            found.append("another edit is smaller")
    if np.abs((x - mean) @ (projection - published(x, z)[0]).T).max() > 1e-6 * scale:
        found.append("not the published one")
    return found


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 10_000), st.integers(2, 4), st.integers(4, 9), st.booleans(), st.booleans())
def test_the_edit_erases_and_is_the_smallest_that_does(
    seed: int, groups: int, width: int, crossed: bool, flat: bool
) -> None:
    assert complaints(ours, seed, groups, width, crossed, flat) == []


def orthogonal(x: np.ndarray, z: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """A mutant: project along the means' differences, without whitening."""
    crossing = (x - x.mean(0)).T @ (z - z.mean(0))
    return crossing @ np.linalg.pinv(crossing, rcond=1e-9), x.mean(0)


def partly(x: np.ndarray, z: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    projection, mean = ours(x, z)
    return 0.99 * projection, mean


def about_zero(x: np.ndarray, z: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    projection, mean = ours(x, z)
    return projection, 0 * mean


def uncentred(x: np.ndarray, z: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """A mutant: second moments instead of covariances."""
    xx, xz = x.T @ x, x.T @ z
    return xz @ np.linalg.pinv(xz.T @ np.linalg.pinv(xx) @ xz) @ xz.T @ np.linalg.pinv(xx), x.mean(0)


@pytest.mark.parametrize("mutant", [orthogonal, partly, about_zero, uncentred])
def test_mutant_edits_are_noticed(mutant: Fit) -> None:
    assert complaints(mutant, 1, 3, 6, False, False)


@pytest.fixture
def told(toy: dict[str, Any], tmp_path: Path) -> dict[str, Any]:
    """Texts that give the group away, a few of which have none."""
    rows = [
        {
            "text": f"{'very mild' if n % 2 else 'today again'} {'fever' if n % 3 else 'walk'} {n}",
            "label": "sick" if n % 3 else "well",
            "sex": None if n % 11 == 0 else "fm"[n % 2],
        }
        for n in range(66)
    ]
    toy["data"] |= {"train": write_rows(tmp_path / "told.jsonl", rows)}
    return toy


def seen_by_head(
    model: Any, head: Any, run: Run, split: str
) -> Iterator[tuple[np.ndarray, list[str | None], np.ndarray]]:
    """What the head reads, one row at a time, the group, and the logits."""
    read: list[torch.Tensor] = []
    handle = head.register_forward_hook(lambda _, given, __: read.append(given[0]))
    with torch.no_grad():
        for row in run.data[split]:
            logits = model(**run.tokenizer(row["text"], return_tensors="pt")).logits[0]
            yield read[-1][0].double().numpy(), row["sex"], logits.double().numpy()
    handle.remove()


@pytest.mark.parametrize("base", ["tiny_mean", "tiny_bert"])
def test_the_folded_head_gives_the_logits_of_the_head_on_erased_features(
    base: str, told: dict[str, Any], tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    told["model"]["base"] = str(request.getfixturevalue(base))
    (tmp_path / "run" / "evidence").mkdir(parents=True)
    run = prepare_run(Stack.load({**told, "fairness": {"use": "erase", "groups": ["sex"]}}), tmp_path / "run")
    probe(run)
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for p in run.model.parameters():
            p.add_(torch.randn(p.shape, generator=generator) * 0.2)
    step = run.stack.steps[-1].step
    step.watch("started", run)
    before = copy.deepcopy(run.model).eval()
    run.model.train()
    after = step.finalize(run.model, run)
    heads = [model.get_base_model().classifier for model in (before, after)]
    train = [(x, sex) for x, sex, _ in seen_by_head(before, heads[0], run, "train") if sex]
    x, z = np.stack([x for x, _ in train]), np.array([[sex == "f", sex == "m"] for _, sex in train], dtype=float)
    projection, mean = published(x, z)
    weight, bias = heads[0].weight.detach().double().numpy(), heads[0].bias.detach().double().numpy()
    old = np.stack([x for x, _, _ in seen_by_head(before, heads[0], run, "test")])
    expected = (old - (old - mean) @ projection.T) @ weight.T + bias
    found = np.stack([logits for *_, logits in seen_by_head(after, heads[1], run, "test")])
    # A float32 feature has other last bits in a batch than alone, and the edit multiplies them.
    assert np.abs(found - expected).max() < 1e-5 * max(1, np.abs(weight @ projection).sum(1).max())
    assert np.abs(old @ weight.T + bias - expected).max() > 1e-3, "something was erased"
    logits = np.stack([logits for _, sex, logits in seen_by_head(after, heads[1], run, "train") if sex])
    assert np.abs((logits - logits.mean(0)).T @ (z - z.mean(0)) / len(z)).max() < 1e-5  # float32 logits of order one
    assert run.keep(step, "erased", dict) == {"directions": 1, "width": 16, "rows": 60}


def test_the_exported_model_decides_without_the_group(told: dict[str, Any]) -> None:
    run = execute(Stack.load({**told, "fairness": {"use": "erase", "groups": ["sex"]}}))
    assert "1 of 16 directions" in run.stack.steps[-1].step.report(run).blocks[0].text
    before = predict(run, "test").numpy("scores")
    run.encoded["test"].groups["sex"].fill_(-1)
    assert (predict(run, "test").numpy("scores") == before).all()


def test_what_cannot_be_folded_is_refused(told: dict[str, Any], tiny: Callable[[str], Path]) -> None:
    erase = {"use": "erase", "groups": ["sex"]}
    with pytest.raises(ConfigError, match="not those of a linear layer on one feature vector") as error:
        execute(Stack.load({**told, "model": {"base": str(tiny("gpt2"))}, "fairness": erase}))
    assert "\n" not in str(error.value)
    private = {**told, "privacy": {"use": "dp-sgd", "noise_multiplier": 1.0, "delta": 1e-3}, "fairness": erase}
    with pytest.raises(ConfigError, match=r"fairness\.erase cannot run with privacy\.dp-sgd .*remove one of them"):
        Stack.load(private)
