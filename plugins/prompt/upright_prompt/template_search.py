"""Search for a template: a list and edits of it (Prasad et al., 2023, arXiv:2203.07281), halved on validation
(Jamieson and Talwalkar, 2016, arXiv:1502.07943).
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Annotated, Any, ClassVar

from pydantic import AfterValidator, Field

from upright import Section, Step, hook
from upright.errors import ConfigError
from upright_prompt.cut_texts import cut_section, forget_cuts
from upright_prompt.rendering import readable, refuse_unknown_tokens, render
from upright_prompt.template_edits import edited

if TYPE_CHECKING:
    from upright import Run


class TemplateSearch(Step):
    """Choose the template that does best on validation, among those given and edits of them (phrases deleted, swapped, added).

    Successive halving: all are asked about `rows` validation rows, the better half about twice as many, and so on. The
    best is then edited, for as many `rounds` as are asked for. Place it after the step that scores (`verbalizer`).
    """

    tasks: ClassVar[frozenset[str] | None] = frozenset(
        {"text-classification", "text-generation", "text2text-generation"}
    )
    reads_private: ClassVar[bool] = True

    templates: list[Annotated[str, AfterValidator(readable)]] = Field(
        min_length=1, description="Templates to begin with, each as the setting `text` of `template`."
    )
    rounds: int = Field(0, ge=0, description="How often the best is edited and its edits are tried.")
    edits: int = Field(8, ge=1, description="Edits of the best that a round tries.")
    rows: int = Field(32, ge=1, description="Validation rows of the first halving.")

    @hook
    def prepare(self, run: Run) -> None:
        placed = run.stack.placed(self)
        if "validation" not in run.data:
            raise ConfigError(f"{placed.where}  {placed}: templates are chosen on validation; add data.validation")
        place = run.stack.steps.index(placed)
        later = next((p for p in run.stack.answering("forward") if run.stack.steps.index(p) > place), None)
        if later is not None:
            raise ConfigError(
                f"{placed.where}  {placed}: must come after {later} ({later.where}), which scores; move it"
            )
        for template in self.templates:
            refuse_unknown_tokens(self, run, template)
        state = run.keep(self, "search", dict)
        state.clear()  # a resumed run searches again, and finds the same
        best = self._search(run, state)
        state["best"] = state["current"] = best
        forget_cuts(self, run)

    @hook
    def prompt(self, record: dict[str, Any], run: Run) -> dict[str, Any]:
        return render(self, run.keep(self, "search", dict)["current"], record, run)

    @hook
    def report(self, run: Run) -> list[Section]:
        from upright.objects import Table, Text

        state = run.keep(self, "search", dict)
        told = Text(
            f"Chosen on validation: {state['best']!r}. The search scored {state['cost']} rows; figures of validation are of "
            "rows that the choice was made on."
        )
        tried = sorted(state["tried"], key=lambda one: (-one["rows"], -one["score"]))
        rows = [[one["template"], one["round"], one["rows"], one["score"], one["log_likelihood"]] for one in tried[:40]]
        header = ["template", "round", "rows", "accuracy" if run.labels else "log-likelihood", "log-likelihood"]
        sections = [Section("Template search", [told, Table(header, rows)]), cut_section(self, run)]
        return [section for section in sections if section is not None]

    def _search(self, run: Run, state: dict[str, Any]) -> str:
        generator = run.generator(self)
        state |= {"cost": 0, "tried": []}
        best, deleted = self._halved(run, state, self.templates, 0), []
        for number in range(1, self.rounds + 1):
            made = [edited(best, deleted, generator) for _ in range(self.edits)]
            best = self._halved(run, state, [best, *made], number)
        return best

    def _halved(self, run: Run, state: dict[str, Any], templates: list[str], number: int) -> str:
        """The best of some templates; equal ones are tried once, the earlier wins a tie."""
        left = list(dict.fromkeys(templates))
        order = _shuffled(len(run.data["validation"]), run, self)
        size = min(self.rows, len(order))
        while True:
            scores = {template: self._score(run, state, template, order[:size], number) for template in left}
            left.sort(key=scores.__getitem__, reverse=True)
            if len(left) == 1 or size == len(order):
                return left[0]
            left, size = left[: math.ceil(len(left) / 2)], min(2 * size, len(order))

    def _score(
        self, run: Run, state: dict[str, Any], template: str, rows: list[int], number: int
    ) -> tuple[float, float]:
        """Accuracy (where there are classes) and mean log-likelihood of what is right, over validation rows."""
        import torch

        state["current"] = template
        hidden = {"row_id", "unit", *run.config.data.sensitive}
        chosen = run.data["validation"].select(rows)
        records = chosen.remove_columns([name for name in chosen.column_names if name in hidden]).to_list()
        right, likelihood = 0.0, 0.0
        with torch.no_grad():
            for batch in run.batches_of(records):
                found = run.task.predict(batch, run.forward(batch), run)
                if run.labels:
                    pairs = list(zip(found["label"], found["decision"], found["scores"], strict=True))
                    right += sum(label == decision for label, decision, _ in pairs)
                    likelihood += sum(math.log(max(scores[label], 1e-12)) for label, _, scores in pairs)
                else:
                    each = zip(found["log_likelihood"], found["tokens"], strict=True)
                    likelihood += sum(value / max(1, tokens) for value, tokens in each)
        state["cost"] += len(rows)
        score, mean = (right if run.labels else likelihood) / len(rows), likelihood / len(rows)
        told = {"template": template, "round": number, "rows": len(rows), "score": score, "log_likelihood": mean}
        state["tried"].append(told)
        return score, mean


def _shuffled(count: int, run: Run, step: Step) -> list[int]:
    import torch

    order: list[int] = torch.randperm(count, generator=run.generator(step)).tolist()
    return order
