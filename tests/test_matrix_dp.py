"""A sample of `make matrix-dp`: exact per-unit gradients, and a mutant that the comparison must notice."""

from __future__ import annotations

import itertools

import pytest
from matrix import METHODS, PAIRS, SEQUENCE, TEXT, TOKENS
from matrix_dp import FACTORS, MAIN, MORE, NAMED, conditions, run_cell

from upright_privacy.per_unit.contributions import Product

SAMPLE = [
    ("full", "gpt2", SEQUENCE),
    ("dora", "bert", SEQUENCE),
    ("adalora", "bert", TOKENS),
    ("prefix with projection", "llama", TEXT),
    ("lokr", "llama", SEQUENCE),
    ("oft", "bert", SEQUENCE),
    ("ia3", "t5", PAIRS),
    ("lora", "minilm, 2 layers", SEQUENCE),
]


def test_the_matrix_has_every_method_and_every_pair_of_conditions() -> None:
    assert {NAMED[method][0] for method in [*MAIN, *MORE]} == set(METHODS)
    for (a, values), (b, others) in itertools.combinations(FACTORS.items(), 2):
        for pair in itertools.product(values, others):
            assert any((one[a], one[b]) == pair for one in conditions())


@pytest.mark.parametrize(("method", "model", "task"), SAMPLE, ids=[" ".join(cell) for cell in SAMPLE])
def test_the_clipped_sum_is_that_of_the_loop_over_rows(method: str, model: str, task: str) -> None:
    cell = run_cell(method, model, task, only=3)
    assert (cell.state, cell.detail) == ("exact", "")


def test_mutant_that_forgets_the_factors_of_products_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    true = Product.weighted
    monkeypatch.setattr(Product, "weighted", lambda self, factors: true(self, factors.new_ones(len(factors))))
    assert run_cell("full", "bert", SEQUENCE, only=1).state == "inexact"
