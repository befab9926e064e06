"""What is retrieved is what the formulas say, stands beside the answers, and is never a row of the test."""

from __future__ import annotations

import json
import math
import re
import sys
import unicodedata
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
import transformers
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny_stacks import prepared

from conftest import write_rows
from upright import Run, Stack
from upright.engine.execute import execute
from upright.errors import ConfigError, PluginError
from upright_prompt.documents import read
from upright_prompt.retrieve import Index, _bm25, _by_words
from upright_prompt.rows import best

Make = Callable[[str], Path]
FOLDERS = iter(range(10**6))
DOCUMENTS = [
    {"id": "a", "text": "fever and cough very mild"},
    {"id": "b", "title": "walk", "text": "some rest today"},
    {"text": "rash rash rash pain"},
    {"id": "d", "text": "fever fever sleep"},
    {"id": "e", "text": "nothing of this, 7 and 8"},
]


def stack_of(toy: dict[str, Any], folder: Path, documents: Any = None, **step: Any) -> dict[str, Any]:
    if isinstance(documents, list) or documents is None:
        documents = write_rows(folder / f"docs-{next(FOLDERS)}.jsonl", documents or DOCUMENTS)
    retrieve = {"use": "retrieve", "documents": str(documents), **step}
    template = {"use": "template", "text": "{context} so {text}"}
    return {**toy, "prompt": [retrieve, template], "tune": "head", "train": {"max_steps": 1, "batch_size": 8}}


def sources(run: Run) -> list[dict[str, Any]]:
    return pq.read_table(run.folder / "steps" / "retrieve" / "sources.parquet").to_pylist()


def split_words(text: str) -> list[str]:
    return re.findall(r"\w+", unicodedata.normalize("NFKC", text).casefold())


def okapi(query: str, documents: list[str]) -> np.ndarray:
    """BM25 as Lucene has it, from the formula: k1 = 1.5, b = 0.75, float64."""
    bags = [split_words(document) for document in documents]
    average = sum(map(len, bags)) / len(bags)
    scores = np.zeros(len(bags))
    for word in split_words(query):
        having = sum(word in bag for bag in bags)
        idf = math.log(1 + (len(bags) - having + 0.5) / (having + 0.5))
        for n, bag in enumerate(bags):
            often = bag.count(word)
            scores[n] += idf * often / (often + 1.5 * (1 - 0.75 + 0.75 * len(bag) / average))
    return scores


def whole(document: dict[str, Any]) -> str:
    return "\n".join(document[name] for name in ("title", "text") if name in document)


terms = st.lists(st.sampled_from(["fever", "Rest", "pain", "7", "straße", "STRASSE", "—"]), max_size=8).map(" ".join)


@settings(max_examples=80, deadline=None)
@given(documents=st.lists(terms, min_size=1, max_size=6), query=terms, k=st.integers(1, 7))
def test_bm25_is_the_formula_in_float64(documents: list[str], query: str, k: int) -> None:
    found = _by_words(query, Index([], "", "", _bm25(documents, "here")), k)
    expected = okapi(query, documents) if any(map(split_words, documents)) else np.zeros(len(documents))
    ranked = [n for n in np.argsort(-np.round(expected, 9), kind="stable") if expected[n] > 0][:k]
    assert len(found) == len(ranked)
    np.testing.assert_allclose([score for _, score in found], expected[ranked], rtol=1e-9)
    np.testing.assert_allclose([expected[place] for place, _ in found], expected[ranked], rtol=1e-9)


@given(scores=st.lists(st.integers(0, 3), max_size=12), count=st.integers(1, 14))
def test_the_best_are_those_of_a_stable_sort(scores: list[int], count: int) -> None:
    assert best(np.array(scores, dtype=float), count) == np.argsort(-np.array(scores), kind="stable")[:count].tolist()


def test_what_bm25_finds_is_in_the_prompt_and_beside_the_answers(toy: dict[str, Any], tmp_path: Path) -> None:
    run = execute(Stack.load(stack_of(toy, tmp_path, k=2, separator=" / ")))
    assert run.exit_code == 0, [path.read_text() for path in run.folder.rglob("*error.txt")]
    texts, ids = [whole(document) for document in DOCUMENTS], ["a", "b", None, "d", "e"]
    table = sources(run)
    assert {line["split"] for line in table} == {"validation", "test"}
    for split in ("validation", "test"):
        for row, record in zip(run.data[split], run.encoded[split].given, strict=True):
            scores = okapi(row["text"], texts)
            ranked = [n for n in np.argsort(-np.round(scores, 9), kind="stable") if scores[n] > 0][:2]
            mine = [line for line in table if line["row_id"] == row["row_id"]]
            assert [line["rank"] for line in mine] == list(range(1, len(ranked) + 1))
            names = [ids[n] or f"{Path(run.stack.steps[0].step.documents).name}:3" for n in ranked]
            assert [line["document"] for line in mine] == names
            np.testing.assert_allclose([line["score"] for line in mine], scores[ranked], rtol=1e-9)
            added = run.stack.steps[0].step.prompt(dict(record), run)["context"]
            assert added == " / ".join(texts[n] for n in ranked)
    first = run.encoded["test"].records[0]["text"]
    assert " so " in first
    section = json.loads((run.folder / "evidence" / "prompt.json").read_text())["steps"]["retrieve"]["sections"][0]
    assert "5 documents" in section["blocks"][0]["text"]
    written = json.dumps(section)
    assert not any(text in written for text in [*run.data["test"]["text"], *texts])
    assert run.data["test"][0]["row_id"] in written


