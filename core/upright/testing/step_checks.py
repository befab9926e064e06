"""The kit for pytest: a class with one line is a test for every check."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import pytest

from upright.step import Step
from upright.testing.kit import CHECKS, outcome, subject_of
from upright.testing.subject import Subject


class StepChecks:
    """Derive a class named ``Test...`` and set ``step``.

    * ``section``: where the step stands in a stack, if its distribution does not say.
    * ``stack``: what of the kit's stack is to be otherwise, as in a file: ``{"model": {"base": "tiny-gpt2"}}``.
    * ``expected_failures``: check -> reason. Such a test is reported as *xfailed*; where it passes, it fails.
    """

    step: ClassVar[Step]
    section: ClassVar[str | None] = None
    stack: ClassVar[Mapping[str, Any]] = {}
    expected_failures: ClassVar[Mapping[str, str]] = {}

    @pytest.fixture(scope="class")
    @classmethod
    def subject(cls, tmp_path_factory: pytest.TempPathFactory) -> Subject:
        """The step under test with its runs, shared by the checks of the class."""
        unknown = sorted(cls.expected_failures.keys() - CHECKS.keys())
        assert not unknown, f"{unknown[0]!r} is no check; there are {', '.join(CHECKS)}"
        return subject_of(cls.step, tmp_path_factory.mktemp("conform"), cls.section, cls.stack)

    @pytest.mark.parametrize("check", list(CHECKS))
    def test_conforms(self, check: str, subject: Subject) -> None:
        """One check of the kit."""
        found = outcome(check, subject, self.expected_failures)
        if found.status == "skipped":
            pytest.skip(found.detail)
        if found.status == "expected":
            pytest.xfail(found.detail)
        if found.status == "failed":
            pytest.fail(f"{subject.name}: {found.check}: {found.detail}", pytrace=False)
