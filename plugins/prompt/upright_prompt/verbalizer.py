"""Classification by a language model's own words (Schick and Schütze, 2021, arXiv:2001.07676).

For causal models Brown et al. (2020, arXiv:2005.14165).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, Literal

from pydantic import Field

from upright import Capability, Output, Section, Step, hook
from upright.errors import ConfigError
from upright_prompt.label_words import label_tokens, masked_tokens, trailing_tokens
from upright_prompt.language_models import Kind, kind_of

if TYPE_CHECKING:
    from torch import Tensor
    from torch.nn import Module

    from upright import Batch, Run

AUTO: dict[Kind, str] = {
    "masked": "AutoModelForMaskedLM",
    "causal": "AutoModelForCausalLM",
    "seq2seq": "AutoModelForSeq2SeqLM",
}


class Verbalizer(Step):
    """Score each label by how likely the model finds its word: at the mask, as the continuation, or as the answer.

    A masked model (BERT) is asked for the word at `{mask_token}` of the prompt, one token a label; a causal model (Llama)
    continues the prompt, an encoder-decoder (T5) answers it, and a word may be several tokens. No training.
    """

    needs: ClassVar[frozenset[Capability]] = frozenset({Capability.UNTUNED})
    tasks: ClassVar[frozenset[str] | None] = frozenset({"text-classification"})

    label_words: dict[str, str] = Field(
        default_factory=dict, description="Label: the word that stands for it; default: the label's own name."
    )
    length_normalization: Literal["tokens", "characters", "none"] = Field(
        "tokens", description="What a word's log-likelihood is divided by, so that long words are not worse."
    )

    @hook
    def model(self, run: Run) -> Module:
        return run.load_as(AUTO[self._kind(run)])

    @hook
    def prepare(self, run: Run) -> None:
        tokens = self._tokens(run)
        if self._kind(run) == "causal":
            room = max(map(len, tokens.values()))
            if run.max_length - room < 2:
                raise self._refusal(
                    run, f"the label words leave no room for a text in the model's {run.max_length} tokens"
                )
            run.max_length -= room

    @hook
    def forward(self, batch: Batch, run: Run) -> Output:
        import torch

        from upright_prompt import label_scores

        kind, words = self._kind(run), list(self._tokens(run).values())
        if kind == "masked":
            return Output(self._at_the_mask(batch, run, [tokens[0] for tokens in words]))
        if kind == "causal":
            scores = label_scores.continued(run.model, batch.inputs, words, trailing_tokens(run.tokenizer))
        else:
            scores = label_scores.answered(run.model, batch.inputs, words)
        lengths = {
            "tokens": [len(tokens) for tokens in words],
            "characters": [max(1, len(self._word(label))) for label in run.labels],
            "none": [1] * len(words),
        }[self.length_normalization]
        return Output(scores / torch.tensor(lengths, device=scores.device))

    @hook
    def report(self, run: Run) -> Section:
        from upright.objects import Table, Text

        how = {
            "masked": "the word at the mask",
            "causal": "the words that continue the prompt",
            "seq2seq": "the words that answer the prompt",
        }[self._kind(run)]
        rows = [
            [label, self._word(label), " ".join(run.tokenizer.convert_ids_to_tokens(tokens))]
            for label, tokens in self._tokens(run).items()
        ]
        told = Text(f"Decisions are by {how}; log-likelihoods divided by: {self.length_normalization}.")
        return Section("Label words", [told, Table(["label", "word", "tokens"], rows)])

    def _at_the_mask(self, batch: Batch, run: Run, words: list[int]) -> Tensor:
        from upright_prompt import label_scores

        masks = (batch.inputs["input_ids"] == run.tokenizer.mask_token_id).sum(1)
        if bool((masks != 1).any()):
            row = int(batch.rows[masks != 1][0])
            raise self._refusal(
                run,
                f"row {row} of {batch.split} holds {int(masks[masks != 1][0])} mask tokens; write one {{mask_token}} into "
                "the template",
            )
        return label_scores.masked(run.model, batch.inputs, run.tokenizer.mask_token_id, words)

    def _kind(self, run: Run) -> Kind:
        """What sort of language model the base is. Raises ConfigError where it is none."""
        if run.model is not None:
            names = [type(run.model).__name__]
        else:
            names = list(run.base_config.architectures or [])
        found = next((kind for kind in map(kind_of, names) if kind), None)
        if found is None:
            raise ConfigError(
                f"{run.stack.where('model', 'base')}  model.base: {run.config.model.base!r} was saved as "
                f"{', '.join(names) or 'no known architecture'}, without a language-model head, so a verbalizer's decisions "
                "would be chance; use `label-similarity` or name a language model"
            )
        return found

    def _word(self, label: str) -> str:
        return self.label_words.get(label, label.replace("_", " "))

    def _tokens(self, run: Run) -> dict[str, list[int]]:
        """Label -> token ids of its word, in the order of the labels; made once. Raises ConfigError."""

        def make() -> dict[str, list[int]]:
            unknown = sorted(set(self.label_words) - set(run.labels))
            if unknown:
                raise self._refusal(
                    run, f"{unknown[0]!r} is no label of the data; there are {', '.join(run.labels[:9])}"
                )
            words = {label: self._word(label) for label in run.labels}
            read = masked_tokens if self._kind(run) == "masked" else label_tokens
            try:
                return read(run.tokenizer, words)
            except ValueError as error:
                raise self._refusal(run, str(error)) from error

        return run.keep(self, "tokens", make)

    def _refusal(self, run: Run, sentence: str) -> ConfigError:
        placed = run.stack.placed(self)
        return ConfigError(f"{placed.where}  {placed}: {sentence}")
