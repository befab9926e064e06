"""Exact per-row gradients of single torch functions, one file each.

A rule is a module with ``NAME``, the ``FUNCTIONS`` it serves, ``ROWS`` (which arguments must depend on the rows; None:
any) and ``rows_of(gradient, rows, *the function's own arguments)``, which returns, for each argument that may hold a
trainable weight, a function that gives its `Contribution`. ``gradient`` is that of the function's result.
"""

from __future__ import annotations

from typing import Any

from upright_privacy.per_unit.rules import (
    any_function,
    concatenation,
    embedding,
    linear,
    matrix_product,
    normalization,
    product,
    sum,
)

_RULES = (linear, matrix_product, embedding, normalization, concatenation, product, sum)
_OF = {function: rule for rule in _RULES for function in rule.FUNCTIONS}


def rule_of(function: Any) -> Any:
    """The rule of a torch function: its own, or the one that serves any."""
    try:
        return _OF.get(function, any_function)
    except TypeError:  # not hashable
        return any_function