@pytest.mark.parametrize("method", ["embedding", "hybrid"])
def test_cosines_and_fused_ranks_are_those_of_float64(
    method: str, toy: dict[str, Any], tiny_bert: Path, tmp_path: Path
) -> None:
    run = prepared(stack_of(toy, tmp_path, method=method, k=3), tmp_path / "run")
    tokenizer = transformers.AutoTokenizer.from_pretrained(tiny_bert)
    model = transformers.AutoModel.from_pretrained(tiny_bert).double().eval()

    def embedded(text: str) -> np.ndarray:
        with torch.no_grad():
            states = model(**tokenizer(text, return_tensors="pt", truncation=True)).last_hidden_state[0]
        return (states.mean(0) / states.mean(0).norm()).numpy()

    texts = [whole(document) for document in DOCUMENTS]
    pool = np.array([embedded(text) for text in texts])
    checked = 0
    for text in run.data["test"]["text"]:
        cosines = pool @ embedded(text)
        ranked = np.argsort(-cosines, kind="stable").tolist()
        if np.min(-np.diff(cosines[ranked])) < 1e-6:
            continue  # float32 cannot tell them apart
        expected = {n: cosines[n] for n in ranked}
        if method == "hybrid":
            words = okapi(text, texts)
            by_words = [n for n in np.argsort(-np.round(words, 9), kind="stable") if words[n] > 0]
            expected = {
                n: 1 / (61 + ranked.index(n)) + (1 / (61 + by_words.index(n)) if n in by_words else 0) for n in ranked
            }
        order = sorted(expected, key=lambda n: (-round(expected[n], 12), n))[:3]
        found = run.stack.steps[0].step._indexes[run].found[text]
        assert [place for place, _ in found] == order
        np.testing.assert_allclose([score for _, score in found], [expected[n] for n in order], atol=1e-5)
        checked += 1
    assert checked > 15


def test_a_record_of_no_split_is_searched_for_as_well(toy: dict[str, Any], tmp_path: Path) -> None:
    run = prepared(
        stack_of(toy, tmp_path, k=1, query="{text} pain", column="seen")
        | {
            "prompt": [
                {"use": "retrieve", "documents": write_rows(tmp_path / "d.jsonl", DOCUMENTS), "k": 1, "column": "seen"}
            ]
        },
        tmp_path / "run",
    )
    step = run.stack.steps[0].step
    assert step.prompt({"text": "walk ?"}, run) == {"text": "walk ?", "seen": "walk\nsome rest today"}
    assert step.prompt({"text": "zz"}, run)["seen"] == ""


def test_paragraphs_folders_and_lines(tmp_path: Path) -> None:
    folder = tmp_path / "docs"
    folder.mkdir()
    (folder / "b.txt").write_bytes(b"\xef\xbb\xbfone\r\ntwo\r\n \r\nthree\r\n\r\n\r\n")
    (folder / "a.txt").write_text("\n\nfirst")
    (folder / "c.md").write_text("not read")
    found = read(folder, "here")
    assert [(one.id, one.text) for one in found] == [
        ("a.txt#1", "first"),
        ("b.txt#1", "one\ntwo"),
        ("b.txt#2", "three"),
    ]
    assert [one.where.rpartition("/")[2] for one in found] == ["a.txt:3", "b.txt:1", "b.txt:4"]


@pytest.mark.parametrize(
    ("name", "content", "told"),
    [
        ("d.jsonl", b'{"text": "a"}\n{"text": \n', r"d\.jsonl:2: is not JSON"),
        ("d.jsonl", b'{"text": "a"}\n\n[1]\n', r"d\.jsonl:3: is no JSON object"),
        ("d.jsonl", b'{"id": 1}\n', r"d\.jsonl:1: has no `text`; add it or remove the line"),
        ("d.jsonl", b'{"text": 7}\n', r"d\.jsonl:1: `text` is a int; give text"),
        ("d.jsonl", b'{"text": "\\ud800"}\n', r"d\.jsonl:1: `text` holds half a character"),
        (
            "d.jsonl",
            b'{"text": "a", "id": 1}\n{"text": "b", "id": "1"}\n',
            r":2: the id '1' stands at .*d\.jsonl:1 too",
        ),
        ("d.jsonl", b"\n", r"prompt\.retrieve: .*d\.jsonl holds no document"),
        ("d.txt", b" \n\n", r"prompt\.retrieve: .*d\.txt holds no document"),
        ("d.txt", b"a\n\xff\n", r"d\.txt:2: is not UTF-8 \(byte 2\)"),
        ("d.pdf", b"a", r"d\.pdf is neither \.txt nor \.jsonl"),
        ("d/x.md", b"a", r"the folder .*d holds no \.txt file"),
        (None, b"", r"prompt\.retrieve: there is no file .*gone\.txt; check `documents`"),
    ],
)
def test_broken_documents_are_refused_with_their_place(
    name: str | None, content: bytes, told: str, toy: dict[str, Any], tmp_path: Path
) -> None:
    path = tmp_path / (name or "gone.txt")
    if name:
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(content)
    target = path.parent if name == "d/x.md" else path
    with pytest.raises(ConfigError, match=told):
        execute(Stack.load(stack_of(toy, tmp_path, target)))


