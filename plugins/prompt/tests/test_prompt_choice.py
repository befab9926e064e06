"""Calibrated, averaged and searched prompts against what their papers define."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from conftest import write_rows
from upright import Stack
from upright.engine.evaluate import predict
from upright.engine.execute import execute
from upright.errors import ConfigError
from upright_prompt.rendering import fields
from upright_prompt.template_edits import edited, phrases

Make = Callable[[str], Path]
TEMPLATES = ["note {text} it is", "{text} so the patient has", "today {text} and"]
VERBALIZER = {"use": "verbalizer", "label_words": {"sick": "fever and pain", "well": "rest"}}


def stack(toy: dict[str, Any], base: Path, *prompts: Any, splits: tuple[str, ...] = ("test",)) -> dict[str, Any]:
    plain = {key: value for key, value in toy.items() if key not in ("tune", "train")}
    data = {key: toy["data"][key] for key in (*splits, "sensitive")}
    return {**plain, "data": data, "model": {"base": str(base)}, "prompt": list(prompts)}


def scores(toy: dict[str, Any], base: Path, *prompts: Any, **options: Any) -> np.ndarray:
    """``[n, K]`` of the test split."""
    return predict(execute(Stack.load(stack(toy, base, *prompts, **options))), "test").numpy("scores")


def test_an_ensemble_is_the_mean_of_its_templates_each_run_alone(toy: dict[str, Any], tiny: Make) -> None:
    base = tiny("llama")
    alone = [scores(toy, base, {"use": "template", "text": text}, VERBALIZER) for text in TEMPLATES]
    found = scores(toy, base, VERBALIZER, {"use": "ensemble", "templates": TEMPLATES})
    np.testing.assert_allclose(found, np.mean(alone, axis=0), atol=1e-6)
    assert np.abs(found - alone[0]).max() > 1e-3


def test_calibration_divides_by_the_answer_to_no_content(toy: dict[str, Any], tiny: Make, tmp_path: Path) -> None:
    base, template = tiny("llama"), {"use": "template", "text": TEMPLATES[0]}
    empty = ["N/A", "[MASK]", ""]
    rows = [{"text": text, "label": "sick", "sex": "fm"[n % 2]} for n, text in enumerate([*empty[::2], "x"])]
    rows.append({"text": "x", "label": "well", "sex": "f"})
    other = {**toy, "data": {"test": write_rows(tmp_path / "e.jsonl", rows), "sensitive": ["sex"]}}
    prior = scores(other, base, template, VERBALIZER)[:2].mean(0)  # [MASK] is a mask of this tokenizer
    plain = scores(toy, base, template, VERBALIZER)
    ratio = plain / prior
    found = scores(toy, base, template, VERBALIZER, {"use": "calibrate", "content_free": empty})
    np.testing.assert_allclose(found, ratio / ratio.sum(1, keepdims=True), atol=1e-5)
    assert np.abs(found - plain).max() > 1e-3


def test_an_ensemble_is_calibrated_as_a_whole(toy: dict[str, Any], tiny: Make) -> None:
    base, ensemble = tiny("llama"), {"use": "ensemble", "templates": TEMPLATES}
    run = execute(Stack.load(stack(toy, base, VERBALIZER, "calibrate", ensemble)))
    prior = np.exp(run.keep(run.stack.steps[1].step, "log_prior", list))
    ratio = scores(toy, base, VERBALIZER, ensemble) / prior
    np.testing.assert_allclose(predict(run, "test").numpy("scores"), ratio / ratio.sum(1, keepdims=True), atol=1e-5)


def test_domain_words_are_drawn_from_training_texts_and_the_same_again(toy: dict[str, Any], tiny: Make) -> None:
    prompts = ({"use": "template", "text": TEMPLATES[0]}, VERBALIZER, {"use": "calibrate", "method": "domain-context"})
    first, again = (
        execute(Stack.load(stack(toy, tiny("llama"), *prompts, splits=("validation", "test")))) for _ in range(2)
    )
    step, other = first.stack.steps[2].step, again.stack.steps[2].step
    assert first.keep(step, "log_prior", list) == again.keep(other, "log_prior", list)
    assert math.isclose(sum(map(math.exp, first.keep(step, "log_prior", list))), 1, abs_tol=1e-5)
    known = {word for text in first.data["validation"]["text"] for word in text.split()}
    drawn = [word for record in step._records(first) for word in record["text"].split()]
    assert drawn
    assert set(drawn) <= known
    with pytest.raises(ConfigError, match="draws words from training or validation texts, and there are none"):
        execute(Stack.load(stack(toy, tiny("llama"), *prompts)))


def test_wrong_orders_are_refused(toy: dict[str, Any], tiny: Make) -> None:
    ensemble = {"use": "ensemble", "templates": TEMPLATES}
    with pytest.raises(ConfigError, match=r"prompt.calibrate: must come after prompt.verbalizer .*which it corrects"):
        execute(Stack.load(stack(toy, tiny("llama"), "calibrate", VERBALIZER)))
    with pytest.raises(ConfigError, match=r"prompt.calibrate: must come before prompt.ensemble .*whose whole answer"):
        execute(Stack.load(stack(toy, tiny("llama"), VERBALIZER, ensemble, "calibrate")))
    search = {"use": "template-search", "templates": TEMPLATES}
    with pytest.raises(ConfigError, match=r"prompt.template-search: must come after prompt.verbalizer .*which scores"):
        execute(Stack.load(stack(toy, tiny("llama"), search, VERBALIZER, splits=("validation", "test"))))
    with pytest.raises(ConfigError, match=r"prompt.calibrate cannot run with tune.lora"):
        Stack.load({**toy, "prompt": "calibrate"})


def searching(toy: dict[str, Any], base: Path, **options: Any) -> Any:
    step = {"use": "template-search", "templates": TEMPLATES, "rows": 5, **options}
    return execute(Stack.load(stack(toy, base, VERBALIZER, step, splits=("validation", "test"))))


def test_the_search_keeps_the_template_that_is_best_on_validation_alone(toy: dict[str, Any], tiny: Make) -> None:
    base = tiny("llama")
    run = searching(toy, base, rows=20)  # all of validation at once: an exact search over the list
    found = {}
    for text in TEMPLATES:
        one = execute(
            Stack.load(stack(toy, base, {"use": "template", "text": text}, VERBALIZER, splits=("validation", "test")))
        )
        table = predict(one, "validation")
        right = np.log(table.numpy("scores")[np.arange(20), table.numpy("label")]).mean()
        found[text] = (one.metrics["validation/accuracy"].value, right)
    state = run.keep(run.stack.steps[1].step, "search", dict)
    best = max(found, key=found.__getitem__)
    assert state["best"] == best
    assert state["cost"] == 60
    assert run.encoded["test"].records[0]["text"] == best.format(text=run.data["test"][0]["text"])


def test_halving_costs_what_it_says_and_edits_are_tried(toy: dict[str, Any], tiny: Make) -> None:
    run = searching(toy, tiny("llama"), rounds=2, edits=3)
    state = run.keep(run.stack.steps[1].step, "search", dict)
    assert state["cost"] == sum(one["rows"] for one in state["tried"])
    assert {one["round"] for one in state["tried"]} == {0, 1, 2}
    first = [one["rows"] for one in state["tried"] if one["round"] == 0]
    assert first == [5, 5, 5, 10, 10, 20]  # 3 of 5 rows, the better 2 of 10, the best of all 20: one is left
    page = (run.folder / "report.html").read_text()
    assert "Template search" in page
    assert f"{state['cost']} rows" in page


@given(
    st.integers(0, 10_000), st.sampled_from([*TEMPLATES, "Is it urgent? {text}\nThink, then answer: {{yes}} or no."])
)
def test_edits_keep_the_fields(seed: int, template: str) -> None:
    generator = torch.Generator().manual_seed(seed)
    assert "".join(phrases(template)) == template
    deleted: list[str] = []
    for _ in range(4):
        template_after = edited(template, deleted, generator)
        assert fields(template_after) == fields(template)
        template = template_after or template


def test_a_search_without_validation_is_refused(toy: dict[str, Any], tiny: Make) -> None:
    with pytest.raises(ConfigError, match=r"templates are chosen on validation; add data\.validation"):
        execute(Stack.load(stack(toy, tiny("llama"), VERBALIZER, {"use": "template-search", "templates": TEMPLATES})))


def test_a_language_models_prompt_is_searched_by_likelihood(tiny: Make, tmp_path: Path) -> None:
    rows = [{"prompt": "the patient has", "completion": word} for word in ("fever", "pain") * 8]
    data = {name: write_rows(tmp_path / f"{name}.jsonl", rows) for name in ("validation", "test")}
    step = {"use": "template-search", "templates": ["{prompt}", "note {prompt} very"], "rows": 16}
    run = execute(
        Stack.load(
            {
                "data": data,
                "model": {"base": str(tiny("llama")), "task": "text-generation"},
                "prompt": step,
                "output": str(tmp_path / "runs"),
            }
        )
    )
    tried = run.keep(run.stack.steps[0].step, "search", dict)["tried"]
    best = max(tried, key=lambda one: one["score"])["template"]
    assert run.encoded["test"].records[0]["prompt"] == best.format(prompt="the patient has")
