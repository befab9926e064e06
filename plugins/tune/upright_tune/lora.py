"""Low-rank adaptation (Hu et al., 2021, arXiv:2106.09685)."""

from __future__ import annotations

from collections.abc import Generator
from typing import TYPE_CHECKING, Any, Literal

from pydantic import Field

from upright import Run, Step, hook
from upright_tune.rates import multiply_rate
from upright_tune.targets import LINEAR, check_rank, linear_pattern, of_family
from upright_tune.through_peft import adapt, merged

if TYPE_CHECKING:
    from torch.optim import Optimizer


class Lora(Step):
    """Train two thin matrices beside each frozen weight of the blocks, and the head."""

    rank: int = Field(8, ge=1, description="Inner width of the two matrices (peft: r).")
    alpha: float = Field(16, gt=0, description="Scale of the update, divided by rank (peft: lora_alpha).")
    dropout: float = Field(0.0, ge=0, lt=1, description="Dropout on the adapter's input (peft: lora_dropout).")
    target_modules: list[str] | None = Field(
        None, description="Names of the layers to adapt; default: every linear layer of the blocks."
    )
    layers_to_transform: list[int] | None = Field(
        None, min_length=1, description="Numbers of the blocks to adapt, from 0; default: all of them."
    )
    use_rslora: bool = Field(False, description="Divide alpha by the root of rank (arXiv:2312.03732).")
    use_dora: bool = Field(False, description="Train direction and length of the weights apart (arXiv:2402.09353).")
    init_lora_weights: Literal["default", "gaussian", "pissa"] = Field(
        "default", description="pissa: begin with the largest singular vectors (arXiv:2404.02948)."
    )
    loraplus_lr_ratio: float | None = Field(
        None, gt=0, description="Learning rate of B over that of A; 16 is usual (LoRA+, arXiv:2402.12354)."
    )
    merge: bool = Field(False, description="Fold the matrices into the weights after training.")

    @hook
    def tune(self, model: Any, run: Run) -> Any:
        from peft import LoraConfig

        usual = of_family(LINEAR, model)
        pattern = linear_pattern(self, model, run, self.target_modules, usual, self.layers_to_transform)
        check_rank(self, model, run, pattern, "rank", self.rank)
        return adapt(
            self,
            model,
            run,
            lambda: LoraConfig(
                r=self.rank,
                lora_alpha=self.alpha,
                lora_dropout=self.dropout,
                target_modules=pattern,
                use_rslora=self.use_rslora,
                use_dora=self.use_dora,
                init_lora_weights=True if self.init_lora_weights == "default" else self.init_lora_weights,
            ),
        )

    @hook(wrapper=True)
    def optimizer(self, run: Run) -> Generator[None, Optimizer, Optimizer]:
        optimizer = yield
        if self.loraplus_lr_ratio is not None:
            second = {id(p) for name, p in run.model.named_parameters() if "lora_B" in name}
            multiply_rate(optimizer, lambda p: self.loraplus_lr_ratio if id(p) in second else 1.0)
        return optimizer

    @hook
    def finalize(self, model: Any) -> Any:
        return merged(model) if self.merge else model