def test_a_document_that_is_a_test_row_is_refused(toy: dict[str, Any], tmp_path: Path) -> None:
    text = json.loads(Path(toy["data"]["test"]).read_text().splitlines()[3])["text"]
    leak = [*DOCUMENTS, {"id": "leak", "text": f"  {text.upper()}\u00a0"}]
    with pytest.raises(ConfigError, match=r"document 'leak' \(.*:6\) is the text of row [0-9a-f]{16} of test"):
        execute(Stack.load(stack_of(toy, tmp_path, leak)))
    train = json.loads(Path(toy["data"]["train"]).read_text().splitlines()[3])["text"]
    prepared(stack_of(toy, tmp_path, [{"text": train}]), tmp_path / "run")


def test_more_than_there_are_is_said_and_all_are_used(toy: dict[str, Any], tmp_path: Path) -> None:
    run = prepared(stack_of(toy, tmp_path, method="embedding", k=9), tmp_path / "run")
    assert "k: 9 is more than the 5 documents; all are used" in (run.folder / "events.jsonl").read_text()
    assert {len(found) for found in run.stack.steps[0].step._indexes[run].found.values()} == {5}


def test_long_documents_are_told_where_only_their_beginning_counts(toy: dict[str, Any], tmp_path: Path) -> None:
    run = prepared(stack_of(toy, tmp_path, [{"text": "rest " * 90}], method="embedding"), tmp_path / "run")
    assert "1 of 1 documents are longer than the model's 32 tokens" in (run.folder / "events.jsonl").read_text()


@pytest.mark.parametrize(
    ("step", "told"),
    [
        ({"query": "{txt}"}, r"\{txt\} is no column that it may show \(did you mean 'text'\?\)"),
        ({"query": "{label}"}, r"\{label\} is no column that it may show"),
        ({"query": "{sex}"}, r"\{sex\} is no column that it may show"),
        ({"query": "hello"}, "retrieve.query: names no column"),
        ({"column": "text"}, "the data has a column 'text' already"),
        ({"column": "a b"}, "cannot stand in a template"),
    ],
)
def test_what_cannot_be_searched_for_is_refused(
    step: dict[str, Any], told: str, toy: dict[str, Any], tmp_path: Path
) -> None:
    with pytest.raises(ConfigError, match=told):
        execute(Stack.load(stack_of(toy, tmp_path, **step)))


def test_a_template_before_it_is_refused(toy: dict[str, Any], tmp_path: Path) -> None:
    stack = stack_of(toy, tmp_path)
    stack["prompt"] = [{"use": "template", "text": "note {text}"}, stack["prompt"][0]]
    with pytest.raises(ConfigError, match=r"which prompt\.template .* has changed by then; put it before"):
        execute(Stack.load(stack))


def test_a_missing_bm25s_is_told_with_its_install_line(
    toy: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "bm25s", None)
    with pytest.raises(PluginError, match=r"needs the package bm25s; run `pip install 'upright-prompt\[retrieve\]'`"):
        execute(Stack.load(stack_of(toy, tmp_path)))
    prepared(stack_of(toy, tmp_path, method="embedding"), tmp_path / "run")


def test_a_resumed_run_finds_its_documents_and_refuses_changed_ones(
    toy: dict[str, Any], tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    write_rows(tmp_path / "docs.jsonl", DOCUMENTS)
    stack = stack_of(toy, tmp_path, "docs.jsonl") | {"train": {"max_steps": 3, "batch_size": 8, "save_steps": 1}}
    (tmp_path / "stack.yaml").write_text(json.dumps(stack))
    done = execute(Stack.load(tmp_path / "stack.yaml"))
    assert "BM25S" not in "".join(capfd.readouterr()), "no progress bars"
    status = json.loads((done.folder / "status.json").read_text())
    (done.folder / "status.json").write_text(json.dumps(status | {"state": "failed"}))
    again = execute(Stack.load(done.folder / "stack.resolved.yaml"), resume=done.folder)
    assert again.exit_code == 0
    (done.folder / "status.json").write_text(json.dumps(status | {"state": "failed"}))
    write_rows(tmp_path / "docs.jsonl", DOCUMENTS[:3])
    with pytest.raises(ConfigError, match=r"docs\.jsonl has changed since this run began"):
        execute(Stack.load(done.folder / "stack.resolved.yaml"), resume=done.folder)
