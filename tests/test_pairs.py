"""Two steps run together or are refused: every pair is checked, a few stacks are run; `make pairs` runs all of them."""

from __future__ import annotations

import random

import pairs
import pytest

SEED = 7
SAMPLE = 3


def test_every_pair_is_refused_with_one_sentence_or_goes_together() -> None:
    for some in random.Random(SEED).sample(pairs.every_pair(), 200):
        why = pairs.refused(some)
        assert why is None or (why.strip() and "Traceback" not in why)


@pytest.mark.parametrize("number", range(SAMPLE))
def test_a_stack_of_many_steps_runs_or_is_refused(number: int) -> None:
    chance = random.Random(SEED + number)
    names = sorted(pairs.entries())
    known = {pairs.pair(one, other): pairs.refused((one, other)) for one in names for other in chance.sample(names, 6)}
    wanted = {some for some, why in known.items() if why is None and len(set(some)) == 2}
    group = next(pairs.stacks(wanted, {**dict.fromkeys(pairs.every_pair(), "not looked at"), **known}, 2))
    if pairs.refused(group) is None:
        _, _, wrong = pairs.ran(group)
        assert wrong is None


@pytest.mark.parametrize(
    ("names", "sentence"),
    [
        (("explain.influence", "train.mixout"), "the parameters that are trained are those of the finished model"),
        (("explain.influence", "tune.p-tuning"), "the parameters that are trained are those of the finished model"),
        (("tune.p-tuning", "tune.soft-prompt"), "puts virtual tokens into every text already"),
        (("tune.boft", "tune.lora"), "tune.lora: cannot be put around an adapter of peft"),
    ],
)
def test_what_cannot_go_together_is_refused_before_training(names: pairs.Names, sentence: str) -> None:
    assert sentence in (pairs.refused(names) or pairs.ran(names)[1] or "")


@pytest.mark.parametrize(
    "names",
    [
        ("explain.counterfactual", "prompt.verbalizer"),  # an edit leaves the mask token
        ("fairness.group-dro", "privacy.dp-sgd", "tune.lokr"),  # lokr branches on a random number, in training alone
        ("explain.counterfactual", "prompt.calibrate"),  # what explains is prepared after what prompts
        ("clean.unicode", "tune.adalora"),  # in as few updates as it takes
    ],
)
def test_what_goes_together_runs(names: pairs.Names) -> None:
    assert pairs.ran(names) == (names, None, None)


def test_equal_reasons_are_told_once() -> None:
    told = [
        pairs.reason((one, "tune.lora"), f"stack  {one} cannot run with tune.lora (x.yaml:3:1): {one} needs peace")
        for one in ("fairness.constraint", "privacy.dp-sgd")
    ]
    assert told == ["A cannot run with B: A needs peace"] * 2


def test_the_stacks_hold_every_pair_that_was_wanted() -> None:
    names = sorted(pairs.entries())[:12]
    wanted = {pairs.pair(one, other) for one in names for other in names if one < other}
    known = {some: "refused" if random.Random(str(some)).random() < 0.2 else None for some in wanted}
    left = {some for some, why in known.items() if why is None}
    groups = list(pairs.stacks(left, known, 2))
    covered = {pairs.pair(one, other) for group in groups for one in group for other in group if one < other}
    assert left <= covered
    assert all(known.get(some) is None for some in covered & known.keys())
    assert len(groups) < len(left)
