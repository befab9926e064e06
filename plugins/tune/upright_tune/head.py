"""Linear probing: the base stays as it is, only the task's head is trained (Alain and Bengio, 2016, arXiv:1610.01644)."""

from __future__ import annotations

import time
from collections.abc import Generator
from typing import Any

from upright import Output, Run, Step, hook
from upright.hooks import Moment


class Head(Step):
    """Train the task's head on the frozen base.

    The base reads without dropout (the head keeps its own), so that a text's hidden states never change: they are computed
    once per run, unless a step changes the batches or they take more than 2 GiB.
    """

    tasks = frozenset({"text-classification", "token-classification"})

    @hook
    def tune(self, model: Any) -> Any:
        return model  # core makes the head trainable after every tuner

    @hook(wrapper=True)
    def forward(self, run: Run) -> Generator[None, Output, Output]:
        base = _base(run.model)
        if base is not None and base.training and not any(p.requires_grad for p in base.parameters()):
            base.eval()  # whatever set the whole model to training
        return (yield)

    @hook
    def watch(self, moment: Moment, run: Run) -> None:
        from upright_tune.features import remember

        base = _base(run.model)
        # Changed batches are not those read beforehand.
        if moment != "started" or base is None or run.calls.answers("batch"):
            return
        started = time.perf_counter()
        memory = remember(base, run)
        if memory is not None:
            seconds = round(time.perf_counter() - started, 3)
            run.emit("features", step=run.key(self), texts=len(memory.texts), bytes=memory.nbytes, seconds=seconds)

    @hook
    def finalize(self, model: Any, run: Run) -> Any:
        from upright_tune.features import forget

        base = _base(run.model)
        if base is not None:
            forget(base)
        return model


def _base(model: Any) -> Any:
    """The part under the head, as transformers calls it; None for a model that does not tell."""
    return getattr(model, "base_model", None)
