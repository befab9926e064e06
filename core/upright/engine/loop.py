"""The training loop: the only one."""

from __future__ import annotations

import hashlib
import math
from typing import TYPE_CHECKING, Any

import torch
from torch.optim.lr_scheduler import LRScheduler

from upright.engine.checkpoint import Progress, checkpoints, load_best, load_weights, newest, save_best, save_checkpoint
from upright.engine.evaluate import predict
from upright.engine.optimizer import make_schedule, trainable
from upright.errors import UprightError
from upright.evidence.metrics import measure

if TYPE_CHECKING:
    from upright.objects import Metric
    from upright.run import Run

LINES = 500
"""How many ``update`` events a run writes at the most."""


def count_updates(run: Run) -> int:
    """How many updates the run will have: ``max_steps``, else epochs times batches per epoch."""
    config = run.config.train
    if config.max_steps is not None:
        return config.max_steps
    return max(1, math.ceil(config.epochs * updates_per_epoch(run)))


def updates_per_epoch(run: Run) -> int:
    """Rows over ``batch_size``, rounded up; of a private run: units, since those are what it draws."""
    train = run.data["train"]
    count = len(set(train["unit"][:])) if run.private else len(train)
    return math.ceil(count / run.config.train.batch_size)


def train(run: Run, resume: bool = False) -> Progress:
    """Train until ``run.updates``, a `Stop`, or an error; leave the preferred iterate in ``run.model``.

    Raises UprightError at the first non-finite gradient or weight: nothing of it is in a checkpoint.
    """
    schedule = make_schedule(run)
    progress = Progress()
    state = newest(run.folder, run) if resume else None
    if state is not None:
        progress = _restore(run, schedule, state)
    run.model.train()
    run.optimizer.zero_grad(set_to_none=True)
    stop = run.calls.watch("started", run)
    progress.stopped = stop.reason if stop else None
    parameters = [parameter for _, parameter in trainable(run)]
    every = max(1, run.updates // LINES)
    while run.update < run.updates and progress.stopped is None:
        _update(run, schedule, parameters)
        # A private gradient is finite whatever the records' are; any other is looked at by the next update, if there is one.
        if run.private or run.update == run.updates or _checkpoint_due(run, _evaluation_due(run)):
            _look_at_weights(run, parameters)
        stop = run.calls.watch("updated", run)
        run.optimizer.zero_grad(set_to_none=True)
        progress.stopped = stop.reason if stop else None
        if run.update % every == 0 or run.update == run.updates:
            _tell(run, schedule, progress)
        evaluated = _evaluation_due(run) or (progress.stopped is not None and "validation" in run.data)
        if evaluated:
            _evaluate(run, progress)
        if _checkpoint_due(run, evaluated):
            save_checkpoint(run, schedule, progress)
    best = progress.best_update
    if run.config.train.load_best_model_at_end and best is not None and best != run.update:
        load_best(run, best)
        run.loaded_update = best
    run.calls.watch("trained", run)
    run.model.eval()
    return progress


def _update(run: Run, schedule: LRScheduler, parameters: list[torch.nn.Parameter]) -> None:
    # Dropout draws from torch's global stream; keyed on the update, it is the same after a resume.
    digest = hashlib.blake2b(f"{run.seed}/dropout/{run.update}".encode(), digest_size=8).digest()
    seed = int.from_bytes(digest, "big") >> 1
    torch.default_generator.manual_seed(seed)  # torch.manual_seed formats a stack trace for each absent accelerator
    if run.device.type == "cuda":
        torch.cuda.manual_seed_all(seed)
    run.groups = run.calls.gradients(run.calls.sample(run.update, run), run)
    penalty = run.calls.penalty(run.model, run)
    if penalty is not None:
        torch.autograd.backward(penalty)
    limit = run.config.train.max_grad_norm
    norm = torch.nn.utils.clip_grad_norm_(parameters, limit if limit is not None else math.inf)
    if not torch.isfinite(norm):
        raise _not_finite(run, run.update + 1, "the loss or its gradient is not finite")
    run.optimizer.step()
    schedule.step()
    run.update += 1


def _look_at_weights(run: Run, parameters: list[torch.nn.Parameter]) -> None:
    """Raise UprightError where a weight is not finite: a sum is finite only where every term is."""
    if not torch.isfinite(torch.stack([p.detach().sum(dtype=torch.float32) for p in parameters]).sum()):
        raise _not_finite(run, run.update, "the weights are not finite after it")


def _not_finite(run: Run, update: int, what: str) -> UprightError:
    last = checkpoints(run.folder)
    kept = f"the last checkpoint is {last[-1].name}" if last else "no checkpoint was written yet"
    return UprightError(f"update {update}: {what}; lower train.learning_rate or use train.precision: fp32 ({kept})")


def _tell(run: Run, schedule: LRScheduler, progress: Progress) -> None:
    told: dict[str, Any] = {"update": run.update, "updates": run.updates, "learning_rate": schedule.get_last_lr()[0]}
    if run.train_loss is not None and not run.private:
        told["train_loss"] = run.train_loss.item()
    progress.curve.append({**told, "validation": None})
    run.emit("update", **told)


def _evaluation_due(run: Run) -> bool:
    config = run.config.train
    if "validation" not in run.data or config.eval_strategy == "no":
        return False
    if run.update == run.updates:
        return True
    every = config.eval_steps
    if config.eval_strategy == "epoch":
        every = updates_per_epoch(run)
    return run.update % every == 0


def _checkpoint_due(run: Run, evaluated: bool) -> bool:
    every = run.config.train.save_steps
    return run.update == run.updates or (evaluated if every is None else run.update % every == 0)


def _evaluate(run: Run, progress: Progress) -> None:
    predictions = predict(run, "validation")
    metrics: dict[str, Metric] = {f"validation/{key}": value for key, value in measure(predictions, run.seed).items()}
    metrics |= run.calls.measure(predictions, run)
    run.metrics = metrics
    run.model.train()
    score = run.calls.select(metrics, run)
    if progress.best_score is None or score > progress.best_score:
        progress.best_score, progress.best_update, progress.without_gain = score, run.update, 0
        if run.config.train.load_best_model_at_end:
            save_best(run)
    else:
        progress.without_gain += 1
    shown = {key: metric.value for key, metric in metrics.items() if key.count("/") == 1}
    progress.curve.append({"update": run.update, "train_loss": None, "validation": shown, "score": score})
    run.emit("evaluated", update=run.update, score=score, metrics=shown)
    stop = run.calls.watch("evaluated", run)
    patience = run.config.train.early_stopping_patience
    if stop is not None:
        progress.stopped = stop.reason
    elif patience is not None and progress.without_gain >= patience:
        progress.stopped = f"no gain in {patience} evaluations"


def _restore(run: Run, schedule: LRScheduler, state: dict[str, Any]) -> Progress:
    load_weights(run, state["weights"])
    run.optimizer.load_state_dict(state["optimizer"])
    schedule.load_state_dict(state["schedule"])
    run.groups = state["groups"]
    run.update = state["update"]
    run.emit("resumed", update=run.update)
    return Progress(**state["progress"])
