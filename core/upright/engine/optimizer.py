"""Core's optimizer and schedule."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch.nn import Parameter
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from upright.engine.base import head_parameters

if TYPE_CHECKING:
    from upright.run import Run

BASE_RATE, ADDED_RATE, HEAD_RATE = 5e-5, 1e-3, 1e-3
"""Rates that `auto` stands for: for the base's own weights, for added ones (adapters), for the head."""


def trainable(run: Run) -> list[tuple[str, Parameter]]:
    """Every parameter that training moves: of the model, then of the helpers, with unique names."""
    named = [(f"model.{name}", p) for name, p in run.model.named_parameters() if p.requires_grad]
    for key, module in run.modules.items():
        named += [(f"modules.{key}.{name}", p) for name, p in module.named_parameters() if p.requires_grad]
    return named


def make_optimizer(run: Run) -> Optimizer:
    """AdamW, SGD (momentum 0.9) or Adafactor over four groups: head or body, decayed or not.

    Decay leaves out biases and norms, as transformers does.
    """
    config = run.config.train
    named = trainable(run)
    head = {id(parameter) for _, parameter in head_parameters(run.model)}
    own = any(id(parameter) in run.base_parameters and id(parameter) not in head for _, parameter in named)
    body_rate = config.learning_rate if config.learning_rate != "auto" else BASE_RATE if own else ADDED_RATE
    if config.head_learning_rate != "auto":
        head_rate = config.head_learning_rate
    else:
        head_rate = max(HEAD_RATE, body_rate)
    plain = _undecayed(run)
    groups: dict[tuple[bool, bool], list[Parameter]] = {}
    for _, parameter in named:
        groups.setdefault((id(parameter) in head, id(parameter) in plain), []).append(parameter)
    described: list[dict[str, Any]] = [
        {
            "params": parameters,
            "lr": head_rate if is_head else body_rate,
            "weight_decay": 0.0 if undecayed else config.weight_decay,
        }
        for (is_head, undecayed), parameters in groups.items()
    ]
    if config.optimizer == "sgd":
        return torch.optim.SGD(described, lr=body_rate, momentum=0.9)
    if config.optimizer == "adafactor":
        from transformers.optimization import Adafactor

        adafactor: Optimizer = Adafactor(described, lr=body_rate, scale_parameter=False, relative_step=False)
        return adafactor
    return torch.optim.AdamW(described, lr=body_rate, fused=run.device.type == "cuda")


def make_schedule(run: Run) -> LRScheduler:
    """transformers' schedule of the configured name over ``run.updates``."""
    from transformers import get_scheduler

    config = run.config.train
    warmup = round(config.warmup_ratio * run.updates)
    schedule: LRScheduler = get_scheduler(
        config.lr_scheduler_type, run.optimizer, num_warmup_steps=warmup, num_training_steps=run.updates
    )
    return schedule


def _undecayed(run: Run) -> set[int]:
    return {
        id(parameter)
        for root in (run.model, *run.modules.values())
        for module in root.modules()
        for name, parameter in module.named_parameters(recurse=False)
        if name == "bias" or "norm" in type(module).__name__.lower()
    }
