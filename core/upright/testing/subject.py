"""The step under test on the kit's own models and rows: the stacks and runs that the checks look at, made on first use."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from upright import hooks
from upright.errors import UprightError
from upright.stack import SECTIONS, Placed, Stack, answers
from upright.step import Capability, Step, hook
from upright.testing.outcome import Failed, Skipped

if TYPE_CHECKING:
    from upright.catalog import Entry
    from upright.run import Run
    from upright.testing.imported import Imported

TASKS = ("text-classification", "token-classification", "text-generation", "text2text-generation")
UPDATES = 4
USUAL = (("clean", "clean"), ("tune", "tune"), ("explain", "explain"), ("gradients", "privacy"), ("prompt", "prompt"))
"""(hook, section): where a step that answers the hook stands, unless something else is said."""


class TrainAll(Step):
    """The kit's own tuning method, for steps that need one beside them: every parameter."""

    @hook
    def tune(self, model: Any) -> Any:
        """As the hook says."""
        return model.requires_grad_(True)


@dataclass
class TinyRun:
    """One execution: the run, or what stopped it; what the step's hooks returned amiss; who was called on the network; which
    names of core were set; what was written outside the run's folder.
    """

    run: Run | None = None
    error: UprightError | None = None
    answered: set[str] = field(default_factory=set)
    amiss: list[str] = field(default_factory=list)
    connections: list[str] = field(default_factory=list)
    changed: list[str] = field(default_factory=list)
    outside: list[str] = field(default_factory=list)


