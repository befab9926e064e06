"""Any function that treats its rows alike: vector-Jacobian products of single rows, by ``vmap`` over that function only."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from upright_privacy.per_unit.contributions import Contribution, Dense, widened
from upright_privacy.per_unit.tape import Unserved

NAME = "vmap of one function"
FUNCTIONS = ()
ROWS = None


def rows_of(
    function: Any,
    args: tuple[Any, ...],
    kwargs: dict[str, Any],
    wanted: list[Tensor],
    fixed: dict[int, Tensor],
    gradient: Tensor,
    rows: int,
) -> list[Contribution]:
    """Each row's gradient of the ``wanted`` tensors among the arguments; the others are of the rows, or ``fixed``."""
    leaves: list[Tensor] = []

    def seen(value: Any) -> Any:
        if isinstance(value, Tensor):
            if id(value) not in fixed:
                if value.dim() == 0 or value.shape[0] != rows:
                    raise Unserved(
                        f"{_name(function)} takes a tensor of shape {list(value.shape)}, which has no row first"
                    )
                leaves.append(value.detach())
            return value
        if isinstance(value, (tuple, list)):
            return type(value)(seen(part) for part in value)
        return value

    shown = seen(args), {key: seen(value) for key, value in kwargs.items()}
    if gradient.shape[0] != rows:
        raise Unserved(f"{_name(function)} gives {list(gradient.shape)}, which has no row first")
    places = {id(tensor): number for number, tensor in enumerate(wanted)}

    def of_one(weights: tuple[Tensor, ...], row: tuple[Tensor, ...], g: Tensor) -> Tensor:
        mine = iter(row)

        def put(value: Any) -> Any:
            if isinstance(value, Tensor):
                if id(value) not in fixed:
                    return next(mine).unsqueeze(0)
                return weights[places[id(value)]] if id(value) in places else value.detach()
            if isinstance(value, (tuple, list)):
                return type(value)(put(part) for part in value)
            return value

        result = function(*put(shown[0]), **{key: put(value) for key, value in shown[1].items()})
        if result.shape != (1, *g.shape):  # a weight with a slice for each row, or rows that are not treated alike
            raise Unserved(f"{_name(function)} does not take single rows")
        return (result.squeeze(0) * g).sum()

    each_row = torch.func.vmap(torch.func.grad(of_one), in_dims=(None, 0, 0))
    try:
        with torch.enable_grad():
            each = each_row(tuple(tensor.detach() for tensor in wanted), tuple(leaves), gradient)
    except (RuntimeError, NotImplementedError) as error:
        raise Unserved(f"{_name(function)} does not take single rows ({str(error).splitlines()[0]})") from error
    return [Dense(widened(found)) for found in each]


def _name(function: Any) -> str:
    return str(getattr(function, "__name__", function))
