"""Linear probing: the base stays as it is, only the task's head is trained (Alain and Bengio, 2016, arXiv:1610.01644)."""

from __future__ import annotations

from typing import Any

from upright import Step, hook


class Head(Step):
    """Train the task's head on the frozen base."""

    tasks = frozenset({"text-classification", "token-classification"})

    @hook
    def tune(self, model: Any) -> Any:
        return model  # core makes the head trainable after every tuner
