"""Every check, in the order in which they are told, and `conform`, which makes them."""

from __future__ import annotations

import platform
import tempfile
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from upright.testing.checks import (
    cleaning,
    declarations,
    explaining,
    fairness,
    neighbours,
    privacy,
    records,
    runs,
    surroundings,
    tuning,
)
from upright.testing.outcome import Conformance, Failed, Outcome, Skipped
from upright.testing.subject import Subject, usual_section

if TYPE_CHECKING:
    from upright.catalog import Entry
    from upright.step import Step

CHECKS: dict[str, Callable[[Subject], str]] = {
    "imports-lightly": declarations.imports_lightly,
    "joins-a-hook": declarations.joins_a_hook,
    "settings-described": declarations.settings_described,
    "settings-closed": declarations.settings_closed,
    "settings-round-trip": declarations.settings_round_trip,
    "frozen": declarations.frozen,
    "returns": runs.returns,
    "runs": runs.runs,
    "works-offline": runs.works_offline,
    "leaves-core-alone": surroundings.leaves_core_alone,
    "writes-inside": surroundings.writes_inside,
    "same-seed-same-result": runs.same_seed_same_result,
    "figures-follow": runs.figures_follow,
    "trains-what-it-claims": tuning.trains_what_it_claims,
    "reloads": runs.reloads,
    "save-restores": runs.save_restores,
    "state-survives": runs.state_survives,
    "losses-alone": records.losses_alone,
    "per-unit-gradients": records.per_unit_gradients,
    "cleaner-deterministic": cleaning.cleaner_deterministic,
    "cleaner-shards": cleaning.cleaner_shards,
    "cleaner-stability": cleaning.cleaner_stability,
    "cleaner-undoable": cleaning.cleaner_undoable,
    "explainer-complete": explaining.explainer_complete,
    "explainer-depends-on-model": explaining.explainer_depends_on_model,
    "fairness-permuted-group": fairness.fairness_permuted_group,
    "privacy-sensitivity": privacy.privacy_sensitivity,
    "noise-not-seeded": privacy.noise_not_seeded,
    "beside-others": neighbours.beside_others,
    "cuda-bf16": runs.cuda_bf16,
}
"""Name -> check. A name is part of the kit's contract: authors name the failures that they expect by it."""


def subject_of(step: Step, folder: Path, section: str | None = None, stack: Mapping[str, Any] | None = None) -> Subject:
    """The step with the section and name that an installed distribution gives its class, else by its hooks and class name."""
    entry = _entry(step)
    name = entry.name if entry else type(step).__name__
    return Subject(step, folder, section or (entry.section if entry else usual_section(step)), name, stack or {}, entry)


def outcome(check: str, subject: Subject, expected_failures: Mapping[str, str] | None = None) -> Outcome:
    """Make one check. An expected failure that does not happen is a failure: its announcement is out of date."""
    reason = (expected_failures or {}).get(check)
    said = subject.said(check)
    if isinstance(said, Failed):
        return Outcome(check, "expected", f"{reason} ({said})") if reason else Outcome(check, "failed", str(said))
    if isinstance(said, Skipped):
        return Outcome(check, "skipped", str(said))
    if reason:
        return Outcome(
            check, "failed", f"was expected to fail ({reason}) and did not; remove it from expected_failures"
        )
    return Outcome(check, "passed", str(said))


def conform(
    step: Step,
    *,
    section: str | None = None,
    stack: Mapping[str, Any] | None = None,
    expected_failures: Mapping[str, str] | None = None,
    listen: Callable[[Outcome], None] | None = None,
) -> Conformance:
    """Make every check on a step, on tiny models in a folder that is gone afterwards; seconds to a minute.

    ``section``: where it stands in a stack, if its distribution does not say. ``stack``: what of the kit's stack is to be
    otherwise, as in a file; ``model.base`` may be ``tiny-bert``, ``tiny-gpt2`` or ``tiny-t5``. ``expected_failures``:
    check -> reason. ``listen`` is called with each outcome. Raises KeyError for an expectation of an unknown check.
    """
    unknown = (expected_failures or {}).keys() - CHECKS.keys()
    if unknown:
        raise KeyError(f"{sorted(unknown)[0]!r} is no check; there are {', '.join(CHECKS)}")
    with tempfile.TemporaryDirectory(prefix="upright-conform-") as name:
        subject = subject_of(step, Path(name), section, stack)
        outcomes = []
        for check in CHECKS:
            outcomes.append(outcome(check, subject, expected_failures))
            if listen is not None:
                listen(outcomes[-1])
        return Conformance(
            subject.name,
            subject.section,
            _origin(subject),
            step.model_dump(mode="json"),
            dict(_versions()),
            _device(),
            tuple(outcomes),
        )


def _entry(step: Step) -> Entry | None:
    from upright import catalog

    value = f"{type(step).__module__}:{type(step).__qualname__}"
    return next((entry for entry in catalog.steps() if entry.value == value), None)


def _origin(subject: Subject) -> dict[str, str | None]:
    dist, version = (subject.entry.dist, subject.entry.version) if subject.entry else (None, None)
    return {"dist": dist, "version": version}


def _versions() -> Iterator[tuple[str, str]]:
    from importlib import metadata

    yield "python", platform.python_version()
    for name in ("upright", "torch", "transformers"):
        yield name, metadata.version(name)


def _device() -> str:
    import torch

    return "cuda" if torch.cuda.is_available() else "cpu"
