"""Demonstrations come from train alone, are drawn as asked, and the whole fits the window."""

from __future__ import annotations

import json
import unicodedata
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tiny_stacks import prepared

from conftest import toy_rows, write_rows
from upright import Run, Stack
from upright.engine.execute import execute
from upright.errors import ConfigError

Make = Callable[[str], Path]
TEMPLATE = "note: {text} is {label}"
SEPARATOR = "\n\n"
FOLDERS = iter(range(10**6))


def stack_of(toy: dict[str, Any], **step: Any) -> dict[str, Any]:
    return {**toy, "prompt": {"use": "few-shot", "template": TEMPLATE, **step}, "tune": "head"}


def wide(toy: dict[str, Any], tmp_path: Path, base: Path) -> dict[str, Any]:
    """The toy stack on a base that reads 512 tokens, so that nothing is left out."""
    folder = tmp_path / f"wide-{next(FOLDERS)}"
    config = transformers.AutoConfig.from_pretrained(base, max_position_embeddings=512)
    torch.manual_seed(0)
    transformers.AutoModel.from_config(config).save_pretrained(folder)
    transformers.AutoTokenizer.from_pretrained(base, model_max_length=512).save_pretrained(folder)
    return {**toy, "model": {"base": str(folder)}}


def run_of(stack: dict[str, Any], tmp_path: Path) -> Run:
    return prepared(stack, tmp_path / f"run-{next(FOLDERS)}")


def parts(run: Run, split: str) -> list[tuple[str, list[str], str]]:
    """Each row's own text, the texts of its demonstrations, and its question."""
    found = []
    for given_row, record in zip(run.data[split], run.encoded[split].records, strict=True):
        *shown, question = record["text"].split(SEPARATOR)
        found.append((given_row["text"], shown, question))
    return found


def normal(text: str) -> str:
    return " ".join(unicodedata.normalize("NFKC", unicodedata.normalize("NFKC", text).casefold()).split())


words = st.lists(st.sampled_from(["fever", "FEVER", "rest", "ﬁne", "fine", "the", "x"]), min_size=1, max_size=4)
row = st.tuples(words, st.sampled_from(["\u00a0", " ", "  "]), st.sampled_from(["sick", "well_off"]))


@settings(max_examples=25, deadline=None, suppress_health_check=list(HealthCheck))
@given(
    rows=st.lists(row, min_size=1, max_size=25),
    tests=st.lists(row, min_size=1, max_size=6),
    selection=st.sampled_from(["random", "balanced", "nearest"]),
)
def test_no_text_of_validation_or_test_and_never_the_row_itself(
    rows: list[Any], tests: list[Any], selection: str, toy: dict[str, Any], tmp_path: Path
) -> None:
    made = {
        name: [{"text": blank.join(text), "label": label} for text, blank, label in some]
        for name, some in {"train": rows, "test": tests}.items()
    }
    # five texts that nothing else has, of both labels
    made["train"] += [{"text": f"note {n}", "label": "sick" if n % 2 else "well_off"} for n in range(5)]
    folder = tmp_path / f"data-{next(FOLDERS)}"
    folder.mkdir()
    files = {name: write_rows(folder / f"{name}.jsonl", some) for name, some in made.items()}
    stack = stack_of({**toy, "data": {**files, "validation": files["test"]}}, shots=3, selection=selection)
    run = run_of(stack, tmp_path)
    hidden = {normal(one["text"]) for one in made["test"]}
    known = {f"note: {one['text']} is {one['label'].replace('_', ' ')}" for one in made["train"]}
    tokenizer = run.tokenizer
    for split in run.data:
        for text, shown, question in parts(run, split):
            assert question == f"note: {text} is"
            assert set(shown) <= known
            texts = [normal(one.removeprefix("note: ").rpartition(" is ")[0]) for one in shown]
            assert not set(texts) & (hidden | {normal(text)})
            assert len(set(texts)) == len(texts)
        assert all(len(tokenizer(one["text"])["input_ids"]) <= 32 for one in run.encoded[split].records)


def test_what_is_drawn_does_not_depend_on_the_order_of_rows(
    toy: dict[str, Any], tiny_bert: Path, tmp_path: Path
) -> None:
    lines = Path(toy["data"]["train"]).read_text().splitlines(keepends=True)
    (tmp_path / "turned.jsonl").write_text("".join(lines[::-1]))
    toy = wide(toy, tmp_path, tiny_bert)
    turned = {**toy, "data": {**toy["data"], "train": str(tmp_path / "turned.jsonl")}}
    for selection in ("random", "balanced", "nearest"):
        found = [
            {text: shown for text, shown, _ in parts(run_of(stack_of(one, selection=selection), tmp_path), "test")}
            for one in (toy, turned)
        ]
        assert found[0] == found[1]
    seeds = [parts(run_of({**stack_of(toy), "seed": seed}, tmp_path), "test")[0][1] for seed in (0, 0, 1)]
    assert seeds[0] == seeds[1] != seeds[2]


