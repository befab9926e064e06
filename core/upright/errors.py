"""What can go wrong, each with the exit code that the command line ends with."""

from __future__ import annotations

from collections.abc import Sequence


class UprightError(Exception):
    """A failure that is told to the user in one sentence; exit code 1."""

    exit_code = 1


class ConfigError(UprightError):
    """The stack file, or the data that it names, cannot be used; exit code 2.

    ``problems`` holds one sentence each, so that a user can mend all of them at once.
    """

    exit_code = 2

    def __init__(self, problems: str | Sequence[str]) -> None:
        self.problems = [problems] if isinstance(problems, str) else list(problems)
        super().__init__("\n".join(self.problems))


class NoKeyError(ConfigError):
    """A file is sealed, or is to be, and there is no key; exit code 2."""


class PluginError(UprightError):
    """A plugin is missing or cannot be imported; exit code 3."""

    exit_code = 3


class GateError(UprightError):
    """A gate with ``on_fail: block`` was violated; exit code 4."""

    exit_code = 4


class IntegrityError(UprightError):
    """A file or a figure is not what the run's evidence says it is; exit code 5."""

    exit_code = 5
