"""``upright search``: try settings on validation, then run the best once, test data included."""

from __future__ import annotations

import argparse
import json
import sys
import time
from dataclasses import asdict
from pathlib import Path

from upright import Run, Stack
from upright.errors import ConfigError, UprightError
from upright.progress import quiet_libraries
from upright_tune.interrupts import noticed
from upright_tune.optuna_search import OptunaSearch, private
from upright_tune.search_space import assignment
from upright_tune.trial_progress import TrialProgress
from upright_tune.trial_runs import Search, load_optuna, run_trials
from upright_tune.trials import NAME, Trial, best

FIXED = frozenset({"data", "explain", "name", "output", "search", "seed"})
"""First keys of what must be the same in every trial, or is left out of them."""
EPILOG = """
The stack file has a section such as

  search:
    use: optuna
    trials: 20
    parameters:
      train.learning_rate: {low: 1e-5, high: 1e-2, log: true}
      tune.rank: {low: 4, high: 32, step: 4}
      tune.use_dora: {choices: [true, false]}

Each trial is trained as a run is and judged on validation; the test data stays unread. The best settings are then run
once in runs/<name>/<time>-<hash>, with every trial in steps/optuna/trials.jsonl and in the report. Ctrl-C keeps what has
been tried.

Exit codes: 0 ok, 1 no trial went well or the run failed, 2 config, 3 plugin or optuna missing, 4 a gate failed,
130 interrupted.
"""


def search(arguments: list[str]) -> int:
    """The command: arguments as after ``upright search``; returns the exit code.

    Errors: `ConfigError` for what cannot be searched, `PluginError` without optuna, `UprightError` where no trial went well.
    """
    asked = _parser().parse_args(arguments)
    wanted = _wanted(asked.stack, asked.overrides)
    load_optuna(wanted)
    quiet_libraries()
    folder = _new_folder(wanted.stack)
    trials: list[Trial] = []
    with TrialProgress(wanted.step.size) as progress:
        try:
            with noticed() as interrupted:
                run_trials(wanted, folder, trials, progress, interrupted)
        except KeyboardInterrupt:
            progress.line(_interrupted(trials, folder))
            return 130
        chosen = _best(wanted, trials, folder)
        progress.line(f"best: trial {chosen.number}; it is run once more, with the test data")
        progress.begin("the best settings")
        try:
            run = wanted.chosen(chosen, folder / NAME).run(listen=progress.event)
        except KeyboardInterrupt:
            latest = folder.parent / "latest"
            progress.line(f"interrupted in the run of the best settings; go on with `upright run --resume {latest}`")
            return 130
    _summary(chosen, trials, run, asked.json)
    return run.exit_code


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="upright search",
        description="Search the settings of a stack on validation data and run the best once.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument(
        "stack", nargs="?", default="stack.yaml", help="the stack file, or the folder that holds stack.yaml"
    )
    parser.add_argument(
        "--set",
        dest="overrides",
        action="append",
        default=[],
        metavar="KEY=VALUE",
        help="override a setting, such as search.trials=5; the last one wins",
    )
    parser.add_argument("--json", action="store_true", help="print JSON: the run's folder, the best trial, every trial")
    return parser


def _wanted(file: str, overrides: list[str]) -> Search:
    """Raises ConfigError with one sentence for each thing that cannot be searched."""
    stack = Stack.load(file, overrides)
    placed = [placed for placed in stack.steps if isinstance(placed.step, OptunaSearch)]
    if len(placed) != 1:
        where = placed[1].where if placed else stack.source
        many = "two searches: keep one" if placed else "no `search:` section: add one, or use `upright run`"
        raise ConfigError(f"{where}: there are {many}" if placed else f"{where}: there is {many}")
    section = [one for one in stack.steps if one.section == "search"]
    keys = ("search",) if isinstance(stack.raw["search"], dict) else ("search", section.index(placed[0]))
    wanted = Search(file, overrides, stack, placed[0].step, keys)
    if stack.private:
        raise ConfigError(private(stack, f"{placed[0].where}  {placed[0]}"))
    problems = [problem for path in wanted.step.parameters for problem in _problems(wanted, path)]
    if problems:
        raise ConfigError(problems)
    return wanted


def _problems(wanted: Search, path: str) -> list[str]:
    """Why no value of a parameter can be had, in the words of the stack's own checks; empty where one can."""
    where = wanted.where("parameters", path)
    if path.split(".")[0] in FIXED:
        return [f"{where}  search.parameters: {path} cannot be searched: it is the same for every trial; remove it"]
    found: list[str] = []
    for value in wanted.step.parameters[path].examples():
        given = assignment(path, value)
        try:
            wanted.trial(given)
        except UprightError as error:
            found = found or [_moved(problem, given, path, where) for problem in str(error).split("\n")]
        else:
            return []
    return found


def _moved(problem: str, given: str, path: str, where: str) -> str:
    """A sentence about an override, as one about the place in the file that the override came from."""
    if problem.startswith(f"--set {given}: "):
        return f"{where}  {path}: {problem.removeprefix(f'--set {given}: ')}"
    return f"{where}  {problem.partition('  ')[2] or problem}"


def _new_folder(stack: Stack) -> Path:
    """``<output>/<name>/search-<time>``: where the trials are written as they end."""
    parent = (Path(stack.settings.output) / stack.settings.name).resolve()
    stamp = time.strftime("search-%Y%m%dT%H%M%S")
    try:
        for number in range(1, 10_000):
            folder = parent / (stamp if number == 1 else f"{stamp}-{number}")
            if not folder.exists():
                folder.mkdir(parents=True)
                return folder
    except OSError as error:
        raise ConfigError(
            f"{stack.where('output')}  output: cannot write to {parent} ({error.strerror}); choose a folder that you "
            "may write to"
        ) from error
    raise ConfigError(f"{stack.where('output')}  output: {parent} is full of searches; choose another folder")


def _best(wanted: Search, trials: list[Trial], folder: Path) -> Trial:
    chosen = best(trials)
    if chosen is None:
        why = next((trial.reason for trial in trials if trial.state == "failed"), "every trial was pruned")
        raise UprightError(
            f"{wanted.where()}  search: none of {len(trials)} trials went well ({why}); mend that or change the "
            f"parameters (all of them are in {folder / NAME})"
        )
    return chosen


def _interrupted(trials: list[Trial], folder: Path) -> str:
    chosen = best(trials)
    if chosen is None:
        return f"interrupted after {len(trials)} trials; they are in {folder / NAME}"
    return (
        f"interrupted after {len(trials)} trials, which are in {folder / NAME}; the best so far is trial "
        f"{chosen.number} ({chosen.metric} {chosen.value:.4f}): {chosen.told()}"
    )


def _summary(chosen: Trial, trials: list[Trial], run: Run, as_json: bool) -> None:
    if as_json:
        content = {"run": str(run.folder), "exit_code": run.exit_code, "best": asdict(chosen)}
        print(json.dumps({**content, "trials": [asdict(trial) for trial in trials]}, indent=2, ensure_ascii=False))
        return
    print(f"trial {chosen.number} of {len(trials)}: {chosen.told()}")
    for key, metric in run.metrics.items():
        split, _, name = key.partition("/")
        if name == run.task.primary and split != "train":
            print(f"{key} {metric.value:.4f}")
    print(run.folder / "report.html")
    sys.stdout.flush()
