"""A record becomes the tokenizer's own conversation, with one begin-of-text token, within the window."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import transformers
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tiny_stacks import lines_stack, prepared
from tokenizers import processors

from conftest import MODELS, write_rows
from upright import Run, Stack
from upright.engine.execute import execute
from upright.errors import ConfigError

Make = Callable[[str], Path]
FOLDERS = iter(range(10**6))
TEMPLATE = (
    "{{ bos_token }}{% for m in messages %}{{ m['role'] }}: {{ m['content'] }}\n{% endfor %}"
    "{% if add_generation_prompt %}a{{ mark }}: {% endif %}"
)


@pytest.fixture(scope="session")
def chatting(tiny_llama: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny Llama with a tokenizer that, as Llama's, begins every text with <s> and ends none."""
    folder = tmp_path_factory.mktemp("chatting") / "model"
    shutil.copytree(tiny_llama, folder)
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    tokenizer.backend_tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A", special_tokens=[("[CLS]", 2)]
    )
    tokenizer.chat_template = TEMPLATE
    tokenizer.save_pretrained(folder)
    return folder


def run_of(stack: dict[str, Any], tmp_path: Path, base: Path, **step: Any) -> Run:
    """The stack with its first step of `prompt` being `chat`, up to where training would begin."""
    stack = {**stack, "model": {**stack["model"], "base": str(base)}, "prompt": {"use": "chat", **step}}
    return prepared(stack, tmp_path / f"run-{next(FOLDERS)}")


def test_exactly_one_begin_of_text(chatting: Path, tmp_path: Path) -> None:
    stack = lines_stack(chatting, tmp_path)
    run = run_of(stack, tmp_path, chatting)
    whole = run.tokenizer.apply_chat_template(
        [{"role": "user", "content": "patient has"}], tokenize=True, add_generation_prompt=True, return_dict=False
    )
    assert whole.count(run.tokenizer.bos_token_id) == 1, "transformers' own tokens are the oracle"
    for record, feature, labels in zip(
        run.data["train"], run.encoded["train"].features, run.encoded["train"].labels, strict=True
    ):
        ids = feature["input_ids"]
        assert ids.count(run.tokenizer.bos_token_id) == 1
        assert ids[0] == run.tokenizer.bos_token_id
        if record["prompt"] == "patient has":
            assert ids[: len(whole)] == whole
            assert labels[: len(whole)] == [-100] * len(whole)
            assert labels[len(whole)] != -100


def test_a_tokenizer_that_adds_none_keeps_the_templates_own(chatting: Path, tmp_path: Path) -> None:
    folder = tmp_path / "bare"
    shutil.copytree(chatting, folder)
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    tokenizer.backend_tokenizer.post_processor = processors.TemplateProcessing(single="$A")
    tokenizer.save_pretrained(folder)
    run = run_of(lines_stack(folder, tmp_path), tmp_path, folder)
    for feature in run.encoded["train"].features:
        assert feature["input_ids"].count(run.tokenizer.bos_token_id) == 1
        assert feature["input_ids"][0] == run.tokenizer.bos_token_id


def test_messages_pairs_and_variables(toy: dict[str, Any], chatting: Path, tmp_path: Path) -> None:
    rows = [{"text": f"fever {n}", "text_pair": "cough", "label": "ab"[n % 2]} for n in range(30)]
    stack = {**toy, "data": {"train": write_rows(tmp_path / "p.jsonl", rows)}, "tune": "head"}
    run = run_of(
        stack, tmp_path, chatting, user="{text} or {text_pair}", system="diet", chat_template_kwargs={"mark": "i"}
    )
    text = run.data["train"][0]["text"]
    assert run.encoded["train"].records[0]["text"] == f"system: diet\nuser: {text} or cough\nai: "
    assert run.encoded["train"].records[0]["text_pair"] is None
    run = run_of(stack, tmp_path, chatting, chat_template="<{{ messages[0]['content'] }}>")
    assert run.encoded["train"].records[0]["text"] == f"<{text}>"