@pytest.mark.parametrize("shots", [4, 5])
def test_balanced_is_balanced_for_the_demonstrations_own_rows_too(
    shots: int, toy: dict[str, Any], tiny_bert: Path, tmp_path: Path
) -> None:
    rows = [{**one, "label": "sick" if n < 6 else "well"} for n, one in enumerate(toy_rows(60, 9))]
    toy = wide(toy, tmp_path, tiny_bert)
    toy["data"] = {**toy["data"], "train": write_rows(tmp_path / "skewed.jsonl", rows)}
    run = run_of(stack_of(toy, selection="balanced", shots=shots), tmp_path)
    for split in run.data:
        for _, shown, _ in parts(run, split):
            labels = Counter(one.rpartition(" is ")[2] for one in shown)
            assert sum(labels.values()) == shots
            assert max(labels.values()) - min(labels.values()) <= 1
            assert len(labels) == 2


def test_a_class_that_runs_out_leaves_its_turns_to_the_others(
    toy: dict[str, Any], tiny_bert: Path, tmp_path: Path
) -> None:
    rows = [{**one, "label": "sick" if n < 1 else "well"} for n, one in enumerate(toy_rows(20, 9))]
    toy = wide(toy, tmp_path, tiny_bert)
    toy["data"] = {**toy["data"], "train": write_rows(tmp_path / "rare.jsonl", rows)}
    run = run_of(stack_of(toy, selection="balanced", shots=4), tmp_path)
    labels = [Counter(one.rpartition(" is ")[2] for one in shown) for _, shown, _ in parts(run, "test")]
    assert all(count == {"sick": 1, "well": 3} for count in labels)


def test_nearest_is_the_exact_search_in_float64(toy: dict[str, Any], tiny_bert: Path, tmp_path: Path) -> None:
    toy = wide(toy, tmp_path, tiny_bert)
    run = run_of(stack_of(toy, selection="nearest", shots=3), tmp_path)
    base = toy["model"]["base"]
    tokenizer = transformers.AutoTokenizer.from_pretrained(base)
    model = transformers.AutoModel.from_pretrained(base).double().eval()

    def embedded(texts: list[str]) -> np.ndarray:
        found = []
        for text in texts:
            with torch.no_grad():
                states = model(**tokenizer(text, return_tensors="pt")).last_hidden_state[0]
            found.append((states.mean(0) / states.mean(0).norm()).numpy())
        return np.array(found)

    train = [json.loads(line) for line in Path(toy["data"]["train"]).read_text().splitlines()]
    pool = embedded([one["text"] for one in train])
    checked = 0
    for split in run.data:
        rows = parts(run, split)
        cosines = embedded([text for text, _, _ in rows]) @ pool.T
        for (text, shown, _), row in zip(rows, cosines, strict=True):
            ranked = [n for n in np.argsort(-row, kind="stable") if train[n]["text"] != text][:4]
            if np.min(-np.diff(row[ranked])) < 1e-6:
                continue  # float32 cannot tell them apart
            checked += 1
            assert shown == [f"note: {train[n]['text']} is {train[n]['label']}" for n in ranked[:3]][::-1]
    assert checked > 80


def test_a_record_of_no_split_gets_its_neighbours_as_well(toy: dict[str, Any], tiny_bert: Path, tmp_path: Path) -> None:
    run = run_of(stack_of(wide(toy, tmp_path, tiny_bert), selection="nearest", shots=2), tmp_path)
    step = run.stack.steps[0].step
    known = run.data["test"][3]["text"]
    there = step.prompt({"text": known}, run)["text"]
    assert there == run.encoded["test"].records[3]["text"]
    again = step.prompt({"text": known + " ?"}, run)["text"]
    assert again.split(SEPARATOR)[-1] == f"note: {known} ? is"
    assert len(again.split(SEPARATOR)) == 3


