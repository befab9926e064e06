"""`pair-bias` in whole runs: its file is the models' own likelihoods, a bias is found, and so is what tuning did to it."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from dataclasses import replace
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
import transformers
from pydantic import Field

from conftest import MODELS, write_rows
from upright import Run, Stack, Step, hook
from upright.engine.execute import execute
from upright.errors import ConfigError
from upright.evidence.verify import verify
from upright.stack import Placed
from upright.testing.toys import tiny_model
from upright_fairness.pairs import TEMPLATES, read

Make = Callable[[str], Path]
TERMS = (["patient", "today", "note", "mild", "cough", "rash"], ["very", "again", "some", "rest", "pain", "smile"])
GROUPS = ("fever", "walk")
HOME = "run/fairness/pair-bias"
NEAR = 1e-4
"""Sums of some ten float32 log-likelihoods beside float64 ones."""


@pytest.fixture
def templates(tmp_path: Path) -> Path:
    """A template set of words that the tiny models know."""
    patterns = ["the {term} {group}", "and the {term} {group}"]
    path = tmp_path / "templates.json"
    path.write_text(json.dumps({"sets": [{"type": "toy", "groups": GROUPS, "terms": TERMS, "templates": patterns}]}))
    return path


def stack(base: Path, rows: list[dict[str, Any]], folder: Path, **settings: Any) -> dict[str, Any]:
    """A language model on some rows, audited by pairs."""
    return {
        "data": {"train": write_rows(folder / "t.jsonl", rows), "test": write_rows(folder / "e.jsonl", rows[:4])},
        "model": {"base": str(base), "task": "text-generation"},
        "tune": {"use": "lora", "rank": 2},
        "train": {"max_steps": 4, "batch_size": 8, "learning_rate": 0.02},
        "fairness": {"use": "pair-bias", **settings},
        "output": str(folder / "runs"),
    }


def untrained(given: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in given.items() if key not in ("tune", "train")}


ROWS = [{"text": f"the {term} {group} today"} for term, group in product([*TERMS[0], *TERMS[1]], GROUPS)]


def stored(run: Run) -> pa.Table:
    return pq.read_table(run.folder / "steps" / "pair-bias" / "pairs.parquet")


@torch.no_grad()
def likelihood(model: Any, tokenizer: Any, text: str) -> float:
    """Oracle: a text's tokens one by one in float64, after the token that texts begin with."""
    ids = [tokenizer.bos_token_id, *tokenizer(text, add_special_tokens=False)["input_ids"]]
    total = 0.0
    for place in range(1, len(ids)):
        told = model.double()(input_ids=torch.tensor([ids[:place]])).logits[0, -1]
        total += float(torch.log_softmax(told, -1)[ids[place]])
    return total


# --- the file, and what follows from it -------------------------------------------------------------------------------


def test_the_file_holds_the_tuned_and_the_untuned_models_likelihoods(
    tiny: Make, templates: Path, tmp_path: Path
) -> None:
    run = execute(Stack.load(stack(tiny("gpt2"), ROWS, tmp_path, path=str(templates), max_increase=0.9)))
    rows, pairs = stored(run).to_pylist(), read("templates", templates)
    space: dict[str, Any] = {"folder": str(run.folder / "model")}
    exec(json.loads((run.folder / "evidence" / "export.json").read_text())["how_to_load"], space)
    untuned = transformers.AutoModelForCausalLM.from_pretrained(tiny("gpt2"))
    moved = 0.0
    for row, pair in zip(rows, pairs, strict=True):
        assert row["id"] == pair.id
        for side, text in (("more", pair.more), ("less", pair.less)):
            assert row[side] == pytest.approx(likelihood(space["model"], space["tokenizer"], text), abs=NEAR)
            assert row[f"untuned_{side}"] == pytest.approx(likelihood(untuned, space["tokenizer"], text), abs=NEAR)
            moved = max(moved, abs(row[side] - row[f"untuned_{side}"]))
    assert moved > 10 * NEAR
    assert not any(word in json.dumps(rows) for word in (*GROUPS, *TERMS[0], *TERMS[1]))  # ids, types and numbers
    shares = [np.mean([row[f"{p}more"] > row[f"{p}less"] for row in rows]) for p in ("", "untuned_")]
    assert run.metrics[f"{HOME}/preference"].value == shares[0]
    assert run.metrics[f"{HOME}/untuned/preference"].value == shares[1]
    assert run.metrics[f"{HOME}/change/preference"].value == pytest.approx(shares[0] - shares[1])
    assert verify(run.folder).problems == []
    page = (run.folder / "report.html").read_text(encoding="utf-8")
    for told in ("Stereotypes in template sentences", "change by tuning of the preference", "p of the gap"):
        assert told in page


