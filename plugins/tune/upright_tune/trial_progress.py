"""What a terminal shows while settings are searched: a bar where somebody looks, and a line for each trial everywhere."""

from __future__ import annotations

from typing import Any

from upright_tune.trials import Trial


class TrialProgress:
    """A context manager; its ``event`` listens to the events of the run that goes on."""

    def __init__(self, total: int) -> None:
        from rich.console import Console

        self.console = Console(stderr=True, highlight=False)
        self.total = total
        self.doing = ""
        self.bar: Any = None
        self.task: Any = None

    def __enter__(self) -> TrialProgress:
        if self.console.is_terminal:
            from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn

            columns = (BarColumn(), MofNCompleteColumn(), TextColumn("{task.description}"))
            self.bar = Progress(*columns, console=self.console, transient=True)
            self.bar.start()
            self.task = self.bar.add_task("", total=self.total)
        return self

    def __exit__(self, *error: object) -> None:
        if self.bar is not None:
            self.bar.stop()

    def line(self, text: str) -> None:
        """A line that stays, above the bar."""
        self.console.print(text, markup=False, soft_wrap=True)

    def begin(self, what: str) -> None:
        """What the bar says is being done."""
        self.doing = what
        self._describe(what)

    def event(self, event: dict[str, Any]) -> None:
        """One event of events.jsonl."""
        if event["event"] == "update":
            self._describe(f"{self.doing}: update {event['update']} of {event['updates']}")

    def ended(self, trial: Trial) -> None:
        """One trial is over."""
        figure = "" if trial.value is None else f"  {trial.metric} {trial.value:.4f}"
        why = f" ({trial.reason})" if trial.reason else ""
        self.line(f"trial {trial.number}: {trial.told()}{figure}  {trial.state}{why}")
        if self.bar is not None:
            self.bar.advance(self.task)

    def _describe(self, text: str) -> None:
        if self.bar is not None:
            self.bar.update(self.task, description=text)
