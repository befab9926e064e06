"""A stack: the steps that a file names, in the file's order, checked before anything heavy is imported."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from upright import hooks
from upright.errors import ConfigError
from upright.settings import Settings
from upright.step import Capability, Step

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from upright.catalog import Entry
    from upright.local import LocalStep
    from upright.policy import Policy
    from upright.run import Run

SECTIONS = ("clean", "model", "prompt", "tune", "train", "fairness", "privacy", "explain")
"""Core's order of sections; sections that other dists bring follow in alphabetical order."""


@dataclass(frozen=True, eq=False)
class Placed:
    """A step where the stack put it; ``where`` is ``file:line:col``.

    ``entry`` says which distribution offers it, ``local`` which file beside the stack; a step made in code has neither.
    """

    section: str
    use: str
    key: str
    step: Step
    where: str
    entry: Entry | None = None
    local: LocalStep | None = None

    def __str__(self) -> str:
        return f"{self.section}.{self.key}"

    @property
    def origin(self) -> dict[str, str | None]:
        """Where its code comes from, for plans and locks: distribution and version, or file and hash."""
        if self.local is not None:
            return {"dist": None, "version": None, "file": self.local.file, "sha256": self.local.sha256}
        dist, version = (self.entry.dist, self.entry.version) if self.entry else (None, None)
        return {"dist": dist, "version": version}

    @property
    def told_origin(self) -> str:
        """The same in words: distribution and version, or ``steps.py, local``."""
        return (
            f"{self.entry.dist} {self.entry.version}"
            if self.entry
            else f"{self.local.file if self.local else 'code'}, local"
        )

    @property
    def reads_private(self) -> bool:
        """Whether the step learns of single training records what a private release does not bound."""
        cleans = answers(self.step, "clean")
        return self.step.reads_private or (cleans and self.step.scope.dp_stability != 1)


