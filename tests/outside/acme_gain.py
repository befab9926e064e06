"""A tuning method that peft does not know, as another company would write it: one trained gain per output of each layer."""

from collections.abc import Generator
from pathlib import Path
from typing import Any

from pydantic import Field

from upright import Run, Step, hook

LOADER = """
from safetensors.torch import load_file

for name, gain in load_file(f"{folder}/gain.safetensors").items():
    model.get_submodule(name).register_forward_hook(lambda layer, given, output, gain=gain: output * (1 + gain))
"""


class Gain(Step):
    """Train a factor for each output of the blocks' linear layers, and the head."""

    start: float = Field(0.0, description="What the gains begin with.")
    merge: bool = Field(False, description="Multiply the factors into the weights after training.")

    @hook
    def tune(self, model: Any) -> Any:
        import torch

        for name, layer in list(model.named_modules()):
            if isinstance(layer, torch.nn.Linear) and ".layer." in name:
                layer.register_parameter("gain", torch.nn.Parameter(torch.full((layer.out_features,), self.start)))
                layer.register_forward_hook(scaled)
        return model

    @hook
    def finalize(self, model: Any) -> Any:
        import torch

        for layer in model.modules() if self.merge else ():
            if "gain" in dict(layer.named_parameters(recurse=False)):
                with torch.no_grad():
                    layer.weight *= 1 + layer.gain.unsqueeze(1)
                    layer.bias *= 1 + layer.gain
                del layer.gain
        return model

    @hook(wrapper=True)
    def export(self, folder: Path, run: Run) -> Generator[None, str, str]:
        from safetensors.torch import save_file

        layers = {n: m for n, m in run.model.named_modules() if "gain" in dict(m.named_parameters(recurse=False))}
        gains = {name: layer.gain for name, layer in layers.items()}
        for layer in layers.values():
            del layer.gain
        loader = yield
        for name, layer in layers.items():
            layer.gain = gains[name]
        if not gains:
            return loader
        save_file({name: gain.detach().cpu() for name, gain in gains.items()}, folder / "gain.safetensors")
        return loader + LOADER


def scaled(layer: Any, given: Any, output: Any) -> Any:
    return output * (1 + layer.gain) if "gain" in dict(layer.named_parameters(recurse=False)) else output