@settings(max_examples=20, deadline=None, suppress_health_check=list(HealthCheck))
@given(
    texts=st.lists(st.text("abc .,é", min_size=1, max_size=80).filter(str.strip), min_size=1, max_size=4, unique=True),
    shots=st.integers(1, 6),
)
def test_what_is_rendered_fits_and_loses_the_first_demonstrations_first(
    texts: list[str], shots: int, toy: dict[str, Any], tmp_path: Path
) -> None:
    folder = tmp_path / f"fit-{next(FOLDERS)}"
    folder.mkdir()
    test = write_rows(folder / "t.jsonl", [{"text": text, "label": "sick"} for text in texts])
    toy = {**toy, "data": {"train": toy["data"]["train"], "validation": test, "test": test}}
    run = run_of(stack_of(toy, shots=shots), tmp_path)

    def tokens(text: str) -> int:
        return len(run.tokenizer(text)["input_ids"])

    order = [one.text for one in run.stack.steps[0].step._prepared[run].pool.in_turn("")]
    lost = 0
    for text, shown, question in parts(run, "test"):
        assert tokens(SEPARATOR.join([*shown, question])) <= 32
        assert shown == order[shots - len(shown) :]
        if len(shown) < shots:
            assert tokens(SEPARATOR.join([*order[shots - len(shown) - 1 :], question])) > 32
        lost += len(shown) < shots
        if question != f"note: {text} is":
            assert not shown
            assert f"note: {text}".startswith(question.removesuffix("is").rstrip())
            assert tokens(f"note: {text} is") > 32
    [table] = [block for block in run.stack.steps[0].step.report(run).blocks if hasattr(block, "rows")]
    assert next(line for line in table.rows if line[0] == "test")[1:3] == [len(texts), lost]
    warned = [line for line in (run.folder / "events.jsonl").read_text().splitlines() if "fewer demonstrations" in line]
    assert len(warned) <= 1


def test_completions_read_as_in_the_examples_and_leave_room_for_themselves(tiny_llama: Path, tmp_path: Path) -> None:
    rows = [{"prompt": f"walk {n}", "completion": f"rest {n}"} for n in range(30)]
    rows += [{"prompt": "walk " * 60, "completion": "rest and sleep"}] * 2
    stack = {
        "data": {
            "train": write_rows(tmp_path / "g.jsonl", rows),
            "validation": write_rows(tmp_path / "v.jsonl", [{"prompt": "smile", "completion": "diet"}]),
        },
        "model": {"base": str(tiny_llama), "task": "text-generation"},
        "prompt": {"use": "few-shot", "template": "q {prompt} a\t{completion}", "shots": 2, "separator": "\n"},
        "tune": "full",
        "train": {"max_steps": 1},
        "output": str(tmp_path / "runs"),
    }
    run = run_of(stack, tmp_path)
    for row_, record, feature in zip(
        run.data["train"], run.encoded["train"].records, run.encoded["train"].features, strict=True
    ):
        whole = record["prompt"] + record["completion"]
        assert whole.endswith(f" a\t{row_['completion']}")
        assert len(feature["input_ids"]) <= 32
        ids = run.tokenizer(record["prompt"])["input_ids"][:-1]
        scored = run.tokenizer(record["completion"], add_special_tokens=False)["input_ids"]
        assert feature["input_ids"] == [*ids, *scored, run.tokenizer.eos_token_id], "core cut nothing"
    assert run.encoded["validation"].records[0]["prompt"].count("\n") == 2


def test_words_pairs_the_mask_and_given_examples(toy: dict[str, Any], tiny_bert: Path, tmp_path: Path) -> None:
    rows = [{"text": f"fever {n}", "text_pair": "cough", "label": "ab"[n % 2]} for n in range(40)]
    test = [{"text": "pain", "text_pair": "rash", "label": "a"}]
    toy = wide(toy, tmp_path, tiny_bert)
    toy["data"] = {
        "train": write_rows(tmp_path / "p.jsonl", rows),
        "test": write_rows(tmp_path / "t.jsonl", test),
    }
    examples = [
        {"text": "fever 0", "text_pair": "cough", "label": "a"},
        {"text": "smile", "text_pair": "walk", "label": "b"},
    ]
    step = {
        "template": "{text} and {text_pair}: {label}, {{so}}",
        "label_words": {"a": "yes"},
        "selection": "fixed",
        "examples": examples,
        "label_in_query": "mask",
        "separator": " | ",
    }
    run = run_of(stack_of(toy, **step), tmp_path)
    first, second = "fever 0 and cough: yes, {so}", "smile and walk: b, {so}"
    assert run.encoded["test"].records[0]["text"] == f"{first} | {second} | pain and rash: [MASK], {{so}}"
    assert run.encoded["test"].records[0]["text_pair"] is None
    own = next(
        record["text"]
        for record in run.encoded["train"].records
        if record["text"].endswith("fever 0 and cough: [MASK], {so}")
    )
    assert own == f"{second} | fever 0 and cough: [MASK], {{so}}"


