"""What sort of language model an architecture is."""

from __future__ import annotations

from functools import cache
from typing import Literal

Kind = Literal["masked", "causal", "seq2seq"]


@cache
def kind_of(architecture: str) -> Kind | None:
    """Of a class of transformers, such as ``BertForMaskedLM``; None where it has no language-model head."""
    from transformers.models.auto import modeling_auto as known

    pretraining = {str(name) for name in known.MODEL_FOR_PRETRAINING_MAPPING_NAMES.values()}
    if architecture in known.MODEL_FOR_SEQ_TO_SEQ_CAUSAL_LM_MAPPING_NAMES.values():
        return "seq2seq"
    if architecture in known.MODEL_FOR_MASKED_LM_MAPPING_NAMES.values() or (
        architecture in pretraining and architecture.endswith("ForPreTraining")
    ):
        return "masked"
    return "causal" if architecture in known.MODEL_FOR_CAUSAL_LM_MAPPING_NAMES.values() else None