@dataclass
class Stack:
    """Settings of core and the placed steps. Make one with `Stack.load`.

    ``where(path)`` gives ``file:line:col`` of a key path such as ``("data", "train")``.
    """

    settings: Settings
    steps: list[Placed]
    root: Path
    source: str
    raw: dict[str, Any]
    marks: dict[tuple[str | int, ...], str] = field(default_factory=dict)
    cleaning: bool = False
    policies: list[Policy] = field(default_factory=list)

    @classmethod
    def load(
        cls, source: str | Path | Mapping[str, Any], overrides: Sequence[str] = (), *, run_code: bool = True
    ) -> Stack:
        """Read a stack file (or a mapping of the same shape), apply ``a.b=v`` overrides and check it.

        Without ``run_code`` no file beside the stack is run: its in-house steps cannot be had.
        Errors: `ConfigError` with one sentence per problem, `PluginError` for a step that cannot be had.
        """
        from upright.config import load

        stack = load(source, overrides, run_code=run_code)
        stack.check()
        return stack

    def where(self, *path: str | int) -> str:
        """``file:line:col`` of a key, or of the nearest key above it that the file holds."""
        for end in range(len(path), -1, -1):
            if path[:end] in self.marks:
                return self.marks[path[:end]]
        return self.source

    def find(self, step: object) -> Placed | None:
        """Where a step stands; None for core's own."""
        return next((placed for placed in self.steps if placed.step is step), None)

    def placed(self, step: Step) -> Placed:
        """Where a step stands. Raises LookupError for a step of another stack."""
        found = self.find(step)
        if found is None:
            raise LookupError(f"{type(step).__name__} is not a step of this stack")
        return found

    def answering(self, hook: str) -> list[Placed]:
        """The steps that answer a hook, in order."""
        return [placed for placed in self.steps if answers(placed.step, hook)]

    @property
    def trains(self) -> bool:
        """Whether anything is trained: a step answers ``tune``."""
        return bool(self.answering("tune"))

    @property
    def private(self) -> bool:
        """Whether a step withholds figures about single training records."""
        return any(Capability.OPEN_TRAINING in placed.step.breaks for placed in self.steps)

    @property
    def cleans_only(self) -> bool:
        """Whether the run ends after cleaning: a stack of cleaning steps alone, or the `only_cleaning` part of one."""
        return self.cleaning or self._nothing_else

    @property
    def sets_aside(self) -> bool:
        """Whether a tenth of train becomes validation where none is given."""
        return not self._nothing_else

    @property
    def _nothing_else(self) -> bool:
        told = {"model", "prompt", "tune", "train"} & self.raw.keys()
        return bool(self.steps) and not told and all(p.section == "clean" or _only_cleans(p.step) for p in self.steps)

    def only_cleaning(self) -> Stack:
        """The same stack up to its model: the same rows, split and cleaned in the same way."""
        steps = [p for p in self.steps if p.section == "clean" or _only_cleans(p.step)]
        return replace(self, steps=steps, cleaning=True)

    def check(self) -> None:
        """Refuse what cannot be run, one sentence per problem, naming both sides and their lines."""
        problems = [*self._keys(), *self._conflicts(), *self._capabilities(), *self._data()]
        problems += self.refused(self._architecture())
        if problems:
            raise ConfigError(problems)

    def with_step(self, section: str, name: str, step: Step) -> Stack:
        """The stack with one more step after the others, checked: for a step made in code that no distribution offers."""
        grown = replace(self, steps=[*self.steps, Placed(section, name, name, step, self.source)])
        grown.check()
        return grown

    def require(self) -> None:
        """Refuse a stack without the steps that a policy asks for; what a step makes of a stack (a trial) is not asked.

        Raises ConfigError with the rule's line.
        """
        uses = [placed.use for placed in self.steps]
        missing = [sentence for policy in self.policies for sentence in policy.misses(uses, self.source)]
        if missing:
            raise ConfigError(missing)

    def run(self, *, resume: Path | None = None, listen: Callable[[dict[str, Any]], None] | None = None) -> Run:
        """Run the stack; return the finished run. ``listen`` gets each event of ``events.jsonl`` as it happens.

        Errors: see `upright.errors`.
        """
        from upright.engine.execute import execute

        return execute(self, resume=resume, listen=listen)

    def plan(self) -> dict[str, Any]:
        """What a run would do: rows, parameters, updates, privacy, memory and time; trains nothing."""
        from upright.engine.plan import plan

        return plan(self)

    # --- the checks -------------------------------------------------------------------------------------------------

    def _keys(self) -> list[str]:
        seen: dict[str, Placed] = {}
        problems = []
        for placed in self.steps:
            if placed.key in seen:
                problems.append(
                    f"{placed.where}  {placed.section}: two steps are called {placed.key!r} "
                    f"(the other at {seen[placed.key].where}); give one of them a `name:`"
                )
            seen[placed.key] = placed
        return problems

    def _conflicts(self) -> list[str]:
        problems = []
        for name, rule in hooks.HOOKS.items():
            who = self.answering(name) if rule == "first" else []
            if len(who) > 1:
                one, other = who[:2]
                problems.append(
                    f"{other.where}  {other} and {one} ({one.where}) both answer `{name}`, which only one step can: "
                    "remove one of them"
                )
        for placed in self.steps:
            if answers(placed.step, "seal") != answers(placed.step, "unseal"):
                problems.append(
                    f"{placed.where}  {placed} answers only one of `seal` and `unseal`, so nobody could read its files; "
                    "answer both"
                )
        return problems

    def _capabilities(self) -> list[str]:
        task = self.settings.model.task
        problems = []
        for needing in self.steps:
            for capability in sorted(needing.step.needs):
                for breaking in self.steps:
                    if capability in breaking.step.breaks:
                        problems.append(
                            f"{needing.where}  {needing} cannot run with {breaking} ({breaking.where}): {needing} "
                            f'needs "{capability}", which {breaking} breaks; remove one of them'
                        )
            if Capability.TRAINING in needing.step.needs and not self.trains:
                problems.append(
                    f"{needing.where}  {needing} acts during training, but no step trains: add a `tune:` section "
                    f"or remove {needing}"
                )
            if Capability.UNTUNED in needing.step.needs and self.trains:
                tuning = self.answering("tune")[0]
                problems.append(
                    f"{needing.where}  {needing} cannot run with {tuning} ({tuning.where}): {needing} needs "
                    f'"{Capability.UNTUNED}", and {tuning} trains; remove one of them'
                )
            if Capability.CLASS_SCORES in needing.step.needs and task.endswith("generation"):
                problems.append(
                    f"{needing.where}  {needing} needs class scores, which model.task: {task} does not give "
                    f"({self.where('model', 'task')}); choose a classification task or remove {needing}"
                )
            if needing.step.tasks is not None and task not in needing.step.tasks and not self.cleans_only:
                problems.append(
                    f"{needing.where}  {needing} serves {', '.join(sorted(needing.step.tasks))}, not "
                    f"model.task: {task} ({self.where('model', 'task')})"
                )
        if "train" in self.raw and not self.trains:
            problems.append(
                f"{self.where('train')}  train: holds settings, but no step trains: add a `tune:` section or remove it"
            )
        return problems

    def refused(self, architecture: str | None) -> list[str]:
        """One sentence for each step that cannot serve a base of this ``model_type`` (None: not known yet)."""
        return [
            f"{placed.where}  {placed} cannot serve a {architecture} ({self.where('model', 'base')}): "
            f"{placed.step.refuses[architecture]}"
            for placed in self.steps
            if architecture in placed.step.refuses
        ]

    def _architecture(self) -> str | None:
        """The base's ``model_type``, where its config.json is at hand."""
        import json

        base = self.settings.model.base
        folder = self.root / Path(base).expanduser()
        for path in (folder / "config.json", folder / "model" / "config.json"):
            if path.is_file():
                try:
                    return str(json.loads(path.read_text(encoding="utf-8")).get("model_type"))
                except ValueError:
                    return None  # who loads it says what is wrong
        return "bert" if base == "minilm" else None

    def _data(self) -> list[str]:
        data, problems = self.settings.data, []
        for column in data.sensitive:
            ours = next((name for name, theirs in data.columns.items() if theirs == column), None)
            ours = ours or (column if column in INPUT_COLUMNS and column not in data.columns else None)
            if ours:
                problems.append(
                    f"{self.where('data', 'sensitive')}  data.sensitive: {column!r} is also the column that "
                    f"`{ours}` is read from ({self.where('data', 'columns', ours)}); a sensitive column is for "
                    "auditing and never a model input or label: remove one of the two"
                )
        for ours in sorted({"row_id", "unit"} & data.columns.keys()):
            told = "data.unit names the column" if ours == "unit" else "a row's id follows from its content"
            problems.append(
                f"{self.where('data', 'columns', ours)}  data.columns: `{ours}` is core's own column ({told}); remove it"
            )
        for ours in sorted(MEDIA_COLUMNS & data.columns.keys()):
            if not self.cleans_only:
                problems.append(
                    f"{self.where('data', 'columns', ours)}  data.columns: `{ours}` is a column for cleaning, which no task "
                    "reads; keep nothing but cleaning steps, or remove the column"
                )
        needs_train = self.trains or self.cleans_only
        if not (data.train or data.validation or data.test) or (needs_train and not data.train):
            problems.append(f"{self.where('data')}  data.train: no file is named; say where the rows are")
        return problems


MEDIA_COLUMNS = frozenset({"image", "audio"})
INPUT_COLUMNS = MEDIA_COLUMNS | frozenset({"text", "text_pair", "label", "labels", "tokens", "prompt", "completion"})


def answers(step: object, hook: str) -> bool:
    """Whether a step has a method of that name marked ``@hook`` that is no wrapper."""
    mark = getattr(getattr(type(step), hook, None), "upright_impl", None)
    return mark is not None and not (mark.get("wrapper") or mark.get("hookwrapper"))


OF_CLEANING = frozenset({"clean", "account", "judge", "report", "save", "seal", "unseal"})
"""Hooks that a stack which only cleans reaches."""


def _only_cleans(step: Step) -> bool:
    return all(name in OF_CLEANING for name in hooks.HOOKS if answers(step, name))
