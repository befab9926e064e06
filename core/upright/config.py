"""From a stack file to a `Stack`: settings validated, steps found and made, every problem with its place."""

from __future__ import annotations

import difflib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_args

from pydantic import BaseModel, ValidationError

from upright import catalog, local
from upright.document import Document, Keys, dotted, from_mapping, override, read_document, substitute
from upright.errors import ConfigError, PluginError
from upright.policy import policies
from upright.settings import ModelSettings, Settings
from upright.stack import SECTIONS, Placed, Stack

if TYPE_CHECKING:
    from pydantic_core import ErrorDetails

CORE = tuple(Settings.model_fields)
"""Top-level keys that are core's own; every other key is a section of steps."""


def load(source: str | Path | Mapping[str, Any], overrides: Sequence[str] = (), *, run_code: bool = True) -> Stack:
    """Read a stack file or a mapping; `Stack.check` is left to the caller. ``run_code``: see `Stack.load`.

    Raises ConfigError with one sentence per problem, PluginError for a step that cannot be had.
    """
    if isinstance(source, Mapping):
        document, root = from_mapping(source), Path.cwd()
    else:
        path = Path(source)
        if path.is_dir():
            path = path / "stack.yaml"
        document, root = read_document(path, str(path)), path.resolve().parent
    for assignment in overrides:
        override(document, assignment)
    substitute(document)
    return _Builder(document, root, run_code).build()


def resolved(stack: Stack) -> dict[str, Any]:
    """The whole stack as plain data, every default filled in; it loads again to the same stack from any folder.

    In-house steps are named where a run keeps their files, ``./code/<hash>/steps.py:MyStep``: from the run's folder.
    """
    settings = stack.settings.model_dump(mode="json")
    data = settings["data"]
    for name in ("train", "validation"):
        data[name] = _absolute(data[name], stack.root)
    test = data["test"]
    data["test"] = (
        {k: _absolute(v, stack.root) for k, v in test.items()}
        if isinstance(test, dict)
        else _absolute(test, stack.root)
    )
    settings["about"]["compare_with"] = [
        str((stack.root / name).resolve()) if (stack.root / name).is_dir() else name
        for name in stack.settings.about.compare_with
    ]
    base = stack.root / Path(settings["model"]["base"]).expanduser()
    if base.is_dir():
        settings["model"]["base"] = str(base)
    settings["output"] = str(Path(settings["output"]).resolve())
    train = settings.pop("train")
    model = settings.pop("model")
    output = settings.pop("output")
    sections: dict[str, list[dict[str, Any]]] = {}
    for placed in stack.steps:
        paths = {
            name: str((stack.root / value.expanduser()).resolve())
            for name, value in placed.step
            if isinstance(value, Path)
        }
        use = f"./{placed.local.place}:{placed.local.name}" if placed.local else placed.use
        entry = {"use": use, "name": placed.key, **placed.step.model_dump(mode="json"), **paths}
        sections.setdefault(placed.section, []).append(entry)
    if "model" in sections:
        model |= sections.pop("model")[0]
    train["steps"] = sections.pop("train", [])
    found = {**settings, **sections}
    if stack.sets_aside:
        found["model"] = model
    if stack.trains:
        found["train"] = train
    return {**found, "output": output}


def _absolute(source: str | None, root: Path) -> str | None:
    if source is None or (source.startswith("hf:") and not (root / source[3:].split("[")[0]).is_dir()):
        return source
    if source.startswith("hf:"):
        name, bracket, split = source[3:].partition("[")
        return f"hf:{(root / name).resolve()}{bracket}{split}"
    return str((root / Path(source).expanduser()).resolve())