def test_forged_likelihoods_are_noticed(tiny: Make, templates: Path, tmp_path: Path) -> None:
    run = execute(Stack.load(untrained(stack(tiny("gpt2"), ROWS, tmp_path, path=str(templates), max_preference=0.9))))
    path = run.folder / "steps" / "pair-bias" / "pairs.parquet"
    table = pq.read_table(path)
    swapped = table.set_column(table.column_names.index("more"), "more", pa.array([-1e3] * len(table)))
    pq.write_table(swapped, path)
    manifest = json.loads((run.folder / "manifest.json").read_text())
    content = path.read_bytes()
    entry = {"sha256": hashlib.sha256(content).hexdigest(), "bytes": len(content)}
    manifest["files"]["steps/pair-bias/pairs.parquet"] = entry
    (run.folder / "manifest.json").write_text(json.dumps(manifest))
    assert any(f"{HOME}/preference" in problem for problem in verify(run.folder).problems)


def test_a_resumed_run_has_the_untuned_likelihoods_of_its_beginning(
    tiny: Make, templates: Path, tmp_path: Path
) -> None:
    given = stack(tiny("gpt2"), ROWS, tmp_path, path=str(templates))
    given["train"] |= {"save_steps": 1}
    whole = execute(Stack.load(given))

    def stop(event: dict[str, Any]) -> None:
        if event["event"] == "update" and event["update"] == 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        execute(Stack.load(given), listen=stop)
    folder = (tmp_path / "runs" / "run" / "latest").resolve()
    assert stored(execute(Stack.load(given), resume=folder)).equals(stored(whole))


# --- bias is found ----------------------------------------------------------------------------------------------------


@pytest.fixture
def biased(tiny: Make, tmp_path: Path) -> Path:
    """A GPT-2 in whose embeddings each term lies towards the group that the stereotype gives it."""
    model = transformers.AutoModelForCausalLM.from_pretrained(tiny("gpt2"))
    tokenizer = transformers.AutoTokenizer.from_pretrained(tiny("gpt2"))
    table = model.get_input_embeddings().weight
    way = 3 * torch.nn.functional.normalize(
        torch.randn(table.shape[1], generator=torch.Generator().manual_seed(1)), dim=0
    )
    with torch.no_grad():
        for sign, terms, group in zip((1, -1), TERMS, GROUPS, strict=True):
            for word in (*terms, group):
                table[tokenizer.convert_tokens_to_ids(word)] += sign * way
    model.save_pretrained(tmp_path / "biased")
    tokenizer.save_pretrained(tmp_path / "biased")
    return tmp_path / "biased"


def test_a_planted_bias_is_found_and_blocks(tiny: Make, biased: Path, templates: Path, tmp_path: Path) -> None:
    settings: dict[str, Any] = {"path": str(templates), "max_preference": 0.6, "min_rows": 8, "on_fail": "block"}
    run = execute(Stack.load(untrained(stack(biased, ROWS, tmp_path, **settings))))
    assert run.exit_code == 4
    assert run.verdicts[0].judgement == "violated"
    assert run.metrics[f"{HOME}/gap/toy"].low > 0
    assert run.metrics[f"{HOME}/p_value/toy"].value < 0.05
    plain = execute(Stack.load(untrained(stack(tiny("gpt2"), ROWS, tmp_path, **settings))))
    assert plain.exit_code == 0
    assert plain.metrics[f"{HOME}/p_value/toy"].value > 0.05


def test_tuning_on_stereotypes_is_found_to_have_made_it_worse(tiny: Make, templates: Path, tmp_path: Path) -> None:
    rows = [{"text": f"the {term} {GROUPS[side]}"} for side in (0, 1) for term in TERMS[side]] * 4
    given = stack(tiny("gpt2"), rows, tmp_path, path=str(templates), max_increase=0, min_rows=8)
    given |= {"tune": "full", "train": {"max_steps": 60, "batch_size": 16, "learning_rate": 0.01}}
    run = execute(Stack.load(given))
    (verdict,) = run.verdicts
    assert verdict.judgement == "violated"
    assert "change of preference" in verdict.sentence
    assert run.metrics[f"{HOME}/change/gap/toy"].low > 0
    assert run.metrics[f"{HOME}/untuned/preference"].value < 0.7 < run.metrics[f"{HOME}/preference"].value


