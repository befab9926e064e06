"""Do explanations follow the model (DeYoung et al., 2020, arXiv:1911.03429; Yeh et al., 2019, arXiv:1901.09392; Adebayo et
al., 2018, arXiv:1810.03292), and are they what people would mark?"""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from pydantic import Field

from upright import Attribution, Capability, Metric, Section, Step, Verdict, hook
from upright.errors import ConfigError, IntegrityError
from upright_explain.randomisation import STAGES

if TYPE_CHECKING:
    from datasets import Dataset

    from upright import Run
    from upright.objects import Target

FILE = "rows.json"
TOLD = {"head": "the head", "top_half": "the head and the upper half", "all": "every layer"}


class Faithfulness(Step):
    """Check what the explainers before it said: against erased tokens, against a randomised model, against people.

    An explainer whose order of tokens does not follow the model fails, and the report says so beside each of its pictures.
    """

    needs: ClassVar[frozenset[Capability]] = frozenset({Capability.CLASS_SCORES})
    tasks: ClassVar[frozenset[str] | None] = frozenset({"text-classification"})

    samples: int = Field(
        16,
        ge=4,
        description="Explained rows of each explainer that are checked, drawn with the seed; half of them are explained again.",
    )
    min_fall: float = Field(
        0.5,
        gt=0,
        le=1,
        description="How far the rank correlation of a row's attributions must fall where the head is drawn anew.",
    )
    rationales: str | None = Field(
        None,
        description="Column of `data.columns` with the words that people marked, one 0 or 1 for each word of the text.",
    )
    on_fail: Literal["block", "warn"] = Field(
        "warn", description="block: an explainer that fails ends the run with exit code 4."
    )

    @hook
    def prepare(self, run: Run) -> None:
        """Raises ConfigError where nothing would be checked, or a rationale could not be laid over the text."""
        mine = run.stack.placed(self)
        where = f"{mine.where}  {mine.section}.{mine.key}"
        others = [
            placed
            for placed in run.stack.answering("explain")
            if not isinstance(placed.step, (Faithfulness, *_silent()))
        ]
        place = run.stack.steps.index(mine)
        late = next((placed for placed in others if run.stack.steps.index(placed) > place), None)
        if late is not None:
            raise ConfigError(f"{where}: {late} ({late.where}) stands after it and would go unchecked; list it before")
        if not others:
            raise ConfigError(f"{where}: there is no explainer to check; list one before it, or remove it")
        if self.rationales is None:
            return
        if self.rationales not in run.config.data.columns:
            raise ConfigError(
                f"{where}.rationales: {self.rationales!r} is no column of data.columns "
                f"({run.stack.where('data', 'columns')}); add it there"
            )
        prompting = next(iter(run.stack.answering("prompt")), None)
        if prompting is not None:
            raise ConfigError(
                f"{where}.rationales: people marked words of the text, and {prompting} ({prompting.where}) gives the model "
                "another one; remove one of the two"
            )

    @hook
    def explain(self, target: Target, rows: Dataset, run: Run) -> list[Attribution]:
        """Explains nothing itself: looks at what the steps before it explained."""
        from upright.errors import UprightError
        from upright_explain.checks import against_people, against_the_model

        found = run.keep(self, "found", dict)
        found.clear()
        for answer in run.calls.answers("explain"):
            key = run.key(answer.step)
            explained = run.attributions.get(key)
            if not explained:
                continue

            def ask(view: Any, answer: Any = answer) -> list[Attribution]:
                return answer({"target": view, "rows": rows, "run": run}) or []

            generator = run.generator(f"{run.key(self)}/{key}")
            found[key] = against_the_model(ask, explained, self.samples, target, rows, run, generator)
            found[key]["completeness_error"] = [one.completeness_error for one in explained]
            marked = against_people(explained, self.rationales, rows, run, generator) if self.rationales else []
            found[key]["rationales"] = marked
        if not found:
            raise UprightError(
                f"{run.stack.placed(self)}: no explainer before it explained a row, so nothing was checked"
            )
        return []

    @hook
    def save(self, folder: Path, run: Run) -> None:
        """``rows.json``: what was found of each explained row; no text."""
        (folder / FILE).write_text(json.dumps(run.keep(self, "found", dict)), encoding="utf-8")

    @hook
    def account(self, folder: Path, run: Run) -> dict[str, Metric]:
        from upright_explain.checks import figures

        path = folder / FILE
        try:
            found: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise IntegrityError(f"{path}: cannot be read ({error}); without it no explainer was checked") from error
        return {
            f"{name}/{key}": metric
            for key, content in found.items()
            for name, metric in figures(content, run.seed).items()
        }

    @hook
    def judge(self, metrics: dict[str, Metric], run: Run) -> list[Verdict]:
        """Of each explainer: does its order of tokens follow the model, and does it find tokens that matter?"""
        home = f"run/{run.home(self)}/"
        mine = {key.removeprefix(home): metric for key, metric in metrics.items() if key.startswith(home)}
        explainers = [name.removeprefix("rows/") for name in mine if name.startswith("rows/")]
        return [verdict for key in explainers for verdict in (self._sanity(key, mine), self._gain(key, mine))]

    def _sanity(self, key: str, found: dict[str, Metric]) -> Verdict:
        gate = f"sanity of {key}"
        stage = next((stage for stage in STAGES if f"fall_{stage}/{key}" in found), None)
        fall = found[f"fall_{stage}/{key}"] if stage else None
        if stage is None or fall is None or fall.low is None or fall.high is None:
            return self._unchecked(gate, key)
        told = f"where {TOLD[stage]} is drawn anew, the rank correlation of its attributions falls by {_told(fall)}"
        if fall.high < self.min_fall:
            sentence = f"{key} fails its sanity check: {told}, under {self.min_fall:g}, so it does not follow the model"
            return Verdict(gate, "violated", sentence, self.on_fail, about=key)
        if fall.low < self.min_fall:
            sentence = f"{gate}: {told}; {self.min_fall:g} lies inside, check more samples"
            return Verdict(gate, "insufficient evidence", sentence, self.on_fail, about=key)
        return Verdict(gate, "met", f"{gate}: {told}, not under {self.min_fall:g}", self.on_fail, about=key)

    def _gain(self, key: str, found: dict[str, Metric]) -> Verdict:
        gate = f"comprehensiveness of {key}"
        gain = found.get(f"comprehensiveness_gain/{key}")
        if gain is None or gain.low is None or gain.high is None:
            return self._unchecked(gate, key)
        told = f"without its strongest tokens the decided class's probability falls by {_told(gain)} more than without"
        if gain.high < 0:
            sentence = f"{key} fails: {told} random ones, so it names tokens that do not matter"
            return Verdict(gate, "violated", sentence, self.on_fail, about=key)
        if gain.low <= 0:
            sentence = f"{gate}: {told} random ones; 0 lies inside, so it may be no better than chance"
            return Verdict(gate, "insufficient evidence", sentence, self.on_fail, about=key)
        return Verdict(gate, "met", f"{gate}: {told} random ones", self.on_fail, about=key)

    def _unchecked(self, gate: str, key: str) -> Verdict:
        sentence = f"{gate}: it could not be asked again, or explained too few rows; evidence/explain.json says which"
        return Verdict(gate, "insufficient evidence", sentence, self.on_fail, about=key)

    @hook
    def report(self, run: Run) -> Section | None:
        from upright_explain.faithfulness_report import section

        found = run.keep(self, "found", dict)
        home = f"run/{run.home(self)}/"
        mine = {key.removeprefix(home): metric for key, metric in run.metrics.items() if key.startswith(home)}
        return section(found, mine, self.rationales) if found else None


def _told(metric: Metric) -> str:
    return f"{metric.value:.2f} [{metric.low:.2f}, {metric.high:.2f}]"


def _silent() -> tuple[type[Step], ...]:
    """The steps of this distribution that answer `explain` and attribute nothing to tokens."""
    from upright_explain.adapter_effect import AdapterEffect
    from upright_explain.counterfactual import Counterfactual
    from upright_explain.global_tokens import Global
    from upright_explain.influence import Influence

    return AdapterEffect, Counterfactual, Global, Influence
