"""What attributions are to be, by definition: float64 loops, captum asked directly. Nothing here knows Upright.

``score(embeds)`` maps ``[N, T, D]`` to ``[N]``; ``embeds`` and ``blank`` are one text's ``[T, D]``, with and without content.
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import combinations
from math import factorial
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

Score = Callable[[Tensor], Tensor]


def score_of(model: Any, inputs: dict[str, Tensor], target: int, words: Tensor | None = None) -> Score:
    """The logit of class ``target`` of one text; for words, its mean over the positions ``words``."""
    others = {name: value for name, value in inputs.items() if name != "input_ids"}

    def score(embeds: Tensor) -> Tensor:
        many = {name: value.expand(len(embeds), *value.shape[1:]) for name, value in others.items()}
        logits = model(inputs_embeds=embeds, **many).logits
        return logits[:, target] if words is None else logits[:, words, target].mean(1)

    return score


def path_integral(score: Score, embeds: Tensor, blank: Tensor, points: int = 400) -> np.ndarray:
    """Integrated gradients by the midpoint rule."""
    along = ((torch.arange(points) + 0.5) / points).to(embeds).view(-1, 1, 1)
    path = (blank + along * (embeds - blank)).requires_grad_(True)
    (gradient,) = torch.autograd.grad(score(path).sum(), path)
    return ((embeds - blank) * gradient.mean(0)).sum(-1).numpy()


def expected_gradients(score: Score, embeds: Tensor, blank: Tensor, stdevs: float, draws: int = 4000) -> np.ndarray:
    """Gradient SHAP with noise on what is content, by its definition."""
    chance = torch.Generator().manual_seed(0)
    content = (embeds != blank).any(-1, keepdim=True)
    noisy = embeds + content * stdevs * torch.randn((draws, *embeds.shape), generator=chance, dtype=embeds.dtype)
    along = torch.rand((draws, 1, 1), generator=chance, dtype=embeds.dtype)
    points = (blank + along * (noisy - blank)).requires_grad_(True)
    (gradient,) = torch.autograd.grad(score(points).sum(), points)
    return ((noisy - blank) * gradient).sum(-1).mean(0).detach().numpy()


def without_each(score: Score, embeds: Tensor, blank: Tensor) -> np.ndarray:
    """Occlusion, one token after the other."""
    parts = np.zeros(len(embeds))
    with torch.no_grad():
        full = float(score(embeds[None]))
        for token in range(len(embeds)):
            less = embeds.clone()
            less[token] = blank[token]
            parts[token] = full - float(score(less[None]))
    return parts


def shapley_values(score: Score, embeds: Tensor, blank: Tensor) -> np.ndarray:
    """Shapley's formula over all subsets of the tokens that differ from the baseline (Shapley, 1953)."""
    players = [token for token in range(len(embeds)) if bool((embeds[token] != blank[token]).any())]
    worth: dict[frozenset[int], float] = {}
    for size in range(len(players) + 1):
        for chosen in combinations(players, size):
            text = blank.clone()
            text[list(chosen)] = embeds[list(chosen)]
            with torch.no_grad():
                worth[frozenset(chosen)] = float(score(text[None]))
    parts, count = np.zeros(len(embeds)), len(players)
    for token in players:
        for others in (chosen for chosen in worth if token not in chosen):
            weight = factorial(len(others)) * factorial(count - len(others) - 1) / factorial(count)
            parts[token] += weight * (worth[others | {token}] - worth[others])
    return parts


def times_slope(score: Score, embeds: Tensor, step: float = 1e-4) -> np.ndarray:
    """Input x gradient by central differences: how the score answers a token's scaling."""
    parts = np.zeros(len(embeds))
    with torch.no_grad():
        for token in range(len(embeds)):
            ends = []
            for sign in (1, -1):
                scaled = embeds.clone()
                scaled[token] *= 1 + sign * step
                ends.append(float(score(scaled[None])))
            parts[token] = (ends[0] - ends[1]) / (2 * step)
    return parts


def rollout(layers: list[np.ndarray], read: list[int]) -> np.ndarray:
    """Attention rollout of layers ``[T, T]``, from the positions ``read``, by loops."""
    count = len(layers[0])
    flow = [[float(a == b) for b in range(count)] for a in range(count)]
    for layer in layers:
        flow = [
            [sum((layer[a][m] + (a == m)) / 2 * flow[m][b] for m in range(count)) for b in range(count)]
            for a in range(count)
        ]
    return np.array([sum(flow[a][b] for a in read) / len(read) for b in range(count)])


def by_captum(method: str, score: Score, embeds: Tensor, blank: Tensor, **options: Any) -> np.ndarray:
    """captum's class ``method`` on one text: each token is a feature, those that are as the baseline's one together."""
    import captum.attr

    asked = {} if method == "InputXGradient" else {"baselines": blank[None]}
    if method in ("FeatureAblation", "ShapleyValues"):
        content = (embeds != blank).any(-1)
        asked["feature_mask"] = torch.where(content, content.cumsum(0), 0).view(1, -1, 1)
    found = getattr(captum.attr, method)(score).attribute(embeds[None].requires_grad_(True), **asked, **options)[0]
    found = found.detach()
    return (found[:, 0] if "feature_mask" in asked else found.sum(-1)).numpy()


class Linear(nn.Module):
    """A classifier whose logits are linear in the embeddings; each position has weights of its own."""

    def __init__(self, vocabulary: int, width: int = 8, positions: int = 32) -> None:
        super().__init__()
        self.embedding = nn.Embedding(vocabulary, width)
        self.weight = nn.Parameter(torch.randn(positions, width, 2))
        self.config = SimpleNamespace(model_type="made", num_labels=2, is_encoder_decoder=False)

    def get_input_embeddings(self) -> nn.Module:
        return self.embedding

    def forward(self, input_ids: Tensor, attention_mask: Tensor, **_: Tensor) -> Any:
        return SimpleNamespace(logits=self.logits(self.embedding(input_ids), attention_mask))

    def logits(self, embeds: Tensor, own: Tensor) -> Tensor:
        return torch.einsum("rtd,tdk->rk", embeds * own.unsqueeze(-1), self.weight[: embeds.shape[1]])


class Deaf(Linear):
    """Tokens attend to each other, and nothing attends to the token ``INERT`` or reads it: it has no effect."""

    INERT = 5

    def forward(self, input_ids: Tensor, attention_mask: Tensor, **_: Tensor) -> Any:
        return super().forward(input_ids, attention_mask * (input_ids != self.INERT))

    def logits(self, embeds: Tensor, own: Tensor) -> Tensor:
        alike = embeds @ embeds.mT / embeds.shape[-1] ** 0.5
        heard = torch.softmax(alike.masked_fill(own.unsqueeze(1) == 0, -torch.inf), -1) @ embeds
        return super().logits(torch.tanh(heard), own)
