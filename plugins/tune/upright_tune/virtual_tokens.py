"""Trained embeddings among a text's own: what soft prompts and p-tuning share."""

from __future__ import annotations

from collections.abc import Generator, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from upright.errors import ConfigError
from upright.models import exported_part
from upright_tune.through_peft import refuse_adapted

if TYPE_CHECKING:
    from upright import Run, Step

FILE = "virtual_tokens.safetensors"
LOADER = """\

# The virtual tokens: COUNT trained embeddings before a text's token PLACE; model(**batch) puts them there.
import torch
from safetensors.torch import load_file

table = load_file(f"{folder}/virtual_tokens.safetensors")["embeddings"]

def splice(module, args, inputs):
    rows, start = len(inputs["input_ids"]), inputs["input_ids"][:, :PLACE]
    filler = {"input_ids": FILLER, "attention_mask": 1, "token_type_ids": 0}
    for name in filler.keys() & inputs.keys():
        added = torch.full((rows, COUNT), filler[name])
        inputs[name] = torch.cat([inputs[name][:, :PLACE], added, inputs[name][:, PLACE:]], dim=1)
    return args, inputs

def look_up(module, args, output):
    return torch.cat([output[:, :PLACE], table.expand(len(output), -1, -1), output[:, PLACE + COUNT:]], dim=1)

def strip(module, args, output):
    output["OUTPUT"] = torch.cat([output["OUTPUT"][:, :PLACE], output["OUTPUT"][:, PLACE + COUNT:]], dim=1)
    return output

model.register_forward_pre_hook(splice, with_kwargs=True)
for name in TABLES:
    model.get_submodule(name).register_forward_hook(look_up)
"""


class Spliced(nn.Module):
    """The base's table of words, and the virtual tokens' own: ids ``[R, T + count]`` to embeddings ``[R, T + count, D]``.

    Every record looks up its own copy of the virtual tokens, so that each one's gradient can be told apart.
    """

    def __init__(self, words: nn.Module, table: nn.Module, place: int, count: int) -> None:
        super().__init__()
        self.words, self.table = words, table
        self.place, self.count = place, count

    def forward(self, ids: Tensor) -> Tensor:
        """What stands at the virtual places of ``ids`` is not looked at."""
        own = self.words(without(ids, self.place, self.count))
        numbers = torch.arange(self.count, device=ids.device).expand(ids.shape[0], -1)
        virtual = self.table(numbers).to(own.dtype)
        return torch.cat([own[:, : self.place], virtual, own[:, self.place :]], dim=1)


class VirtualTokens(nn.Module):
    """A model of transformers that reads virtual tokens before token ``place`` of every text.

    ``strip`` names the output that has one entry for each token; the virtual ones are taken out of it.
    """

    is_gradient_checkpointing = False

    def __init__(self, model: Any, table: nn.Module, place: int, count: int, strip: str | None) -> None:
        super().__init__()
        self.model, self.config = model, model.config
        self.place, self.count, self.strip = place, count, strip
        self.filler = 1 if model.config.pad_token_id == 0 else 0
        self.reader().set_input_embeddings(Spliced(self.reader().get_input_embeddings(), table, place, count))

    def reader(self) -> Any:
        """The part that reads the text."""
        return self.model.get_encoder() if self.config.is_encoder_decoder else self.model

    @property
    def spliced(self) -> Spliced:
        """The table that holds both."""
        found: Spliced = self.reader().get_input_embeddings()
        return found

    def forward(self, input_ids: Tensor, attention_mask: Tensor, **others: Tensor) -> Any:
        """As the model's own; texts are given without virtual tokens."""
        fill = {"input_ids": self.filler, "attention_mask": 1, "token_type_ids": 0}
        inputs = {"input_ids": input_ids, "attention_mask": attention_mask, **others}
        for name in fill.keys() & inputs.keys():
            value = inputs[name]
            added = torch.full((value.shape[0], self.count), fill[name], dtype=value.dtype, device=value.device)
            inputs[name] = torch.cat([value[:, : self.place], added, value[:, self.place :]], dim=1)
        output = self.model(**inputs)
        if self.strip:
            output[self.strip] = without(output[self.strip], self.place, self.count)
        return output

    def get_base_model(self) -> Any:
        """The model inside, as peft calls it."""
        return self.model

    def get_input_embeddings(self) -> nn.Module:
        """The table of the text's own tokens, which is all that there is where the virtual ones are off."""
        table = self.spliced
        return table.words if isinstance(table, Spliced) else table

    def get_output_embeddings(self) -> Any:
        """As the model's own."""
        return self.model.get_output_embeddings()

    @contextmanager
    def disable_adapter(self) -> Iterator[None]:
        """The model without virtual tokens, as peft's models do it."""
        spliced, count, strip = self.spliced, self.count, self.strip
        self.reader().set_input_embeddings(spliced.words)
        self.count, self.strip = 0, None
        try:
            yield
        finally:
            self.reader().set_input_embeddings(spliced)
            self.count, self.strip = count, strip


