"""Steps and calls: order, combination, wrappers, and what the contract forbids."""

from __future__ import annotations

from typing import Any

import pytest
from pydantic import ValidationError

from upright import Run, Step, hook
from upright.calls import Calls
from upright.errors import ConfigError, UprightError
from upright.stack import answers


class Named(Step):
    """Adds its letter."""

    letter: str = "a"

    @hook
    def prompt(self, record: dict[str, Any]) -> dict[str, Any]:
        return {**record, "text": record["text"] + self.letter}


class Around(Step):
    """Surrounds the whole."""

    letter: str = "("

    @hook(wrapper=True)
    def prompt(self, record: dict[str, Any], run: Run) -> Any:
        record = yield
        return {**record, "text": f"{self.letter}{record['text']}{self.letter}"}


def text(*steps: Step) -> str:
    return str(Calls(steps).prompt({"text": ""}, None)["text"])


def test_answers_come_in_the_order_of_the_file_and_the_first_wrapper_is_outermost() -> None:
    assert text(Named(letter="a"), Named(letter="b"), Named(letter="c")) == "abc"
    assert text(Around(letter="1"), Named(), Around(letter="2")) == "12a21"


def test_two_steps_with_equal_settings_are_two_steps() -> None:
    assert Named() != Named()
    assert text(Named(), Named()) == "aa"


def test_steps_are_frozen_and_know_their_settings_only() -> None:
    with pytest.raises(ValidationError):
        Named().letter = "b"
    with pytest.raises(ValidationError):
        Named(lettre="b")


@pytest.mark.parametrize("name", ["prompt", "use", "name", "forward"])
def test_a_setting_that_bears_the_name_of_a_hook_is_refused(name: str) -> None:
    with pytest.raises(TypeError, match="must not bear the name"):
        type("Odd", (Step,), {"__annotations__": {name: str}, name: "x", "__module__": __name__})


def test_a_misspelt_hook_is_an_error() -> None:
    class Odd(Step):
        @hook
        def tnue(self, model: Any) -> Any:
            return model

    class Greedy(Step):
        @hook
        def tune(self, model: Any, rnu: Any) -> Any:
            return model

    with pytest.raises(ConfigError, match="tnue"):
        Calls([Odd()])
    with pytest.raises(Exception, match="rnu"):
        Calls([Greedy()])


def test_wrappers_see_errors_may_turn_them_and_must_yield_once() -> None:
    class Fails(Step):
        @hook
        def prompt(self, record: dict[str, Any]) -> dict[str, Any]:
            raise ValueError("no")

    class Turns(Step):
        @hook(wrapper=True)
        def prompt(self, record: dict[str, Any]) -> Any:
            try:
                return (yield)
            except ValueError:
                return {"text": "turned"}

    class Twice(Step):
        @hook(wrapper=True)
        def prompt(self, record: dict[str, Any]) -> Any:
            yield
            yield

    class Never(Step):
        @hook(wrapper=True)
        def prompt(self, record: dict[str, Any]) -> Any:
            if record is None:
                yield
            return record

    assert text(Turns(), Fails()) == "turned"
    with pytest.raises(UprightError, match="yielded twice"):
        text(Twice(), Named())
    with pytest.raises(UprightError, match="did not yield"):
        text(Never(), Named())
    with pytest.raises(ValueError, match="no"):
        text(Around(), Fails())


def test_a_chain_that_is_broken_names_the_step() -> None:
    class Forgets(Step):
        @hook
        def prompt(self, record: dict[str, Any]) -> None:
            return None

    with pytest.raises(UprightError, match=r"Forgets\.prompt returned nothing"):
        text(Forgets())


def test_a_wrapper_is_no_answer() -> None:
    assert answers(Named(), "prompt")
    assert not answers(Around(), "prompt")
    assert not answers(Named(), "tune")


class _Run:
    def key(self, step: Any) -> str:
        return "same"

    def home(self, step: Any) -> str:
        return "fairness/same"


class Measures(Step):
    @hook
    def measure(self, predictions: Any) -> dict[str, float]:
        return {"gap": 0.5}


def test_equal_metric_keys_are_an_error_and_a_bare_float_follows_from_predictions() -> None:
    predictions = type("P", (), {"split": "test"})()
    found = Calls([Measures()]).measure(predictions, _Run())
    assert found["test/fairness/same/gap"].source == "predictions"
    with pytest.raises(UprightError, match="same key"):
        Calls([Measures(), Measures()]).measure(predictions, _Run())


def test_sums_products_and_watchers_combine_as_the_contract_says() -> None:
    from upright import Stop

    class Two(Step):
        @hook
        def weigh(self) -> float:
            return 2.0

        @hook
        def loss(self) -> float:
            return 3.0

        @hook
        def watch(self, moment: str) -> Stop | None:
            return Stop("first") if moment == "updated" else None

    calls = Calls([Two(), Two()])
    nothing: Any = None
    assert calls.weigh(nothing, nothing) == 4.0
    assert calls.loss(nothing, nothing, nothing) == 6.0
    assert calls.penalty(nothing, nothing) is None
    assert calls.watch("updated", nothing) == Stop("first")
    assert calls.watch("started", nothing) is None
    assert calls.statistics(nothing, nothing, nothing) == {}