@settings(max_examples=40, deadline=None, suppress_health_check=list(HealthCheck))
@given(
    user=st.lists(st.sampled_from(["fever", "some", "xyz", "..", "é"]), min_size=1, max_size=60).map(" ".join),
    completion=st.lists(st.sampled_from(["rest", "walk"]), min_size=1, max_size=10).map(" ".join),
)
def test_a_long_text_is_cut_and_the_marks_and_the_completion_stay(
    user: str, completion: str, chatting: Path, tmp_path: Path
) -> None:
    folder = tmp_path / f"data-{next(FOLDERS)}"
    folder.mkdir()
    stack = lines_stack(chatting, folder)
    stack["data"]["validation"] = write_rows(folder / "v.jsonl", [{"prompt": user, "completion": completion}])
    run = run_of(stack, tmp_path, chatting)
    record, feature = run.encoded["validation"].records[0], run.encoded["validation"].features[0]
    assert record["prompt"].startswith("user: ")
    assert record["prompt"].endswith("\na: ")
    kept = record["prompt"].removeprefix("user: ").removesuffix("\na: ")
    assert user.startswith(kept)
    answer = [*run.tokenizer(completion, add_special_tokens=False)["input_ids"], run.tokenizer.eos_token_id]
    assert feature["input_ids"] == [*run.tokenizer(record["prompt"])["input_ids"], *answer], "core cut nothing"
    assert len(feature["input_ids"]) <= 32
    longer = f"user: {user[: len(kept) + 8]}\na: "
    assert kept == user or len(run.tokenizer(longer)["input_ids"]) + len(answer) > 32, "no more was cut than needed"


def test_what_was_cut_is_told_once_and_counted(toy: dict[str, Any], chatting: Path, tmp_path: Path) -> None:
    rows = [{"text": "fever " * (40 if n < 3 else 2), "label": "sick" if n % 2 else "well"} for n in range(8)]
    plain = {key: value for key, value in toy.items() if key not in ("tune", "train")}
    plain["data"] = {"test": write_rows(tmp_path / "long.jsonl", rows)}
    plain |= {"model": {"base": str(chatting)}, "prompt": ["chat", "verbalizer"]}
    run = execute(Stack.load(plain))
    assert run.exit_code == 0, [path.read_text() for path in run.folder.rglob("*error.txt")]
    warnings = [line for line in (run.folder / "events.jsonl").read_text().splitlines() if '"warning"' in line]
    assert len(warnings) == 1
    page = (run.folder / "report.html").read_text()
    assert "Chat prompts" in page
    assert "Cut texts" in page


@pytest.mark.parametrize(
    ("step", "told"),
    [
        ({"user": "hello"}, "chat.user: names no column"),
        ({"user": "{text"}, "chat.user: is no template"),
        ({"user": "{txt}"}, r"prompt\.chat: \{txt\} is no column that it may show \(did you mean 'text'\?\)"),
        ({"user": "{label}"}, r"prompt\.chat: \{label\} is no column that it may show"),
        ({"chat_template": "{{ raise_exception('no such role') }}"}, r"cannot be rendered \(no such role\)"),
        ({"chat_template": "{% if %}"}, r"prompt\.chat: the chat template cannot be rendered"),
        ({"chat_template": "hello"}, "leaves the user's message out"),
        ({"system": "x y z " * 30}, r"prompt\.chat: the template's own words leave no room"),
    ],
)
def test_what_cannot_be_rendered_is_refused(
    step: dict[str, Any], told: str, toy: dict[str, Any], chatting: Path
) -> None:
    stack = {**toy, "model": {"base": str(chatting)}, "tune": "head", "prompt": {"use": "chat", **step}}
    with pytest.raises(ConfigError, match=told):
        execute(Stack.load(stack))


def test_a_tokenizer_without_a_chat_template_is_refused(toy: dict[str, Any], tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"has no chat template; set `chat_template`, or use the step `template`"):
        execute(Stack.load({**toy, "prompt": "chat"}))


def test_a_real_storyteller_begins_once(toy: dict[str, Any], tmp_path: Path) -> None:
    if not (MODELS / "stories260k").is_dir():
        pytest.skip(f"{MODELS} holds no stories260k; set UPRIGHT_MODELS")
    base = MODELS / "stories260k"
    run = run_of(lines_stack(base, tmp_path), tmp_path, base, chat_template=TEMPLATE)
    for feature in run.encoded["train"].features:
        assert feature["input_ids"].count(run.tokenizer.bos_token_id) == 1
