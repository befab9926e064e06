"""How likely a language model finds each label's words: log-likelihoods ``[R, K]``, the text read once for all labels."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from transformers import DynamicCache
from transformers.modeling_outputs import BaseModelOutput

SEQUENCES = 256
"""Texts times labels in one pass; more are taken in turns, which bounds the memory."""


def masked(model: Any, inputs: dict[str, Tensor], mask: int, words: list[int]) -> Tensor:
    """The logit of each label's token (``words``, ``[K]``) at the one ``mask`` of each text."""
    places = (inputs["input_ids"] == mask).int().argmax(1)
    logits = model(**inputs).logits
    scores: Tensor = logits[torch.arange(len(places), device=places.device), places][:, words]
    return scores.float()


def continued(model: Any, inputs: dict[str, Tensor], words: list[list[int]], trailing: int = 0) -> Tensor:
    """Log-likelihood of each label's tokens behind the text, by a causal model.

    One pass over the texts gives the first tokens' likelihoods and the keys and values that a second one, over the words of
    all labels at once, reads. ``trailing`` tokens at each text's end are left out. Texts are padded on the right.
    """
    ids, lengths = inputs["input_ids"], inputs["attention_mask"].sum(1) - trailing
    mask = (torch.arange(ids.shape[1], device=ids.device) < lengths.unsqueeze(1)).long()
    last, place = torch.unique(lengths - 1, return_inverse=True)
    longer = [n for n, tokens in enumerate(words) if len(tokens) > 1]
    read = model(input_ids=ids, attention_mask=mask, logits_to_keep=last, use_cache=bool(longer))
    ends = read.logits[torch.arange(len(ids), device=ids.device), place]
    scores = torch.log_softmax(ends.float(), -1)[:, [tokens[0] for tokens in words]]
    for some in _turns(longer, len(ids)):
        more = _behind(model, read.past_key_values, mask, lengths, [words[n] for n in some])
        scores = scores.index_add(1, torch.tensor(some, device=ids.device), more)
    return scores


def answered(model: Any, inputs: dict[str, Tensor], words: list[list[int]]) -> Tensor:
    """Log-likelihood of each label's tokens as the answer of an encoder-decoder, whose encoder reads the text once."""
    mask = inputs["attention_mask"]
    hidden = model.get_encoder()(input_ids=inputs["input_ids"], attention_mask=mask).last_hidden_state
    start = model.config.decoder_start_token_id
    found = []
    for some in _turns(list(range(len(words))), len(mask)):
        given, targets, there = _shifted([[start, *words[n]] for n in some], mask.device)
        times = len(some)
        logits = model(
            encoder_outputs=BaseModelOutput(last_hidden_state=hidden.repeat_interleave(times, 0)),
            attention_mask=mask.repeat_interleave(times, 0),
            decoder_inputs_embeds=_embedded(model.get_decoder(), given.repeat(len(mask), 1)),
            decoder_attention_mask=there.repeat(len(mask), 1),
            use_cache=False,
        ).logits
        found.append(_likelihood(logits, targets, there, len(mask)))
    return torch.cat(found, 1)


def _behind(model: Any, cache: DynamicCache, mask: Tensor, lengths: Tensor, words: list[list[int]]) -> Tensor:
    """Log-likelihood ``[R, k]`` of each word's tokens after its first, behind texts whose keys and values are known."""
    rows, times = len(mask), len(words)
    given, targets, there = _shifted(words, mask.device)
    positions = lengths.repeat_interleave(times).unsqueeze(1) + torch.arange(given.shape[1], device=mask.device)
    repeated = DynamicCache()
    for number, layer in enumerate(cache.layers):
        repeated.update(layer.keys.repeat_interleave(times, 0), layer.values.repeat_interleave(times, 0), number)
    logits = model(
        inputs_embeds=_embedded(model, given.repeat(rows, 1)),
        attention_mask=torch.cat([mask.repeat_interleave(times, 0), there.repeat(rows, 1)], 1),
        position_ids=positions,
        past_key_values=repeated,
        use_cache=True,
    ).logits
    return _likelihood(logits, targets, there, rows)


def _shifted(words: list[list[int]], device: torch.device) -> tuple[Tensor, Tensor, Tensor]:
    """What the model reads, what it is to say next, and where there is something: each ``[k, T - 1]``."""
    width = max(map(len, words))
    table = torch.tensor([[*tokens, *[0] * (width - len(tokens))] for tokens in words], device=device)
    there = torch.tensor([[1] * (len(tokens) - 1) + [0] * (width - len(tokens)) for tokens in words], device=device)
    return table[:, :-1], table[:, 1:], there


def _likelihood(logits: Tensor, targets: Tensor, there: Tensor, rows: int) -> Tensor:
    """Summed log-likelihood ``[R, k]`` from logits ``[R * k, T, V]``."""
    each = torch.log_softmax(logits.float(), -1).gather(2, targets.repeat(rows, 1).unsqueeze(2)).squeeze(2)
    return (each * there.repeat(rows, 1)).sum(1).view(rows, -1)


def _embedded(model: Any, ids: Tensor) -> Tensor:
    """The model's embeddings, past the hooks on its table: an explainer puts the text's own in its place there."""
    table: Any = model.get_input_embeddings()
    embedded: Tensor = table.forward(ids)
    return embedded


def _turns(labels: list[int], rows: int) -> list[list[int]]:
    size = max(1, SEQUENCES // max(1, rows))
    return [labels[start : start + size] for start in range(0, len(labels), size)]
