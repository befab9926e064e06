"""A sample of `make matrix`: every tuning method once, and what is refused says why."""

from __future__ import annotations

import pytest
from matrix import METHODS, PAIRS, SEQUENCE, TEXT, TOKENS, run_cell

from upright import catalog

SAMPLE = {
    "full": ("t5", PAIRS),
    "head": ("roberta", SEQUENCE),
    "top-layers": ("t5", PAIRS),
    "bitfit": ("distilbert", TOKENS),
    "adapter": ("t5", PAIRS),
    "soft-prompt": ("roberta", TOKENS),
    "prefix": ("qwen2", TEXT),
    "p-tuning": ("llama", TEXT),
    "lora": ("deberta-v2", SEQUENCE),
    "adalora": ("gpt2", TEXT),
    "ia3": ("t5", PAIRS),
    "vera": ("gpt2", TEXT),
    "oft": ("llama", TEXT),
    "boft": ("distilbert", SEQUENCE),
    "loha": ("bert", TOKENS),
    "lokr": ("llama", SEQUENCE),
    "fourierft": ("gpt2", TEXT),
    "ln-tuning": ("t5", PAIRS),
    "trainable-tokens": ("gpt2", TEXT),
    "peft": ("bert", TOKENS),
}


def test_the_matrix_has_every_installed_tuning_step() -> None:
    installed = {entry.name for entry in catalog.steps() if entry.section == "tune" and entry.dist == "upright-tune"}
    assert installed == set(METHODS) == set(SAMPLE)


@pytest.mark.parametrize("method", METHODS)
def test_a_method_trains_reloads_and_merges(method: str) -> None:
    cell = run_cell(method, *SAMPLE[method])
    assert (cell.state, cell.detail) == ("works", "")
    assert cell.merges is not False


@pytest.mark.parametrize(
    "method",
    ["soft-prompt", "adapter", *(pytest.param(one, marks=pytest.mark.slow) for one in ("vera", "prefix", "ia3"))],
)
def test_a_mean_pooling_model_reloads_too(method: str) -> None:
    cell = run_cell(method, "minilm", SEQUENCE)
    assert (cell.state, cell.detail) == ("works", "")


@pytest.mark.parametrize(
    "settings",
    [{"use_rslora": True}, {"use_dora": True}, {"init_lora_weights": "pissa"}, {"loraplus_lr_ratio": 8.0}],
    ids=lambda settings: next(iter(settings)),
)
def test_variants_of_lora_reload_and_merge(settings: dict[str, object]) -> None:
    cell = run_cell("lora", "bert", SEQUENCE, {"rank": 4, **settings})
    assert (cell.state, cell.detail, cell.merges) == ("works", "", True)


@pytest.mark.parametrize(
    ("method", "model", "task", "told"),
    [
        ("bitfit", "llama", TEXT, "has no biases; use lora"),
        ("oft", "gpt2", TEXT, "tune.oft cannot serve a gpt2: peft's OFT has no rule for its Conv1D layers"),
        ("prefix", "deberta-v2", TOKENS, "its attention is not one of transformers' interface"),
        ("head", "gpt2", TEXT, "tune.head serves text-classification, token-classification, not"),
    ],
)
def test_what_cannot_work_is_refused_with_the_reason(method: str, model: str, task: str, told: str) -> None:
    cell = run_cell(method, model, task)
    assert cell.state == "refused"
    assert told in cell.detail
