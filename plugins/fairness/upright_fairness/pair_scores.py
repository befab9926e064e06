"""Pairs through a run's language model, and the file that keeps what it said: ids, types and numbers, no sentence."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from upright.errors import IntegrityError
from upright_fairness.pair_figures import Scores

if TYPE_CHECKING:
    from torch import Tensor

    from upright import Run
    from upright_fairness.pairs import Pair

FILE = "pairs.parquet"
Reading = Literal["causal", "masked"]
Texts = list[tuple[list[int], list[int]]]


def reading(run: Run) -> Reading:
    """Whether the run's model reads from left to right or around a mask. Raises ValueError where it does neither."""
    from transformers.models.auto import modeling_auto as known

    if run.config.model.task == "text-generation":
        return "causal"
    name = type(run.model.get_base_model() if hasattr(run.model, "get_base_model") else run.model).__name__
    if not getattr(run.model.config, "is_encoder_decoder", False):
        if name in known.MODEL_FOR_MASKED_LM_MAPPING_NAMES.values():
            return "masked"
        if name in known.MODEL_FOR_CAUSAL_LM_MAPPING_NAMES.values():
            return "causal"
    raise ValueError(
        f"needs a language-model head, and a {name} gives no text a likelihood; use model.task: text-generation, or ask a "
        "masked model's own words by a `verbalizer`"
    )


def check(run: Run, pairs: list[Pair]) -> None:
    """Raise ValueError where the model or its tokenizer cannot give these pairs a likelihood."""
    import torch

    from upright_fairness.likelihood import reads_ahead

    how = reading(run)
    if how == "masked" and run.tokenizer.mask_token_id is None:
        raise ValueError("scores a masked model by its mask, and the tokenizer has no mask token; name the model's own")
    if how == "causal" and _start(run) is None:
        raise ValueError(
            "needs a token that texts begin with, and the tokenizer has neither `bos_token` nor `eos_token`"
        )
    texts = encoded(run, pairs)
    reasons = left_out(run, texts)
    first = next((one for one, reason in zip(texts, reasons, strict=True) if reason is None), None)
    if first is None:
        raise ValueError(f"can score none of the {len(pairs)} pairs ({reasons[0]}); use another model or other pairs")
    with torch.no_grad():
        if how == "causal" and reads_ahead(_logits(run), max(first, key=len), run.device):
            raise ValueError("needs a model that reads from left to right, and this one also reads what comes later")


def encoded(run: Run, pairs: list[Pair]) -> Texts:
    """Both sentences of each pair as token ids; a causal model's begin with the token that texts begin with."""
    if reading(run) == "masked":
        return [(_ids(run, pair.more), _ids(run, pair.less)) for pair in pairs]
    plain: dict[str, Any] = {"add_special_tokens": False}
    start: Any = _start(run)
    return [([start, *_ids(run, pair.more, **plain)], [start, *_ids(run, pair.less, **plain)]) for pair in pairs]


def left_out(run: Run, texts: Texts) -> list[str | None]:
    """Why a pair has no score: it is too long, or the model sees no difference, or no token that both have."""
    from upright_fairness.likelihood import shared

    found: list[str | None] = []
    for more, less in texts:
        if max(len(more), len(less)) > run.max_length:
            found.append("too long")
        elif more == less:
            found.append("the same tokens")
        elif reading(run) == "masked" and not shared(more, less, _special(run))[0]:
            found.append("no shared token")
        else:
            found.append(None)
    return found


def score(run: Run, pairs: list[Pair]) -> np.ndarray:
    """Log-likelihoods ``float64 [n, 2]`` of the sentence nearer to the stereotype and of the other; NaN where left out."""
    import torch

    from upright_fairness import likelihood

    texts = encoded(run, pairs)
    kept = [number for number, reason in enumerate(left_out(run, texts)) if reason is None]
    flat = [ids for number in kept for ids in texts[number]]
    size, logits = run.config.train.micro_batch_size, _logits(run)
    with torch.no_grad():
        if reading(run) == "causal":
            told = likelihood.causal(logits, flat, size, run.device)
        else:
            mask, special = int(run.tokenizer.mask_token_id), _special(run)
            scored = [places for number in kept for places in likelihood.shared(*texts[number], special)]
            told = likelihood.masked(logits, flat, scored, mask, size, run.device)
    found = np.full((len(pairs), 2), np.nan)
    found[kept] = told.reshape(-1, 2)
    return found


def write(
    folder: Path,
    pairs: list[Pair],
    reasons: list[str | None],
    scores: np.ndarray,
    untuned: np.ndarray | None,
    about: dict[str, Any],
) -> None:
    """``pairs.parquet``: id, type, unit, side, why it is left out, both log-likelihoods, and the untuned base's."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    columns: dict[str, Any] = {name: [getattr(pair, name) for pair in pairs] for name in ("id", "type", "unit", "side")}
    columns["left_out"] = pa.array(reasons, pa.string())
    for prefix, told in {"": scores, "untuned_": untuned}.items():
        if told is not None:
            columns |= {f"{prefix}more": told[:, 0], f"{prefix}less": told[:, 1]}
    table = pa.table(columns).replace_schema_metadata({"upright": json.dumps(about)})
    pq.write_table(table, folder / FILE, compression="zstd")


def read(folder: Path) -> tuple[Scores, list[str], dict[str, Any]]:
    """What `write` wrote: the scored pairs, the reasons of the others, and ``about``. Raises IntegrityError."""
    import pyarrow.parquet as pq

    path = folder / FILE
    try:
        table = pq.read_table(path)
        columns = {name: np.array(table.column(name).to_pylist()) for name in table.column_names}
        about = json.loads(table.schema.metadata[b"upright"])
        kept = np.array([reason is None for reason in columns["left_out"]])
        odds = {p: columns[f"{p}more"] - columns[f"{p}less"] for p in ("", "untuned_") if f"{p}more" in columns}
        parts = [columns[name][kept] for name in ("type", "unit", "side")]
        untuned = odds["untuned_"][kept] if "untuned_" in odds else None
        scores = Scores(parts[0], parts[1], parts[2], odds[""][kept], untuned)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise IntegrityError(f"{path}: cannot be read ({error}); without it nothing is known of these pairs") from error
    return scores, [str(reason) for reason in columns["left_out"][~kept]], about


def _start(run: Run) -> int | None:
    tokenizer = run.tokenizer
    return tokenizer.eos_token_id if tokenizer.bos_token_id is None else tokenizer.bos_token_id


def _special(run: Run) -> set[int]:
    """Tokens that frame a text; an unknown word is one of the text's own."""
    return set(run.tokenizer.all_special_ids) - {run.tokenizer.unk_token_id}


def _ids(run: Run, text: str, **options: Any) -> list[int]:
    found: list[int] = run.tokenizer(text, **options)["input_ids"]
    return found


def _logits(run: Run) -> Any:
    """The model's logits ``[R, T, V]``; of a classification, past the `forward` that makes class scores of them."""
    import torch

    from upright import Batch

    def logits(ids: Tensor, mask: Tensor) -> Tensor:
        inputs = {"input_ids": ids, "attention_mask": mask}
        if run.config.model.task != "text-generation":
            told: Tensor = run.model(**inputs).logits
            return told
        rows = torch.arange(len(ids), device=ids.device)
        return run.forward(Batch(inputs, ids, rows, rows, split="pairs")).logits

    return logits