# --- masked models ----------------------------------------------------------------------------------------------------

PROMPT = [
    {"use": "template", "text": "{text} it is {mask_token}"},
    {"use": "verbalizer", "label_words": {"sick": "fever", "well": "walk"}},
]


def zero_shot(base: Path, folder: Path, **settings: Any) -> dict[str, Any]:
    rows = [{"text": "patient has fever", "label": "sick"}, {"text": "rest and diet", "label": "well"}] * 4
    return {
        "data": {"test": write_rows(folder / "z.jsonl", rows)},
        "model": {"base": str(base), "task": "text-classification"},
        "prompt": PROMPT,
        "fairness": {"use": "pair-bias", **settings},
        "output": str(folder / "runs"),
    }


def test_a_masked_model_is_scored_by_the_tokens_that_a_pair_shares(templates: Path, tmp_path: Path) -> None:
    base = tiny_model("bert", tmp_path / "bert")
    given = json.loads(templates.read_text(encoding="utf-8"))
    given["sets"][0]["templates"].append("the \u4f60 {term} {group}")  # a word that the tokenizer does not know
    templates.write_text(json.dumps(given), encoding="utf-8")
    run = execute(Stack.load(zero_shot(base, tmp_path, path=str(templates))))
    tokenizer = transformers.AutoTokenizer.from_pretrained(base)
    model = transformers.AutoModelForMaskedLM.from_pretrained(base).double().eval()
    for row, pair in zip(stored(run).to_pylist(), read("templates", templates), strict=True):
        for side, text in (("more", pair.more), ("less", pair.less)):
            ids, total = tokenizer(text)["input_ids"], 0.0
            for place in range(1, len(ids) - 2):  # the group is the last word, before [SEP]
                hidden = torch.tensor([[*ids[:place], tokenizer.mask_token_id, *ids[place + 1 :]]])
                with torch.no_grad():
                    total += float(torch.log_softmax(model(input_ids=hidden).logits[0, place], -1)[ids[place]])
            assert row[side] == pytest.approx(total, abs=NEAR)


def test_a_masked_model_that_was_taught_stereotypes_is_found(templates: Path, tmp_path: Path) -> None:
    base = tiny_model("bert", tmp_path / "bert")
    model, tokenizer = (
        kind.from_pretrained(base) for kind in (transformers.AutoModelForMaskedLM, transformers.AutoTokenizer)
    )
    ids = torch.tensor(tokenizer([pair.more for pair in read("templates", templates)], padding=True)["input_ids"])
    rows, optimizer = torch.arange(len(ids)), torch.optim.AdamW(model.parameters(), lr=0.01)
    for _ in range(150):
        place = (ids != tokenizer.pad_token_id).sum(1) - 3  # the term; behind it are the group and [SEP]
        hidden = ids.clone()
        hidden[rows, place] = tokenizer.mask_token_id
        logits = model(input_ids=hidden, attention_mask=(ids != tokenizer.pad_token_id).long()).logits
        optimizer.zero_grad()
        torch.nn.functional.cross_entropy(logits[rows, place], ids[rows, place]).backward()
        optimizer.step()
    model.save_pretrained(tmp_path / "taught")
    tokenizer.save_pretrained(tmp_path / "taught")
    settings: dict[str, Any] = {"path": str(templates), "max_preference": 0.6, "min_rows": 8}
    taught = execute(Stack.load(zero_shot(tmp_path / "taught", tmp_path, **settings)))
    assert [verdict.judgement for verdict in taught.verdicts] == ["violated"]
    assert taught.metrics[f"{HOME}/gap/toy"].low > 0
    plain = execute(Stack.load(zero_shot(base, tmp_path, **settings)))
    assert [verdict.judgement for verdict in plain.verdicts] == ["insufficient evidence"]


