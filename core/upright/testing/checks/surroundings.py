"""Does a step leave alone what is not its own?"""

from __future__ import annotations

from typing import TYPE_CHECKING

from upright.testing.outcome import Failed, Skipped

if TYPE_CHECKING:
    from upright.testing.subject import Subject


def leaves_core_alone(subject: Subject) -> str:
    """Neither its import nor a run sets an attribute of core's modules and classes: a step answers hooks, no more."""
    try:
        at_import = subject.imported.changed
    except (Failed, Skipped):  # `imports-lightly` tells why
        at_import = []
    if at_import:
        raise Failed(f"importing its module changes {at_import[0]}; answer a hook, or wrap one, instead")
    if subject.main.changed:
        raise Failed(f"the run changed {subject.main.changed[0]}; answer a hook, or wrap one, instead")
    return "core is as it was"


def writes_inside(subject: Subject) -> str:
    """It writes into its run's folder, folders for temporary files and caches, and nowhere else."""
    if subject.main.outside:
        raise Failed(f"the run wrote {subject.main.outside[0]}; write into the folder that `save` is given")
    return "nothing was written outside the run's folder"