class _Builder:
    def __init__(self, document: Document, root: Path, run_code: bool) -> None:
        self.document, self.root, self.run_code = document, root, run_code
        self.problems: list[str] = []
        self.policies = policies(root)

    def build(self) -> Stack:
        data = self.document.data
        core = {key: value for key, value in data.items() if key in CORE}
        model_step = self._split_model(core)
        settings = self._validated(Settings, core, ())
        known = {entry.section for entry in catalog.steps()} | set(SECTIONS)
        for key in data:
            if key not in CORE and key not in known:
                self._unknown_section(key, known)
        sections = [s for s in SECTIONS if s in data] + sorted(set(data) & known - set(SECTIONS) - set(CORE))
        steps: list[Placed] = []
        for section in sections:
            if section == "model":
                steps += self._step("model", model_step, ("model",)) if model_step else []
            elif section == "train":
                train = data["train"] if isinstance(data["train"], dict) else {}
                steps += self._section("train", train.get("steps") or [], ("train", "steps"))
            else:
                steps += self._section(section, data[section], (section,))
        if self.problems or settings is None:
            raise ConfigError(self.problems)
        marks = self.document.marks
        return Stack(settings, steps, self.root, self.document.source, data, marks, policies=self.policies)

    def _split_model(self, core: dict[str, Any]) -> dict[str, Any] | None:
        """``model: {use: step, ...}``: core's keys stay core's, the others are the step's settings."""
        model = core.get("model")
        if not isinstance(model, dict) or "use" not in model:
            return None
        own = set(ModelSettings.model_fields)
        core["model"] = {key: value for key, value in model.items() if key in own}
        return {key: value for key, value in model.items() if key not in own}

    def _section(self, section: str, content: Any, path: Keys) -> list[Placed]:
        if content is None:
            return []
        if isinstance(content, (dict, str)):
            return self._step(section, content, path)
        if not isinstance(content, list):
            self._problem(path, "must be a step (`use: ...`) or a list of steps")
            return []
        found = []
        for number, item in enumerate(content):
            found += self._step(section, item, (*path, number))
        return found

    def _step(self, section: str, content: Any, path: Keys) -> list[Placed]:
        if isinstance(content, str):
            content = {"use": content}
        if not isinstance(content, dict):
            self._problem(path, "must be a step such as `{use: ..., setting: ...}`")
            return []
        use, name = content.get("use"), content.get("name")
        if not isinstance(use, str):
            self._problem(path, "needs `use:` with the name of a step")
            return []
        key = name if isinstance(name, str) else use.rpartition(":")[2] if local.is_local(use) else use
        if not key.replace("-", "").replace("_", "").replace(".", "").isalnum():
            self._problem((*path, "name"), f"{key!r} cannot name a step; use letters, digits, '-', '_' and '.'")
            return []
        where = self._where((*path, "use"))
        settings = {key: value for key, value in content.items() if key not in ("use", "name")}
        if local.is_local(use):
            return self._local_step(section, use, key, settings, path, f"{where}  {section}")
        entry = catalog.find(section, use, where)
        refused = [sentence for policy in self.policies for sentence in policy.refuses(entry, where)]
        if refused:
            self.problems += refused
            return []
        step = self._validated(catalog.load(entry, where), settings, path, f"{section}.{use}")
        return [Placed(section, use, key, step, self._where(path), entry)] if step is not None else []

    def _local_step(
        self, section: str, use: str, key: str, settings: dict[str, Any], path: Keys, told: str
    ) -> list[Placed]:
        """A step of a file beside the stack; every section takes one."""
        if not self.run_code:
            raise PluginError(
                f"{told}: {use} is code that came with the run, and is not run unasked; read it, then use `--run-code`"
            )
        refused = [sentence for policy in self.policies for sentence in policy.refuses_local(use, told)]
        if refused:
            self.problems += refused
            return []
        found, file = local.find(use, self.root, told)
        step = self._validated(local.load(found, file, told), settings, path, f"{section}.{key}")
        return [Placed(section, found.use, key, step, self._where(path), local=found)] if step is not None else []

    def _validated(self, kind: type[BaseModel], values: dict[str, Any], path: Keys, told: str = "") -> Any:
        try:
            return kind.model_validate(values)
        except ValidationError as error:
            for detail in _distinct(error.errors()):
                self._explain(kind, detail, path, told)
            return None

    def _explain(self, kind: type[BaseModel], detail: ErrorDetails, path: Keys, told: str) -> None:
        location = tuple(part for part in detail["loc"] if not (isinstance(part, str) and _is_tag(part)))
        name = dotted(location)
        name = f"{told}.{name}" if told and name else told or name
        if detail["type"] == "extra_forbidden":
            fields = _fields(kind, location[:-1])
            near = difflib.get_close_matches(str(location[-1]), fields, n=1)
            hint = (
                f"did you mean {near[0]!r}?" if near else f"there are {', '.join(fields)}" if fields else "it has none"
            )
            sentence = f"unknown setting ({hint})"
        elif detail["type"] == "missing":
            sentence = "is missing; add it"
        else:
            message = detail["msg"].removeprefix("Value error, ")
            given = "" if detail["type"].startswith(("value_error", "model")) else f", not {detail['input']!r:.60}"
            sentence = f"{message[:1].lower()}{message[1:]}{given}"
        self.problems.append(f"{self._where((*path, *location))}  {name}: {sentence}")

    def _unknown_section(self, key: str, known: set[str]) -> None:
        near = difflib.get_close_matches(key, [*known, *CORE], n=1)
        hint = f"did you mean {near[0]!r}?" if near else "no installed distribution brings a section of this name"
        self._problem((key,), f"unknown section ({hint})")

    def _problem(self, path: Keys, sentence: str) -> None:
        self.problems.append(f"{self._where(path)}  {dotted(path)}: {sentence}")

    def _where(self, path: Keys) -> str:
        for end in range(len(path), -1, -1):
            if path[:end] in self.document.marks:
                return self.document.marks[path[:end]]
        return self.document.source


def _distinct(details: list[ErrorDetails]) -> list[ErrorDetails]:
    """One problem per place: a union reports each of its members."""
    seen: dict[tuple[Any, ...], ErrorDetails] = {}
    for detail in details:
        place = tuple(part for part in detail["loc"] if not (isinstance(part, str) and _is_tag(part)))
        seen.setdefault(place, detail)
    return list(seen.values())


def _is_tag(part: str) -> bool:
    """pydantic puts the member of a union (``str``, ``literal['auto']``) into the location."""
    return part in ("str", "int", "float", "bool", "constrained-float") or "[" in part


def _fields(kind: type[BaseModel], location: tuple[int | str, ...]) -> list[str]:
    """The settings that there are at a place; a key of a mapping (or a number in a list) leads to what it holds."""
    here: Any = kind
    for part in location:
        if isinstance(here, type) and issubclass(here, BaseModel):
            field = here.model_fields.get(str(part))
            here = field.annotation if field else None
        else:
            here = next(iter(get_args(here)[::-1]), None)
    found = here.model_fields if isinstance(here, type) and issubclass(here, BaseModel) else {}
    return [name for name in found if name != "steps"]
