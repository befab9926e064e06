"""Back-translation as augmentation (Sennrich et al., 2016, arXiv:1511.06709; Xie et al., 2020, arXiv:1904.12848)."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from pydantic import Field

from upright import Decisions, Scope, Step, hook
from upright.errors import ConfigError

if TYPE_CHECKING:
    from datasets import Dataset

    from upright import Run

COLUMNS = ("text", "text_pair", "prompt")
"""What is read, not what is to be written: a completion is left alone."""
LONGEST = 512
"""Tokens of a text where neither the model nor its tokenizer names a limit."""


class BackTranslate(Step):
    """Add to each training row what it reads like after a translation and back, by two models of yours.

    Decoding is by beams, without chance. A row is left alone where a text is too long for a model (it would be cut) or
    comes back unchanged or empty. A row's translation can differ in its last digits, and so in a word, with the rows that
    share its batch: with `batch_size: 1` one row of the data changes one unit and no other.
    """

    tasks: ClassVar[frozenset[str] | None] = frozenset(
        {"text-classification", "text-generation", "text2text-generation"}
    )

    forward_model: str = Field(
        min_length=1, description="Sequence-to-sequence model from the data's language: a folder or a hub id."
    )
    backward_model: str = Field(min_length=1, description="Model of the other direction.")
    forward_prefix: str = Field("", description="Text in front of each input, where the model wants one (T5).")
    backward_prefix: str = Field("", description="The same for the other direction.")
    num_beams: int = Field(4, ge=1, description="Beams of the search; 1 is greedy.")
    max_new_tokens: int = Field(256, ge=1, description="Most tokens of a translation.")
    batch_size: int = Field(16, ge=1, description="Texts that are translated together.")

    @property
    def scope(self) -> Scope:  # type: ignore[override]
        """Training rows; one row changes one unit where every text is translated alone."""
        return Scope(splits=frozenset({"train"}), dp_stability=1 if self.batch_size == 1 else None)

    @hook
    def clean(self, rows: Dataset, split: str, run: Run) -> Decisions:
        columns = [name for name in COLUMNS if name in rows.column_names]
        texts = {name: rows[name][:] for name in columns}
        if not run.private:  # a sum over all records is no figure of one unit
            size = sum(len(text.encode()) for column in texts.values() for text in column if text)
            run.emit("memory", step=run.key(self), split=split, bytes=3 * size)  # as given, there, and back
        wanted = sorted({text for column in texts.values() for text in column if text and text.strip()})
        there = self._translated(wanted, self.forward_model, self.forward_prefix, "forward_model", run)
        middle = sorted({text for text in there.values() if text.strip()})
        back = self._translated(middle, self.backward_model, self.backward_prefix, "backward_model", run)
        final = {text: back.get(between, "").strip() for text, between in there.items()}
        decisions, lost = Decisions(), 0
        for place, row_id in enumerate(rows["row_id"][:]):
            given = {name: texts[name][place] for name in columns if (texts[name][place] or "").strip()}
            if any(not final.get(text) for text in given.values()):
                lost += 1
                continue
            values = {name: final[text] for name, text in given.items() if final[text] != text.strip()}
            if values:
                decisions.add(row_id, "add", "back-translation", values=values)
        if lost and not run.private:
            where = f"{run.stack.placed(self).where}  clean.{run.key(self)}"
            told = f"{lost} of {len(rows)} rows got no copy: a text is too long for a model or has no translation"
            run.emit("warning", message=f"{where}: {told}")
        return decisions

    def _translated(self, texts: Sequence[str], name: str, prefix: str, setting: str, run: Run) -> dict[str, str]:
        """Text -> its translation; a text that is too long is left out."""
        import torch

        tokenizer, model = self._load(name, setting, run)
        lengths = [len(ids) for ids in tokenizer([prefix + text for text in texts])["input_ids"]] if texts else []
        longest = _window(tokenizer, model)
        order = sorted((n for n, length in enumerate(lengths) if length <= longest), key=lambda n: (lengths[n], n))
        found: dict[str, str] = {}
        for start in range(0, len(order), self.batch_size):
            batch = [texts[n] for n in order[start : start + self.batch_size]]
            inputs = tokenizer([prefix + text for text in batch], return_tensors="pt", padding=True)
            inputs = {key: inputs[key].to(run.device) for key in ("input_ids", "attention_mask")}
            with torch.inference_mode():
                output = model.generate(
                    **inputs, num_beams=self.num_beams, do_sample=False, max_new_tokens=self.max_new_tokens
                )
            found |= zip(batch, tokenizer.batch_decode(output, skip_special_tokens=True), strict=True)
        return found

    def _load(self, name: str, setting: str, run: Run) -> tuple[Any, Any]:
        """Tokenizer and model. Raises ConfigError where it is not there or no sequence-to-sequence model."""
        from transformers import AutoConfig, AutoModelForSeq2SeqLM, AutoTokenizer

        folder = run.stack.root / Path(name).expanduser()
        location = str(folder) if folder.is_dir() else name
        where = f"{run.stack.placed(self).where}  clean.{run.key(self)}.{setting}: {name!r}"
        try:
            config = AutoConfig.from_pretrained(location)
            if not config.is_encoder_decoder:
                raise ConfigError(
                    f"{where} is a {config.model_type}, which is no sequence-to-sequence model; name one that translates"
                )
            model: Any = AutoModelForSeq2SeqLM.from_pretrained(location, use_safetensors=True)
            return AutoTokenizer.from_pretrained(location), model.to(run.device).eval()
        except (OSError, ValueError, KeyError, ImportError) as error:
            reason = str(error).strip().split("\n")[0]
            raise ConfigError(f"{where} cannot be loaded ({reason}); name a folder that is there") from error


def _window(tokenizer: Any, model: Any) -> int:
    """Tokens of a text that neither the tokenizer nor the model would cut."""
    limit = getattr(model.config, "max_position_embeddings", None) or LONGEST
    return min(int(tokenizer.model_max_length), int(limit))