def without(values: Tensor, place: int, count: int) -> Tensor:
    """``values [R, T + count, ...]`` without the ``count`` from ``place`` on."""
    return torch.cat([values[:, :place], values[:, place + count :]], dim=1)


def leave_room(step: Step, run: Run, count: int) -> None:
    """Take the virtual tokens off the window. Raises ConfigError where too little is left for a text."""
    if run.max_length - count < 2:
        placed = run.stack.placed(step)
        raise ConfigError(
            f"{placed.where}  {placed}: {count} virtual tokens leave no room for a text in the model's {run.max_length}; "
            "lower num_virtual_tokens"
        )
    run.max_length -= count


def put_in(step: Step, model: Any, run: Run, table: nn.Module, count: int) -> Any:
    """The model with virtual tokens: after a text's first special token, or before everything in a language model."""
    refuse_adapted(step, model, run)
    inner = exported_part(model)
    if any(isinstance(module, VirtualTokens) for module in model.modules()):
        placed = run.stack.placed(step)
        raise ConfigError(
            f"{placed.where}  {placed}: a step before it puts virtual tokens into every text already; remove one of the two"
        )
    first = run.tokenizer("a")["input_ids"][0]
    bidirectional = not (run.task.name.endswith("generation") or inner.config.is_encoder_decoder)
    place = int(bidirectional and first == run.tokenizer.cls_token_id)
    per_token = {"token-classification": "logits", "text-generation": "logits"}.get(run.task.name)
    if inner is not model:
        model.encoder = VirtualTokens(inner, table, place, count, "last_hidden_state")
        return model
    return VirtualTokens(model, table, place, count, per_token)


def find(model: Any) -> VirtualTokens:
    """The wrapper that `put_in` made."""
    return next(module for module in model.modules() if isinstance(module, VirtualTokens))


def fold(model: Any) -> None:
    """Whatever computes the virtual tokens gives way to a table of what it computes."""
    spliced = find(model).spliced
    numbers = torch.arange(spliced.count, device=next(spliced.table.parameters()).device).unsqueeze(0)
    with torch.no_grad():
        spliced.table = nn.Embedding.from_pretrained(spliced.table(numbers)[0].clone())


def write(folder: Path, run: Run) -> Generator[None, str, str]:
    """Around core's export: the model without its virtual tokens, and these in a file of their own."""
    from safetensors.torch import save_file

    wrapper, model = find(run.model), run.model
    spliced = wrapper.spliced
    tables = [name for name, module in wrapper.model.named_modules(remove_duplicate=False) if module is spliced]
    wrapper.reader().set_input_embeddings(spliced.words)
    if model is wrapper:
        run.model = wrapper.model
    else:
        model.encoder = wrapper.model
    try:
        loader = yield
    finally:
        wrapper.reader().set_input_embeddings(spliced)
        run.model = model
        if model is not wrapper:
            model.encoder = wrapper
    save_file({"embeddings": spliced.table.weight.detach().cpu().contiguous()}, folder / FILE)
    lines = LOADER + ("model.register_forward_hook(strip)\n" if wrapper.strip else "")
    values = {"COUNT": wrapper.count, "PLACE": wrapper.place, "FILLER": wrapper.filler, "TABLES": tables}
    for name, value in {**values, "OUTPUT": wrapper.strip}.items():
        lines = lines.replace(name, str(value))
    return loader + lines
