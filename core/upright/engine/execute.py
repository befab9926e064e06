"""One run from its first moment to the end of training, in core's order; `finish` does the rest."""

from __future__ import annotations

import errno
import hashlib
import os
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
import yaml

from upright.calls import Calls
from upright.config import resolved
from upright.engine import cleaning, probe
from upright.engine.base import head_parameters
from upright.engine.batches import encode
from upright.engine.checkpoint import newest
from upright.engine.core_answers import CoreAnswers
from upright.engine.data import load_data
from upright.engine.finish import close, finish, save_cleaned
from upright.engine.loop import count_updates, train
from upright.engine.plan import describe
from upright.engine.tasks import get
from upright.engine.telling import stage, write_json
from upright.errors import ConfigError, IntegrityError, UprightError
from upright.evidence.events import Events
from upright.evidence.files import write_atomic
from upright.evidence.lock import hold, make_lock, write_lock
from upright.evidence.sealing import ask_for_key, open_steps
from upright.evidence.status import write_status
from upright.run import Run

if TYPE_CHECKING:
    from upright.stack import Stack

Listen = Callable[[dict[str, Any]], None]
Clean = Callable[[Run], None]


def execute(
    stack: Stack,
    *,
    resume: Path | None = None,
    listen: Listen | None = None,
    clean: Clean = cleaning.clean,
    locked: dict[str, Any] | None = None,
) -> Run:
    """Run a stack in a new folder, or go on in ``resume``; return the run, whose ``exit_code`` is 0, 1 or 4.

    ``clean`` takes the rows as they were read to the rows that the model sees; ``locked`` is a lock that all must be held to
    before anything is trained. Raises what stopped it, after
    ``status.json`` says so.
    """
    folder = _resumed(stack, resume) if resume else _new_folder(stack)
    asked = resolved(stack)
    with _alone(folder), _told(folder):
        run = prepare_run(stack, folder, listen, resume=resume is not None, clean=clean)
        if stack.cleans_only:
            _lock(run, locked)
            save_cleaned(run)
        else:
            _train(run, resume is not None, locked)
        finish(run)
        _hold_settings(stack, asked)
        close(run)
    return run


def prepare_run(
    stack: Stack,
    folder: Path,
    listen: Listen | None = None,
    *,
    resume: bool = False,
    clean: Clean = cleaning.clean,
) -> Run:
    """A run up to its first update: data cleaned, model loaded, prompts rendered, model tuned; no optimizer yet.

    Errors: `ConfigError` for the stack or its data, `UprightError` for a step that does not keep the contract.
    """
    steps = [placed.step for placed in stack.steps]
    events = Events(folder / "events.jsonl", listen, resolution=60 if stack.private else 0.001)
    run = Run(stack, folder, Calls(steps, CoreAnswers()), events)
    ask_for_key(run)
    if resume:
        open_steps(run)
    run.task = get(stack.settings.model.task)
    stage(run, "clean")
    load_data(run)
    clean(run)
    if stack.cleans_only:
        return run
    run.labels = run.task.read_labels(run)
    if stack.trains and len(run.labels) == 1:
        raise ConfigError(
            f"{stack.where('data', 'train')}  data.train: every row has the one label {run.labels[0]!r}, so there is nothing "
            "to learn; add rows of another"
        )
    state = newest(folder, run) if resume else None
    run.restored = state["kept"] if state else {}
    stage(run, "model")
    torch.manual_seed(run.seed)
    run.model = run.calls.model(run).to(run.device)
    refused = stack.refused(getattr(run.model.config, "model_type", None))
    if refused:
        raise ConfigError(refused)
    run.base_parameters = frozenset(id(parameter) for parameter in run.model.parameters())
    run.model.requires_grad_(False).eval()
    stage(run, "prompt")
    run.calls.prepare(run)
    for split in run.data:
        encode(run, split)
    if stack.trains:
        _tune(run)
    run.model.eval()
    return run


def _tune(run: Run) -> None:
    stage(run, "tune")
    run.updates = count_updates(run)
    torch.manual_seed(run.seed)
    run.model = run.calls.tune(run.model, run)
    for _, parameter in head_parameters(run.model):
        parameter.requires_grad_(True)
    run.modules = {key: module.to(run.device) for key, module in run.calls.modules(run).items()}


def _lock(run: Run, locked: dict[str, Any] | None) -> None:
    lock = make_lock(run)
    if locked is not None:
        hold(lock, locked)
    write_lock(run.folder, lock)


def _train(run: Run, resume: bool, locked: dict[str, Any] | None) -> None:
    """Probe, train, check; write lock.json, plan.json and evidence/training.json."""
    training: dict[str, Any] = {"curve": [], "checks": [], "stopped": None}
    _lock(run, locked)
    checks = probe.probe(run) if run.stack.trains else []
    write_json(run.folder / "plan.json", describe(run))
    if run.stack.trains:
        run.optimizer = run.calls.optimizer(run)
        before = probe.fingerprints(run)
        stage(run, "train")
        started = time.perf_counter()
        progress = train(run, resume)
        checks += probe.moved(run, before)
        training = {
            "curve": progress.curve,
            "checks": [check.to_json() for check in checks],
            "stopped": progress.stopped,
            "best_update": progress.best_update,
            "updates": run.update,
            "seconds": round(time.perf_counter() - started, 3),
            "withheld": ["train loss", "batch sizes", "gradient norms"] if run.private else [],
        }
        stage(run, "finalize")
        run.model = run.calls.finalize(run.model, run).eval()
    write_json(run.folder / "evidence" / "training.json", training)
    for check in checks:
        if check.status == "failed":
            raise UprightError(f"after training: {check.check}: {check.detail}; the run's figures are not reported")


