"""Encryption at rest: AES-256-GCM in chunks (`sealed_file`), by a key of the run that the user's key wraps (`run_key`)."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from pydantic import Field, PrivateAttr

from upright import Run, Section, Step, hook
from upright.errors import NoKeyError

SEALED = (
    ("model/", "as it is written"),
    ("checkpoints/", "as they are written"),
    ("data/ (the ledger of cleaning, cleaned rows)", "as it is written"),
    ("predictions/", "as they are written"),
    ("steps/ (ledgers, what steps saved)", "at the end of the run; plain until then, since ledgers grow"),
)
READABLE = (
    "stack.yaml, stack.resolved.yaml, plan.json, lock.json, status.json, events.jsonl, error.txt, metrics.json, evidence/, "
    "report.html, MODEL_CARD.md, CHANGELOG.md, manifest.json and the wrapped key. Explanations in evidence/ and in the report "
    "show words of the rows that were explained."
)


class Encrypt(Step):
    """Seal model, checkpoints, ledgers, cleaned data and predictions with AES-256-GCM; opening them needs the key.

    Every run has a key of its own, wrapped by yours in `steps/<step>/key.json`; destroying that file erases what was
    sealed. Metrics, report, events, settings and manifest stay readable.
    """

    key_env: str = Field(
        "UPRIGHT_KEY", min_length=1, description="Environment variable with your key: 32 bytes in base64 or hex."
    )
    key_file: Path | None = Field(
        None,
        description="File with your key, as such text or 32 raw bytes; where it is not there, the variable counts.",
    )

    _keys: dict[Path, Any] = PrivateAttr(default_factory=dict)

    @hook
    def seal(self, path: Path, into: Path, name: str, run: Run) -> None:
        from upright_privacy.sealed_file import seal

        seal(path, into, name, self._key(run, make=True))

    @hook
    def unseal(self, path: Path, into: Path, name: str, run: Run) -> bool:
        from upright_privacy.sealed_file import is_sealed, unseal

        if not is_sealed(path):
            return False
        unseal(path, into, name, self._key(run, make=False))
        return True

    @hook
    def report(self, run: Run) -> Section:
        from upright.objects import Table, Text

        return Section(
            "Encryption at rest",
            [
                Text(
                    "These files are sealed with AES-256-GCM, in chunks that fit one place of one file of this run. The "
                    f"run's key is wrapped in steps/{run.key(self)}/key.json: whoever destroys that "
                    "file and its copies erases them all."
                ),
                Table(["sealed", "when"], [list(row) for row in SEALED]),
                Text(f"Readable by everyone: {READABLE}"),
            ],
        )

    # --- keys -------------------------------------------------------------------------------------------------------

    def _key(self, run: Run, *, make: bool) -> Any:
        """The run's key; made with the run's first file."""
        from upright_privacy import run_key

        if run.folder not in self._keys:
            path = run.folder / "steps" / run.key(self) / run_key.NAME
            wrapping, source = self._wrapping_key(run)
            if make and not path.exists() and not _holds_sealed(run.folder):
                run.step_folder(self)
                self._keys[run.folder] = run_key.make(path, wrapping)
            else:
                self._keys[run.folder] = run_key.read(path, wrapping, source)
        return self._keys[run.folder]

    def _wrapping_key(self, run: Run) -> tuple[bytes, str]:
        """The user's key and where it is from, in words. Raises NoKeyError, which never shows what was found."""
        from upright_privacy.user_key import missing, user_key

        placed = run.stack.placed(self)
        told = f"{placed.where}  {placed}"
        file = run.stack.root / self.key_file.expanduser() if self.key_file else None
        key = user_key(self.key_env, file, told)
        if key is None:
            raise NoKeyError(f"{told}: there is no key: {missing(self.key_env, self.key_file)}")
        return key.secret, key.source


def _holds_sealed(folder: Path) -> bool:
    """Whether something was sealed there: its key is gone then, and a new one would hide that."""
    from upright_privacy.sealed_file import is_sealed

    return any(is_sealed(path) for path in folder.rglob("*") if path.is_file())
