"""What a frozen base makes of each text, computed once: a memory in the place of its forward pass."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.functional import pad
from torch.nn.utils.rnn import pad_sequence
from transformers.utils import ModelOutput

if TYPE_CHECKING:
    from upright import Batch, Run

LIMIT = 2 * 2**30
"""Bytes of hidden states that are remembered at the most."""


def remember(base: nn.Module, run: Run) -> Features | None:
    """Read train and validation once and let ``base`` answer from memory; the memory, or None where there can be none.

    Order and batches are always the same, so a resumed run has the same features, bit for bit. The base is left as it
    is where it is not frozen, has hooks in it, returns more than hidden states, or these take more than `LIMIT`.
    """
    if _state(base) is None or "forward" in vars(base):
        return None
    memory = Features(base, sum(int(batch.inputs["attention_mask"].sum()) for batch in _batches(run)))
    base.eval()
    base.forward = memory.record
    try:
        with torch.no_grad():
            for batch in _batches(run):
                run.forward(batch)
                if memory.refused:
                    return None
    finally:
        del base.forward
    base.forward = memory.answer
    return memory


def forget(base: nn.Module) -> None:
    """Let the base read for itself again."""
    if isinstance(getattr(vars(base).get("forward"), "__self__", None), Features):
        del base.forward


class Features:
    """A frozen base's hidden states of each text, cut to the text's own length; found again by what the base was given.

    What was not read beforehand, and everything once the base is no longer as it was, is left to the base itself.
    """

    def __init__(self, base: nn.Module, tokens: int) -> None:
        self.base, self.tokens = base, tokens
        self.plain, self.state = base.forward, _state(base)
        self.texts: dict[bytes, tuple[Tensor, Tensor | None]] = {}
        self.kind: type[ModelOutput] = ModelOutput
        self.settings: dict[Any, Any] | None = None
        self.refused = False

    @property
    def nbytes(self) -> int:
        """What is remembered, in bytes."""
        return sum(part.nbytes for parts in self.texts.values() for part in parts if part is not None)

    def record(self, *args: Any, **kwargs: Any) -> Any:
        """The base's own answer, remembered."""
        output, asked = self.plain(*args, **kwargs), _asked(args, kwargs)
        if asked is None or not self._fits(output, asked):
            self.refused = True
            return output
        self.kind, self.settings = type(output), asked.settings
        pooled = output.get("pooler_output")
        for row, (key, length) in enumerate(zip(asked.keys, asked.lengths, strict=True)):
            if key not in self.texts:
                own = None if pooled is None else pooled[row].clone()
                self.texts[key] = output.last_hidden_state[row, :length].clone(), own
        return output

    def answer(self, *args: Any, **kwargs: Any) -> Any:
        """As the base's: ``last_hidden_state [R, T, D]``, zero at padding, and ``pooler_output [R, D]`` if it has one."""
        asked = None
        if not self.base.training and _state(self.base) == self.state:
            try:
                asked = _asked(args, kwargs)
            except RuntimeError:  # under vmap there are no values to look up by
                return self.plain(*args, **kwargs)
        if asked is None or asked.settings != self.settings:
            return self.plain(*args, **kwargs)
        read = [self.texts[key] for key in asked.keys if key in self.texts]
        if not read or len(read) < len(asked.keys):
            return self.plain(*args, **kwargs)
        hidden = pad_sequence([own for own, _ in read], batch_first=True)
        if hidden.shape[1] < asked.width:  # a GPU's batches are wider than their longest text
            hidden = pad(hidden, (0, 0, 0, asked.width - hidden.shape[1]))
        pooled = [own for _, own in read if own is not None]
        return self.kind(last_hidden_state=hidden, **({"pooler_output": torch.stack(pooled)} if pooled else {}))

    def _fits(self, output: Any, asked: Asked) -> bool:
        """Whether a head can do with hidden states alone, and there is room for them.

        A cache of keys and values may be left out: it is for generation, which has no head.
        """
        if not isinstance(output, ModelOutput) or self.settings not in (None, asked.settings):
            return False
        if not {"last_hidden_state"} <= output.keys() <= {"last_hidden_state", "pooler_output", "past_key_values"}:
            return False
        hidden, pooled = output["last_hidden_state"], output.get("pooler_output")
        if hidden.shape[:-1] != (len(asked.keys), asked.width) or (pooled is not None and pooled.dim() != 2):
            return False
        fits: bool = self.tokens * hidden[0, 0].nbytes <= LIMIT
        return fits


class Asked(NamedTuple):
    """What a base was given: each row's own tokens as a key, their number, the padded width, and all that is no tensor."""

    keys: list[bytes]
    lengths: list[int]
    width: int
    settings: dict[Any, Any]


def _asked(args: tuple[Any, ...], kwargs: dict[str, Any]) -> Asked | None:
    """None where a row is not told by whole numbers for each of its tokens, padding after them."""
    every: dict[Any, Any] = {**dict(enumerate(args)), **kwargs}
    given = {name: value for name, value in every.items() if value is not None}
    tensors = {name: value for name, value in given.items() if isinstance(value, Tensor)}
    mask = tensors.get("attention_mask")
    if mask is None or mask.dim() != 2 or any(t.shape != mask.shape or t.is_floating_point() for t in tensors.values()):
        return None
    if not all(isinstance(value, (Tensor, bool, int, float, str)) for value in given.values()):
        return None
    count = mask.sum(1, keepdim=True)
    if not torch.equal(mask.bool(), torch.arange(mask.shape[1], device=mask.device) < count):
        return None
    rows = torch.stack([value.long() for value in tensors.values()], dim=1).cpu().numpy()
    lengths = count.flatten().tolist()
    keys = [row[:, :length].tobytes() for row, length in zip(rows, lengths, strict=True)]
    return Asked(keys, lengths, mask.shape[1], {name: None if name in tensors else v for name, v in given.items()})


def _state(base: nn.Module) -> dict[Tensor, int] | None:
    """What an answer of the base depends on beside its input, each tensor with its version.

    None where something is trained, or could change what passes through: a hook, or a forward of another's.
    """
    state: dict[Tensor, int] = {}
    for module in base.modules():
        if module._forward_hooks or module._forward_pre_hooks or (module is not base and "forward" in vars(module)):
            return None
        for tensor in (*module._parameters.values(), *module._buffers.values()):
            if tensor is not None:
                if tensor.requires_grad:
                    return None
                state[tensor] = tensor._version
    return state


def _batches(run: Run) -> Iterator[Batch]:
    for split in ("train", "validation"):
        if split in run.data:
            yield from run.batches(range(len(run.data[split])), split, augment=False)
