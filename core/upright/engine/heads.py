"""The head for a base that was trained with mean pooling (Reimers and Gurevych, 2019, arXiv:1908.10084)."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from transformers import PretrainedConfig
from transformers.modeling_outputs import ModelOutput


class MeanPooling(nn.Module):
    """Encoder, mean over a row's own tokens, length sqrt(D), dropout, one linear layer.

    The features have the same norm for every row, so that the head's per-record gradients do too: under clipping a
    head on raw features takes the whole gradient and the adapters get noise.
    """

    # peft takes a module without this name for one that checkpoints, and makes every input require a gradient: then
    # `vmap` fails and the backward pass goes through all of the frozen layers.
    is_gradient_checkpointing = False

    def __init__(self, encoder: Any, labels: list[str]) -> None:
        super().__init__()
        self.encoder = encoder
        self.config: PretrainedConfig = encoder.config
        self.config.num_labels = len(labels)
        self.config.id2label = dict(enumerate(labels))
        self.config.label2id = {name: code for code, name in enumerate(labels)}
        self.dropout = nn.Dropout(getattr(self.config, "hidden_dropout_prob", 0.1))
        self.classifier = nn.Linear(self.config.hidden_size, len(labels))
        nn.init.normal_(self.classifier.weight, std=0.02)
        nn.init.zeros_(self.classifier.bias)

    @property
    def base_model(self) -> Any:
        """The part without the head, as transformers calls it."""
        return self.encoder

    def get_input_embeddings(self) -> nn.Module:
        """As transformers' models."""
        embeddings: nn.Module = self.encoder.get_input_embeddings()
        return embeddings

    def get_output_embeddings(self) -> None:
        """As transformers' models: there is none."""
        return

    def forward(self, attention_mask: Tensor, **inputs: Tensor) -> ModelOutput:
        """Returns ``logits [R, K]`` and ``features [R, D]``, each of norm sqrt(D)."""
        hidden = self.encoder(attention_mask=attention_mask, **inputs).last_hidden_state
        features = mean_pool(hidden, attention_mask)
        return ModelOutput(logits=self.classifier(self.dropout(features)), features=features)


def mean_pool(hidden: Tensor, attention_mask: Tensor) -> Tensor:
    """Mean over each row's own tokens, scaled to norm sqrt(D): ``[R, T, D], [R, T] -> [R, D]``."""
    mask = attention_mask.unsqueeze(-1).to(hidden.dtype)
    mean = (hidden * mask).sum(1) / mask.sum(1).clamp(min=1)
    features: Tensor = torch.nn.functional.normalize(mean, dim=-1) * mean.shape[-1] ** 0.5
    return features
