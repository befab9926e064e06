"""What is searched: for each setting a range or a list of choices, in optuna's terms."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from pydantic import BaseModel, ConfigDict, Field, model_validator

if TYPE_CHECKING:
    from optuna.trial import Trial


class Parameter(BaseModel):
    """The values of one setting: from ``low`` to ``high``, or one of ``choices``; between integers, integers alone."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    low: int | float | None = Field(None, allow_inf_nan=False, description="The lowest value.")
    high: int | float | None = Field(None, allow_inf_nan=False, description="The highest.")
    step: int | float | None = Field(None, gt=0, allow_inf_nan=False, description="Distance between values.")
    log: bool = Field(False, description="Draw evenly on the logarithm.")
    choices: list[Any] | None = Field(None, description="Values to choose from: numbers, words, whole sections.")

    @model_validator(mode="after")
    def _is_one_of_the_two(self) -> Parameter:
        if self.choices is not None:
            if not self.choices:
                raise ValueError("choices is empty; list at least one value")
            if (self.low, self.high, self.step, self.log) != (None, None, None, False):
                raise ValueError("choices stand alone; remove low, high, step and log, or the choices")
            return self
        if self.low is None or self.high is None:
            raise ValueError("needs `low` and `high`, or `choices`")
        if self.low >= self.high:
            raise ValueError(f"low ({self.low:g}) must be below high ({self.high:g})")
        if self.log and self.low <= 0:
            raise ValueError(f"log needs a low above 0, not {self.low:g}")
        if self.log and self.step is not None:
            raise ValueError("log and step exclude each other; remove one")
        return self

    @property
    def whole(self) -> bool:
        """Whether only integers are drawn."""
        return all(isinstance(bound, int) for bound in (self.low, self.high, self.step or 1))

    def suggest(self, trial: Trial, path: str) -> Any:
        """The value that optuna draws for this trial."""
        if self.choices is not None:
            # As JSON, since optuna's categories are scalars, and a choice may be a whole section.
            return json.loads(trial.suggest_categorical(path, [json.dumps(choice) for choice in self.choices]))
        if self.whole:
            return trial.suggest_int(path, self.low, self.high, step=self.step or 1, log=self.log)
        return trial.suggest_float(path, self.low, self.high, step=self.step, log=self.log)

    def grid(self) -> list[Any] | None:
        """Every value as optuna draws it; None where there is no end of them."""
        if self.choices is not None:
            return [json.dumps(choice) for choice in self.choices]
        if not self.whole and self.step is None:
            return None
        step = self.step or 1
        return [self.low + n * step for n in range(int((self.high - self.low) / step + 1e-9) + 1)]

    def examples(self) -> list[Any]:
        """The values at the ends, or every choice."""
        return self.choices if self.choices is not None else [self.low, self.high]


def assignment(path: str, value: Any) -> str:
    """``a.b=v`` as ``--set`` takes it; JSON is YAML, so words, lists and sections arrive as they are."""
    return f"{path}={json.dumps(value, ensure_ascii=False)}"


def holds(settings: Any, path: str, value: Any) -> bool:
    """Whether a stack's settings have this value at a path of ``--set``.

    A resolved stack lists every section and fills in defaults, so a list of one step is also entered as that step, and
    of a mapping only the given keys are compared.
    """
    return _holds(settings, [key for key in path.split(".") if key], value)


def _holds(here: Any, keys: list[str], value: Any) -> bool:
    if isinstance(here, list) and (keys or not isinstance(value, list)):
        entered = _entries(here, keys[0]) if keys else []
        if any(_holds(item, keys[1:], value) for item in entered):
            return True
        return len(here) == 1 and not entered and _holds(here[0], keys, value)
    if keys and isinstance(here, dict) and keys[0] not in here:
        return value is None or value == []  # a resolved stack has no empty sections
    if keys:
        return isinstance(here, dict) and _holds(here[keys[0]], keys[1:], value)
    if isinstance(here, dict) and isinstance(value, str):
        value = {"use": value}
    if isinstance(here, dict) and isinstance(value, dict):
        return all(_holds(here, [key], inner) for key, inner in value.items())
    if isinstance(here, list) and isinstance(value, list):
        return len(here) == len(value) and all(_holds(a, [], b) for a, b in zip(here, value, strict=True))
    return bool(here == value)


def _entries(items: list[Any], key: str) -> list[Any]:
    if key.isdigit() and int(key) < len(items):
        return [items[int(key)]]
    return [item for item in items if isinstance(item, dict) and key in (item.get("name"), item.get("use"))]
