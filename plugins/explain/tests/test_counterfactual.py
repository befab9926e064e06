"""Edits against all subsets of tokens, asked of the model itself."""

from __future__ import annotations

import copy
from itertools import combinations
from pathlib import Path
from typing import Any

import pytest
import torch
from scipy.stats import binomtest

from conftest import write_rows
from upright import Run, Stack
from upright.engine.execute import execute
from upright.engine.target import CoreTarget
from upright.errors import ConfigError
from upright.evidence.verify import verify
from upright_explain import counterfactual
from upright_explain.counterfactual import Counterfactual

SIZE = 3
EXHAUSTIVE = 10_000
"""A beam wider than there are edits: then the search is one over all of them."""


@pytest.fixture(scope="module")
def run(tiny_mean: Path, toy_files: dict[str, Any], tmp_path_factory: pytest.TempPathFactory) -> Run:
    import json

    folder = tmp_path_factory.mktemp("counterfactual")
    rows = [json.loads(line) for line in Path(toy_files["test"]).read_text().splitlines()]
    # no numbers at the end, which are many tokens: all subsets are to be tried
    short = [{**row, "text": " ".join(row["text"].split()[:-1])} for row in rows]
    return execute(
        Stack.load(
            {
                "data": {**toy_files, "test": write_rows(folder / "short.jsonl", short), "sensitive": ["sex"]},
                "model": {"base": str(tiny_mean)},
                "tune": "full",
                "train": {"max_steps": 60, "batch_size": 16, "learning_rate": 5e-3, "head_learning_rate": 2e-2},
                "explain": {"use": "counterfactual", "max_edits": SIZE},
                "output": str(folder / "runs"),
            }
        )
    )


def decision(run: Run, ids: list[int]) -> int:
    with torch.no_grad():
        return int(
            run.model(input_ids=torch.tensor([ids]), attention_mask=torch.ones(1, len(ids)).long()).logits.argmax()
        )


def after(run: Run, text: str, edit: tuple[int, ...], how: str) -> int:
    """The decision on a text with tokens edited; places count the tokens of the text, special ones aside."""
    ids = run.tokenizer(text)["input_ids"]
    if how == "delete":
        return decision(run, [one for place, one in enumerate(ids) if place - 1 not in edit])
    filler = run.tokenizer.mask_token_id if how == "mask" else run.tokenizer.pad_token_id
    return decision(run, [filler if place - 1 in edit else one for place, one in enumerate(ids)])


def flips(run: Run, text: str, how: str) -> list[tuple[int, ...]]:
    """Every edit of at most `SIZE` tokens that flips, the smallest first."""
    count = len(run.tokenizer(text)["input_ids"]) - 2
    first = after(run, text, (), how)
    every = (edit for size in range(1, SIZE + 1) for edit in combinations(range(count), size))
    return [edit for edit in every if len(edit) < count + 1 and after(run, text, edit, how) != first]


def asked(run: Run, **settings: Any) -> list[dict[str, Any]]:
    """What the step finds with these settings."""
    placed = run.stack.steps[-1]
    before = placed.step
    object.__setattr__(placed, "step", Counterfactual(**{"max_edits": SIZE, "samples": 12, **settings}))
    try:
        return placed.step._lines(CoreTarget(run, "test"), run.data["test"], run)
    finally:
        object.__setattr__(placed, "step", before)


def places(run: Run, text: str, spans: list[list[int]]) -> tuple[int, ...]:
    offsets = run.tokenizer(text, return_offsets_mapping=True)["offset_mapping"][1:-1]
    return tuple(offsets.index(tuple(span)) for span in spans)


def problems(run: Run, **settings: Any) -> list[str]:
    """Where the search is not what it says: of each explained row, against all subsets."""
    texts = dict(zip(run.data["test"]["row_id"], run.data["test"]["text"], strict=True))
    how, found, sizes = settings.get("edit", "delete"), [], []
    for line in asked(run, **settings):
        text = texts[line["row_id"]]
        every = flips(run, text, how)
        if run.labels[after(run, text, (), how)] != line["decision"]:
            found.append("another decision")
        if line["flipped_to"] is None:
            sizes.append((None, len(every[0]) if every else None))
            continue
        edit = places(run, text, line["spans"])
        sizes.append((len(edit), len(every[0]) if every else None))
        if edit not in every:
            found.append("it does not flip")
        elif run.labels[after(run, text, edit, how)] != line["flipped_to"]:
            found.append("it flips to another class")
        if any(part in every for part in combinations(edit, len(edit) - 1)):
            found.append("a part of it is enough")
    if settings.get("beam_width") == EXHAUSTIVE and any(ours != least for ours, least in sizes):
        found.append("there is a smaller one")
    if any((ours == 1) != (least == 1) for ours, least in sizes):
        found.append("an edit of one token was missed")
    return sorted(set(found))


