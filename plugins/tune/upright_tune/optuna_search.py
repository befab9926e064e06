"""Search of settings by optuna (Akiba et al., 2019, arXiv:1907.10902)."""

from __future__ import annotations

import math
import shutil
from pathlib import Path
from typing import Any, Literal

from pydantic import Field, field_validator, model_validator

from upright import Capability, Metric, Run, Section, Stack, Step, hook
from upright.errors import ConfigError
from upright_tune.search_space import Parameter, holds
from upright_tune.trials import NAME, best, read, shown

LOWER = frozenset({"perplexity", "loss"})
"""Core's figures of which less is better."""
HIGHER = (
    "accuracy",
    "macro_f1",
    "f1",
    "precision",
    "recall",
    "token_accuracy",
    "span_f1",
    "span_precision",
    "span_recall",
)


class OptunaSearch(Step):
    """Choose settings by what they reach on validation: `upright search` tries them and runs the best once.

    Trials never read the test data. The run of the best settings holds every trial in `steps/optuna/trials.jsonl`.
    """

    needs = frozenset({Capability.TRAINING})

    parameters: dict[str, Parameter] = Field(
        description="Path of a setting, as `--set` takes it: `low`, `high`, `step`, `log`, or `choices`."
    )
    trials: int = Field(20, ge=1, description="How many are tried; a grid may be smaller (optuna: n_trials).")
    metric: str | None = Field(
        None,
        description="Validation figure to go by; default: the task's main one, or the score of a step that selects.",
    )
    direction: Literal["maximize", "minimize"] | None = Field(
        None, description="Whether more is better; known for core's figures."
    )
    sampler: Literal["tpe", "random", "grid"] = Field(
        "tpe", description="How settings are drawn, from the stack's seed; a grid needs a step or choices."
    )
    pruner: Literal["median", "successive-halving", "hyperband", "none"] = Field(
        "median", description="What ends a trial early, by its figure after each evaluation."
    )
    n_startup_trials: int = Field(
        5, ge=0, description="First trials, which tpe draws at random and median never prunes."
    )
    n_warmup_steps: int = Field(0, ge=0, description="Evaluations of a trial before median may prune it.")
    results: str | None = Field(
        None, description="The trials that the settings come from; `upright search` fills it in."
    )

    @field_validator("parameters")
    @classmethod
    def _not_empty(cls, parameters: dict[str, Parameter]) -> dict[str, Parameter]:
        if not parameters:
            raise ValueError("is empty; name a setting to search, such as `tune.rank: {low: 4, high: 32}`")
        return parameters

    @model_validator(mode="after")
    def _can_be_searched(self) -> OptunaSearch:
        endless = [path for path, parameter in self.parameters.items() if parameter.grid() is None]
        if self.sampler == "grid" and endless:
            raise ValueError(f"a grid over {endless[0]} has no end; give it a step or choices, or use sampler: tpe")
        if self.metric is not None and self.direction is None and not _known(self.metric):
            raise ValueError(f"whether more or less of {self.metric!r} is better is not known; add `direction:`")
        return self

    @property
    def size(self) -> int:
        """How many trials there will be."""
        whole = math.prod(len(p.grid() or ()) for p in self.parameters.values()) if self.sampler == "grid" else math.inf
        return int(min(self.trials, whole))

    def goal(self, stack: Stack) -> Literal["maximize", "minimize"]:
        """Whether more or less of the figure is better."""
        if self.direction is not None:
            return self.direction
        if self.metric is not None:
            return "minimize" if self.metric in LOWER else "maximize"
        perplexity = stack.settings.model.task.endswith("generation") and not stack.answering("select")
        return "minimize" if perplexity else "maximize"

    @hook
    def clean(self, run: Run) -> None:
        """Cleans nothing: it is the first moment of a run, early enough to refuse one before anything is loaded."""
        placed = run.stack.placed(self)
        told = f"{placed.where}  {placed}"
        if run.stack.private:
            raise ConfigError(private(run.stack, told))
        if self.results is None:
            raise ConfigError(
                f"{told}: the settings have not been searched yet; use `upright search {run.stack.source}`, or leave the "
                "section out with --set search=null"
            )
        try:
            chosen = best(read(Path(self.results)))
        except (OSError, ValueError) as error:
            raise ConfigError(f"{told}.results: {self.results} cannot be read ({error}); search again") from error
        if chosen is None or set(chosen.parameters) != set(self.parameters):
            raise ConfigError(f"{told}.results: {self.results} holds no trial of these parameters; search again")
        for path, value in chosen.parameters.items():
            if not holds(run.stack.raw, path, value):
                raise ConfigError(
                    f"{told}: {path} is not {shown(value)}, which the best trial ({chosen.number}) had; search again, or "
                    "leave the section out with --set search=null"
                )

    @hook
    def save(self, folder: Path) -> None:
        shutil.copyfile(str(self.results), folder / NAME)

    @hook
    def account(self, folder: Path) -> dict[str, Metric | float]:
        trials = read(folder / NAME)
        chosen = best(trials)
        counts = {state: sum(t.state == state for t in trials) for state in ("complete", "pruned", "failed")}
        return {"trials": len(trials), **counts, **({"best_value": chosen.value} if chosen else {})}

    @hook
    def report(self, run: Run) -> Section:
        from upright_tune.parallel_coordinates import section

        return section(self.parameters, read(run.step_folder(self) / NAME))


def private(stack: Stack, told: str) -> str:
    """Why a private stack cannot be searched."""
    who = next(p for p in stack.steps if Capability.OPEN_TRAINING in p.step.breaks)
    return (
        f"{told}: every trial would spend privacy budget of {who} ({who.where}), and nothing accounts for the trials; "
        f"remove one of them"
    )


def _known(metric: str) -> bool:
    return metric in LOWER or metric.split("/")[0] in HIGHER


def figure(step: OptunaSearch, run: Run) -> tuple[str, float]:
    """Name and present value of what trials are compared by. Raises LookupError where the run has no such figure."""
    if step.metric is None and run.stack.answering("select"):
        return "score", run.calls.select(run.metrics, run)
    name: str = step.metric or run.task.primary
    found: Any = run.metrics.get(f"validation/{name}")
    if found is None:
        raise LookupError(name)
    return name, found.value
