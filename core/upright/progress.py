"""What a terminal shows while a run goes on: a bar where somebody looks, plain lines elsewhere."""

from __future__ import annotations

import sys
import time
from typing import Any

STAGES = {
    "clean": "reading and cleaning the data",
    "model": "loading the model",
    "prompt": "rendering prompts and tokens",
    "tune": "making the model trainable",
    "train": "training",
    "finalize": "finalizing the model",
    "measure": "predicting and measuring",
    "explain": "explaining decisions",
    "save": "exporting the model",
    "report": "writing evidence and report",
}
EVERY = 10.0
"""Seconds between two plain lines of training."""


class Progress:
    """Listens to a run's events; a context manager."""

    def __init__(self) -> None:
        from rich.console import Console

        self.console = Console(stderr=True, highlight=False)
        self.bar: Any = None
        self.task: Any = None
        self.told = time.monotonic()

    def __enter__(self) -> Progress:
        if self.console.is_terminal:
            from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn
            from rich.progress import Progress as Bar

            columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
            self.bar = Bar(*columns, TextColumn("{task.fields[note]}"), console=self.console, transient=True)
            self.bar.start()
        return self

    def __exit__(self, *error: object) -> None:
        if self.bar is not None:
            self.bar.stop()

    def __call__(self, event: dict[str, Any]) -> None:
        """One event of events.jsonl."""
        tell = getattr(self, f"_{event['event']}", None)
        if tell is not None:
            tell(event)

    def line(self, text: str) -> None:
        """A line that stays, above the bar."""
        self.console.print(text, markup=False, soft_wrap=True)

    def _stage(self, event: dict[str, Any]) -> None:
        if self.bar is not None and self.task is not None:
            self.bar.remove_task(self.task)
            self.task = None
        self.line(f"{STAGES.get(event['stage'], event['stage'])} …")

    def _cleaned(self, event: dict[str, Any]) -> None:
        counts = ", ".join(f"{count} {action}" for action, count in event["counts"].items())
        self.line(f"  {event['step']} on {event['split']}: {counts}")

    def _update(self, event: dict[str, Any]) -> None:
        if self.bar is not None:
            if self.task is None:
                self.task = self.bar.add_task("  updates", total=event["updates"], note="")
            note = f"loss {event['train_loss']:.4f}" if event.get("train_loss") is not None else ""
            self.bar.update(self.task, completed=event["update"], note=note)
        elif time.monotonic() - self.told > EVERY:
            self.told = time.monotonic()
            self.line(f"  update {event['update']} of {event['updates']}")

    def _evaluated(self, event: dict[str, Any]) -> None:
        figures = [f"{key.partition('/')[2]} {value:.4f}" for key, value in event["metrics"].items()]
        self.line(f"  update {event['update']}: validation {', '.join(figures[:2])}")

    def _warning(self, event: dict[str, Any]) -> None:
        self.line(f"  warning: {event['message']}")


def quiet_libraries() -> None:
    """Silence the bars and notices of the libraries underneath; their errors still come through as ours."""
    import os
    import warnings

    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    os.environ.setdefault("HF_DATASETS_DISABLE_PROGRESS_BARS", "1")
    os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
    if not sys.warnoptions:
        warnings.simplefilter("ignore")
    from transformers.utils import logging

    logging.set_verbosity_error()
    logging.disable_progress_bar()
