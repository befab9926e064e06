"""Which groups are compared: columns, bins of numbers, intersections, where they come from and what they may be used for."""

from __future__ import annotations

from itertools import pairwise, product
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field

from upright.errors import ConfigError

if TYPE_CHECKING:
    import numpy as np
    from torch import Tensor

    from upright import Batch, Predictions, Run, Step

Use = Literal["train", "audit", "inference"]


class GroupSpec(BaseModel):
    """One way of telling groups apart. A plain name in a stack file is ``{columns: [name]}``."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    columns: list[str] = Field(min_length=1, description="Sensitive columns; several are intersected.")
    bins: dict[str, list[float]] = Field(
        default_factory=dict, description="Column of numbers: the edges at which its bins begin."
    )
    provenance: Literal["unstated", "self-reported", "inferred"] = Field(
        "unstated", description="Who said which group a row is of; the report repeats it."
    )
    use: list[Use] = Field(
        ["train", "audit"], min_length=1, description="What the group may be read for: train, audit, inference."
    )

    @property
    def name(self) -> str:
        """``sex`` or ``sex & race``."""
        return " & ".join(self.columns)


def _spelt_out(value: Any) -> Any:
    return {"columns": [value]} if isinstance(value, str) else value


Groups = Annotated[GroupSpec, BeforeValidator(_spelt_out, json_schema_input_type=str | GroupSpec)]
"""What a step's ``groups`` list holds."""


def check(step: Step, specs: list[GroupSpec], use: Use, run: Run) -> None:
    """Raise ConfigError where a column is not sensitive, a bin fits no column or value, or the use is not allowed."""
    where = f"{run.stack.placed(step).where}  fairness.{run.key(step)}.groups"
    for spec in specs:
        for column in spec.columns:
            if column not in run.config.data.sensitive:
                raise ConfigError(
                    f"{where}: {column!r} is not in data.sensitive "
                    f"({run.stack.where('data', 'sensitive')}); add it there"
                )
        for column, edges in spec.bins.items():
            if column not in spec.columns or not edges or edges != sorted(set(edges)):
                raise ConfigError(f"{where}: bins of {column!r} need one of the spec's columns and rising edges")
        if use not in spec.use:
            raise ConfigError(
                f"{where}: {spec.name!r} may be used for {', '.join(spec.use)}, not for {use}; add {use} to its `use` "
                f"where that is allowed, or remove {run.key(step)}"
            )
        values(spec, run)


def values(spec: GroupSpec, run: Run) -> list[str]:
    """The names of all groups that the data's values give, in the order of `batch_codes`."""
    return _crossed([_named(run.group_values[column], spec.bins.get(column))[1] for column in spec.columns])


def batch_codes(spec: GroupSpec, batch: Batch, run: Run) -> Tensor:
    """The group of each row, ``Long[R]`` into `values`; -1 where any of its columns is missing."""
    import torch

    total, missing = torch.zeros_like(batch.rows), torch.zeros_like(batch.rows, dtype=torch.bool)
    for column in spec.columns:
        lookup, names = _named(run.group_values[column], spec.bins.get(column))
        given = batch.groups[column]
        missing = missing | (given < 0)
        table = torch.tensor([*lookup, 0], device=given.device)
        total = total * len(names) + table[given]
    return torch.where(missing, torch.full_like(total, -1), total)


def train_rows(spec: GroupSpec, run: Run) -> tuple[Tensor, Tensor]:
    """Group (-1: missing) and label of every training row, ``Long[n]`` each, on the CPU."""
    import torch

    count = len(run.data["train"])
    found, labels = torch.full((count,), -1), torch.full((count,), -1)
    for batch in run.batches(range(count), augment=False):
        rows = batch.rows.cpu()
        found[rows] = batch_codes(spec, batch, run).cpu()
        if batch.labels.dim() == 1:
            labels[rows] = batch.labels.cpu()
    return found, labels


def codes(spec: GroupSpec, predictions: Predictions) -> tuple[np.ndarray, list[str]]:
    """The group of each row, int64[n] (-1 missing), and the names of the groups that occur."""
    import numpy as np

    parts, named = [], []
    for column in spec.columns:
        held = predictions.table.column(f"group/{column}").combine_chunks().dictionary_encode()
        known = [str(value) for value in held.dictionary.to_pylist()]
        order = np.argsort(np.array(known, dtype=object), kind="stable") if known else np.zeros(0, dtype=np.int64)
        lookup, names = _named([known[n] for n in order], spec.bins.get(column))
        table = np.full(len(known) + 1, -1, dtype=np.int64)
        table[order] = lookup
        parts.append(table[held.indices.fill_null(len(known)).to_numpy(zero_copy_only=False).astype(np.int64)])
        named.append(names)
    total, missing = np.zeros(len(parts[0]), dtype=np.int64), np.zeros(len(parts[0]), dtype=bool)
    for part, names in zip(parts, named, strict=True):
        total = total * len(names) + part
        missing |= part < 0
    every = _crossed(named)
    there = np.bincount(total[~missing], minlength=len(every)) > 0
    narrow = np.where(there, np.cumsum(there) - 1, -1)
    total[~missing] = narrow[total[~missing]]
    total[missing] = -1
    return total, [name for name, occurs in zip(every, there, strict=True) if occurs]


def _crossed(named: list[list[str]]) -> list[str]:
    return [" & ".join(names) for names in product(*named)]


def _named(held: list[str], edges: list[float] | None) -> tuple[list[int], list[str]]:
    """For each value the number of its group, and the groups' names."""
    if edges is None:
        return list(range(len(held))), list(held)
    from bisect import bisect_right

    names = [f"below {edges[0]:g}"]
    names += [f"{low:g} to {high:g}" for low, high in pairwise(edges)] + [f"{edges[-1]:g} and over"]
    return [bisect_right(edges, _number(value)) for value in held], names


def _number(value: str) -> float:
    try:
        return float(value)
    except ValueError as error:
        raise ConfigError(
            f"groups: {value!r} is no number, so it is in no bin; leave it empty or remove the bins"
        ) from error
