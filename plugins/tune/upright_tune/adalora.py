"""Adaptive budget allocation for low-rank adaptation (Zhang et al., 2023, arXiv:2303.10512)."""

from __future__ import annotations

from typing import Any

from pydantic import Field, model_validator

from upright import Run, Step, hook
from upright.errors import ConfigError
from upright.hooks import Moment
from upright_tune.targets import LINEAR, check_rank, linear_pattern, of_family
from upright_tune.through_peft import adapt, merged


class Adalora(Step):
    """Low-rank adaptation that moves rank from weights that matter less to those that matter more, as it trains."""

    init_r: int = Field(12, ge=1, description="Rank of every layer at first.")
    target_r: int = Field(8, ge=1, description="Mean rank in the end.")
    alpha: float = Field(16, gt=0, description="Scale of the update (peft: lora_alpha).")
    dropout: float = Field(0.0, ge=0, lt=1, description="Dropout on the adapter's input (peft: lora_dropout).")
    tinit: float = Field(0.1, ge=0, lt=1, description="Share of the updates before ranks are taken away.")
    tfinal: float = Field(0.3, gt=0, lt=1, description="Share of the updates, at the end, with the ranks as they are.")
    delta_t: int = Field(1, ge=1, description="Updates between two allocations (peft: deltaT).")
    beta1: float = Field(0.85, gt=0, lt=1, description="Smoothing of the importance.")
    beta2: float = Field(0.85, gt=0, lt=1, description="Smoothing of its uncertainty.")
    orth_reg_weight: float = Field(0.5, ge=0, description="Weight of the penalty that keeps the factors orthogonal.")
    target_modules: list[str] | None = Field(
        None, description="Names of the layers to adapt; default: every linear layer of the blocks."
    )
    merge: bool = Field(False, description="Fold the adapter into the weights after training.")

    @model_validator(mode="after")
    def _falls(self) -> Adalora:
        if self.target_r > self.init_r:
            raise ValueError(f"target_r ({self.target_r}) must not be above init_r ({self.init_r})")
        if self.tinit + self.tfinal >= 1:
            raise ValueError("tinit and tfinal leave no updates in which ranks could move; lower one of them")
        return self

    @hook
    def tune(self, model: Any, run: Run) -> Any:
        from peft import AdaLoraConfig

        first, last = round(self.tinit * run.updates), round(self.tfinal * run.updates)
        placed = run.stack.placed(self)
        # ranks are weighed in updates before the last share alone: peft moves them by what it has weighed
        if run.updates - first - last < 1 or run.updates - last < 2 or last < 1:
            raise ConfigError(
                f"{placed.where}  {placed}: {run.updates} updates are too few for its schedule; train longer"
            )
        pattern = linear_pattern(self, model, run, self.target_modules, of_family(LINEAR, model))
        check_rank(self, model, run, pattern, "init_r", self.init_r)
        return adapt(
            self,
            model,
            run,
            lambda: AdaLoraConfig(
                init_r=self.init_r,
                target_r=self.target_r,
                lora_alpha=self.alpha,
                lora_dropout=self.dropout,
                tinit=first,
                tfinal=last,
                deltaT=self.delta_t,
                beta1=self.beta1,
                beta2=self.beta2,
                orth_reg_weight=self.orth_reg_weight,
                total_step=run.updates,
                target_modules=pattern,
            ),
        )

    @hook
    def watch(self, moment: Moment, run: Run) -> None:
        if moment == "started":
            run.keep(self, "allocator", lambda: Allocator(run.model))
        elif moment == "updated":
            run.model.base_model.update_and_allocate(run.update)
        elif moment == "trained":
            for name, p in run.model.named_parameters():
                if "lora_E" in name and not p.any():
                    p.requires_grad_(False)  # all of its ranks went elsewhere

    @hook
    def penalty(self, model: Any) -> Any:
        """peft adds it to a loss that is computed inside the model; ours is not."""
        import torch

        terms = [
            torch.linalg.matrix_norm(
                (p @ p.T if "lora_A" in name else p.T @ p) - torch.eye(min(p.shape), device=p.device)
            )
            for name, p in model.named_parameters()
            if "lora_A" in name or "lora_B" in name
        ]
        return self.orth_reg_weight * torch.stack(terms).mean()

    @hook
    def finalize(self, model: Any) -> Any:
        if self.merge:
            return merged(model)
        for config in model.peft_config.values():
            config.rank_pattern = None  # ranks that were taken away stay as zeros, which reload exactly
        return model


class Allocator:
    """What peft's rank allocator remembers between updates, as a state that can be checkpointed."""

    def __init__(self, model: Any) -> None:
        self.model = model

    def state_dict(self) -> dict[str, Any]:
        """Importances, their averages, and the present ranks."""
        allocator = self.model.base_model.rankallocator
        pattern = self._config().rank_pattern
        return {
            "ipt": dict(allocator.ipt),
            "exp_avg_ipt": dict(allocator.exp_avg_ipt),
            "exp_avg_unc": dict(allocator.exp_avg_unc),
            "rank_pattern": {name: [bool(kept) for kept in ranks] for name, ranks in pattern.items()}
            if pattern
            else None,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """The inverse of `state_dict`."""
        allocator = self.model.base_model.rankallocator
        device = next(self.model.parameters()).device
        for name in ("ipt", "exp_avg_ipt", "exp_avg_unc"):
            setattr(allocator, name, {key: value.to(device) for key, value in state[name].items()})
        self._config().rank_pattern = state["rank_pattern"]

    def _config(self) -> Any:
        return self.model.peft_config[self.model.active_adapter]
