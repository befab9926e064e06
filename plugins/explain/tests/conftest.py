"""Untrained runs, made once for all tests of explainers."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from explained_runs import untrained

from upright import Run


@pytest.fixture(scope="session")
def runs(tiny: Callable[[str], Path], tiny_mean: Path, tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Run]:
    """``runs("mean")``: an untrained run on a base of that architecture (``mean``: pooled by core), made once."""
    made: dict[tuple[str, str], Run] = {}

    def make(base: str, task: str = "text-classification") -> Run:
        if (base, task) not in made:
            folder = tiny_mean if base == "mean" else tiny(base)
            made[base, task] = untrained(tmp_path_factory.mktemp(base), folder, task)
        return made[base, task]

    return make
