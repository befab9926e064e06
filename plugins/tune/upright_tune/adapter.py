"""Bottleneck adapters (Houlsby et al., 2019, arXiv:1902.00751; Pfeiffer et al., 2020, arXiv:2005.00247)."""

from __future__ import annotations

from collections.abc import Generator
from pathlib import Path
from typing import Any, Literal

from pydantic import Field

from upright import Run, Step, hook
from upright.errors import ConfigError
from upright_tune.targets import architecture, sublayer_outputs
from upright_tune.through_peft import refuse_adapted

NAME = "adapter"
FILE = "adapter.safetensors"
LOADER = """\

# The bottleneck adapters: after each of these layers, y + up(act(down(y))).
import torch
from safetensors.torch import load_file

tensors = load_file(f"{folder}/adapter.safetensors")

def attach(layer, down, down_bias, up, up_bias):
    def add(module, given, output):
        inner = torch.nn.functional.ACTIVATION(torch.nn.functional.linear(output, down, down_bias))
        return output + torch.nn.functional.linear(inner, up, up_bias)
    layer.register_forward_hook(add)

for name in sorted({key.rpartition(".adapter.")[0] for key in tensors}):
    parts = ("down.weight", "down.bias", "up.weight", "up.bias")
    attach(model.get_submodule(name), *[tensors[f"{name}.adapter.{part}"] for part in parts])
"""


class Adapter(Step):
    """Train a narrow two-layer network after the sublayers of each block, and the head; it begins as the identity."""

    bottleneck: int = Field(32, ge=1, description="Inner width of each adapter.")
    placement: Literal["houlsby", "pfeiffer"] = Field(
        "houlsby", description="houlsby: after attention and feed-forward; pfeiffer: after feed-forward only."
    )
    non_linearity: Literal["gelu", "relu", "silu", "tanh"] = Field("gelu", description="Between the two layers.")
    target_modules: list[str] | None = Field(
        None, description="Full names of the layers to put adapters after; default: by placement."
    )

    @hook
    def tune(self, model: Any, run: Run) -> Any:
        import torch

        refuse_adapted(self, model, run)
        for name in self._layers(model, run):
            layer = model.get_submodule(name)
            width = layer.out_features if hasattr(layer, "out_features") else layer.nf  # nf: GPT-2's Conv1D
            generator = torch.Generator().manual_seed(run.generator(f"{run.key(self)}/{name}").initial_seed())
            adapter = _bottleneck(width, self.bottleneck, generator).to(layer.weight.device)
            layer.add_module(NAME, adapter)
            layer.register_forward_hook(self._added)
        return model

    @hook(wrapper=True)
    def export(self, folder: Path, run: Run) -> Generator[None, str, str]:
        from safetensors.torch import save_file

        from upright.models import exported_part

        root = exported_part(run.model)
        owners = {name: module for name, module in root.named_modules() if NAME in dict(module.named_children())}
        taken = {name: getattr(module, NAME) for name, module in owners.items()}
        tensors = {
            f"{name}.{NAME}.{part}": value.detach().cpu().contiguous()
            for name, adapter in taken.items()
            for part, value in adapter.state_dict().items()
        }
        for module in owners.values():
            delattr(module, NAME)
        try:
            loader = yield
        finally:
            for name, module in owners.items():
                module.add_module(NAME, taken[name])
        save_file(tensors, folder / FILE)
        return loader + LOADER.replace("ACTIVATION", self.non_linearity)

    def _layers(self, model: Any, run: Run) -> list[str]:
        placed = run.stack.placed(self)
        if self.target_modules is not None:
            there = dict(model.named_modules())
            for name in self.target_modules:
                if not hasattr(there.get(name), "weight"):
                    raise ConfigError(f"{placed.where}  {placed}.target_modules: the model has no layer {name!r}")
            return self.target_modules
        outputs = sublayer_outputs(model)
        if outputs is None:
            raise ConfigError(
                f"{placed.where}  {placed}: {architecture(model)!r} is no known architecture; set target_modules to the "
                "full names of the layers to put adapters after"
            )
        attention, feedforward = outputs
        return [*attention, *feedforward] if self.placement == "houlsby" else feedforward

    def _added(self, layer: Any, given: Any, output: Any) -> Any:
        import torch

        adapter = getattr(layer, NAME, None)  # gone while the model is exported
        if adapter is None:
            return output
        inner = getattr(torch.nn.functional, self.non_linearity)(adapter.down(output))
        return output + adapter.up(inner)


def _bottleneck(width: int, inner: int, generator: Any) -> Any:
    """``down`` small and random, ``up`` zero: the sum is the identity at first."""
    import torch

    module = torch.nn.ModuleDict({"down": torch.nn.Linear(width, inner), "up": torch.nn.Linear(inner, width)})
    with torch.no_grad():
        module["down"].weight.copy_(torch.randn(inner, width, generator=generator) * 0.02)
        for zero in (module["down"].bias, module["up"].weight, module["up"].bias):
            zero.zero_()
    return module