@dataclass
class Subject:
    """A step, its section, and what of the kit's stack is to be otherwise (``given``, as in a stack file)."""

    step: Step
    folder: Path
    section: str
    name: str
    given: Mapping[str, Any] = field(default_factory=dict)
    entry: Entry | None = None
    found: dict[str, str | Failed | Skipped] = field(default_factory=dict)
    """What checks have said so far."""

    @property
    def task(self) -> str:
        """The task it is run on: the one asked for, else the first that it serves."""
        asked = self.given.get("model", {}).get("task")
        served = self.step.tasks
        return asked or next(task for task in TASKS if served is None or task in served)

    @property
    def trains(self) -> bool:
        """Whether the stack trains: always, but where the step answers by the base's own weights."""
        return Capability.UNTUNED not in self.step.needs

    def answers(self, *names: str) -> bool:
        """Whether the step answers one of the hooks."""
        return any(answers(self.step, name) for name in names)

    # --- stacks -----------------------------------------------------------------------------------------------------

    def stack(self, *beside: Placed, **changes: Any) -> Stack:
        """The step on the kit's rows and model, with others beside it.

        Raises ConfigError where the stack is refused.
        """
        from upright.config import load

        mapping = merged(self._plain(), merged(self.given, changes))
        base = mapping["model"].get("base", self._architecture())
        mapping["model"]["base"] = str(self.model(base.removeprefix("tiny-"))) if base.startswith("tiny-") else base
        steps = [Placed(self.section, self.name, self.name, self.step, self.name, self.entry), *beside]
        trains = all(Capability.UNTUNED not in placed.step.needs for placed in steps)
        if not trains:
            mapping.pop("train", None)
        elif "tune" not in mapping and not any(answers(placed.step, "tune") for placed in steps):
            steps.append(Placed("tune", "train-all", "train-all", TrainAll(), "the kit"))
        stack = load(mapping)
        order = [*SECTIONS, *sorted({placed.section for placed in steps} - set(SECTIONS))]
        every = sorted([*stack.steps, *steps], key=lambda placed: order.index(placed.section))
        stack = replace(stack, steps=every)
        stack.check()
        return stack

    def model(self, architecture: str) -> Path:
        """A tiny model's folder, made once."""
        from upright.testing.toys import tiny_model

        folder = self.folder / "models" / architecture
        return folder if folder.is_dir() else tiny_model(architecture, folder)

    def _architecture(self) -> str:
        """bert where the task and the step let it."""
        if self.task == "text2text-generation":
            return "tiny-t5"
        return "tiny-gpt2" if self.task == "text-generation" or "bert" in self.step.refuses else "tiny-bert"

    def _plain(self) -> dict[str, Any]:
        from upright.testing.toys import toy_files

        folder = self.folder / "rows" / self.task
        return {
            "name": "conform",
            "seed": 1,
            "data": toy_files(self.task, folder),
            "model": {"task": self.task},
            "train": {"max_steps": UPDATES, "batch_size": 8, "learning_rate": 0.01, "save_steps": 1},
            "output": str(self.folder / "runs"),
        }

    # --- runs -------------------------------------------------------------------------------------------------------

    @cached_property
    def imported(self) -> Imported:
        """What the step's module does when it is imported. Raises Skipped and Failed as `imported.imported` says."""
        from upright.testing.imported import imported

        return imported(self.step)

    @cached_property
    def main(self) -> TinyRun:
        """A whole run with the network closed and every answer of the step looked at."""
        return self.execute()

    def finished(self) -> Run:
        """The run of `main`. Raises Skipped where it did not end well: the check `runs` tells why."""
        if self.main.run is None:
            raise Skipped("the tiny run did not end; see `runs`")
        return self.main.run

    def execute(self, stack: Stack | None = None, **options: Any) -> TinyRun:
        """Run a stack of the step; an error that core tells is kept, not raised."""
        from upright.engine.execute import execute
        from upright.testing.network import closed
        from upright.testing.untouched import load_core, untouched
        from upright.testing.witness import watched
        from upright.testing.written import written

        load_core()
        tiny = TinyRun()
        try:
            stack = stack or self.stack()
            with (
                closed(tiny.connections),
                watched(self.step, tiny),
                written(tiny.outside, self.folder),
                untouched(tiny.changed),
            ):
                tiny.run = execute(stack, **options)
        except UprightError as error:
            tiny.error = error
        return tiny

    @contextmanager
    def prepared(self, *beside: Placed) -> Iterator[Run]:
        """A run that is tuned, probed and has an optimizer, just before its first update.

        Raises Skipped where it cannot be had: the check `runs` tells why.
        """
        import tempfile

        from upright.engine.execute import prepare_run
        from upright.engine.probe import probe
        from upright.testing.untouched import untouched

        with tempfile.TemporaryDirectory(dir=self.folder) as name, untouched([]):
            (Path(name) / "evidence").mkdir()
            try:
                run = prepare_run(self.stack(*beside), Path(name))
                probe(run)
                run.optimizer = run.calls.optimizer(run)
                run.calls.watch("started", run)
            except Exception as error:  # whatever it is, the whole run meets it too
                raise Skipped(f"the run cannot be prepared ({error}); see `runs`") from error
            yield run

    def needs_training(self) -> None:
        """Raises Skipped where nothing is trained."""
        if not self.trains:
            raise Skipped("nothing is trained beside this step")

    def said(self, check: str) -> str | Failed | Skipped:
        """What a check says, made once whoever asks first. What it did not foresee is a failure too."""
        from upright.testing.kit import CHECKS

        if check not in self.found:
            try:
                self.found[check] = CHECKS[check](self)
            except (Failed, Skipped) as said:
                self.found[check] = said
            except Exception as error:  # a hook may raise anything
                self.found[check] = Failed(f"{type(error).__name__}: {error}")
        return self.found[check]

    def needs(self, check: str) -> None:
        """Raises Skipped where another check failed, so that one fault is told once."""
        if isinstance(self.said(check), Failed):
            raise Skipped(f"`{check}` failed")


def merged(plain: Mapping[str, Any], over: Mapping[str, Any]) -> dict[str, Any]:
    """Nested mappings as one; the second wins."""
    found = json.loads(json.dumps(dict(plain)))
    for key, value in over.items():
        both = isinstance(value, Mapping) and isinstance(found.get(key), dict)
        found[key] = merged(found[key], value) if both else json.loads(json.dumps(value))
    result: dict[str, Any] = found
    return result


def usual_section(step: Step) -> str:
    """Where a step stands that says nothing of it, by the hooks that it answers."""
    return next((section for name, section in USUAL if answers(step, name)), "train")


def hooks_of(step: Step) -> list[str]:
    """The hooks that a step answers or wraps."""
    return [name for name in hooks.HOOKS if getattr(getattr(type(step), name, None), "upright_impl", None)]
