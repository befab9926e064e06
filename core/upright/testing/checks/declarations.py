"""What a step says of itself: no run is needed to look at it."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pluggy
from pydantic import ValidationError

from upright import hooks
from upright.errors import ConfigError
from upright.testing.outcome import Failed
from upright.testing.subject import hooks_of

if TYPE_CHECKING:
    from upright.testing.subject import Subject


def imports_lightly(subject: Subject) -> str:
    """Importing the step's module loads none of the heavy libraries and calls nobody: ``upright check`` imports it."""
    found = subject.imported
    if found.called:
        raise Failed(
            f"importing {found.name} asks the network for {found.called[0]!r}; leave the network alone at import"
        )
    if found.heavy:
        raise Failed(
            f"importing {found.name} imports {', '.join(found.heavy)}; move heavy imports into the hooks that use them"
        )
    return f"{found.name} imports nothing heavy"


def joins_a_hook(subject: Subject) -> str:
    """It answers or wraps a hook, every method marked ``@hook`` bears a hook's name, and asks for its arguments."""
    from upright.calls import Calls

    joined = hooks_of(subject.step)
    kind = type(subject.step)
    marked = [name for name in dir(kind) if getattr(getattr(kind, name, None), "upright_impl", None)]
    unknown = sorted(set(marked) - hooks.HOOKS.keys())
    if unknown:
        raise Failed(f"`{unknown[0]}` is marked @hook, but no hook bears that name; see upright.hooks for the names")
    if not joined:
        raise Failed("no method is marked @hook, so the step does nothing")
    try:
        Calls([subject.step])
    except (pluggy.PluginValidationError, ConfigError) as error:
        raise Failed(f"a hook cannot be called: {str(error).splitlines()[-1]}") from error
    return ", ".join(joined)


def settings_described(subject: Subject) -> str:
    """Every setting has a description, and the class a docstring: they are its help."""
    bare = [name for name, field in type(subject.step).model_fields.items() if not field.description]
    if bare:
        raise Failed(f"`{bare[0]}` has no description; give it one: Field(..., description=...)")
    if not (type(subject.step).__doc__ or "").strip():
        raise Failed(f"{type(subject.step).__name__} has no docstring; it is the step's help")
    return f"{len(type(subject.step).model_fields)} settings"


def settings_closed(subject: Subject) -> str:
    """A setting that it does not know is an error, so that a typing mistake is told."""
    unknown = "a_setting_that_no_step_has"
    try:
        type(subject.step).model_validate({**subject.step.model_dump(), unknown: 1})
    except ValidationError as error:
        if any(unknown in detail["loc"] for detail in error.errors()):
            return "unknown settings are refused"
    raise Failed("an unknown setting is accepted; leave `extra` of model_config at 'forbid'")


def settings_round_trip(subject: Subject) -> str:
    """Settings survive being written to JSON and read back: a run's ``stack.resolved.yaml`` is such a copy."""
    step = subject.step
    try:
        written = step.model_dump(mode="json")
        again = type(step).model_validate(json.loads(json.dumps(written)))
        type(step).model_json_schema()
    except Exception as error:  # whatever pydantic or the step's own validators say
        raise Failed(f"its settings cannot be written and read back ({str(error).splitlines()[0]})") from error
    if again.model_dump(mode="json") != written:
        raise Failed(f"settings read back as {again.model_dump(mode='json')}, but were {written}")
    return "written and read back"


def frozen(subject: Subject) -> str:
    """Settings cannot be changed, and a run leaves nothing on the step: live state belongs to ``run.keep``."""
    step = subject.step
    if not type(step).model_config.get("frozen"):
        raise Failed("its settings can be changed; leave `frozen` of model_config at True")
    before = _state(step)
    if subject.main.run is not None:
        after = _state(step)
        changed = sorted(key for key in before.keys() | after.keys() if before.get(key) != after.get(key))
        changed = changed or sorted(key for key in after if key not in type(step).model_fields)
        if changed:
            raise Failed(
                f"`{changed[0]}` of the step was set by a run; keep live state with run.keep(self, name, make)"
            )
    return "settings and step are as before the run"


def _state(step: object) -> dict[str, str]:
    own = {**vars(step), **(getattr(step, "__pydantic_private__", None) or {})}
    return {name: repr(value) for name, value in own.items()}