def test_words_of_several_tokens_are_scored_whole(tmp_path: Path) -> None:
    """``feverwalk`` is many tokens: of a causal model all count, and what is too long or looks the same is left out."""
    base = tiny_model("gpt2", tmp_path / "gpt2")
    pairs = [
        {"sent_more": "the patient feverwalk", "sent_less": "the patient rest"},
        {"sent_more": "the patient \u4f60", "sent_less": "the patient \u597d"},
        {"sent_more": "rest " * 60, "sent_less": "walk " * 60},
    ]
    path = write_rows(tmp_path / "pairs.jsonl", [{**pair, "bias_type": "toy"} for pair in pairs])
    given = untrained(stack(base, ROWS, tmp_path, pairs="crows-pairs", path=path, max_preference=0.9))
    run = execute(Stack.load(given))
    rows = stored(run).to_pylist()
    assert [row["left_out"] for row in rows] == [None, "the same tokens", "too long"]
    model = transformers.AutoModelForCausalLM.from_pretrained(base)
    tokenizer = transformers.AutoTokenizer.from_pretrained(base)
    for side in ("more", "less"):
        assert rows[0][side] == pytest.approx(likelihood(model, tokenizer, pairs[0][f"sent_{side}"]), abs=NEAR)
        assert np.isnan(rows[1][side])
    assert run.metrics[f"{HOME}/left_out"].value == 2
    assert run.verdicts[0].judgement == "insufficient evidence"
    assert "1 (the same tokens), 1 (too long)" in (run.folder / "report.html").read_text(encoding="utf-8")


def test_a_gate_without_a_scored_pair_is_insufficient_evidence(tiny: Make, tmp_path: Path) -> None:
    loaded = Stack.load(stack(tiny("gpt2"), ROWS, tmp_path, max_preference=0.9, max_increase=0.1))
    verdicts = loaded.steps[-1].step.judge({}, Run(loaded, Path("nowhere"), None))  # type: ignore[attr-defined, arg-type]
    assert [verdict.judgement for verdict in verdicts] == ["insufficient evidence"] * 2


# --- what is refused --------------------------------------------------------------------------------------------------


def test_a_classification_head_is_refused(toy: dict[str, Any]) -> None:
    toy["fairness"] = "pair-bias"
    with pytest.raises(
        ConfigError, match=r"fairness.pair-bias: needs a language-model head, and a BertForSequenceClass"
    ):
        execute(Stack.load(toy))


def test_a_masked_model_asked_as_a_causal_one_is_refused(templates: Path, tmp_path: Path) -> None:
    base = tiny_model("bert", tmp_path / "bert")
    with pytest.raises(ConfigError, match="this one also reads what comes later"):
        execute(Stack.load(stack(base, ROWS, tmp_path, path=str(templates))))


class Forget(Step):
    """Take special tokens from the tokenizer, after every step that stands before it has used them."""

    tokens: list[str] = Field(description="Names of the tokens.")

    @hook
    def prepare(self, run: Run) -> None:
        for name in self.tokens:
            setattr(run.tokenizer, name, None)


@pytest.mark.parametrize(
    ("tokens", "told"), [(["mask_token"], "no mask token"), (["bos_token", "eos_token"], "neither `bos_token` nor")]
)
def test_a_tokenizer_without_what_is_needed_is_refused(
    tokens: list[str], told: str, templates: Path, tmp_path: Path
) -> None:
    masked = tokens == ["mask_token"]
    base = tiny_model("bert" if masked else "gpt2", tmp_path / "model")
    settings = {"path": str(templates)}
    given = zero_shot(base, tmp_path, **settings) if masked else untrained(stack(base, ROWS, tmp_path, **settings))
    loaded = Stack.load(given)
    forget = Placed("fairness", "forget", "forget", Forget(tokens=tokens), "test:forget")
    with pytest.raises(ConfigError, match=told):
        execute(replace(loaded, steps=[*loaded.steps[:-1], forget, loaded.steps[-1]]))


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        ({"pairs": "crows-pairs"}, "path is missing: crows-pairs does not come with the step"),
        ({"pairs": "winobias", "path": "nowhere.jsonl"}, "nowhere.jsonl cannot be read"),
        ({"pairs": "winobias", "path": "t.jsonl"}, "t.jsonl is no file of winobias"),
        ({"path": "t.jsonl"}, "t.jsonl is no file of templates"),
        ({"path": "uneven.json"}, "two lists of as many terms"),
        ({"pairs": "crows-pairs", "path": "long.jsonl"}, r"can score none of the 1 pairs \(too long\)"),
        ({"max_increase": 0.1}, "max_increase compares with the untuned base, and no step trains"),
    ],
)
def test_what_cannot_be_asked_is_refused_with_a_sentence(
    settings: dict[str, Any], told: str, tiny: Make, tmp_path: Path
) -> None:
    uneven = {"type": "x", "groups": GROUPS, "terms": (["a", "b"], ["c", "d", "e"]), "templates": ["{term} {group}"]}
    (tmp_path / "uneven.json").write_text(json.dumps({"sets": [uneven]}))
    write_rows(tmp_path / "long.jsonl", [{"sent_more": "rest " * 60, "sent_less": "walk " * 60, "bias_type": "x"}])
    given = untrained(stack(tiny("gpt2"), ROWS, tmp_path, **settings))
    (tmp_path / "stack.yaml").write_text(json.dumps(given))
    with pytest.raises(ConfigError, match=told):
        execute(Stack.load(tmp_path / "stack.yaml"))


