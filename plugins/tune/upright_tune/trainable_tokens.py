"""Training of single rows of the embedding table (peft's trainable tokens; Hayes et al., 2024, arXiv:2406.09009)."""

from __future__ import annotations

from typing import Any, ClassVar

from pydantic import Field

from upright import Run, Step, hook
from upright.errors import ConfigError
from upright_tune.through_peft import adapt, merged

REASON = "its encoder and decoder read one table through two modules, and peft would train two versions of it"


class TrainableTokens(Step):
    """Train the embeddings of some of the tokenizer's tokens, and the head; for words that the base hardly knows."""

    refuses: ClassVar[dict[str, str]] = {"t5": REASON, "mt5": REASON}

    tokens: list[str] = Field(
        min_length=1, description="Tokens as the tokenizer writes them, such as `fever` or `##itis`."
    )
    merge: bool = Field(False, description="Write the trained rows into the table after training.")

    @hook
    def tune(self, model: Any, run: Run) -> Any:
        from peft import TrainableTokensConfig

        vocabulary = run.tokenizer.get_vocab()
        placed = run.stack.placed(self)
        for token in self.tokens:
            if token not in vocabulary:
                pieces = run.tokenizer.tokenize(token)
                raise ConfigError(
                    f"{placed.where}  {placed}.tokens: {token!r} is no token of the model; it reads it as {pieces}"
                )
        table = model.get_input_embeddings()
        name = next(name for name, module in model.named_modules() if module is table)
        numbers = sorted({vocabulary[token] for token in self.tokens})
        return adapt(self, model, run, lambda: TrainableTokensConfig(token_indices=numbers, target_modules=[name]))

    @hook
    def finalize(self, model: Any) -> Any:
        return merged(model) if self.merge else model
