"""Sees every torch function of a forward pass, and gives those that meet a trainable weight to their rule."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from upright_privacy.per_unit.contributions import Dense, widened
from upright_privacy.per_unit.rules import any_function, rule_of
from upright_privacy.per_unit.tape import Tape, Unserved

MOVES = frozenset({"transpose", "transpose_", "swapaxes", "swapdims", "permute", "movedim", "t", "t_", "adjoint"})
CASTS = frozenset({Tensor.to, Tensor.type_as})
TURNED = frozenset({Tensor.T.__get__, Tensor.mT.__get__, Tensor.H.__get__, Tensor.mH.__get__})  # type: ignore[attr-defined]

WHOLE = frozenset({Tensor.T.__get__, Tensor.H.__get__})  # type: ignore[attr-defined]
"""Those that turn all dimensions around, not the last two alone."""


class Watcher(TorchFunctionMode):
    """Tells what depends on the rows from what does not, and records where the two meet.

    A tensor is *fixed* when it is a parameter, a buffer or an attribute of a module, or was made from such alone;
    whatever else there is counts as the rows', with the rows first. Where a fixed tensor that leads to trainable
    parameters meets the rows, the function runs on it detached, so that autograd computes no ordinary gradient of it,
    and its rule computes each row's own when the gradient of the result arrives. What has no rule, or takes the rows
    out of the first dimension, raises `Unserved` before anything is wrong.
    """

    def __init__(self, tape: Tape, fixed: Iterable[Tensor], anchor: Tensor) -> None:
        super().__init__()
        self.tape = tape
        self.anchor = anchor
        self.fixed = {id(tensor): tensor for tensor in fixed}
        self.passing: set[int] = set()

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        given: list[Tensor] = []
        for value in (*args, *kwargs.values()) if kwargs else args:
            if isinstance(value, Tensor):
                given.append(value)
            elif isinstance(value, (tuple, list, dict)):
                given += tensors_in((value,))
        fixed = self.fixed
        still = []
        for tensor in given:
            if isinstance(tensor, nn.Parameter):
                fixed[id(tensor)] = tensor  # one made meanwhile (a transposed weight) holds no rows either
            if id(tensor) in fixed:
                still.append(tensor)
        if func in CASTS and still and still[0] is args[0]:
            given = still = given[:1]  # the other tensor only says which type
        if len(still) == len(given):
            result = func(*args, **kwargs)
            for tensor in tensors_in((result,)):
                fixed[id(tensor)] = tensor
            return result
        if still:
            if torch.is_grad_enabled():
                wanted = [tensor for tensor in still if tensor.requires_grad and id(tensor) not in self.passing]
                if wanted:
                    return self._serve(func, args, kwargs, wanted)
            result = func(*args, **kwargs)
            if args and isinstance(args[0], Tensor) and (result is args[0] or result is None):
                fixed.pop(id(args[0]), None)  # changed in place by the rows: no longer fixed
            return result
        if getattr(func, "__name__", "") in MOVES or func in TURNED:
            self._stays_first(func, args, kwargs)
        result = func(*args, **kwargs)
        if func in _GETITEM:
            self._still_rows(args, result)
        return result

    def _serve(self, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any], wanted: list[Tensor]) -> Tensor:
        rule = rule_of(func)
        bound = _bound(rule, args, kwargs)
        if bound is not None and rule.ROWS is not None:
            moving = {n for n, v in bound.arguments.items() if isinstance(v, Tensor) and id(v) not in self.fixed}
            bound = bound if moving == rule.ROWS else None
        swap = {id(tensor): tensor.detach() for tensor in wanted}
        detached = _replaced(args, swap), {key: _replaced((value,), swap)[0] for key, value in kwargs.items()}
        result = func(*detached[0], **detached[1])
        if not isinstance(result, Tensor) or any(result is tensor for tensor in tensors_in(detached[0])):
            raise Unserved(f"{_name(func)} changes a tensor in place or returns several")
        rows = self.tape.rows
        if result.dim() == 0 or result.shape[0] % rows:
            raise Unserved(
                f"{_name(func)} of a trainable weight gives {list(result.shape)}: its first dimension holds no rows"
            )
        tape = self.tape

        def record(gradient: Tensor) -> None:
            with torch.no_grad():
                if bound is None:
                    each = any_function.rows_of(func, args, kwargs, wanted, self.fixed, gradient, rows)
                    for tensor, contribution in zip(wanted, each, strict=True):
                        tape.add(tensor, contribution, any_function.NAME)
                    return
                bound.arguments.update(gradient=gradient, rows=rows)
                makers = rule.rows_of(*bound.args, **bound.kwargs)
                for at, tensor in _named_tensors(bound):
                    if any(tensor is one for one in wanted):
                        tape.add(tensor, makers[at](), rule.NAME)

        tapped: Tensor = _Tap.apply(result, self.anchor, record)
        return tapped

    def _stays_first(self, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        """Raise where a tensor of the rows gets another first dimension."""
        tensor = args[0]
        dims = tensor.dim()
        if dims < 2:
            return
        if func in TURNED:
            if dims == 2 or func in WHOLE:
                raise Unserved(f"{_name(func)} takes the rows out of the first dimension")
            return
        numbers = [n for n in _flat([*args[1:], *kwargs.values()]) if isinstance(n, int)]
        name = func.__name__
        if name == "permute":
            kept = bool(numbers) and numbers[0] % dims == 0
        elif name in ("t", "t_", "adjoint"):
            kept = name == "adjoint" and dims > 2
        else:
            kept = all(number % dims for number in numbers)
        if not kept:
            raise Unserved(f"{name} takes the rows out of the first dimension")

    def _still_rows(self, args: tuple[Any, ...], result: Any) -> None:
        """Raise where an index picks some of the rows: what comes out is no longer one part for each."""
        index = args[1]
        first = index[0] if isinstance(index, tuple) and index else index
        if isinstance(first, Tensor) and first.dim() > 0:
            plain = id(first) in self.fixed and first.dtype != torch.bool
            if not plain or not isinstance(result, Tensor) or result.shape[:1] != args[0].shape[:1]:
                raise Unserved("an index chooses among the rows")


_GETITEM = frozenset({Tensor.__getitem__})


class _Tap(torch.autograd.Function):
    """The identity, which tells its gradient; ``anchor`` makes sure that there is one."""

    @staticmethod
    def forward(ctx: Any, value: Tensor, anchor: Tensor, record: Callable[[Tensor], None]) -> Tensor:
        ctx.record = record
        return value.view_as(value)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None]:  # type: ignore[override]
        ctx.record(gradient)
        ctx.record = None  # with it goes what the rule read; else every layer's input would live to the end
        return gradient, None, None


@contextmanager
def layers_with_own_rule(watcher: Watcher, module: nn.Module) -> Iterator[None]:
    """Layers that bring ``per_row_gradients(*inputs, output_gradient) -> {parameter: Tensor[R, ...]}`` are asked.

    Their own parameters are left to autograd inside (its ordinary gradient of them is thrown away).
    """
    handles = []
    for layer in module.modules():
        own = getattr(layer, "per_row_gradients", None)
        if own is None:
            continue
        named = {name: p for name, p in layer.named_parameters(recurse=False) if p.requires_grad}
        watcher.passing |= {id(p) for p in named.values()}

        def tap(layer: nn.Module, inputs: Any, output: Any, own: Any = own, named: Any = named) -> Any:
            if not torch.is_grad_enabled() or not named:
                return None

            def record(gradient: Tensor) -> None:
                with torch.no_grad():
                    for name, rows in own(*inputs, gradient).items():
                        watcher.tape.add(named[name], Dense(widened(rows)), f"{type(layer).__name__}'s own")

            return _Tap.apply(output, watcher.anchor, record)

        handles.append(layer.register_forward_hook(tap))
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def tensors_in(values: Iterable[Any]) -> Iterator[Tensor]:
    """The tensors of nested lists, tuples and dicts."""
    for value in values:
        if isinstance(value, Tensor):
            yield value
        elif isinstance(value, (tuple, list)):
            yield from tensors_in(value)
        elif isinstance(value, dict):
            yield from tensors_in(value.values())


def held(module: nn.Module) -> Iterator[Tensor]:
    """Every tensor that the module and its parts hold before a batch: parameters, buffers, plain attributes."""
    for part in module.modules():
        for value in vars(part).values():
            if isinstance(value, (Tensor, dict, list, tuple)):
                yield from tensors_in((value,))


def _replaced(values: tuple[Any, ...], swap: dict[int, Tensor]) -> tuple[Any, ...]:
    found: list[Any] = []
    for value in values:
        if isinstance(value, Tensor):
            found.append(swap.get(id(value), value))
        elif type(value) in (tuple, list):
            found.append(type(value)(_replaced(tuple(value), swap)))
        else:
            found.append(value)
    return tuple(found)


def _bound(rule: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> inspect.BoundArguments | None:
    """The function's arguments by the names that its rule gives them; None where the rule does not know one."""
    if rule is any_function:
        return None
    try:
        return inspect.signature(rule.rows_of).bind(None, 0, *args, **kwargs)
    except TypeError:
        return None


def _named_tensors(bound: inspect.BoundArguments) -> Iterator[tuple[Any, Tensor]]:
    """Argument name, or name and place in a list, with each tensor."""
    for name, value in bound.arguments.items():
        if name == "gradient":
            continue
        if isinstance(value, Tensor):
            yield name, value
        elif isinstance(value, (list, tuple)):
            for place, part in enumerate(value):
                if isinstance(part, Tensor):
                    yield (name, place), part


def _flat(values: Iterable[Any]) -> Iterator[Any]:
    for value in values:
        if isinstance(value, (tuple, list)):
            yield from _flat(value)
        else:
            yield value


def _name(func: Any) -> str:
    return getattr(func, "__name__", str(func))
