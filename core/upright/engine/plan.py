"""What a run will do, before it does it."""

from __future__ import annotations

import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

if TYPE_CHECKING:
    from upright.run import Run
    from upright.stack import Stack

PROBES = 3
"""Updates that are timed."""


def plan(stack: Stack) -> dict[str, Any]:
    """Set the run up in a throw-away folder, time a few forward and backward passes, describe it; trains nothing."""
    from upright.engine.execute import prepare_run
    from upright.engine.probe import probe

    told: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory(prefix="upright-plan-") as name:
        run = prepare_run(stack, Path(name), told.append)
        if stack.trains:
            probe(run)
            run.optimizer = run.calls.optimizer(run)
            run.calls.watch("started", run)  # what steps then announce (the noise that a budget needs) is the plan
        described = describe(run)
        described["announced"] = [
            {key: value for key, value in event.items() if key != "time"}
            for event in told
            if event["event"] not in ("stage", "cleaned")
        ]
        if stack.trains:
            described["estimate"] = _estimate(run)
        return described


def describe(run: Run) -> dict[str, Any]:
    """Stages, rows, parameters, updates, smallest groups, network use and warnings of a prepared run."""
    stack = run.stack
    described: dict[str, Any] = {
        "name": stack.settings.name,
        "task": stack.settings.model.task,
        "device": str(run.device),
        "private": stack.private,
        "steps": [
            {
                "section": placed.section,
                "key": placed.key,
                "use": placed.use,
                **placed.origin,
                "where": placed.where,
            }
            for placed in stack.steps
        ],
        "rows": {split: len(rows) for split, rows in run.data.items()},
        "groups": _groups(run),
        "network": _network(run),
        "warnings": warnings(stack),
    }
    if not stack.cleans_only:
        described["labels"] = run.labels
        described["parameters"] = {
            "total": sum(p.numel() for p in run.model.parameters()),
            "trainable": sum(p.numel() for p in run.model.parameters() if p.requires_grad),
        }
    if stack.trains:
        described["updates"] = run.updates
        described["batch_size"] = stack.settings.train.batch_size
        described["statistics"] = run.widths
    return described


def warnings(stack: Stack) -> list[str]:
    """What is allowed and should be known, each with its line."""
    found = []
    if stack.private:
        guard = next(str(placed) for placed in stack.steps if placed.step.breaks)
        found += [
            f"{placed.where}  {placed} reads private data outside the epsilon of {guard}"
            for placed in stack.steps
            if placed.reads_private
        ]
    if stack.trains and stack.settings.data.validation is None:
        found.append(f"{stack.where('data')}  data.validation: not given, so a tenth of train is set aside")
    if not stack.settings.data.test and not stack.cleans_only:
        found.append(f"{stack.where('data')}  data.test: not given, so no figure is of rows that no choice was made on")
    return found


def _groups(run: Run) -> dict[str, dict[str, Any]]:
    """The smallest group of each sensitive column, by split."""
    found: dict[str, dict[str, Any]] = {}
    for column in run.config.data.sensitive:
        for split, rows in run.data.items():
            values = rows[column][:]
            counts = {value: values.count(value) for value in run.group_values[column]}
            smallest = min(counts, key=counts.__getitem__)
            found.setdefault(column, {})[split] = {
                "smallest": smallest,
                "rows": counts[smallest],
                "missing": values.count(None),
            }
    return found


def _network(run: Run) -> list[str]:
    data, used = run.config.data, []
    files = [data.train, data.validation, *(data.test.values() if isinstance(data.test, dict) else [data.test])]
    used += [f"data: {name}" for name in files if name and name.startswith("hf:")]
    if not run.stack.cleans_only and not run.stack.answering("model"):
        from upright.engine.source import resolve

        source = resolve(run)
        used += [f"model: {source.name}"] if source.folder is None else []
    return used


def _estimate(run: Run) -> dict[str, Any]:
    """Seconds and memory from forward and backward passes over batches of the configured size."""
    size = min(run.config.train.batch_size, len(run.data["train"]))
    run.model.train()
    seconds = []
    for n in range(PROBES):
        rows = [(n * size + place) % len(run.data["train"]) for place in range(size)]
        started = time.perf_counter()
        for batch in run.batches(rows):
            torch.autograd.backward(run.losses(batch)[0].sum())
        seconds.append(time.perf_counter() - started)
        run.model.zero_grad(set_to_none=True)
    trainable = sum(p.numel() * p.element_size() for p in run.model.parameters() if p.requires_grad)
    total = sum(p.numel() * p.element_size() for p in run.model.parameters())
    memory: dict[str, Any] = {"weights_bytes": total, "optimizer_bytes": 3 * trainable}
    if run.device.type == "cuda":
        memory["peak_bytes"] = torch.cuda.max_memory_allocated(run.device)
    return {
        "seconds_per_update": round(sorted(seconds)[len(seconds) // 2], 4),
        "training_seconds": round(sorted(seconds)[len(seconds) // 2] * run.updates, 1),
        **memory,
    }
