"""The same stacks on a CUDA device."""

from __future__ import annotations

from typing import Any

import pytest

from upright import Stack
from upright.engine.execute import execute

pytestmark = pytest.mark.gpu


@pytest.mark.parametrize("tune", ["full", {"use": "lora", "rank": 2}])
@pytest.mark.parametrize("private", [False, True])
def test_a_run_trains_measures_and_explains_on_the_gpu(toy: dict[str, Any], tune: Any, private: bool) -> None:
    toy |= {"tune": tune, "explain": {"use": "integrated-gradients", "samples": 4}}
    if private:
        toy["privacy"] = {"use": "dp-sgd", "noise_multiplier": 1.0, "delta": 1e-3}
    run = execute(Stack.load(toy))
    assert run.device.type == "cuda"
    assert run.exit_code == 0
    assert run.metrics["test/accuracy"].n == 24
