"""The pages of a run: failures are seen, text is escaped, and nothing acts. A browser opens them in test_pages.py."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

from upright import Attribution, Run, Section, Stack, Step, Verdict, hook
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


class Shouts(Step):
    """Explains one row by tokens that would act, and a long one; it is doubted, and something else is."""

    @hook
    def explain(self, rows: Any) -> list[Attribution]:
        import numpy as np

        short = (["<script>alert(1)</script>", "calm"], [(0, 5), (6, 9)], np.array([1.0, -0.5]))
        long = ([f"w{n}" for n in range(5000)], [(n, n + 1) for n in range(5000)], np.arange(5000.0) % 1000)
        return [Attribution(rows[n]["row_id"], "sick", *told) for n, told in enumerate((short, long))]

    @hook
    def report(self) -> Section:
        return Section("Shouting", [Text("loud")])

    @hook
    def judge(self) -> list[Verdict]:
        return [
            Verdict("one", "violated", "it <b>fails</b>", about="breaks"),
            Verdict("two", "insufficient evidence", "it may be chance", about="breaks"),
            Verdict("three", "met", "it is calm", about="breaks"),
            Verdict("four", "violated", "somebody else fails", about="another"),
        ]


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


@pytest.fixture(scope="module")
def shouting(tiny_bert: Path, toy_files: dict[str, Any], tmp_path_factory: pytest.TempPathFactory) -> str:
    toy = {
        "name": "shouting",
        "data": toy_files,
        "model": {"base": str(tiny_bert)},
        "tune": "lora",
        "train": {"max_steps": 1, "batch_size": 8},
        "output": str(tmp_path_factory.mktemp("shouting")),
    }
    return (run_with(toy, Shouts()).folder / "report.html").read_text()


def test_what_is_said_against_a_step_stands_beside_its_section_and_every_picture(shouting: str) -> None:
    gates, _, rest = shouting.partition('id="section-train"')
    section, _, pictures = rest.partition('id="explanations"')
    rows = pictures.split('<div class="row">')[1:]
    assert len(rows) == 2
    for part in (section, *rows):
        assert part.count('<div class="failed">it &lt;b&gt;fails&lt;/b&gt;</div>') == 1
        assert part.count('<div class="note">it may be chance</div>') == 1
        assert "it is calm" not in part
        assert "somebody else" not in part
    assert "it is calm" in gates
    assert "somebody else" in gates


def test_a_long_text_shows_its_strongest_tokens_and_says_what_it_leaves_out(shouting: str) -> None:
    assert "<script" not in shouting
    assert "&lt;script&gt;alert(1)" in shouting
    row = shouting.split('<div class="row">')[2].partition("</div>\n</div>")[0]
    shown = re.findall(r">w(\d+)<", row)
    left_out = [int(count.replace(",", "")) for count in re.findall(r"… ([\d,]+) tokens …", row)]
    assert len(shown) + sum(left_out) == 5000
    assert 100 < len(shown) <= 200
    assert {"999", "1999", "2999", "3999", "4999", "1004"} <= set(shown)
    assert "500" not in shown


def test_explained_texts_are_those_that_the_pii_step_masked(toy: dict[str, Any], tmp_path: Path) -> None:
    path = tmp_path / "test.jsonl"
    texts = [f"fever write qvxjz{n}@example.org today" for n in range(6)]
    path.write_text(
        "".join(json.dumps({"text": text, "label": "sick", "sex": "fm"[n % 2]}) + "\n" for n, text in enumerate(texts))
    )
    toy["data"]["test"] = str(path)
    run = execute(Stack.load({**toy, "privacy": "pii", "explain": {"use": "integrated-gradients", "samples": 6}}))
    found = json.loads((run.folder / "evidence" / "attributions.json").read_text())["steps"]["integrated-gradients"]
    told = ["".join(token.removeprefix("##") for token in row["tokens"]) for row in found["rows"]]
    assert len(told) == 6
    assert all("fever" in text and "qvxjz" not in text for text in told)
    page = re.sub(r"<[^>]+>", "", (run.folder / "report.html").read_text())
    assert "fever" in page
    assert "qvxjz" not in page


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
