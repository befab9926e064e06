"""Does a run folder say the truth about itself? Hashes, figures, verdicts and the report, each derived again.

This shows integrity, not authenticity: who can rewrite every file can rewrite them all alike.
"""

from __future__ import annotations

import json
import math
from dataclasses import dataclass, field
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any

from upright.errors import ConfigError, IntegrityError, NoKeyError, PluginError
from upright.evidence.gates import read_gates
from upright.evidence.groups import base_rates, read_groups
from upright.evidence.ledger import count, read_counts, read_ledger
from upright.evidence.lock import read_lock
from upright.evidence.manifest import check_manifest
from upright.evidence.metrics import measure, read_metrics
from upright.evidence.predictions import predicted_splits, read_predictions
from upright.objects import Metric

if TYPE_CHECKING:
    from upright.run import Run
    from upright.step import Step

TOLERANCE = 1e-9
"""Relative. The same float64 sums on another processor may end in another last bit."""


@dataclass
class Verified:
    """What was found. ``problems`` contradict the run; ``unchecked`` could not be looked at."""

    folder: Path
    files: int = 0
    figures: int = 0
    attested: list[str] = field(default_factory=list)
    verdicts: int = 0
    problems: list[str] = field(default_factory=list)
    unchecked: list[str] = field(default_factory=list)
    sealed: str | None = None
    """Why figures were not derived again, where the run is sealed and there is no key. That contradicts nothing."""

    @property
    def exit_code(self) -> int:
        """5 where something contradicts, 3 where a plugin is missing to look, else 0."""
        return IntegrityError.exit_code if self.problems else PluginError.exit_code if self.unchecked else 0


def verify(folder: Path, *, run_code: bool = False) -> Verified:
    """Check a run folder; ``run_code``: run the in-house steps that it brings along, if no file was changed.

    Raises ConfigError where it is none, IntegrityError where its evidence cannot be read at all.
    """
    if not folder.is_dir():
        raise ConfigError(f"{folder}: there is no such run folder; name one, such as runs/<name>/latest")
    folder = folder.resolve()
    found = Verified(folder)
    found.problems, found.files = check_manifest(folder)
    try:
        _figures(found, run_code and not found.problems)
        _report(found)
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        found.problems.append(f"{folder}: its evidence cannot be read ({type(error).__name__}: {error})")
    except (IntegrityError, ConfigError) as error:
        found.problems.append(str(error))
    return found


def _figures(found: Verified, run_code: bool) -> None:
    """Every figure that follows from predictions or a ledger, and every verdict that follows from the figures."""
    recorded = read_metrics(found.folder)
    run = _run(found, run_code)
    try:
        derived = _derived(found, run)
        for key in sorted(recorded.keys() | derived.keys()):
            _compare(found, key, recorded.get(key), derived.get(key), whole=run is not None)
    except NoKeyError as error:
        found.sealed = str(error)
    if run:
        _verdicts(found, run, recorded)


def _derived(found: Verified, run: Run | None) -> dict[str, Metric]:
    """The figures that predictions and ledgers give. Raises NoKeyError where they are sealed and cannot be opened."""
    folder = found.folder
    derived: dict[str, Metric] = {}
    if run is None and (sealing := read_lock(folder).get("sealed")):
        raise NoKeyError(f"{folder}: is sealed by {sealing}, and not every plugin of the run is here")
    seed = run.seed if run else _seed(folder)
    _decisions(found, run)
    groups = read_groups(folder)
    rates, splits = groups.get("base_rates", {}), predicted_splits(folder)
    invented = sorted(rates.keys() - {*splits, "train"})
    if invented:
        found.problems.append(
            f"{folder / 'evidence' / 'groups.json'}: tells of {invented[0]}, a split without predictions"
        )
    for split in splits:
        predictions = read_predictions(folder, split, run)
        if groups and rates.get(split, {}) != base_rates(predictions):
            path = folder / "evidence" / "groups.json"
            found.problems.append(f"{path}: does not count the groups that the predictions of {split} hold")
        derived |= {f"{split}/{key}": metric for key, metric in measure(predictions, seed).items()}
        if run:
            run.labels = predictions.labels
            derived |= run.calls.measure(predictions, run)
    if run:
        with run.opened("steps") as steps:

            def folder_of(step: Step) -> Path:
                (steps / run.key(step)).mkdir(parents=True, exist_ok=True)
                return steps / run.key(step)

            derived |= run.calls.account(folder_of, run)
    return derived


