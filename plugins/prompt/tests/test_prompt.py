"""Templates render and fit; label similarity decides without training."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from transformers import AutoTokenizer

from conftest import write_rows
from upright import Stack
from upright.engine.execute import execute
from upright.errors import ConfigError
from upright_prompt.fitting import count, fit
from upright_prompt.rendering import fields


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    a=st.lists(st.sampled_from(["fever", "x", "cough!"]), max_size=30),
    b=st.lists(st.sampled_from(["walk", "yz"]), max_size=30),
)
def test_what_is_rendered_fits_and_the_longest_column_is_cut_first(tiny_bert: Path, a: list[str], b: list[str]) -> None:
    tokenizer = AutoTokenizer.from_pretrained(tiny_bert)
    record = {"text": " ".join(a), "text_pair": " ".join(b)}
    found, cut = fit(lambda kept: "note {text} and {text_pair} today".format(**kept), record, tokenizer, 20)
    assert count(tokenizer, found) <= 20
    one, rest = found.removeprefix("note ").removesuffix(" today").split(" and ", 1) if " and " in found else ("", "")
    assert record["text"].startswith(one)
    assert record["text_pair"].startswith(rest)
    tokens = [len(tokenizer(part, add_special_tokens=False)["input_ids"]) for part in (*record.values(), one, rest)]
    for whole, left, other in ((tokens[0], tokens[2], tokens[3]), (tokens[1], tokens[3], tokens[2])):
        assert left == whole or left >= other, "only a column that is among the longest is cut"
    assert cut == {
        name: len(record[name]) - len(left)
        for name, left in (("text", one), ("text_pair", rest))
        if left != record[name]
    }


def test_names_are_read_checked_and_special_tokens_known(tiny_bert: Path, toy: dict[str, Any]) -> None:
    assert fields("{a} {{b}} {c}") == ["a", "c"]
    run = execute(Stack.load({**toy, "prompt": {"use": "template", "text": "{text} is {mask_token} {{x}}"}}))
    assert run.encoded["test"].records[0]["text"] == f"{run.data['test'][0]['text']} is [MASK] {{x}}"
    for text, told in (
        ("{text", "is no template"),
        ("{0}", "not a plain name"),
        ("{text!r}", "not a plain name"),
        ("hello", "names no column"),
    ):
        with pytest.raises(ConfigError, match=told):
            Stack.load({**toy, "prompt": {"use": "template", "text": text}})
    for text, told in (("{txt}", "did you mean 'text'"), ("{sex}", "no column"), ("{label}", "no column")):
        with pytest.raises(ConfigError, match=told):
            execute(Stack.load({**toy, "prompt": {"use": "template", "text": text}}))
    with pytest.raises(ConfigError, match="leave no room"):
        execute(Stack.load({**toy, "prompt": {"use": "template", "text": "x y z " * 40 + "{text}"}}))


def test_a_pair_becomes_one_text_and_a_prompt_stays_a_prompt(tiny_bert: Path, tiny_llama: Path, tmp_path: Path) -> None:
    rows = [{"text": "fever", "text_pair": "cough", "label": "ab"[n % 2]} for n in range(40)]
    stack = {
        "data": {"train": write_rows(tmp_path / "p.jsonl", rows)},
        "model": {"base": str(tiny_bert)},
        "prompt": {"use": "template", "text": "{text} or {text_pair}"},
        "tune": "head",
        "train": {"max_steps": 1},
        "output": str(tmp_path / "runs"),
    }
    run = execute(Stack.load(stack))
    assert run.encoded["train"].records[0]["text"] == "fever or cough"
    lines = [{"prompt": "fever", "completion": "cough"}] * 20
    stack |= {
        "data": {"train": write_rows(tmp_path / "g.jsonl", lines)},
        "model": {"base": str(tiny_llama), "task": "text-generation"},
        "prompt": {"use": "template", "text": "note {prompt}"},
        "tune": "full",
    }
    run = execute(Stack.load(stack))
    assert run.encoded["train"].records[0] == {"prompt": "note fever", "completion": "cough"}


def similar(toy: dict[str, Any], base: Path, **settings_of_step: Any) -> dict[str, Any]:
    toy = {**toy, "model": {"base": str(base)}, "prompt": {"use": "label-similarity", **settings_of_step}}
    for name in ("tune", "train"):
        toy.pop(name, None)
    return toy


def test_label_similarity_is_the_cosine_in_float64(toy: dict[str, Any], tiny_mean: Path) -> None:
    run = execute(Stack.load(similar(toy, tiny_mean, descriptions={"sick": "fever and pain"}, temperature=0.1)))
    from upright.engine.evaluate import predict

    texts = run.embed(run.data["test"]["text"][:]).astype(np.float64)
    labels = run.embed(["fever and pain", "well"]).astype(np.float64)
    expected = torch.softmax(torch.from_numpy(texts @ labels.T / 0.1), -1).numpy()
    np.testing.assert_allclose(predict(run, "test").numpy("scores"), expected, atol=1e-5)  # float32 features


def test_label_similarity_refuses_what_it_cannot_do(toy: dict[str, Any], tiny_mean: Path, tiny_bert: Path) -> None:
    with pytest.raises(ConfigError, match="is no label of the data"):
        execute(Stack.load(similar(toy, tiny_mean, descriptions={"ill": "x"})))
    with pytest.raises(ConfigError, match="trained with mean pooling"):
        execute(Stack.load(similar(toy, tiny_bert)))
    with pytest.raises(ConfigError, match="exactly one"):
        Stack.load(similar(toy, tiny_mean, hypothesis_template="no place"))


def test_zero_shot_on_real_intents_is_far_above_chance(shared_data: Path, tmp_path: Path) -> None:
    lines = (shared_data / "banking77" / "test.jsonl").read_text().splitlines()[::20]
    (tmp_path / "t.jsonl").write_text("\n".join(lines) + "\n")
    stack = {
        "data": {"test": str(tmp_path / "t.jsonl")},
        "prompt": "label-similarity",
        "output": str(tmp_path / "runs"),
    }
    run = execute(Stack.load(stack))
    assert run.metrics["test/accuracy"].low > 0.4  # chance is 1/77