def test_a_zero_shot_stack_runs_to_its_report(toy: dict[str, Any], tiny_llama: Path) -> None:
    toy = {key: value for key, value in toy.items() if key not in ("tune", "train")}
    shown = {"use": "few-shot", "template": TEMPLATE, "shots": 2, "selection": "balanced"}
    stack = {**toy, "model": {"base": str(tiny_llama)}, "prompt": [shown, {"use": "verbalizer"}]}
    run = execute(Stack.load(stack))
    assert run.exit_code == 0, [path.read_text() for path in run.folder.rglob("*error.txt")]
    assert "Few-shot prompts" in (run.folder / "report.html").read_text()
    section = json.loads((run.folder / "evidence" / "prompt.json").read_text())["steps"]["few-shot"]["sections"][0]
    assert "selection: balanced, of 48 training records" in section["blocks"][0]["text"]
    assert [line[0] for line in section["blocks"][1]["rows"]] == ["train", "validation", "test"]
    text = run.data["test"][0]["text"]
    assert text not in json.dumps(section)
    assert all(len(feature["input_ids"]) <= run.max_length for feature in run.encoded["test"].features)


@pytest.mark.parametrize(
    ("step", "told"),
    [
        ({"template": "{text}"}, r"few-shot.template: needs exactly one `\{label\}`"),
        ({"template": "{label} {text}"}, "names no column before"),
        ({"template": "{text {label}"}, "is no template"),
        ({"selection": "fixed"}, "`examples` and `selection: fixed` go together"),
        ({"examples": [{"text": "x", "label": "sick"}]}, "`examples` and `selection: fixed` go together"),
        ({"selection": "fixed", "examples": [{"text": "x"}]}, "example 1 has no 'label'"),
        ({"selection": "fixed", "shots": 2, "examples": [{"text": "x", "label": "sick"}]}, "more than the 1 examples"),
        ({"template": "{txt} {label}"}, r"\{txt\} is no column that it may show \(did you mean 'text'\?\)"),
        ({"template": "{sex} {label}"}, r"\{sex\} is no column that it may show"),
        ({"template": "{text} {completion}"}, r"\{completion\} is no answer that these rows .* use \{label\}"),
        ({"label_words": {"ill": "x"}}, "'ill' is no label of the data"),
        ({"selection": "fixed", "examples": [{"text": "x", "label": "ill"}]}, "'ill' is no label of the data"),
        ({"shots": 99}, "asks for 99 demonstrations and train has 48 different texts"),
        ({"template": "x y z " * 20 + "{text} {label}"}, r"prompt\.few-shot: the template's own words leave no room"),
    ],
)
def test_what_cannot_be_shown_is_refused_in_one_sentence(step: dict[str, Any], told: str, toy: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match=told):
        execute(Stack.load(stack_of(toy, **step)))


def test_an_example_that_is_a_test_row_is_refused_with_its_place(toy: dict[str, Any], tmp_path: Path) -> None:
    test = json.loads(Path(toy["data"]["test"]).read_text().splitlines()[5])
    examples = [{"text": "fine", "label": "well"}, {"text": f" {test['text'].upper()} \u00a0", "label": test["label"]}]
    (tmp_path / "stack.yaml").write_text(json.dumps(stack_of(toy, selection="fixed", examples=examples), indent=1))
    with pytest.raises(
        ConfigError, match=r"stack\.yaml:\d+:\d+  prompt\.few-shot: example 2 has the text of row [0-9a-f]{16} of test"
    ):
        execute(Stack.load(tmp_path / "stack.yaml"))


def test_what_does_not_go_together_is_refused(toy: dict[str, Any], tiny_llama: Path, tmp_path: Path) -> None:
    plain = {key: value for key, value in toy.items() if key not in ("tune", "train")}
    plain["data"] = {"test": toy["data"]["test"]}
    step = {"use": "few-shot", "template": TEMPLATE}
    with pytest.raises(ConfigError, match="draws from training rows and the stack names none"):
        execute(Stack.load({**plain, "model": {"base": str(tiny_llama)}, "prompt": [step, "verbalizer"]}))
    before = {"use": "template", "text": "note {text}"}
    with pytest.raises(ConfigError, match=r"which prompt\.template .* has changed by then; put it before"):
        execute(Stack.load({**toy, "prompt": [before, step]}))
    private = {"use": "dp-sgd", "noise_multiplier": 1.0, "delta": 1e-3}
    with pytest.raises(ConfigError, match=r"privacy\.dp-sgd .* which prompt\.few-shot breaks"):
        Stack.load({**toy, "prompt": step, "privacy": private})
    given_ = {**step, "selection": "fixed", "examples": [{"text": "fine", "label": "well"}]}
    assert Stack.load({**toy, "prompt": given_, "privacy": private}).private
    rows = [{"prompt": "walk", "completion": "rest"}] * 20
    stack = {
        "data": {"train": write_rows(tmp_path / "g.jsonl", rows)},
        "model": {"base": str(tiny_llama), "task": "text-generation"},
        "prompt": {"use": "few-shot", "template": "{prompt} {completion}", "selection": "balanced"},
        "tune": "full",
        "output": str(tmp_path / "runs"),
    }
    with pytest.raises(ConfigError, match="balanced needs classes"):
        execute(Stack.load(stack))
