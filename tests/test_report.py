"""The pages of a run: failures are seen, text is escaped, and nothing acts. A browser opens them in test_pages.py."""

from __future__ import annotations

import json
from typing import Any

import pytest

from upright import Run, Section, Stack, Step, hook
from upright.engine.execute import execute
from upright.evidence.metrics import read_metrics
from upright.objects import Svg, Text
from upright.stack import Placed


class Breaks(Step):
    """Fails when it is asked to report and draws a picture that runs something."""

    picture: str = ""

    @hook
    def report(self, run: Run) -> Section:
        if not self.picture:
            raise RuntimeError("<b>no & nothing</b>")
        return Section("<script>alert(1)</script>", [Text("<img src=x>"), Svg(self.picture)])


def run_with(toy: dict[str, Any], step: Step) -> Run:
    stack = Stack.load(toy)
    stack.steps.append(Placed("train", "breaks", "breaks", step, "test:1:1"))
    return execute(stack)


def test_a_step_that_fails_in_its_report_is_failed_never_absent(toy: dict[str, Any]) -> None:
    run = run_with(toy, Breaks())
    assert run.exit_code == 1
    page = (run.folder / "report.html").read_text()
    assert "failed – RuntimeError" in page.replace("breaks: ", "")
    assert "<b>no" not in page
    assert "&lt;b&gt;no &amp; nothing" in page
    assert json.loads((run.folder / "status.json").read_text())["state"] == "failed"
    assert (run.folder / "manifest.json").is_file()


@pytest.mark.parametrize(
    "picture",
    [
        '<svg xmlns="http://www.w3.org/2000/svg"><script>1</script></svg>',
        '<svg xmlns="http://www.w3.org/2000/svg" onload="x()"></svg>',
        '<svg xmlns="http://www.w3.org/2000/svg"><a href="http://x"><text>x</text></a></svg>',
        '<svg xmlns="http://www.w3.org/2000/svg"><rect fill="url(http://x)"/></svg>',
        "<!DOCTYPE x [<!ENTITY a 'b'>]><svg xmlns='http://www.w3.org/2000/svg'></svg>",
        "<svg",
    ],
)
def test_what_a_step_writes_cannot_act_in_the_page(toy: dict[str, Any], picture: str) -> None:
    from upright.report.pictures import checked

    assert checked(picture) is None


def test_text_of_steps_is_escaped_and_the_page_points_nowhere(toy: dict[str, Any]) -> None:
    run = run_with(toy, Breaks(picture='<svg xmlns="http://www.w3.org/2000/svg" onload="x()"></svg>'))
    page = (run.folder / "report.html").read_text()
    assert "<script" not in page
    assert "<img" not in page
    assert "a picture was refused" in page
    assert "http://" not in page.replace("http://www.w3.org/2000/svg", "")
    assert "src=" not in page.replace("&lt;img src=x&gt;", "")


def test_a_second_run_tells_what_changed(toy: dict[str, Any]) -> None:
    first = execute(Stack.load(toy))
    assert "first finished run" in (first.folder / "CHANGELOG.md").read_text()
    toy["tune"]["rank"] = 4
    second = execute(Stack.load(toy))
    changes = (second.folder / "CHANGELOG.md").read_text()
    assert f"Against run {first.folder.name}" in changes
    assert "`tune[lora].rank`: 2 → 4" in changes
    card = (second.folder / "MODEL_CARD.md").read_text()
    assert card.startswith("---\n")
    assert f"{read_metrics(second.folder)['test/accuracy'].n}" in card
