"""Markup, language and quality: what is found in a text, what is left alone, and that no other row matters."""

from __future__ import annotations

import html
import json
import os
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from datasets import Dataset
from hypothesis import given, settings
from hypothesis import strategies as st

from conftest import ROOT, write_rows
from upright import Stack
from upright.engine.execute import execute
from upright.errors import ConfigError
from upright_clean.language import Language
from upright_clean.markup import Markup
from upright_clean.quality import Quality
from upright_clean.repetition import repetition

DATA = Path(os.environ.get("UPRIGHT_DATA", ROOT.parent / "shared" / "data"))
real = pytest.mark.skipif(not DATA.exists(), reason=f"no {DATA}; set UPRIGHT_DATA")


def decided(step: Any, rows: list[dict[str, Any]]) -> dict[str, dict[str, Any]]:
    """What a row-local cleaner decides, by row; asked without a run, which it must not need."""
    names = [name for name in rows[0] if name != "row_id"]
    given_rows = Dataset.from_dict({name: [row.get(name) for row in rows] for name in ("row_id", *names)})
    found = step.clean(given_rows, None) if isinstance(step, Language) else step.clean(given_rows)
    assert len({one["row_id"] for one in found.rows}) == len(found), "one decision a row"
    return {one["row_id"]: one for one in found.rows}


def told(step: Any, *texts: str) -> list[tuple[str, str] | None]:
    found = decided(step, [{"row_id": f"{n:03}", "text": text} for n, text in enumerate(texts)])
    rows = [found.get(f"{n:03}") for n in range(len(texts))]
    return [None if row is None else (row["action"], row["reason"]) for row in rows]


def mended(text: str, **settings_: Any) -> str:
    found = decided(Markup(**settings_), [{"row_id": "0", "text": text}]).get("0")
    return text if found is None else found["values"].get("text", text)


# --- markup -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "text",
    [
        "a < b and c > d",
        "I <3 you",
        "if a <b and c> d",
        "x <y> z",
        "List<String> names",
        "a<b>c",
        "at <time> on <date>",
        "<s> begin",
        'half <a href="x',
        "R&D; AT&T &co.",
        "https://example.org/?a=1&copy=2",
        "we use cookies in this recipe: two for each child",
        "home | work | school",
        "",
        " ",
    ],
)
def test_texts_that_only_look_like_markup_stay(text: str) -> None:
    assert told(Markup(), text) == [None] or mended(text) == text


@pytest.mark.parametrize(
    ("text", "bare"),
    [
        ("<p>One <b>bo</b>ld</p><p>Two</p>", "One bold\n\nTwo"),
        ("we<br/>are<BR>here", "we\nare\nhere"),
        ("<td>1</td><td>2</td>", "1 2"),
        ('<a title="x > y" href=z>link</a>', "link"),
        ("<script>if (a < b) go()</script>keep<style>p {}</style>", "keep"),
        ("<!-- a <b> --> kept", "kept"),
        ("Tom &amp; Jerry&nbsp;&#8217;s &lt;b&gt;", "Tom & Jerry ’s <b>"),
        ("<nav><a href='/'>Home</a></nav><p>Text</p><footer>us</footer>", "Text"),
        ("Text\nWe use cookies to improve your visit.\nHome | About us | Contact\n© 2024 Us", "Text"),
        ("好看\n版权所有 2020\n返回顶部", "好看"),
        ("cut <p>off <a href='x", "cut\noff <a href='x"),
    ],
)
def test_markup_goes_and_its_text_stays(text: str, bare: str) -> None:
    assert mended(text) == bare
    assert mended(bare, entities=False) == bare


def test_rows_of_nothing_else_and_settings_and_several_columns() -> None:
    texts = ("<br><img src=x>", "We use cookies.", "&nbsp;")
    assert told(Markup(), *texts) == [("drop", "only-markup"), ("flag", "only-boilerplate"), None]
    off = Markup(tags=False, entities=False, boilerplate=False)
    assert told(off, *texts, "<p>a</p>") == [None] * 4
    found = decided(
        Markup(),
        [
            {"row_id": "0", "prompt": "<b>Why</b>?", "completion": "a < b"},
            {"row_id": "1", "prompt": None, "completion": "x &lt; y"},
            {"row_id": "2", "prompt": "no", "completion": "no"},
        ],
    )
    assert {row: (one["reason"], one["values"]) for row, one in found.items()} == {
        "0": ("tags", {"prompt": "Why?"}),
        "1": ("entities", {"completion": "x < y"}),
    }
    words = decided(Markup(), [{"row_id": "0", "tokens": ["a", "&amp;", "<br>", "<i>b</i>"]}])
    assert words["0"]["values"] == {"tokens": ["a", "&", "<br>", "b"]}


