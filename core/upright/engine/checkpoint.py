"""Checkpoints: atomic, each with its own manifest; the newest that verifies is the one to go on from.

Tensors go to safetensors, everything else to JSON. Nothing is pickled.
"""

from __future__ import annotations

import hashlib
import json
import shutil
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from upright.errors import IntegrityError, UprightError
from upright.evidence.files import sha256
from upright.evidence.sealing import new_folder, opened

if TYPE_CHECKING:
    from torch.optim.lr_scheduler import LRScheduler

    from upright.run import Run


@dataclass
class Progress:
    """What the loop knows beside the live objects; part of a checkpoint."""

    best_score: float | None = None
    best_update: int | None = None
    without_gain: int = 0
    stopped: str | None = None
    curve: list[dict[str, Any]] = field(default_factory=list)


def save_checkpoint(run: Run, schedule: LRScheduler, progress: Progress) -> Path:
    """Write ``checkpoints/update-<n>``; older ones beyond ``save_total_limit`` are removed. Returns its folder."""
    state = {
        "update": run.update,
        "weights": weights(run),
        "optimizer": run.optimizer.state_dict(),
        "schedule": schedule.state_dict(),
        "kept": {key: _state(value) for key, value in run.kept.items()},
        "groups": run.groups,
        "progress": vars(progress),
    }
    folder = run.folder / "checkpoints" / f"update-{run.update:08d}"
    write_state(folder, state, run)
    for old in checkpoints(run.folder)[: -run.config.train.save_total_limit]:
        shutil.rmtree(old, ignore_errors=True)
    return folder


def save_best(run: Run) -> None:
    """Write the present weights to ``checkpoints/best-<n>`` and remove the best before."""
    folder = run.folder / "checkpoints" / f"best-{run.update:08d}"
    write_state(folder, {"update": run.update, "weights": weights(run)}, run)
    for old in (run.folder / "checkpoints").glob("best-*"):
        if old != folder:
            shutil.rmtree(old, ignore_errors=True)


def load_best(run: Run, update: int) -> None:
    """Put the best iterate's weights back into the model."""
    load_weights(run, read_state(run.folder / "checkpoints" / f"best-{update:08d}", run)["weights"])


def checkpoints(folder: Path) -> list[Path]:
    """The checkpoints of a run folder, oldest first, whole or not."""
    return sorted((folder / "checkpoints").glob("update-*"))


def newest(folder: Path, run: Run | None = None) -> dict[str, Any] | None:
    """The state of the newest checkpoint that verifies, or None where there is none; ``run`` opens sealed ones.

    Raises IntegrityError when there are checkpoints and none of them verifies.
    """
    problems = []
    for path in reversed(checkpoints(folder)):
        try:
            return read_state(path, run)
        except IntegrityError as error:
            problems.append(str(error))
    if problems:
        raise IntegrityError(f"{folder}: no checkpoint can be trusted ({problems[0]}); start a new run")
    return None


def weights(run: Run) -> dict[str, Tensor]:
    """All that training may move: trainable parameters and buffers of the model and of the helpers."""
    found: dict[str, Tensor] = {}
    for prefix, module in (("model", run.model), *((f"modules.{key}", m) for key, m in run.modules.items())):
        found |= {f"{prefix}.{name}": p.detach() for name, p in module.named_parameters() if p.requires_grad}
        found |= {f"{prefix}.{name}": buffer for name, buffer in module.named_buffers()}
    return found


def load_weights(run: Run, saved: dict[str, Tensor]) -> None:
    """Copy saved weights into the live tensors, in place. Raises IntegrityError where names or shapes differ."""
    live = weights(run)
    if live.keys() != saved.keys():
        odd = sorted(live.keys() ^ saved.keys())[0]
        raise IntegrityError(f"{run.folder}: the checkpoint and the stack's model differ in {odd!r}; start a new run")
    with torch.no_grad():
        for name, tensor in live.items():
            if tensor.shape != saved[name].shape:
                raise IntegrityError(f"{run.folder}: {name!r} has another shape in the checkpoint; start a new run")
            tensor.copy_(saved[name])


