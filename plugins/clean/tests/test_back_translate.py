"""There and back through two models, as transformers alone would go, one text at a time."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from tiny_models import WORDS, make_tokenizer

from conftest import write_rows
from upright import Stack
from upright.engine.execute import execute
from upright.errors import ConfigError
from upright.evidence.ledger import read_ledger

TEXTS = ["fever today", "patient has some pain and cough", "walk", "the note", "smile and rest again", "   "]


@pytest.fixture(scope="module")
def marian(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A Marian of one layer, random weights, and a tokenizer of words."""
    import torch
    from transformers import MarianConfig, MarianMTModel

    folder = tmp_path_factory.mktemp("marian")
    size = {"d_model": 16, "encoder_layers": 1, "decoder_layers": 1, "encoder_ffn_dim": 32, "decoder_ffn_dim": 32}
    heads = {"encoder_attention_heads": 2, "decoder_attention_heads": 2, "max_position_embeddings": 32, "init_std": 1.0}
    special = {"pad_token_id": 0, "eos_token_id": 3, "bos_token_id": 2, "decoder_start_token_id": 0}
    torch.manual_seed(3)
    config = MarianConfig(vocab_size=make_tokenizer(folder), forced_eos_token_id=3, **size, **heads, **special)
    MarianMTModel(config).save_pretrained(folder)
    return folder


def alone(folder: Path, text: str, prefix: str, beams: int) -> str:
    """The oracle: one text, no padding, no step."""
    import torch
    from transformers import AutoModelForSeq2SeqLM, AutoTokenizer

    tokenizer, model = AutoTokenizer.from_pretrained(folder), AutoModelForSeq2SeqLM.from_pretrained(folder)
    ids = tokenizer(prefix + text, return_tensors="pt").input_ids
    with torch.inference_mode():
        out = model.generate(ids, num_beams=beams, do_sample=False, max_new_tokens=6)
    return str(tokenizer.decode(out[0], skip_special_tokens=True))


def stack(folder: Path, forward: Path | str, backward: Path | str, **settings: Any) -> Stack:
    rows = [{"text": text, "label": "a", "who": str(n // 2)} for n, text in enumerate(TEXTS)]
    data = {split: write_rows(folder / f"{split}.jsonl", rows) for split in ("train", "validation", "test")}
    step = {
        "use": "back-translate",
        "forward_model": str(forward),
        "backward_model": str(backward),
        "max_new_tokens": 6,
        **settings,
    }
    return Stack.load({"data": {**data, "unit": "who"}, "clean": step, "output": str(folder / "runs")})


@pytest.mark.parametrize(("beams", "size"), [(1, 1), (3, 2)])
def test_copies_are_what_transformers_gives_text_by_text(
    beams: int, size: int, marian: Path, tiny: Any, tmp_path: Path
) -> None:
    t5 = tiny("t5")
    settings = {"num_beams": beams, "batch_size": size, "backward_prefix": "note: "}
    run = execute(stack(tmp_path, marian, t5, **settings))
    train = {row["row_id"]: row for row in run.data["train"].to_list()}
    ledger = read_ledger(run.folder).to_pylist()
    found = {train[entry["parent"]]["text"]: train[entry["row_id"]] for entry in ledger}
    expected = {}
    for text in TEXTS[:-1]:
        there = alone(marian, text, "", beams)
        back = alone(t5, there, "note: ", beams).strip() if there.strip() else ""
        if back and back != text:
            expected[text] = back
    assert {text: row["text"] for text, row in found.items()} == expected
    assert len(expected) >= 3, "the models say something"
    assert {entry["split"] for entry in ledger} == {"train"}
    for entry in ledger:
        assert train[entry["row_id"]]["unit"] == train[entry["parent"]]["unit"]


def test_a_text_that_would_be_cut_has_no_copy_and_that_is_told(marian: Path, tmp_path: Path) -> None:
    def lost(rows: list[dict[str, Any]]) -> int:
        made = stack(tmp_path, marian, marian)
        told: list[dict[str, Any]] = []
        write_rows(tmp_path / "train.jsonl", rows)
        run = execute(made, listen=told.append)
        long = {row["row_id"] for row in run.data["train"] if len(row["text"].split()) > 32}
        assert not any(entry["parent"] in long for entry in read_ledger(run.folder).to_pylist())
        (warning,) = [event["message"] for event in told if event["event"] == "warning" and "copy" in event["message"]]
        assert "got no copy: a text is too long" in warning
        return int(warning.split("clean.back-translate: ")[1].split(" of ")[0])

    rows = [{"text": text, "label": "a", "who": str(n)} for n, text in enumerate([*TEXTS[:4], "? !"])]
    cut = [{"text": " ".join(WORDS["other"] * 4 + [word]), "label": "a", "who": word} for word in ("x", "y")]
    assert lost([*rows, *cut]) == lost([*rows, cut[0]]) + 1


def test_a_model_that_is_missing_or_does_not_translate_is_refused(
    marian: Path, tiny_bert: Path, tmp_path: Path
) -> None:
    with pytest.raises(
        ConfigError, match=r"clean\.back-translate\.backward_model: .*is a bert, which is no sequence-to-sequence"
    ):
        execute(stack(tmp_path, marian, tiny_bert))
    with pytest.raises(ConfigError, match=r"clean\.back-translate\.forward_model: 'nowhere/at-all' cannot be loaded"):
        execute(stack(tmp_path, "nowhere/at-all", marian))
    broken = tmp_path / "broken"
    broken.mkdir()
    (broken / "config.json").write_text(json.dumps({"model_type": "t5"}))
    with pytest.raises(ConfigError, match="cannot be loaded"):
        execute(stack(tmp_path, broken, marian))


def test_only_a_batch_of_one_is_bounded_in_a_private_stack(tmp_path: Path) -> None:
    one, many = stack(tmp_path, "a", "b", batch_size=1).steps[0], stack(tmp_path, "a", "b").steps[0]
    assert (one.step.scope.dp_stability, one.reads_private) == (1, False)
    assert (many.step.scope.dp_stability, many.reads_private) == (None, True)


def test_token_tasks_are_refused(tiny_bert: Path, tmp_path: Path) -> None:
    data = {"train": write_rows(tmp_path / "t.jsonl", [{"tokens": ["a"], "labels": ["O"]}])}
    model = {"base": str(tiny_bert), "task": "token-classification"}
    step = {"use": "back-translate", "forward_model": "a", "backward_model": "b"}
    with pytest.raises(ConfigError, match=r"clean\.back-translate serves .*not model.task: token-classification"):
        Stack.load({"data": data, "model": model, "clean": step, "tune": "lora"})


@pytest.mark.gpu
def test_on_a_gpu_as_on_the_cpu(marian: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import torch

    from upright.run import Run

    on_gpu = execute(stack(tmp_path, marian, marian)).data["train"]["text"][:]
    monkeypatch.setattr(Run, "device", property(lambda self: torch.device("cpu")))
    assert execute(stack(tmp_path, marian, marian)).data["train"]["text"][:] == on_gpu
