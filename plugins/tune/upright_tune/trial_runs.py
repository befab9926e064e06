"""The trials of a search: each is the stack with other settings, run as any stack is, and judged on validation."""

from __future__ import annotations

import gc
import itertools
import random
import shutil
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from upright import Run, Stack, Step, Stop, hook
from upright.errors import ConfigError, PluginError, UprightError
from upright_tune.optuna_search import OptunaSearch, figure, private
from upright_tune.search_space import assignment
from upright_tune.trial_progress import TrialProgress
from upright_tune.trials import NAME, Trial, append


@dataclass(frozen=True)
class Search:
    """A stack that is searched: its file, what is overridden, and the step with the key path of its section."""

    file: str
    overrides: list[str]
    stack: Stack
    step: OptunaSearch
    keys: tuple[str | int, ...]

    def where(self, *path: str) -> str:
        """``file:line:col`` of a key of the section."""
        return self.stack.where(*self.keys, *path)

    def trial(self, *assignments: str) -> Stack:
        """The stack of one trial: no search, no test data, no explanations. Raises ConfigError for settings that do not go."""
        without = ["search=null", "explain=null", "data.test=null"]
        stack = Stack.load(self.file, [*self.overrides, *without, *assignments])
        if stack.private:
            raise ConfigError(private(stack, f"{self.where()}  search"))
        return stack

    def chosen(self, trial: Trial, trials: Path) -> Stack:
        """The stack with a trial's settings."""
        found = [assignment(path, value) for path, value in trial.parameters.items()]
        results = ".".join(map(str, (*self.keys, "results")))
        return Stack.load(self.file, [*self.overrides, *found, assignment(results, str(trials))])


def load_optuna(wanted: Search) -> Any:
    """The library, silent. Raises PluginError where it is not installed."""
    try:
        import optuna
    except ImportError as error:
        raise PluginError(
            f"{wanted.where()}  search: optuna is not installed; pip install 'upright-tune[search]'"
        ) from error
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    return optuna


def _study(wanted: Search) -> Any:
    optuna, step = load_optuna(wanted), wanted.step
    seed = wanted.stack.settings.seed
    pruners = {
        "median": lambda: optuna.pruners.MedianPruner(step.n_startup_trials, step.n_warmup_steps),
        "successive-halving": optuna.pruners.SuccessiveHalvingPruner,
        "hyperband": optuna.pruners.HyperbandPruner,
        "none": optuna.pruners.NopPruner,
    }
    if step.sampler == "tpe":
        sampler = optuna.samplers.TPESampler(seed=seed, n_startup_trials=step.n_startup_trials)
    else:
        sampler = optuna.samplers.RandomSampler(seed=seed)
    study = optuna.create_study(sampler=sampler, pruner=pruners[step.pruner](), direction=step.goal(wanted.stack))
    if step.sampler == "grid":
        grid = list(itertools.product(*(parameter.grid() or () for parameter in step.parameters.values())))
        for point in random.Random(seed).sample(grid, step.size):
            study.enqueue_trial(dict(zip(step.parameters, point, strict=True)))
    return study


def run_trials(
    wanted: Search, folder: Path, trials: list[Trial], progress: TrialProgress, interrupted: Callable[[], None]
) -> None:
    """Run the trials; each is added to ``trials`` and to trials.jsonl as it ends. ``interrupted`` is asked after each.

    By optuna's ask and tell: its own loop makes an UnboundLocalError of a ctrl-C that comes between two trials.
    """
    study = _study(wanted)
    for _ in range(wanted.step.size):
        drawn = study.ask()
        parameters = {path: space.suggest(drawn, path) for path, space in wanted.step.parameters.items()}
        goal = wanted.step.goal(wanted.stack)
        trial = Trial(len(trials), parameters, wanted.step.metric or "score", goal)
        twin = next((one for one in trials if one.parameters == parameters and one.state == "complete"), None)
        progress.begin(f"trial {trial.number}")
        started = time.perf_counter()
        if twin is not None:
            trial.metric, trial.value, trial.curve = twin.metric, twin.value, twin.curve
            trial.reason = f"the settings of trial {twin.number}, not run again"
        else:
            _run(wanted, trial, drawn, folder, progress)
        trial.seconds = round(time.perf_counter() - started, 3)
        trials.append(trial)
        append(folder / NAME, trial)
        progress.ended(trial)
        _tell(study, drawn, trial)
        interrupted()


def _tell(study: Any, drawn: Any, trial: Trial) -> None:
    from optuna.trial import TrialState

    if trial.state == "pruned":
        study.tell(drawn, state=TrialState.PRUNED)
    elif trial.state == "failed" or trial.value is None:
        study.tell(drawn, state=TrialState.FAIL)
    else:
        study.tell(drawn, trial.value)


def _run(wanted: Search, trial: Trial, drawn: Any, folder: Path, progress: TrialProgress) -> None:
    """Run one trial and fill in what became of it; its files are removed, but for the trace of an error."""
    name = f"trial-{trial.number}"
    given = [assignment(path, value) for path, value in trial.parameters.items()]
    try:
        stack = wanted.trial(*given, assignment("output", str(folder)), assignment("name", name))
        run = stack.with_step("search", "trial", _watcher(wanted, trial, drawn)).run(listen=progress.event)
        if trial.state == "complete":
            trial.metric, trial.value = _figure(wanted, run)
        gates = [verdict for verdict in run.verdicts if verdict.judgement == "violated" and verdict.on_fail == "block"]
        if gates and trial.state == "complete":
            trial.state, trial.reason = "failed", f"a gate is violated: {gates[0].sentence}"
    except _NoSuchFigure:
        raise
    except UprightError as error:
        trial.state, trial.reason = "failed", str(error).replace("\n", "; ")
    finally:
        _tidy(folder / name)
        gc.collect()  # a run holds itself in cycles, and with it the model's memory


def _watcher(wanted: Search, trial: Trial, drawn: Any) -> Step:
    """A step that notes the figure of each evaluation and stops a trial that the pruner gives up."""

    class Watcher(Step):
        """See the evaluations of a trial."""

        @hook
        def watch(self, moment: str, run: Run) -> Stop | None:
            if moment != "evaluated":
                return None
            trial.metric, value = _figure(wanted, run)
            drawn.report(value, len(trial.curve))
            trial.curve.append([run.update, value])
            if run.update < run.updates and drawn.should_prune():
                trial.state, trial.value = "pruned", value
                trial.reason = f"at update {run.update} of {run.updates}, by {wanted.step.pruner}"
                return Stop("pruned")
            return None

    return Watcher()


class _NoSuchFigure(ConfigError):
    """Every trial would fail alike, so the search ends."""


def _figure(wanted: Search, run: Run) -> tuple[str, float]:
    try:
        return figure(wanted.step, run)
    except LookupError as error:
        there = sorted(key.removeprefix("validation/") for key in run.metrics if key.startswith("validation/"))
        raise _NoSuchFigure(
            f"{wanted.where('metric')}  search.metric: validation has no figure {error.args[0]!r} (there are "
            f"{', '.join(there)}); name one of them"
        ) from error


def _tidy(folder: Path) -> None:
    """Remove what a trial wrote, but for the trace of an error, which the reason of a failed trial points at."""
    for run in [path for path in folder.glob("*") if not path.is_symlink()]:
        for path in [path for path in run.iterdir() if path.name != "error.txt"]:
            shutil.rmtree(path) if path.is_dir() else path.unlink()
        if not any(run.iterdir()):
            shutil.rmtree(folder)