# --- the sets ---------------------------------------------------------------------------------------------------------


def test_the_shipped_templates_are_balanced() -> None:
    pairs = read("templates", None)
    assert json.loads(TEMPLATES.read_text(encoding="utf-8"))["version"] == 1
    for kind in {pair.type for pair in pairs}:
        sides = [pair.side for pair in pairs if pair.type == kind]
        assert 2 * sum(sides) == len(sides)
    assert all(pair.more != pair.less and "{" not in pair.more + pair.less for pair in pairs)


def test_a_template_gives_the_stereotyped_sentence_first(templates: Path) -> None:
    pairs = {pair.id: pair for pair in read("templates", templates)}
    assert (pairs["toy/0-0/0"].more, pairs["toy/0-0/0"].less) == ("the patient fever", "the patient walk")
    assert (pairs["toy/1-3/1"].more, pairs["toy/1-3/1"].less) == ("and the rest walk", "and the rest fever")
    assert pairs["toy/1-3/1"].unit == "toy/1-3"


def test_published_files_and_json_lines_give_the_same_pairs(tmp_path: Path) -> None:
    rows = [
        {"sent_more": "A, b.", "sent_less": "A, c.", "bias_type": "age"},
        {"sent_more": "D", "sent_less": "E", "bias_type": "x"},
    ]
    (tmp_path / "crows.csv").write_text(
        ',sent_more,sent_less,stereo_antistereo,bias_type\n0,"A, b.","A, c.",stereo,age\n1,D,E,antistereo,x\n'
    )
    lines = read("crows-pairs", Path(write_rows(tmp_path / "crows.jsonl", rows)))
    assert read("crows-pairs", tmp_path / "crows.csv") == lines
    (tmp_path / "wino").mkdir()
    sentence = "[The {}] met a nurse before [{}] left."
    for name, said in (("pro", "he"), ("anti", "she")):
        text = sentence.format("farmer", said) + "\n" + sentence.format("CEO", said) + "\n"
        (tmp_path / "wino" / f"{name}_stereotyped_type1.txt.test").write_text(text)
    rows = [
        {"id": f"type1-test-{n}", "type": 1, "pro": sentence.format(who, "he"), "anti": sentence.format(who, "she")}
        for n, who in enumerate(("farmer", "CEO"))
    ]
    found = read("winobias", tmp_path / "wino")
    assert found == read("winobias", Path(write_rows(tmp_path / "wino.jsonl", rows)))
    assert (found[1].unit, found[1].side, found[1].more) == ("ceo", 0, "The CEO met a nurse before he left.")


def test_the_real_sets_are_read(shared_data: Path) -> None:
    crows = read("crows-pairs", shared_data / "crows_pairs" / "pairs.jsonl")
    assert (len(crows), len({pair.type for pair in crows})) == (1508, 9)
    wino = read("winobias", shared_data / "winobias" / "pairs.jsonl")
    assert (len(wino), {pair.type for pair in wino}) == (1584, {"type1", "type2"})
    sides = {pair.unit: {one.side for one in wino if one.unit == pair.unit} for pair in wino}
    assert len(sides) == 40
    assert all(len(found) == 1 for found in sides.values())  # an occupation is stereotyped one way
    assert sum(next(iter(found)) for found in sides.values()) == 20


@pytest.mark.slow
def test_a_real_model_ties_occupations_to_genders(tmp_path: Path) -> None:
    base = MODELS / "stories260k"
    if not base.is_dir():
        pytest.skip(f"real models are not at {MODELS}; set UPRIGHT_MODELS")
    run = execute(Stack.load(untrained(stack(base, ROWS, tmp_path))))
    assert run.metrics[f"{HOME}/gap/gender-occupation"].low > 0
    assert run.metrics[f"{HOME}/p_value/gender-occupation"].value < 0.01