def _hold_settings(stack: Stack, asked: dict[str, Any]) -> None:
    """Raise IntegrityError where a setting is no longer what the run was started with: a step can reach another's."""
    now = resolved(stack)
    changed = [key for key in asked | now if now.get(key) != asked.get(key)]
    if changed:
        raise IntegrityError(
            f"{stack.where(changed[0])}  {changed[0]}: its settings were changed during the run, so the figures are not those "
            "of the stack; find the step that changes another's, and remove it"
        )


def _new_folder(stack: Stack) -> Path:
    """``<output>/<name>/<time>-<hash>``, made now and never there before; ``latest`` points at it."""
    text = yaml.safe_dump(resolved(stack), sort_keys=False, allow_unicode=True)
    digest = hashlib.sha256(text.encode()).hexdigest()[:8]
    parent = Path(stack.settings.output) / stack.settings.name
    stamp = time.strftime("%Y%m%dT%H%M%S")
    try:
        parent.mkdir(parents=True, exist_ok=True)
        folder = next(
            path
            for n in range(1, 10_000)
            if _made(path := parent / (f"{stamp}-{digest}" if n == 1 else f"{stamp}-{digest}-{n}"))
        )
        pointer = parent / f".latest-{os.getpid()}"
        pointer.symlink_to(folder.name)
        pointer.replace(parent / "latest")
    except OSError as error:
        raise ConfigError(
            f"{stack.where('output')}  output: cannot write to {parent} ({error.strerror}); choose a folder that you "
            "may write to"
        ) from error
    source = Path(stack.source)
    given = source.read_text(encoding="utf-8") if source.is_file() else text
    for local in {placed.local.place: placed.local for placed in stack.steps if placed.local}.values():
        (folder / local.place).parent.mkdir(parents=True, exist_ok=True)
        write_atomic(folder / local.place, local.source)
    write_atomic(folder / "stack.yaml", given)
    write_atomic(folder / "stack.resolved.yaml", text)
    return folder


def _made(folder: Path) -> bool:
    try:
        folder.mkdir()
    except FileExistsError:
        return False
    return True


def _resumed(stack: Stack, folder: Path) -> Path:
    """The folder to go on in. Raises ConfigError where it is finished or holds another stack's run."""
    from upright.evidence.status import read_status

    recorded = folder / "stack.resolved.yaml"
    if not recorded.is_file():
        raise ConfigError(f"{folder}: is no run folder (it has no stack.resolved.yaml); name one of a run")
    state = read_status(folder)
    if state.get("state") in ("done", "gate-failed"):
        raise ConfigError(f"{folder}: this run is finished; leave --resume away to make a new run")
    try:
        before = yaml.safe_load(recorded.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise IntegrityError(f"{recorded}: is no YAML any more, so nothing says what was run; start anew") from error
    if before != yaml.safe_load(yaml.safe_dump(resolved(stack))):
        raise ConfigError(f"{folder}: was run with other settings than {stack.source}; resume with the same stack")
    return folder


@contextmanager
def _alone(folder: Path) -> Iterator[None]:
    """No other process may write there: a lock on the folder itself, which ends with the process, however it ends."""
    try:
        from fcntl import LOCK_EX, LOCK_NB, flock
    except ImportError:  # not a POSIX system
        yield
        return
    handle = os.open(folder, os.O_RDONLY)
    try:
        try:
            flock(handle, LOCK_EX | LOCK_NB)
        except BlockingIOError as error:
            raise ConfigError(
                f"{folder}: this run is still going on in another process; wait for it or stop it"
            ) from error
        except OSError as error:
            if error.errno not in (errno.ENOLCK, errno.ENOTSUP, errno.ENOSYS):  # a file system without locks
                raise
        yield
    finally:
        os.close(handle)


@contextmanager
def _told(folder: Path) -> Iterator[None]:
    """Whatever happens, ``status.json`` tells the truth about it."""
    write_status(folder, "running", stage="start")
    (folder / "error.txt").unlink(missing_ok=True)
    try:
        yield
    except KeyboardInterrupt:
        write_status(folder, "interrupted", exit_code=130, error="interrupted; go on with `upright run --resume`")
        raise
    except BaseException as error:
        code = error.exit_code if isinstance(error, UprightError) else 1
        _record_failure(folder, error, code)
        # safetensors wraps what the operating system says in a class of its own
        if getattr(error, "errno", None) == errno.ENOSPC or f"(os error {errno.ENOSPC})" in str(error):
            raise UprightError(f"{folder}: no space left on the disk; free some and go on with --resume") from error
        if isinstance(error, UprightError) or not isinstance(error, Exception):
            raise
        raise UprightError(
            f"{type(error).__name__}: {str(error).strip() or 'no message'}; where it happened is in {folder / 'error.txt'}"
        ) from error


def _record_failure(folder: Path, error: BaseException, code: int) -> None:
    try:
        write_status(folder, "failed", exit_code=code, error=str(error) or type(error).__name__)
        write_atomic(folder / "error.txt", "".join(traceback.format_exception(error)))
    except (OSError, UprightError):
        # On a full disk the status stays "running", which `read_status` tells apart by the process that is gone.
        return