@given(st.text("ab<>/\n &;pi!-\"'=", max_size=40))
def test_markup_is_done_after_one_pass_where_nothing_was_escaped(text: str) -> None:
    once = mended(text, entities=False)
    assert mended(once, entities=False) == once or "<" in once  # what a removed tag held apart may form another


@given(st.text(max_size=60))
def test_an_escaped_text_comes_back_whole(text: str) -> None:
    escaped = html.escape(text)
    expected = escaped if not text.strip() else text
    assert mended(escaped, tags=False, boilerplate=False) in (expected, text)


MEGABYTE = 1 << 20


@pytest.mark.parametrize(
    "piece",
    ["<", "<div>", "<a ", '<a href="', "<a b='c' ", "<!--", "<script>", "<nav>", "<nav></nav>", "&", "&a", "<a  ", " \n",
     "<nav><footer>", "<p x=", "we use cookies ", "home|", "(c) ", "<!doctype ", "a ", "啊", "…\n"],
)  # fmt: skip
def test_a_megabyte_of_anything_takes_seconds(piece: str) -> None:
    """No assertion on time: a pattern that goes back over the text would take hours."""
    text = piece * (MEGABYTE // len(piece))
    for step in (Markup(), Quality(), Language(keep=["en"])):
        assert len(told(step, text)) == 1


# --- language ---------------------------------------------------------------------------------------------------------


def test_sure_rows_go_short_and_doubtful_ones_are_flagged() -> None:
    texts = (
        "The weather was fine and we walked along the river until evening.",
        "Das Wetter war schön, und wir gingen bis zum Abend am Fluss entlang.",
        "Das Wetter",
        "今天天气很好，我们沿着河边一直走到晚上才回家。",
        "12345 +++",
        "",
    )
    assert told(Language(keep=["en"]), *texts)[1:2] == [("drop", "language:de")]
    assert told(Language(keep=["en"]), *texts)[2] == ("flag", "language:de")
    assert told(Language(keep=["en"]), *texts)[3] == ("flag", "language:zh"), "22 letters are few"
    assert told(Language(keep=["en"], min_letters=10), *texts)[3] == ("drop", "language:zh")
    assert told(Language(keep=["en", "zh", "de"]), *texts) == [None] * 6


def test_each_column_counts_and_an_unknown_language_is_refused(tmp_path: Path) -> None:
    rows = [
        {"row_id": "0", "prompt": "Tell me what the weather was like.", "completion": "Das Wetter war gestern schön und warm."},
        {"row_id": "1", "prompt": "Please tell me what the weather was like.", "completion": None},
    ]  # fmt: skip
    assert {row: one["action"] for row, one in decided(Language(keep=["en"]), rows).items()} == {"0": "drop"}
    data = {"train": write_rows(tmp_path / "t.jsonl", [{"text": "a", "label": "b"}])}
    with pytest.raises(ConfigError, match=r"language\.keep: the identifier knows no language 'xx'"):
        execute(Stack.load({"data": data, "clean": {"use": "language", "keep": ["xx"]}, "output": str(tmp_path)}))
    with pytest.raises(ConfigError, match="keep"):
        Stack.load({"data": data, "clean": {"use": "language", "keep": []}})


@real
def test_dialects_of_a_kept_language_are_not_dropped_more() -> None:
    """The likeliest language of a tweet in African American English is often another one; few of them may go for it."""
    rows = [json.loads(line) for line in (DATA / "davidson_dialect/dev.jsonl").read_text(encoding="utf-8").splitlines()]
    aae = [row["text"] for row in rows if row["dialect"] == "aae"]
    found = told(Language(keep=["en"]), *aae)
    assert len(aae) > 50
    assert sum(one is not None and one[0] == "drop" for one in found) <= 0.03 * len(aae)


# --- quality ----------------------------------------------------------------------------------------------------------


def slow(words: list[int], ngram: int) -> tuple[float, float]:
    """The oracle: one text, one n-gram after the other."""
    grams = [tuple(words[i : i + ngram]) for i in range(len(words) - ngram + 1)]
    seen: set[tuple[int, ...]] = set()
    inside: set[int] = set()
    for place, gram in enumerate(grams):
        inside |= set(range(place, place + ngram)) if gram in seen else set()
        seen.add(gram)
    most = max(Counter(grams).values(), default=0)
    return len(inside) / max(1, len(words)), min(1.0, most * ngram / len(words)) if most > 1 else 0.0


@settings(max_examples=200, deadline=None)
@given(st.lists(st.lists(st.integers(0, 2), max_size=14), max_size=5), st.integers(1, 6))
def test_repetition_is_that_of_a_loop(texts: list[list[int]], ngram: int) -> None:
    words = np.array([7919 * word + 13 for text in texts for word in text], np.int64)
    starts = np.cumsum([0, *map(len, texts)])
    share, top = repetition(words, starts, ngram)
    assert list(zip(share.tolist(), top.tolist(), strict=True)) == [slow(text, ngram) for text in texts]


def numbered(count: int) -> str:
    """Words that are all different."""
    letters = "abcdefghijklmnopqrstuvwxyz"
    return " ".join(f"word{letters[n // 26]}{letters[n % 26]}" for n in range(count))


def test_each_rule_has_its_reason() -> None:
    good, chinese = numbered(80), "".join(chr(0x4E00 + 7 * n) for n in range(80))
    cases = {
        good: None,
        chinese: None,
        "short": None,
        "no no no no no no": None,
        "still good!!!!!!!!!!!!!!!!!!!!!": "repeated-characters",
        "服务好。。。。。。。。。。。。。。。。。。": "repeated-characters",
        "2021-12-13 14:15:16 17.18": "few-letters",
        good + " #a #b #c #d #e #f #g #h #i #j #k": "symbols",
        " ".join("ab"[n % 2] + "cdefghij"[n % 8] for n in range(60)): "short-words",
        numbered(90).replace(" ", ""): "long-words",
        "\n".join(f"- {word}" for word in numbered(6).split()): "bullets",
        "\n".join(f"{word} ..." for word in numbered(6).split()): "ellipses",
        "\n".join([*numbered(4).split(), *["the same line"] * 4]): "repeated-lines",
        numbered(40) + " so it" * 10: "top-ngram-2",
        numbered(60) + " " + numbered(30): "repeated-ngrams-5",
        chinese + chinese[:40]: "repeated-ngrams-5",
    }
    found = told(Quality(), *cases)
    assert [one and one[1] for one in found] == list(cases.values())
    assert {one[0] for one in told(Quality(action="flag"), *cases) if one} == {"flag"}
    loose = Quality(
        max_repeated_characters=1, min_letters=0, max_symbols=99, min_mean_word=0, max_mean_word=10_000, max_bullets=1,
        max_ellipses=1, max_repeated_lines=1, max_top_ngrams={}, max_repeated_ngrams={},
    )  # fmt: skip
    assert told(loose, *cases) == [None] * len(cases)


def test_each_column_is_judged_and_settings_are_read_from_a_stack(tmp_path: Path) -> None:
    rows = [{"row_id": "0", "prompt": numbered(60), "completion": "why " * 60}]
    assert decided(Quality(), rows)["0"]["reason"] == "top-ngram-2"
    (tmp_path / "stack.yaml").write_text(
        "data: {train: t.jsonl}\nclean: {use: quality, max_top_ngrams: {2: 0.5}, max_repeated_ngrams: {5: 0.9}}\n"
    )
    step = Stack.load(tmp_path).steps[0].step
    assert step.max_top_ngrams == {2: 0.5}  # type: ignore[attr-defined]


# --- all of them ------------------------------------------------------------------------------------------------------

PIECES = st.sampled_from(["<p>", "</p>", "&amp;", "我们 ", "der Hund ", "the dog ", "!!!!!!!", "\n", "1 ", "© 2020\n"])


@pytest.mark.parametrize(
    "step", [Markup(), Language(keep=["en"]), Quality(min_words=3, min_lines=2)], ids=lambda s: type(s).__name__
)
@settings(max_examples=40, deadline=None)
@given(st.lists(st.lists(PIECES, max_size=12).map("".join), min_size=2, max_size=6), st.data())
def test_no_other_row_matters(step: Any, texts: list[str], data: Any) -> None:
    assert step.scope.row_local
    assert step.scope.dp_stability == 1
    rows = [{"row_id": f"{n:03}", "text": text} for n, text in enumerate(texts)]
    whole = decided(step, rows)
    kept = data.draw(st.lists(st.sampled_from(rows), min_size=1, unique_by=lambda row: row["row_id"]))
    assert decided(step, kept) == {row["row_id"]: whole[row["row_id"]] for row in kept if row["row_id"] in whole}
