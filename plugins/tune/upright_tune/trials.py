"""trials.jsonl: what was tried in a search, one line a trial, written as each ends."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

NAME = "trials.jsonl"


@dataclass
class Trial:
    """One set of settings and what became of it.

    ``value`` is the validation figure of the finished model, of a pruned trial its last one; ``curve`` holds
    ``[update, figure]`` of each evaluation; ``reason`` says why a trial failed, was pruned or was not run again.
    """

    number: int
    parameters: dict[str, Any]
    metric: str
    direction: Literal["maximize", "minimize"]
    value: float | None = None
    curve: list[list[float]] = field(default_factory=list)
    state: Literal["complete", "pruned", "failed"] = "complete"
    seconds: float = 0.0
    reason: str | None = None

    def told(self) -> str:
        """``tune.rank=8 train.learning_rate=0.0012``."""
        return " ".join(f"{path}={shown(value)}" for path, value in self.parameters.items())


def shown(value: Any) -> str:
    """A setting as people read it: four digits of a float, JSON of anything that is no word."""
    if isinstance(value, float):
        return f"{value:.4g}"
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def append(path: Path, trial: Trial) -> None:
    """Add one line."""
    with path.open("a", encoding="utf-8") as out:
        out.write(json.dumps(asdict(trial), ensure_ascii=False) + "\n")


def read(path: Path) -> list[Trial]:
    """The trials of a search. Raises OSError or ValueError where the file cannot be read as such."""
    try:
        return [Trial(**json.loads(line)) for line in path.read_text(encoding="utf-8").splitlines()]
    except TypeError as error:
        raise ValueError(f"a line is no trial ({error})") from error


def best(trials: list[Trial]) -> Trial | None:
    """The complete trial with the best value, the earliest of equals; None where there is none."""
    complete = [trial for trial in trials if trial.state == "complete" and trial.value is not None]
    return min(
        complete,
        key=lambda trial: (trial.value if trial.direction == "minimize" else -(trial.value or 0.0), trial.number),
        default=None,
    )
