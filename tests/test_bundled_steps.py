"""Every bundled step keeps the contract: the conformance kit, as a third party would use it."""

from __future__ import annotations

import base64
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from upright import catalog
from upright.testing.kit import CHECKS, outcome, subject_of

SETTINGS: dict[str, dict[str, Any]] = {
    "adalora": {"init_r": 3, "target_r": 2},
    "group-audit": {"groups": ["sex"]},
    "equalized-odds": {"groups": ["sex"]},
    "thresholds": {"groups": ["sex"]},
    "balanced-batches": {"groups": ["sex"]},
    "erase": {"groups": ["sex"]},
    "multiclass-offsets": {"groups": ["sex"]},
    "counterfactual-pairing": {"terms": [("fever", "walk")]},
    "dp-sgd": {"noise_multiplier": 0.5, "delta": 1e-3},
    "template": {"text": "note: {text}"},
    "integrated-gradients": {"samples": 6},
    "fourierft": {"n_frequency": 8},
    "chat": {"chat_template": "{% for m in messages %}{{ m['content'] }} {% endfor %}"},
    "verbalizer": {"label_words": {"sick": "fever", "well": "walk"}},
}
"""What a step cannot be made without, and what makes it quick."""
MASKED = {"use": "template", "text": "{text} it is {mask_token}"}
WORDS = {"use": "verbalizer", **SETTINGS["verbalizer"]}
STACKS: dict[str, dict[str, Any]] = {
    "mixout": {"tune": "full"},
    "audit": {"privacy": {"use": "dp-sgd", **SETTINGS["dp-sgd"]}},
    "calibrate": {"prompt": [MASKED, WORDS]},
    "verbalizer": {"prompt": MASKED},
    "label-similarity": {"model": {"base": "minilm"}},
}
"""What a step must stand beside."""
EXPECTED = {
    "audit": {"frozen": "a cache of row numbers, keyed by the run's data"},
    "dp-sgd": {"frozen": "a cache of row numbers, keyed by the run's data"},
    "encrypt": {"frozen": "the opened key of a run's folder; no checkpoint may hold it"},
}
NO_TEXT = ("audio-normalise", "denoise", "image-dup", "image-normalise")
"""Cleaners of images and sounds: the kit's rows are texts."""
QUICK = ("length", "unicode", "bitfit", "lora", "focal", "template", "equalized-odds", "dp-sgd", "integrated-gradients")
LATER = ("beside-others",)
"""Checks that take the longest; `make test-all` makes them."""


def bundled() -> list[Any]:
    """A parameter for each step of the repository's own distributions that the kit can make."""
    return [
        pytest.param(entry, id=f"{entry.section}.{entry.name}", marks=() if entry.name in QUICK else pytest.mark.slow)
        for entry in catalog.steps()
        if entry.dist.startswith("upright-") and entry.dist != "upright-quickstart" and entry.name not in NO_TEXT
    ]


@pytest.mark.parametrize("entry", bundled())
def test_a_bundled_step_keeps_the_contract(
    entry: catalog.Entry, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("UPRIGHT_KEY", base64.b64encode(bytes(32)).decode())
    kind: Callable[..., Any] = catalog.load(entry)
    try:
        step = kind(**SETTINGS.get(entry.name, {}))
    except ValueError as error:
        pytest.skip(f"needs settings ({str(error).splitlines()[0]})")
    subject = subject_of(step, tmp_path, stack=STACKS.get(entry.name))
    found = [outcome(check, subject, EXPECTED.get(entry.name)) for check in CHECKS if check not in LATER]
    failed = [f"{one.check}: {one.detail}" for one in found if one.status == "failed"]
    if failed:
        pytest.fail("\n".join(failed), pytrace=False)
