"""CONTRACT. A step: one configured method."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import Any, ClassVar

import pluggy
from pydantic import BaseModel, ConfigDict

hook = pluggy.HookimplMarker("upright")
"""Marks a method of a step as the answer to the hook of the same name.

``@hook`` answers; ``@hook(wrapper=True)`` marks a generator that surrounds the combined answer.
"""


class Capability(StrEnum):
    """What a run can offer. A step lists what it ``needs`` and what it ``breaks``.

    A stack in which one step breaks what another needs is refused before anything is loaded.
    """

    TRAINING = "parameters are trained"
    UNTUNED = "the base's own weights answer"
    INDEPENDENT_RECORDS = "each record's loss depends on that record alone"
    OPEN_TRAINING = "figures about single training records may be published"
    CLASS_SCORES = "every prediction has one score per class"
    INPUT_GRADIENTS = "scores can be differentiated by the input embeddings"
    TRAINED_PARAMETERS = "the parameters that are trained are those of the finished model"
    TEXT_ATTENTION = "a text's tokens attend to nothing but each other"


@dataclass(frozen=True)
class Scope:
    """What a cleaner declares of its decisions, so that core can hold it to that.

    * ``row_local``: a decision on a row follows from that row and the settings alone. Such a cleaner may be asked about
      parts of a split, in several processes; its edits are applied to test splits as well.
    * ``splits``: the kinds of splits that it is asked about (``train``, ``validation``, ``test``).
    * ``reads``: the kinds of splits whose rows it looks at besides those of the split that it decides on; ``run.data``
      holds no others while it is asked, and these as they were before it changed any split.
    * ``deterministic``: the same rows get the same decisions.
    * ``dp_stability``: how many units of the cleaned data change at most where one unit of the given data is added or
      removed; ``None`` is unbounded. A row-local cleaner's is 1. Privacy holds outside its epsilon what is not 1.
    """

    row_local: bool = False
    splits: frozenset[str] = frozenset({"train", "validation", "test"})
    reads: frozenset[str] = frozenset()
    deterministic: bool = True
    dp_stability: int | None = None

    def __post_init__(self) -> None:
        if self.row_local:
            if self.reads:
                raise ValueError("a row-local cleaner reads no other rows; leave `reads` out")
            object.__setattr__(self, "dp_stability", 1)


class Step(BaseModel):
    """One configured method: fields are its settings, ``@hook`` methods its behaviour, the docstring its help.

    A setting of type ``Path`` counts from the stack file's folder; ``stack.resolved.yaml`` holds it absolute.

    Class variables say what it goes with, so that a stack is checked without importing anything heavy:

    * ``needs`` / ``breaks``: capabilities of the run (see `Capability`).
    * ``tasks``: the tasks it serves; ``None`` for every task.
    * ``refuses``: architectures (a config's ``model_type``) that it cannot serve, each with the reason.
    * ``reads_private``: a hook looks at training records outside the differentially private release;
      a private run then says so beside its epsilon.
    * ``scope``: what a step that answers ``clean`` declares of its decisions (see `Scope`).
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    needs: ClassVar[frozenset[Capability]] = frozenset()
    breaks: ClassVar[frozenset[Capability]] = frozenset()
    tasks: ClassVar[frozenset[str] | None] = None
    refuses: ClassVar[dict[str, str]] = {}
    reads_private: ClassVar[bool] = False
    scope: ClassVar[Scope] = Scope()

    # pluggy compares plugins with ``==``; two steps with equal settings are still two steps.
    __eq__ = object.__eq__
    __hash__ = object.__hash__

    @classmethod
    def __pydantic_init_subclass__(cls, **kwargs: Any) -> None:
        from upright.hooks import HOOKS

        super().__pydantic_init_subclass__(**kwargs)
        reserved = {"use", "name"}
        for field in cls.model_fields:
            if field in HOOKS or field in reserved:
                what = "a hook" if field in HOOKS else "a key of every stack entry"
                raise TypeError(f"{cls.__name__}.{field}: a setting must not bear the name of {what}; rename it")
