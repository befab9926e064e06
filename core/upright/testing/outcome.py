"""What a check may say, and what all of them say together."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal


class Failed(Exception):
    """The step does not keep this part of the contract; the message is one sentence that says what to do."""


class Skipped(Exception):
    """The check does not apply to the step, or cannot be made here; the message says why."""


@dataclass(frozen=True)
class Outcome:
    """One check's answer. ``expected`` is a failure that the author announced with a reason."""

    check: str
    status: Literal["passed", "failed", "skipped", "expected"]
    detail: str

    def to_json(self) -> dict[str, str]:
        """The form of ``upright conform --json``."""
        return {"check": self.check, "status": self.status, "detail": self.detail}


@dataclass(frozen=True)
class Conformance:
    """All outcomes for one step, and what they were found with."""

    step: str
    section: str
    origin: dict[str, str | None]
    settings: dict[str, Any]
    versions: dict[str, str]
    device: str
    outcomes: tuple[Outcome, ...]

    @property
    def ok(self) -> bool:
        """Whether nothing failed but what was expected to."""
        return all(outcome.status != "failed" for outcome in self.outcomes)

    def to_json(self) -> dict[str, Any]:
        """Plain data; a registry keeps it beside a release."""
        return {
            "step": self.step,
            "section": self.section,
            **self.origin,
            "settings": self.settings,
            "versions": self.versions,
            "device": self.device,
            "ok": self.ok,
            "checks": [outcome.to_json() for outcome in self.outcomes],
        }
