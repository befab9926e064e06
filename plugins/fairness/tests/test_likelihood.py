"""A sentence's likelihood is that of transformers' model asked for one token at a time, in float64, without padding."""

from __future__ import annotations

from collections.abc import Callable
from difflib import SequenceMatcher
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from hypothesis import given, settings
from hypothesis import strategies as st

from upright_fairness import likelihood
from upright_fairness.likelihood import Logits, shared

CPU = torch.device("cpu")
SPECIAL, MASK = {0, 2, 3, 4}, 4
CLOSE = 1e-9
"""Sums of at most a dozen float64 numbers, in another order and beside padding."""
TOKENS = st.integers(5, 60)
TEXTS = st.lists(st.lists(TOKENS, min_size=2, max_size=10), min_size=1, max_size=5)


@pytest.fixture(scope="session")
def models(tiny: Callable[[str], Path]) -> dict[str, Any]:
    """A causal and a masked model in float64, weights wide enough that every token matters."""
    causal = transformers.AutoModelForCausalLM.from_pretrained(tiny("gpt2"))
    torch.manual_seed(0)
    config = transformers.AutoConfig.from_pretrained(tiny("bert"), initializer_range=0.3)
    masked = transformers.BertForMaskedLM(config)
    return {"causal": causal.double().eval(), "masked": masked.double().eval()}


def logits_of(model: Any) -> Logits:
    return lambda ids, mask: model(input_ids=ids, attention_mask=mask).logits


@torch.no_grad()
def by_the_loop(model: Any, ids: list[int], scored: list[int] | None) -> float:
    """One token at a time: of the text before it (``scored`` None), or of the whole text with the token masked."""
    total = 0.0
    for place in range(1, len(ids)) if scored is None else scored:
        given_ids = ids[:place] if scored is None else [*ids[:place], MASK, *ids[place + 1 :]]
        at = place - 1 if scored is None else place
        told = model(input_ids=torch.tensor([given_ids])).logits[0, at].double()
        total += float(told[ids[place]] - torch.logsumexp(told, 0))
    return total


def changed(text: list[int], data: Any) -> list[int]:
    """The text framed, with one span of it replaced by other tokens."""
    start = data.draw(st.integers(0, len(text) - 1))
    end = data.draw(st.integers(start + 1, len(text)))
    return [2, *text[:start], *data.draw(st.lists(TOKENS, min_size=1, max_size=3)), *text[end:], 3]


Score = Callable[..., np.ndarray]


@torch.no_grad()
def without_the_shift(logits: Logits, texts: list[list[int]], size: int, device: torch.device) -> np.ndarray:
    """Mutant: each token is read off its own place."""
    found = np.zeros(len(texts))
    for places, ids, mask in likelihood._batches(texts, size, device):
        each = torch.log_softmax(logits(ids, mask), -1).gather(2, ids.unsqueeze(2)).squeeze(2)
        found[places] = (each * mask)[:, 1:].sum(1).numpy()
    return found


@torch.no_grad()
def padding_too(logits: Logits, texts: list[list[int]], size: int, device: torch.device) -> np.ndarray:
    """Mutant: what a text is padded with is scored as if it were said."""
    found = np.zeros(len(texts))
    for places, ids, mask in likelihood._batches(texts, size, device):
        each = torch.log_softmax(logits(ids, mask)[:, :-1], -1).gather(2, ids[:, 1:].unsqueeze(2)).squeeze(2)
        found[places] = each.sum(1).numpy()
    return found


def unmasked(logits: Logits, texts: Any, scored: Any, mask_token: int, *rest: Any) -> np.ndarray:
    """Mutant: a token is scored while it is seen."""

    def told(ids: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        hidden = (ids == mask_token).nonzero()[:, 0]
        original = ids.clone()
        for row in hidden.tolist():
            original[row, ids[row] == mask_token] = 7
        return logits(original, mask)

    return likelihood.masked(told, texts, scored, mask_token, *rest)


def modified_too(one: list[int], other: list[int], special: set[int]) -> tuple[list[int], list[int]]:
    """Mutant: the tokens in which the sentences differ are scored as well."""
    kept = [[n for n, token in enumerate(ids) if token not in special] for ids in (one, other)]
    return kept[0], kept[1]


def check_causal(score: Score, model: Any, texts: list[list[int]], size: int) -> None:
    with torch.no_grad():
        found = score(logits_of(model), texts, size, CPU)
    assert found == pytest.approx([by_the_loop(model, ids, None) for ids in texts], abs=CLOSE)


def check_masked(score: Score, places: Any, model: Any, one: list[int], other: list[int], size: int) -> None:
    """Both sentences of a pair, scored where they agree; the oracle finds those places by itself."""
    blocks = SequenceMatcher(None, one, other).get_opcodes()
    agreed = [
        [n for op in blocks if op[0] == "equal" for n in range(op[side], op[side + 1]) if ids[n] not in SPECIAL]
        for side, ids in ((1, one), (3, other))
    ]
    with torch.no_grad():
        found = score(logits_of(model), [one, other], places(one, other, SPECIAL), MASK, size, CPU)
    assert found == pytest.approx(
        [by_the_loop(model, ids, at) for ids, at in zip((one, other), agreed, strict=True)], abs=CLOSE
    )


@settings(max_examples=30, deadline=None)
@given(TEXTS, st.integers(1, 4))
def test_a_causal_text_is_as_likely_as_its_tokens_one_by_one(
    models: dict[str, Any], texts: list[list[int]], size: int
) -> None:
    check_causal(likelihood.causal, models["causal"], texts, size)


@settings(max_examples=30, deadline=None)
@given(st.lists(TOKENS, min_size=2, max_size=8), st.integers(1, 4), st.data())
def test_a_masked_pair_is_scored_by_the_tokens_that_both_have(
    models: dict[str, Any], text: list[int], size: int, data: Any
) -> None:
    check_masked(likelihood.masked, shared, models["masked"], [2, *text, 3], changed(text, data), size)


@pytest.mark.parametrize("mutant", [without_the_shift, padding_too])
def test_a_causal_mutant_is_noticed(models: dict[str, Any], mutant: Score) -> None:
    with pytest.raises(AssertionError):
        check_causal(mutant, models["causal"], [[5, 9, 11, 30], [8, 7]], 2)


@pytest.mark.parametrize(("score", "places"), [(unmasked, shared), (likelihood.masked, modified_too)])
def test_a_masked_mutant_is_noticed(models: dict[str, Any], score: Score, places: Any) -> None:
    with pytest.raises(AssertionError):
        check_masked(score, places, models["masked"], [2, 5, 9, 11, 30, 3], [2, 5, 12, 11, 30, 3], 3)


@given(st.lists(TOKENS, max_size=8), st.lists(TOKENS, max_size=8))
def test_shared_tokens_are_the_same_on_both_sides_and_in_order(one: list[int], other: list[int]) -> None:
    first, second = shared([2, *one, 3], [2, *other, 3], SPECIAL)
    assert [[2, *one, 3][n] for n in first] == [[2, *other, 3][n] for n in second]
    assert first == sorted(set(first))
    assert second == sorted(set(second))
    assert not {[2, *one, 3][n] for n in first} & SPECIAL


def test_what_reads_ahead_is_told_from_what_does_not(models: dict[str, Any]) -> None:
    with torch.no_grad():
        assert not likelihood.reads_ahead(logits_of(models["causal"]), [5, 9, 11], CPU)
        assert likelihood.reads_ahead(logits_of(models["masked"]), [5, 9, 11], CPU)
