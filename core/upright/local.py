"""In-house steps: ``use: ./steps.py:MyStep`` names a class of a plain Python file beside the stack.

A run keeps a copy of the file in its folder, where its name is its content's hash. So the run loads again from there,
another file is another stack, and the manifest covers the code that made the figures.
"""

from __future__ import annotations

import difflib
import hashlib
import re
import sys
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING

from upright.errors import ConfigError, PluginError

if TYPE_CHECKING:
    from upright.step import Step

USE = re.compile(r"(?P<file>.+\.py):(?P<name>\w+)")
KEPT = "code"
"""The folder of a run that holds the files of its in-house steps."""


@dataclass(frozen=True)
class LocalStep:
    """The file and the class of an in-house step. ``source`` is what was read, and what is run and kept."""

    file: str
    name: str
    source: bytes

    @property
    def use(self) -> str:
        """How plans, locks and reports call it: ``steps.py:MyStep``."""
        return f"{self.file}:{self.name}"

    @property
    def sha256(self) -> str:
        """The file's SHA-256 in hex."""
        return hashlib.sha256(self.source).hexdigest()

    @property
    def place(self) -> str:
        """Where a run's folder keeps the file: ``code/<hash>/steps.py``."""
        return f"{KEPT}/{self.sha256[:16]}/{self.file}"


def is_local(use: str) -> bool:
    """Whether ``use`` names a file's class rather than an installed step."""
    return USE.fullmatch(use) is not None


def find(use: str, root: Path, where: str) -> tuple[LocalStep, Path]:
    """Read the file that ``use`` names, from the stack file's folder. Raises ConfigError where it cannot be read."""
    match = USE.fullmatch(use)
    assert match is not None
    path = (root / Path(match["file"]).expanduser()).resolve()
    try:
        source = path.read_bytes()
    except FileNotFoundError as error:
        raise ConfigError(f"{where}: there is no file {match['file']}; correct the path") from error
    except OSError as error:
        raise ConfigError(f"{where}: {match['file']} cannot be read ({error.strerror}); correct the path") from error
    return LocalStep(path.name, match["name"], source), path


def load(local: LocalStep, path: Path, where: str) -> type[Step]:
    """Run the file and return its class.

    Raises PluginError where the file cannot be run or the class is no Step, ConfigError where there is no such class.
    """
    from upright.step import Step

    module = _module(local, path, where)
    found = getattr(module, local.name, None)
    if found is None:
        steps = [
            name for name, value in vars(module).items() if _is_step(value) and value.__module__ == module.__name__
        ]
        near = difflib.get_close_matches(local.name, steps, n=1)
        hint = f"did you mean {near[0]!r}?" if near else f"it has {', '.join(steps)}" if steps else "it has no step"
        raise ConfigError(f"{where}: {local.file} has no class {local.name!r} ({hint}); correct the name")
    if not (isinstance(found, type) and issubclass(found, Step)):
        raise PluginError(f"{where}: {local.use} is no Step; derive the class from upright.Step")
    return found


def _is_step(value: object) -> bool:
    from upright.step import Step

    return isinstance(value, type) and issubclass(value, Step)


def _module(local: LocalStep, path: Path, where: str) -> ModuleType:
    """The file as a module, run once per content and place. It is not on ``sys.path``, nor are its neighbours."""
    digest = hashlib.sha256(str(path).encode() + b"\0" + local.source).hexdigest()[:16]
    name = f"upright_local_{path.stem}_{digest}"
    if name in sys.modules:
        return sys.modules[name]
    module = ModuleType(name)
    module.__file__ = str(path)
    sys.modules[name] = module  # pydantic looks names of annotations up there
    try:
        exec(compile(local.source, str(path), "exec"), module.__dict__)
    except (Exception, SystemExit) as error:  # whatever the file raises, the file is what is broken
        del sys.modules[name]
        cause = f"{type(error).__name__}: {error}".strip().split("\n")[0]
        raise PluginError(
            f"{where}: {local.file}:{_line(error, path)} cannot be imported ({cause}); mend the file"
        ) from error
    return module


def _line(error: BaseException, path: Path) -> int:
    """The line of the file at which it went wrong."""
    if isinstance(error, SyntaxError) and error.filename == str(path):
        return error.lineno or 1
    line, trace = 1, error.__traceback__
    while trace is not None:
        if trace.tb_frame.f_code.co_filename == str(path):
            line = trace.tb_lineno
        trace = trace.tb_next
    return line
