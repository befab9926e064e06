"""Which tokens of a prompt drive the answer that a language model writes (Miglani et al., 2023, arXiv:2312.05491); captum."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from pydantic import Field

from upright import Attribution, Metric, Run, Section, Step, hook
from upright.errors import ConfigError
from upright.objects import Table, Text
from upright_explain.answers import blank_of, causal, greedy, masked, prompt_of
from upright_explain.attribution import drawn
from upright_explain.estimates import mean, told

if TYPE_CHECKING:
    from datasets import Dataset
    from torch import Tensor

    from upright.objects import Target

FILE = "lm-attribution.json"
SMALL = 0.05
"""Nats. An answer that is that little likelier with the prompt than without has nothing to be divided among tokens."""


class LmAttribution(Step):
    """Divide the log-probability of the answer that the model writes, less that without the prompt's words, among these.

    The answer is the likeliest token after token, through the run's own forward pass, so that adapters and virtual tokens make
    no difference. What stands for no word is the pad token.
    """

    tasks: ClassVar[frozenset[str] | None] = frozenset({"text-generation"})

    samples: int = Field(10, ge=1, description="Prompts that are answered and explained, drawn with the seed.")
    method: Literal["feature_ablation", "shapley_value_sampling", "layer_integrated_gradients"] = Field(
        "feature_ablation",
        description="feature_ablation: one token away at a time; shapley_value_sampling: in random orders; "
        "layer_integrated_gradients: along a path from no words.",
    )
    max_new_tokens: int = Field(20, ge=1, description="Tokens of an answer at the most, as in transformers.")
    n_samples: int = Field(25, ge=1, description="shapley_value_sampling: orders that are drawn, as in captum.")
    n_steps: int = Field(50, ge=2, description="layer_integrated_gradients: points of the path, as in captum.")

    @hook
    def prepare(self, run: Run) -> None:
        if not all("completion" in rows.column_names for rows in run.data.values()):
            placed = run.stack.placed(self)
            raise ConfigError(
                f"{placed.where}  {placed} explains what a model writes after a prompt, and the data has none; give it the "
                "columns `prompt` and `completion` or remove the step"
            )

    @hook
    def explain(self, target: Target, rows: Dataset, run: Run) -> list[Attribution]:
        import torch

        found, lines = [], []
        for row in sorted(drawn(rows, self.samples, self, run)):
            for batch in target.batches([row]):
                prompt = prompt_of(batch)
                model = causal(batch, run)
                answer = greedy(model, prompt, self.max_new_tokens, run)
                words = ~torch.isin(prompt, torch.tensor(run.tokenizer.all_special_ids, device=prompt.device))
                if not (bool(words.any()) and len(answer)):
                    continue
                scores = torch.zeros(len(prompt), dtype=torch.float64)
                scores[words.cpu()] = self._attribute(model, prompt, answer, row, run).double().cpu()
                blank = prompt.where(~words, blank_of(run))
                whole = log_probability(model, prompt, answer) - log_probability(model, blank, answer)
                text = masked(
                    run.tokenizer.decode(answer, skip_special_tokens=True), rows.select([row]), batch.split, run
                )
                tokens = target.tokens(batch)[0][: len(prompt)]
                found.append(
                    Attribution(
                        rows[row]["row_id"],
                        text,
                        [token for token, _, _ in tokens],
                        [(start, end) for _, start, end in tokens],
                        scores.numpy(),
                    )
                )
                line = {"tokens": len(answer), "whole": whole, "parts": float(scores.sum())}
                lines.append({"row_id": rows[row]["row_id"], **line})
        run.keep(self, "rows", lambda: lines)
        return found

    def _attribute(self, model: Any, prompt: Tensor, answer: Tensor, row: int, run: Run) -> Tensor:
        """One score for each token of the prompt that is not special."""
        import torch
        from captum.attr import (
            FeatureAblation,
            LayerIntegratedGradients,
            LLMAttribution,
            LLMGradientAttribution,
            ShapleyValueSampling,
            TextTokenInput,
        )

        tokenizer = AsGiven(prompt, answer, run.tokenizer)
        given = TextTokenInput("", tokenizer, blank_of(run), run.tokenizer.all_special_ids)
        if self.method == "layer_integrated_gradients":
            gradients = LLMGradientAttribution(LayerIntegratedGradients(model, model.embedding), tokenizer)
            return gradients.attribute(given, target=answer, n_steps=self.n_steps).seq_attr
        shapley = self.method == "shapley_value_sampling"
        method = ShapleyValueSampling(model) if shapley else FeatureAblation(model)
        options = {"n_samples": self.n_samples} if shapley else {}
        by = LLMAttribution(method, tokenizer)
        with torch.random.fork_rng(devices=[run.device] if run.device.type == "cuda" else []), torch.no_grad():
            torch.manual_seed(run.generator(self, row=row).initial_seed())
            return by.attribute(given, target=answer, forward_in_tokens=False, **options).seq_attr

    @hook
    def save(self, folder: Path, run: Run) -> None:
        lines = run.keep(self, "rows", list)
        (folder / FILE).write_text(json.dumps(lines, indent=1) + "\n", encoding="utf-8")

    @hook
    def account(self, folder: Path, run: Run) -> dict[str, Metric]:
        lines = json.loads((folder / FILE).read_text(encoding="utf-8"))
        return {"prompt_effect": mean([line["whole"] for line in lines])} if lines else {}

    @hook
    def report(self, run: Run) -> Section | None:
        lines = run.keep(self, "rows", list)
        if not lines:
            return None
        effect = run.metrics[f"run/{run.home(self)}/prompt_effect"]
        text = (
            f"{len(lines)} answers by {self.method}. With the prompt's words an answer's log-probability is "
            f"{effect.value:.3g} higher than with pad tokens in their place (mean, 95 % interval {told(effect)})."
        )
        if self.method != "feature_ablation":
            errors = [abs(line["parts"] - line["whole"]) / max(abs(line["whole"]), SMALL) for line in lines]
            text += f" The parts add up to that within {max(errors):.2%}."
        table = [(line["row_id"], line["tokens"], line["whole"], line["parts"]) for line in lines]
        return Section(
            "What drives the answers",
            [Text(text), Table(["row", "tokens of the answer", "the prompt adds", "sum of the parts"], table)],
        )


def log_probability(model: Any, prompt: Tensor, answer: Tensor) -> float:
    """Of the whole answer after the prompt."""
    import torch

    with torch.no_grad():
        logits = model(torch.cat([prompt, answer]).unsqueeze(0)).logits[0, len(prompt) - 1 : -1]
        return float(torch.log_softmax(logits.double(), -1).gather(1, answer.unsqueeze(1)).sum())


class AsGiven:
    """A tokenizer for captum that makes the tokens which the model was given, and never others of their text."""

    def __init__(self, prompt: Tensor, answer: Tensor, tokenizer: Any) -> None:
        self.prompt, self.answer, self.tokenizer = prompt, answer, tokenizer

    def encode(self, text: str, **options: Any) -> Tensor:
        """The prompt ``[1, P]``, on the CPU, where captum looks for special tokens."""
        return self.prompt.cpu().unsqueeze(0)

    def decode(self, ids: Tensor) -> str:
        """A letter for each token of the answer, whose text captum asks for and nobody reads."""
        return "x" * len(ids)

    def convert_ids_to_tokens(self, ids: list[int]) -> list[str]:
        """As the real one."""
        tokens: list[str] = self.tokenizer.convert_ids_to_tokens(ids)
        return tokens

    def __call__(self, text: str, **options: Any) -> dict[str, Any]:
        """The answer, each token with its letter's place."""
        return {"input_ids": self.answer.tolist(), "offset_mapping": [(n, n + 1) for n in range(len(text))]}