def _decisions(found: Verified, run: Run | None) -> None:
    """evidence/cleaning.json counts the ledger."""
    if read_counts(found.folder) != count(read_ledger(found.folder, run)):
        path = found.folder / "evidence" / "cleaning.json"
        found.problems.append(f"{path}: does not count what data/ledger.parquet holds")


def _run(found: Verified, run_code: bool) -> Run | None:
    """A run without data and model, to ask its steps for figures; None where a plugin is missing."""
    from upright.run import Run

    try:
        return Run.load(found.folder, run_code=run_code)
    except (PluginError, ConfigError) as error:
        found.unchecked.append(f"figures of steps: {error}")
        return None


def _seed(folder: Path) -> int:
    import yaml

    path = folder / "stack.resolved.yaml"
    try:
        return int(yaml.safe_load(path.read_text(encoding="utf-8"))["seed"])
    except yaml.YAMLError as error:
        raise IntegrityError(f"{path}: is no YAML any more: {' '.join(str(error).split())}") from error


def _compare(found: Verified, key: str, told: Metric | None, derived: Metric | None, whole: bool) -> None:
    file = found.folder / "metrics.json"
    if derived is None:
        if told is not None and told.source == "attested":
            found.attested.append(key)
        elif whole:
            found.problems.append(f"{file}: {key!r} follows from nothing that the run holds")
        return
    if derived.source == "attested":
        found.attested.append(key)
        return
    if told is None:
        found.problems.append(f"{file}: {key!r} is left out; the run's {derived.source} give {derived.value:.6g}")
        return
    found.figures += 1
    origin = "its ledger says" if derived.source == "ledger" else "the predictions say"
    for what in ("value", "low", "high"):
        one, other = getattr(told, what), getattr(derived, what)
        if not _same(one, other):
            place = key if what == "value" else f"{key} ({what} end of the interval)"
            found.problems.append(f"{file}: {place!r} is {_told(one)}, but {origin} {_told(other)}")
    if told.n != derived.n or told.source != derived.source:
        found.problems.append(f"{file}: {key!r} is of {told.n} rows from {told.source}, but {origin} {derived.n} rows")


def _same(one: float | None, other: float | None) -> bool:
    if one is None or other is None:
        return one is other
    return math.isclose(one, other, rel_tol=TOLERANCE, abs_tol=TOLERANCE) or (math.isnan(one) and math.isnan(other))


def _told(value: float | None) -> str:
    return "nothing" if value is None else f"{value:.10g}"


def _verdicts(found: Verified, run: Run, metrics: dict[str, Metric]) -> None:
    file = found.folder / "evidence" / "gates.json"
    told, derived = read_gates(found.folder), run.calls.judge(metrics, run)
    found.verdicts = len(derived)
    if told != derived:
        pairs = zip(told, derived, strict=False)
        one = next((verdict for other, verdict in pairs if other != verdict), None)
        what = (
            f"the figures say: {one.sentence}" if one else f"the figures give {len(derived)} verdicts, not {len(told)}"
        )
        found.problems.append(f"{file}: is not what follows from the figures; {what}")
    blocked = any(verdict.judgement == "violated" and verdict.on_fail == "block" for verdict in derived)
    status: dict[str, Any] = json.loads((found.folder / "status.json").read_text(encoding="utf-8"))
    if blocked and status.get("exit_code") == 0:
        found.problems.append(f"{found.folder / 'status.json'}: says 0, but a gate that blocks is violated")


def _report(found: Verified) -> None:
    """The page and the card are functions of the evidence: written again by the same version, they must be the same."""
    from upright.report.card import card
    from upright.report.page import render

    written = read_lock(found.folder).get("distributions", {}).get("upright", {}).get("version")
    if written != metadata.version("upright"):
        return
    for name, write in {"report.html": render, "MODEL_CARD.md": card}.items():
        path = found.folder / name
        if path.read_text(encoding="utf-8") != write(found.folder):
            found.problems.append(f"{path}: does not show what the run's evidence says")
