"""The made-up notes are the same every time, hold what their truth says, and the step counts what was found."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from upright import Attribution, Stack
from upright.engine.execute import execute
from upright_quickstart.generate import SIZES, make, write
from upright_quickstart.planted_truth import _words

HERE = Path(__file__).parents[1]


def test_the_same_seed_gives_the_same_bytes(tmp_path: Path) -> None:
    write(tmp_path / "a")
    write(tmp_path / "b")
    for path in (tmp_path / "a").iterdir():
        assert path.read_bytes() == (tmp_path / "b" / path.name).read_bytes()
    write(tmp_path / "c", seed=1)
    assert (tmp_path / "c" / "train.jsonl").read_bytes() != (tmp_path / "a" / "train.jsonl").read_bytes()


def test_the_truth_says_what_is_there() -> None:
    splits = make()
    assert 1900 < sum(map(len, splits.values())) < 2300
    assert len(splits["test"]) == SIZES["test"]
    for split, notes in splits.items():
        for note in notes:
            assert ("label-noise" in note.defects) == (note.label != note.true_label)
            assert split == "train" or note.label == note.true_label
    train = splits["train"]
    missed = {
        sex: [n for n in train if n.sex == sex and n.true_label == "urgent" and n.label == "routine"] for sex in "fm"
    }
    assert len(missed["f"]) > 3 * len(missed["m"])


def test_a_small_run_counts_planted_against_found(tiny_mean: Path, tmp_path: Path) -> None:
    write(tmp_path / "data")
    stack: dict[str, Any] = Stack.load(HERE).raw
    (tmp_path / "stack.yaml").write_text(
        json.dumps(
            {
                **stack,
                "model": {"base": str(tiny_mean)},
                "tune": {"use": "head"},
                "train": {"max_steps": 2, "batch_size": 64},
                "explain": {**stack["explain"], "samples": 4},
                "output": str(tmp_path / "runs"),
            }
        )
    )
    run = execute(Stack.load(tmp_path / "stack.yaml"))
    assert run.exit_code == 0
    sections = json.loads((run.folder / "evidence" / "demo.json").read_text())["steps"]["planted-truth"]["sections"]
    assert [section["title"] for section in sections] == [
        "Planted against found",
        "Do explanations land on the planted words?",
    ]
    rows = {row[0]: row for row in sections[0]["blocks"][1]["rows"]}
    assert rows["mojibake"][2] == rows["mojibake"][1] > 20
    assert rows["pii"][1] > 50
    assert rows["pii"][2] >= 0.9 * rows["pii"][1]  # the others went with duplicates before
    assert rows["exact-duplicate"][2] >= 0.9 * rows["exact-duplicate"][1]
    assert rows["edited-duplicate"][2] >= 0.8 * rows["edited-duplicate"][1]
    assert {key for key in run.metrics if key.startswith("run/demo/planted-truth/recall/")} >= {
        f"run/demo/planted-truth/recall/{defect}" for defect in ("edited-duplicate", "label-noise", "mojibake", "pii")
    }
    beside = json.loads((run.folder / "evidence" / "beside.json").read_text())["runs"]
    assert [(one["name"], one["error"]) for one in beside] == [
        ("quickstart-unconstrained", "there is no such finished run")
    ]


def test_word_pieces_are_put_together() -> None:
    one = Attribution(
        "0", "x", ["[CLS]", "pneu", "##monia", "."], [(0, 0), (0, 4), (4, 9), (9, 10)], [9.0, 1.0, 2.0, 0.5]
    )
    assert _words(one) == [("pneumonia", 3.0), (".", 0.5)]