def restore_kept(live: Any, saved: Any) -> Any:
    """A step's live object with its saved state put back (in place where it can be)."""
    if hasattr(live, "load_state_dict"):
        live.load_state_dict(saved)
        return live
    if isinstance(live, Tensor):
        if live.shape != saved.shape:
            return saved.to(live.device)
        with torch.no_grad():
            live.copy_(saved)
        return live
    if isinstance(live, dict):
        live.clear()
        live.update(saved)
        return live
    live[:] = saved
    return live


def write_state(folder: Path, state: dict[str, Any], run: Run) -> None:
    """Write a nested state (dicts, lists, tuples, tensors, JSON) as a folder that appears whole or not at all."""
    from safetensors.torch import save_file

    tensors: dict[str, Tensor] = {}
    tree = _pack(state, tensors, "")
    with new_folder(folder, run) as draft:
        stored = {name: tensor.detach().cpu().contiguous().clone() for name, tensor in tensors.items()}
        save_file(stored, draft / "tensors.safetensors")
        (draft / "state.json").write_text(json.dumps(tree))
        names = ("state.json", "tensors.safetensors")
        (draft / "manifest.json").write_text(json.dumps({name: sha256(draft / name) for name in names}))


def read_state(folder: Path, run: Run | None = None) -> dict[str, Any]:
    """The inverse of `write_state`. Raises IntegrityError where the folder is not what was written."""
    from safetensors import safe_open

    try:
        with opened(folder, run) as plain:
            manifest = json.loads((plain / "manifest.json").read_text())
            for name, expected in manifest.items():
                if sha256(plain / name) != expected:
                    raise IntegrityError(f"{folder / name}: is not what was written there")
            tree = json.loads((plain / "state.json").read_text())
            with safe_open(plain / "tensors.safetensors", framework="pt") as stored:
                tensors = {name: stored.get_tensor(name) for name in list(stored.keys())}
    except (OSError, ValueError) as error:
        raise IntegrityError(f"{folder}: is not a whole checkpoint ({error})") from error
    state: dict[str, Any] = _unpack(tree, tensors)
    return state


def _state(value: Any) -> Any:
    return value.state_dict() if hasattr(value, "state_dict") else value


def _pack(value: Any, tensors: dict[str, Tensor], path: str) -> Any:
    if isinstance(value, Tensor):
        name = hashlib.blake2b(path.encode(), digest_size=12).hexdigest()
        tensors[name] = value
        return {"tensor": name}
    if isinstance(value, dict):
        return {"dict": [[_key(k, path), _pack(v, tensors, f"{path}/{k!r}")] for k, v in value.items()]}
    if isinstance(value, (list, tuple)):
        return {type(value).__name__: [_pack(v, tensors, f"{path}/{i}") for i, v in enumerate(value)]}
    if value is None or isinstance(value, (bool, int, float, str)):
        return {"value": value}
    raise UprightError(
        f"{path or 'state'}: a {type(value).__name__} cannot be checkpointed; keep tensors, JSON values or objects "
        "with `state_dict` and `load_state_dict`"
    )


def _key(key: Any, path: str) -> Any:
    if isinstance(key, (str, int)) and not isinstance(key, bool):
        return key
    raise UprightError(f"{path}: a key of type {type(key).__name__} cannot be checkpointed; use text or whole numbers")


def _unpack(tree: dict[str, Any], tensors: dict[str, Tensor]) -> Any:
    [(kind, content)] = tree.items()
    if kind == "tensor":
        return tensors[content]
    if kind == "dict":
        return {key: _unpack(value, tensors) for key, value in content}
    if kind in ("list", "tuple"):
        items = [_unpack(item, tensors) for item in content]
        return tuple(items) if kind == "tuple" else items
    return content