@pytest.mark.parametrize("edit", ["delete", "mask", "pad"])
def test_a_wide_beam_finds_a_smallest_edit(run: Run, edit: str) -> None:
    assert problems(run, edit=edit, beam_width=EXHAUSTIVE) == []


def test_a_narrow_beam_finds_edits_that_flip_and_need_every_token(run: Run) -> None:
    assert problems(run, beam_width=1) == []


def test_some_decisions_flip_by_one_token_and_some_need_more(run: Run) -> None:
    """Else the other tests would show nothing."""
    sizes = [len(line["spans"]) for line in asked(run, beam_width=EXHAUSTIVE, samples=24) if line["flipped_to"]]
    assert {1, 2} <= set(sizes)


def needless(run: Run) -> tuple[int, int]:
    """Of texts that flip with every token gone: shrunk edits that flip with a token back, and those that are smaller."""
    target, step, kept, smaller = CoreTarget(run, "test"), Counterfactual(), 0, 0
    for row, text in enumerate(run.data["test"]["text"][:]):
        [batch] = target.batches([row])
        whole = frozenset(range(1, len(run.tokenizer(text)["input_ids"]) - 1))
        of = counterfactual._Row(target, batch, target.decisions(batch), run)
        [(_, _, other)] = step._try(of, [whole])
        if other is not None:
            inner = tuple(sorted(place - 1 for place in step._shrunk(of, whole, other)[0]))
            first = after(run, text, (), "delete")
            assert after(run, text, inner, "delete") != first
            kept += any(
                after(run, text, part, "delete") != first for part in combinations(inner, len(inner) - 1) if part
            )
            smaller += len(inner) < len(whole)
    return kept, smaller


def test_an_edit_is_shrunk_until_it_needs_every_token(run: Run) -> None:
    kept, smaller = needless(run)
    assert kept == 0
    assert smaller > 0


def test_shares_are_counts_of_rows_with_their_interval(run: Run) -> None:
    assert run.exit_code == 0
    found = run.kept["counterfactual/rows"]
    for most in range(1, SIZE + 1):
        hits = sum(line["flipped_to"] is not None and len(line["spans"]) <= most for line in found)
        told = run.metrics[f"run/explain/counterfactual/flipped_by/{most}"]
        wilson = binomtest(hits, len(found)).proportion_ci(1 - 0.05 / SIZE, method="wilson")
        assert (told.value, told.low, told.high) == pytest.approx((hits / len(found), wilson.low, wilson.high))
    assert verify(run.folder).problems == []


def test_edits_are_told_as_places_and_not_as_text(run: Run) -> None:
    written = (run.folder / "evidence" / "explain.json").read_text()
    written += (run.folder / "steps" / "counterfactual" / "counterfactual.json").read_text()
    words = {word for text in run.data["test"]["text"] for word in text.split()} - {"has", "the", "and", "some", "note"}
    assert not any(f'"{word}' in written for word in words)


def test_masking_without_a_mask_token_is_refused(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    tokenizer = copy.deepcopy(run.tokenizer)
    tokenizer.mask_token = None
    monkeypatch.setattr(run, "tokenizer", tokenizer)
    placed = run.stack.steps[-1]
    before = placed.step
    object.__setattr__(placed, "step", Counterfactual(edit="mask"))
    try:
        with pytest.raises(ConfigError, match="has no mask token; choose delete or pad"):
            placed.step.prepare(run)
    finally:
        object.__setattr__(placed, "step", before)


# --- wrong implementations ------------------------------------------------------------------------------------------


def beside(honest: Any) -> Any:
    """The next token is edited."""
    return lambda batch, edits, how, run: honest(batch, [frozenset(place - 1 for place in e) for e in edits], how, run)


def hidden(honest: Any) -> Any:
    """A deleted token is masked."""
    return lambda batch, edits, how, run: honest(batch, edits, "mask", run)


@pytest.mark.parametrize("mutant", [beside, hidden])
def test_a_mutant_that_edits_otherwise_is_noticed(mutant: Any, run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(counterfactual, "edited", mutant(counterfactual.edited))
    assert problems(run, beam_width=EXHAUSTIVE) != []


def test_a_mutant_that_tries_half_of_the_edits_is_noticed(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    honest = Counterfactual._try

    def half(self: Any, row: Any, edits: Any) -> Any:
        return honest(self, row, edits[: max(1, len(edits) // 2)])

    monkeypatch.setattr(Counterfactual, "_try", half)
    assert problems(run, beam_width=EXHAUSTIVE) != []


def test_a_mutant_that_does_not_shrink_is_noticed(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Counterfactual, "_shrunk", lambda self, row, edit, other: (edit, other))
    assert needless(run)[0] > 0
