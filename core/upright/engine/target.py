"""All that an explainer needs of a trained model, whatever wrappers surround it (`upright.objects.Target`)."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from upright.engine.base import transformers_part
from upright.engine.batches import IGNORED, batches, encode
from upright.errors import UprightError
from upright.objects import Batch

if TYPE_CHECKING:
    from upright.run import Run

FUSED = ("eager", "sdpa", "flash_attention_2", "flash_attention_3", "flex_attention")
"""transformers' implementations of the attention that its eager one stands in for."""


class CoreTarget:
    """The run's model on one split, in eval mode, seen from its input embeddings."""

    def __init__(self, run: Run, split: str) -> None:
        self.run = run
        self.split = split
        self.labels = run.labels
        self._words: dict[int, tuple[int, Tensor]] = {}
        run.model.eval()

    def batches(self, rows: Sequence[int]) -> Iterator[Batch]:
        """The rows in batches of similar length."""
        yield from batches(self.run, sorted(rows), self.split)

    def tokens(self, batch: Batch) -> list[list[tuple[str, int, int]]]:
        """Tokens with character offsets into the rendered text (a pair: text, a blank, text_pair; words: joined by blanks)."""
        found = []
        for row in batch.rows.tolist():
            record = encode(self.run, self.split).records[row]
            first = " ".join(record["tokens"]) if "tokens" in record else record["text"]
            second = record.get("text_pair")
            encoded = self._tokenized(record, first, second)
            words = self.run.tokenizer.convert_ids_to_tokens(encoded["input_ids"])
            shift = [0 if part != 1 else len(first) + 1 for part in encoded.sequence_ids(0)]
            starts = _word_starts(record["tokens"]) if "tokens" in record else None
            spans = []
            for place, (start, end) in enumerate(encoded["offset_mapping"]):
                word = encoded.word_ids(0)[place]
                moved = starts[word] if starts is not None and word is not None else shift[place]
                spans.append((words[place], start + moved, end + moved))
            found.append(spans)
        return found

    def _tokenized(self, record: dict[str, Any], first: str, second: str | None) -> Any:
        options = {"truncation": True, "max_length": self.run.max_length, "return_offsets_mapping": True}
        if "tokens" in record:
            return self.run.tokenizer(record["tokens"], is_split_into_words=True, **options)
        return self.run.tokenizer(first, second, **options)

    def embed(self, batch: Batch) -> Tensor:
        """Input embeddings ``[R, T, D]``, detached."""
        with torch.no_grad():
            embedded: Tensor = self._embedding()(batch.inputs["input_ids"])
        return embedded.detach()

    def baseline(self, batch: Batch, kind: str) -> Tensor:
        """Embeddings of pad or mask tokens, or zeros, in the place of every token that is not special."""
        tokenizer, ids = self.run.tokenizer, batch.inputs["input_ids"]
        special = torch.isin(ids, torch.tensor(tokenizer.all_special_ids, device=ids.device))
        if kind == "zero":
            return self.embed(batch) * special.unsqueeze(-1)
        filler = tokenizer.pad_token_id if kind == "pad" else tokenizer.mask_token_id
        if filler is None:
            filler = tokenizer.pad_token_id
        blank = torch.where(special, ids, torch.full_like(ids, filler))
        with torch.no_grad():
            embedded: Tensor = self._embedding()(blank)
        return embedded.detach()

    def scores(self, embeds: Tensor, batch: Batch, target: Tensor) -> Tensor:
        """The logit of class ``target``; for words, its mean over those that were decided so (all, where none was)."""
        with self._injected(embeds):
            logits = self.run.forward(batch).logits
        logits = logits.to(torch.float32) if logits.dtype in (torch.bfloat16, torch.float16) else logits
        if logits.dim() == 2:
            return logits.gather(1, target.unsqueeze(1)).squeeze(1)
        chosen = logits.gather(2, target.view(-1, 1, 1).expand(-1, logits.shape[1], 1)).squeeze(2)
        mask = self._mask(batch, target).to(chosen.dtype)
        return (chosen * mask).sum(1) / mask.sum(1).clamp(min=1)

    def decisions(self, batch: Batch) -> Tensor:
        """The decided class of each row; for words, the most frequent one that is not ``O``."""
        with torch.no_grad():
            output = self.run.forward(batch)
            if output.logits.dim() == 2:
                scores = torch.softmax(output.logits.double(), -1)
                if self.run.calls.answers("decide"):
                    scores = self.run.calls.decide(scores, batch, self.run)
                return scores.argmax(-1)
        decided = output.logits.argmax(-1)
        decided = torch.where(batch.labels == IGNORED, torch.full_like(decided, -1), decided)
        chosen = []
        outside = self.labels.index("O") if "O" in self.labels else -1
        for place, row in enumerate(batch.rows.tolist()):
            mine = decided[place]
            inside = mine[(mine >= 0) & (mine != outside)]
            pick = int(inside.mode().values) if len(inside) else max(outside, 0)
            self._words[row] = (pick, (mine == pick).cpu())
            chosen.append(pick)
        return torch.tensor(chosen, device=decided.device)

    def attentions(self, batch: Batch, target: Tensor) -> tuple[Tensor, Tensor]:
        """Attention of each layer, mean over heads, ``[L, R, T, T]``, and ``Bool[R, T]``: the positions of the last layer
        that the score of ``target`` is read from, which are those whose attention moves it."""
        with self._watched() as seen, torch.enable_grad():
            score = self.scores(self.embed(batch).requires_grad_(True), batch, target)
        layers = (seen and seen[-1]) or ()
        width = batch.inputs["input_ids"].shape[1]
        if not layers or any(layer.shape[-2:] != (width, width) for layer in layers):
            raise UprightError(
                f"the model tells no attention from each of {width} tokens to each; use an explainer that reads scores"
            )
        (moved,) = torch.autograd.grad(score.sum(), layers[-1])
        read = moved.abs().amax(dim=(1, 3)) > 0
        return torch.stack([layer.detach().float().mean(1) for layer in layers]), read

    def plain(self) -> AbstractContextManager[Any]:
        """A context in which adapters are off."""
        disable = getattr(self.run.model, "disable_adapter", None)
        context: AbstractContextManager[Any] = disable() if disable is not None else nullcontext()
        return context

    def parameters(self) -> list[torch.nn.Parameter]:
        """The parameters that training moved."""
        return [parameter for parameter in self.run.model.parameters() if parameter.requires_grad]

    def _embedding(self) -> torch.nn.Module:
        model: Any = self.run.model
        if model.config.is_encoder_decoder and hasattr(model, "get_encoder"):
            model = model.get_encoder()  # its table can be another module than the one that the model names
        module: torch.nn.Module = model.get_input_embeddings()
        return module

    @contextmanager
    def _injected(self, embeds: Tensor) -> Iterator[None]:
        looked_up = []

        def instead(module: Any, given: Any, output: Tensor) -> Tensor:
            looked_up.append(True)
            return embeds

        handle = self._embedding().register_forward_hook(instead)
        try:
            yield
        finally:
            handle.remove()
        if not looked_up:
            raise UprightError(
                "scores do not come from the model's input embeddings, so that no token can be explained; remove the "
                "explainer, or the step that answers `forward`"
            )

    @contextmanager
    def _watched(self) -> Iterator[list[Any]]:
        """The attentions of each forward pass inside; computed without fused kernels, which keep none."""
        part = transformers_part(self.run.model)
        reader = part.get_encoder() if part.config.is_encoder_decoder else part
        usual, seen = part.config._attn_implementation, []
        if usual not in FUSED:
            raise UprightError(
                f"the model's attention ({usual}) is not one of transformers' own, whose weights can be read; use an "
                "explainer that reads scores"
            )
        handle = reader.register_forward_hook(lambda module, given, output: seen.append(output.attentions))
        part.set_attn_implementation("eager")
        reader.config.output_attentions = True
        try:
            yield seen
        finally:
            reader.config.output_attentions = False
            part.set_attn_implementation(usual)
            handle.remove()

    def _mask(self, batch: Batch, target: Tensor) -> Tensor:
        """``Bool[R, T]``: the words that speak for ``target``."""
        words = batch.labels != IGNORED
        mask = words.clone()
        for place, (row, wanted) in enumerate(zip(batch.rows.tolist(), target.tolist(), strict=True)):
            pick, decided = self._words.get(row, (-1, words[place].cpu()))
            if pick == wanted and bool(decided.any()):
                mask[place] = decided[: mask.shape[1]].to(mask.device)  # an explainer may cut padding off
        return mask


def _word_starts(words: list[str]) -> list[int]:
    starts, place = [], 0
    for word in words:
        starts.append(place)
        place += len(word) + 1
    return starts
