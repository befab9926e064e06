"""Tasks and batches: what a record becomes, and what its loss is."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from tiny_stacks import lines_stack, prepared, words_stack

from conftest import WORDS, write_rows
from upright.engine.batches import batches, collate, encode
from upright.engine.evaluate import predict


def test_the_first_sub_token_carries_the_label_and_every_word_is_predicted(tiny_bert: Path, tmp_path: Path) -> None:
    run = prepared(words_stack(tiny_bert, tmp_path), tmp_path / "run")
    encoded = encode(run, "train")
    for row in range(len(run.data["train"])):
        words = run.data["train"][row]["labels"]
        scored = [run.labels[label] for label in encoded.labels[row] if label != -100]
        assert scored == words, "one scored place a word, in order, a word of no sub-tokens included"
    table = predict(run, "train").table
    assert [len(row) for row in table.column("decision").to_pylist()] == [len(w) for w in run.data["train"]["labels"]]


def test_prompt_tokens_are_never_scored(tiny_llama: Path, tmp_path: Path) -> None:
    run = prepared(lines_stack(tiny_llama, tmp_path), tmp_path / "run")
    encoded = encode(run, "train")
    for feature, labels, row in zip(encoded.features, encoded.labels, run.data["train"], strict=True):
        scored = [token for token in labels if token != -100]
        assert run.tokenizer.decode(scored, skip_special_tokens=True) == row["completion"]
        assert feature["input_ids"][-len(scored) :] == scored
        assert scored[-1] == run.tokenizer.eos_token_id


@pytest.mark.parametrize("kind", ["text", "words", "lines"])
def test_a_row_has_the_same_loss_alone_and_padded_among_others(
    kind: str, toy: dict[str, Any], tiny_bert: Path, tiny_llama: Path, tmp_path: Path
) -> None:
    stack = {"text": toy, "words": words_stack(tiny_bert, tmp_path), "lines": lines_stack(tiny_llama, tmp_path)}[kind]
    run = prepared(stack, tmp_path / "run")
    rows = range(8)
    with torch.no_grad():
        together = run.losses(collate(run, rows, "train"))[0]
        alone = torch.cat([run.losses(collate(run, [row], "train"))[0] for row in rows])
    assert together.shape == (8,)
    # float32 sums in another order
    torch.testing.assert_close(together, alone, rtol=1e-5, atol=1e-6)


def test_mutant_token_mean_over_the_batch_is_noticed(tiny_bert: Path, tmp_path: Path) -> None:
    run = prepared(words_stack(tiny_bert, tmp_path), tmp_path / "run")
    batch = collate(run, range(4), "train")
    with torch.no_grad():
        logits = run.forward(batch).logits
        honest = run.losses(batch)[0].mean()
    mutant = torch.nn.functional.cross_entropy(logits.transpose(1, 2), batch.labels, ignore_index=-100)
    assert abs(float(honest - mutant)) > 1e-4


def test_length_sorted_batches_hold_every_row_once(toy: dict[str, Any], tmp_path: Path) -> None:
    run = prepared(toy, tmp_path / "run")
    rows = list(range(len(run.data["train"])))
    found = list(batches(run, rows, "train", 7))
    assert sorted(int(r) for b in found for r in b.rows) == rows
    widths = [b.inputs["input_ids"].shape[1] for b in found]
    assert widths == sorted(widths)
    assert all(int(b.inputs["attention_mask"].sum(1).max()) == b.inputs["input_ids"].shape[1] for b in found)
    assert len(collate(run, [], "train")) == 0
    assert set(found[0].groups) == {"sex"}


def test_pairs_are_read_as_pairs(tiny_bert: Path, tmp_path: Path) -> None:
    rows = [
        {"text": "fever", "text_pair": "cough", "label": "a"},
        {"text": "walk", "text_pair": "rest", "label": "b"},
    ] * 8
    stack = {
        "data": {"train": write_rows(tmp_path / "p.jsonl", rows)},
        "model": {"base": str(tiny_bert)},
        "tune": "head",
    }
    run = prepared(stack, tmp_path / "run")
    ids = encode(run, "train").features[0]["input_ids"]
    assert ids.count(run.tokenizer.sep_token_id) >= 1
    assert run.tokenizer.convert_tokens_to_ids("cough") in ids or run.tokenizer.convert_tokens_to_ids("rest") in ids


def test_numeric_labels_sort_by_value(tiny_bert: Path, tmp_path: Path) -> None:
    rows = [{"text": WORDS["sick"][n % 5], "label": n % 12} for n in range(48)]
    path = write_rows(tmp_path / "n.jsonl", rows)
    stack = {"data": {"train": path, "validation": path}, "model": {"base": str(tiny_bert)}, "tune": "head"}
    assert prepared(stack, tmp_path / "run").labels == [str(n) for n in range(12)]
