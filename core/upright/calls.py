"""One typed method per hook: how the answers of a stack's steps are asked for and combined.

pluggy holds the steps, checks the names and keeps the order. It has no *chain*, *sum* or *merge*, so the combining is
here. Wrappers (generators) surround a hook's combined answer once.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple

import pluggy

from upright import hooks
from upright.errors import ConfigError, UprightError

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    from datasets import Dataset
    from torch import Tensor
    from torch.nn import Module
    from torch.optim import Optimizer

    from upright.hooks import Moment
    from upright.objects import (
        Attribution,
        Batch,
        Decisions,
        Metric,
        Output,
        Predictions,
        Section,
        Source,
        Stop,
        Target,
        Verdict,
    )
    from upright.run import Run
    from upright.step import Step


class Answer(NamedTuple):
    """One step's implementation of one hook."""

    step: Any
    function: Callable[..., Any]
    arguments: tuple[str, ...]

    def __call__(self, given: dict[str, Any]) -> Any:
        return self.function(*[given[name] for name in self.arguments])


class Calls:
    """The hooks of one stack. ``core`` holds core's own answers and comes after every step."""

    def __init__(self, steps: Sequence[Step], core: object | None = None) -> None:
        manager = pluggy.PluginManager("upright")
        manager.add_hookspecs(hooks)
        if core is not None:
            manager.register(core)
        for step in reversed(steps):  # pluggy calls the last registered first; ours is the file's order
            manager.register(step)
        try:
            manager.check_pending()
        except pluggy.PluginValidationError as error:
            raise ConfigError(f"{type(error.plugin).__name__}: {error}; see upright.hooks for the names") from error
        self._answers: dict[str, list[Answer]] = {}
        self._wrappers: dict[str, list[Answer]] = {}
        for name in hooks.HOOKS:
            found = list(reversed(getattr(manager.hook, name).get_hookimpls()))
            for store, wraps in ((self._answers, False), (self._wrappers, True)):
                store[name] = [
                    Answer(impl.plugin, impl.function, impl.argnames)
                    for impl in found
                    if (impl.wrapper or impl.hookwrapper) is wraps
                ]

    def answers(self, name: str) -> list[Answer]:
        """Who answers ``name``, in order, wrappers left out."""
        return self._answers[name]

    def wraps(self, name: str) -> bool:
        """Whether a step wraps ``name``."""
        return bool(self._wrappers[name])

    def around(self, name: str, given: dict[str, Any], inner: Callable[[], Any]) -> Any:
        """``inner()`` inside the wrappers of hook ``name``, the first in the file outermost."""
        for wrapper in reversed(self._wrappers[name]):
            inner = _wrapped(wrapper, given, inner)
        return inner()

    def _first(self, name: str, given: dict[str, Any]) -> Any:
        answers = self._answers[name]

        def inner() -> Any:
            return answers[0](given) if answers else None

        return self.around(name, given, inner) if self._wrappers[name] else inner()

    def _chain(self, name: str, changed: str, given: dict[str, Any]) -> Any:
        def inner() -> Any:
            for answer in self._answers[name]:
                value = answer(given)
                if value is None:
                    raise UprightError(f"{type(answer.step).__name__}.{name} returned nothing; return the {changed}")
                given[changed] = value
            return given[changed]

        return self.around(name, given, inner)

    def _reduce(self, name: str, given: dict[str, Any], combine: Callable[[Any, Any], Any]) -> Any:
        """None where nobody answers, so that the caller adds nothing to its graph."""

        def inner() -> Any:
            total = None
            for answer in self._answers[name]:
                value = answer(given)
                if value is not None:
                    total = value if total is None else combine(total, value)
            return total

        return self.around(name, given, inner)

    def each(self, name: str, given: dict[str, Any]) -> Iterator[tuple[Any, Any]]:
        """(step, answer) one after the other, for callers that record whose answer it is; wrappers are left out."""
        for answer in self._answers[name]:
            yield answer.step, answer(given)

    def _each(self, name: str, given: dict[str, Any]) -> list[tuple[Any, Any]]:
        result: list[tuple[Any, Any]] = self.around(name, given, lambda: list(self.each(name, given)))
        return result

    # --- one method per hook; hooks.py says what each means ---------------------------------------------------------

    def clean(self, step: Step, rows: Dataset, split: str, run: Run) -> Decisions | None:
        """One step's decisions, wrappers left out: `upright.engine.cleaning` puts them around a whole split's."""
        given = {"rows": rows, "split": split, "step": step, "run": run}
        asked = next((answer for answer in self._answers["clean"] if answer.step is step), None)
        decisions: Decisions | None = asked(given) if asked else None
        return decisions

    def model(self, run: Run) -> Module:
        module: Module = self._first("model", {"run": run})
        return module

    def prepare(self, run: Run) -> None:
        self._each("prepare", {"run": run})

    def prompt(self, record: dict[str, Any], run: Run) -> dict[str, Any]:
        rendered: dict[str, Any] = self._chain("prompt", "record", {"record": record, "run": run})
        return rendered

    def tune(self, model: Module, run: Run) -> Module:
        tuned: Module = self._chain("tune", "model", {"model": model, "run": run})
        return tuned

    def modules(self, run: Run) -> dict[str, Module]:
        merged: dict[str, Module] = {}
        for step, named in self._each("modules", {"run": run}):
            for name, module in (named or {}).items():
                _put(merged, f"{run.key(step)}/{name}", module)
        return merged

    def optimizer(self, run: Run) -> Optimizer:
        chosen: Optimizer = self._first("optimizer", {"run": run})
        return chosen

    def sample(self, update: int, run: Run) -> Sequence[int]:
        rows: Sequence[int] = self._first("sample", {"update": update, "run": run})
        return rows

    def gradients(self, rows: Sequence[int], run: Run) -> dict[str, dict[str, Tensor]]:
        released: dict[str, dict[str, Tensor]] | None = self._first("gradients", {"rows": rows, "run": run})
        return released or {}

    def batch(self, batch: Batch, run: Run) -> Batch:
        changed: Batch = self._chain("batch", "batch", {"batch": batch, "run": run})
        return changed

    def forward(self, batch: Batch, run: Run) -> Output:
        output: Output = self._first("forward", {"batch": batch, "run": run})
        return output

    def objective(self, batch: Batch, output: Output, run: Run) -> Tensor:
        losses: Tensor = self._first("objective", {"batch": batch, "output": output, "run": run})
        return losses

    def weigh(self, batch: Batch, run: Run) -> Tensor | None:
        factors: Tensor | None = self._reduce("weigh", {"batch": batch, "run": run}, lambda a, b: a * b)
        return factors

    def loss(self, batch: Batch, output: Output, run: Run) -> Tensor | None:
        given = {"batch": batch, "output": output, "run": run}
        added: Tensor | None = self._reduce("loss", given, lambda a, b: a + b)
        return added

    def statistics(self, batch: Batch, output: Output, run: Run) -> dict[str, dict[str, Tensor]]:
        """``{step: {name: [R, K]}}``: keyed by step, so equal names of two steps never meet."""
        if not self._answers["statistics"]:
            return {}
        given = {"batch": batch, "output": output, "run": run}
        return {run.key(step): dict(named) for step, named in self._each("statistics", given) if named}

    def penalty(self, model: Module, run: Run) -> Tensor | None:
        total: Tensor | None = self._reduce("penalty", {"model": model, "run": run}, lambda a, b: a + b)
        return total

    def watch(self, moment: Moment, run: Run) -> Stop | None:
        """The first `Stop` that any step returned; every step sees the moment."""
        stops = [answer for _, answer in self._each("watch", {"moment": moment, "run": run}) if answer is not None]
        return stops[0] if stops else None

    def select(self, metrics: dict[str, Metric], run: Run) -> float:
        return float(self._first("select", {"metrics": metrics, "run": run}))

    def finalize(self, model: Module, run: Run) -> Module:
        final: Module = self._chain("finalize", "model", {"model": model, "run": run})
        return final

    def export(self, folder: Path, run: Run) -> str:
        return str(self._first("export", {"folder": folder, "run": run}))

    def calibrate(self, predictions: Predictions, run: Run) -> None:
        self._each("calibrate", {"predictions": predictions, "run": run})

    def decide(self, scores: Tensor, batch: Batch, run: Run) -> Tensor:
        adjusted: Tensor = self._chain("decide", "scores", {"scores": scores, "batch": batch, "run": run})
        return adjusted

    def measure(self, predictions: Predictions, run: Run) -> dict[str, Metric]:
        return self._metrics("measure", predictions.split, {"predictions": predictions, "run": run}, "predictions")

    def account(self, folder: Callable[[Step], Path], run: Run) -> dict[str, Metric]:
        merged: dict[str, Metric] = {}
        for answer in self._answers["account"]:
            given = {"folder": folder(answer.step), "run": run}
            self._prefixed(merged, "run", answer.step, answer(given), run, "ledger")
        return merged

    def judge(self, metrics: dict[str, Metric], run: Run) -> list[Verdict]:
        return [v for _, answer in self._each("judge", {"metrics": metrics, "run": run}) for v in _many(answer)]

    def explain(self, target: Target, rows: Dataset, run: Run) -> Iterator[tuple[Step, list[Attribution]]]:
        """One step's attributions at a time, so that the failure of one does not lose the others'."""
        yield from self.each("explain", {"target": target, "rows": rows, "run": run})

    def report(self, run: Run) -> Iterator[tuple[Step, list[Section]]]:
        """One step's sections at a time, in file order."""
        for step, sections in self.each("report", {"run": run}):
            yield step, _many(sections)

    def save(self, folder: Callable[[Step], Path], run: Run) -> None:
        """Each step with its own folder; wrappers surround each per-step call."""
        self._per_step("save", folder, run)

    def restore(self, folder: Callable[[Step], Path], run: Run) -> None:
        """As `save`."""
        self._per_step("restore", folder, run)

    def seal(self, path: Path, into: Path, name: str, run: Run) -> None:
        self._first("seal", {"path": path, "into": into, "name": name, "run": run})

    def unseal(self, path: Path, into: Path, name: str, run: Run) -> bool:
        return bool(self._first("unseal", {"path": path, "into": into, "name": name, "run": run}))

    def _per_step(self, name: str, folder: Callable[[Step], Path], run: Run) -> None:
        for answer in self._answers[name]:
            given = {"folder": folder(answer.step), "run": run}
            self.around(name, given, partial(answer.__call__, given))

    def _metrics(self, name: str, prefix: str, given: dict[str, Any], source: Source) -> dict[str, Metric]:
        merged: dict[str, Metric] = {}
        run = given["run"]
        for step, values in self._each(name, given):
            self._prefixed(merged, prefix, step, values, run, source)
        return merged

    @staticmethod
    def _prefixed(
        merged: dict[str, Metric], prefix: str, step: Any, values: dict[str, Any] | None, run: Run, source: Source
    ) -> None:
        from upright.objects import Metric

        home = run.home(step)
        for key, value in (values or {}).items():
            metric = value if isinstance(value, Metric) else Metric(float(value), source=source)
            _put(merged, f"{prefix}/{home}/{key}" if home else f"{prefix}/{key}", metric)


def _put(merged: dict[str, Any], key: str, value: Any) -> None:
    if key in merged:
        raise UprightError(f"two steps answer with the same key {key!r}; give one of them another `name:`")
    merged[key] = value


def _many(answer: Any) -> list[Any]:
    if answer is None:
        return []
    return list(answer) if isinstance(answer, (list, tuple)) else [answer]


def _wrapped(wrapper: Answer, given: dict[str, Any], inner: Callable[[], Any]) -> Callable[[], Any]:
    """``inner`` inside one generator: it yields once, is sent the answer, and returns the answer to use."""

    def call() -> Any:
        generator = wrapper(given)
        try:
            next(generator)
        except StopIteration:
            raise UprightError(f"a wrapper of {type(wrapper.step).__name__} did not yield") from None
        try:
            result = inner()
        except BaseException as error:
            try:
                generator.throw(error)
            except StopIteration as stop:
                return stop.value
        else:
            try:
                generator.send(result)
            except StopIteration as stop:
                return stop.value
        generator.close()
        raise UprightError(f"a wrapper of {type(wrapper.step).__name__} yielded twice")

    return call
