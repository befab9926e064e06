"""Batches that hold every group in equal shares (group-balanced sampling: Idrissi et al., 2022, arXiv:2110.14503)."""

from __future__ import annotations

from collections.abc import Sequence

from pydantic import Field

from upright import Capability, Run, Section, Step, hook
from upright.errors import ConfigError
from upright_fairness import groups
from upright_fairness.groups import Groups


class Pools:
    """The row numbers of each cell, drawn from in endless passes without replacement.

    A checkpoint holds the salt alone: the orders follow from it.
    """

    def __init__(self, cells: dict[str, list[int]], salt: int) -> None:
        self.cells = cells
        self.salt = salt
        self._passes: dict[str, tuple[int, list[int]]] = {}

    def state_dict(self) -> dict[str, int]:
        """What a resume needs."""
        return {"salt": self.salt}

    def load_state_dict(self, state: dict[str, int]) -> None:
        """The inverse of `state_dict`."""
        self.salt = state["salt"]

    def row(self, cell: str, turn: int) -> int:
        """The row of the cell's draw number ``turn``, whatever was drawn before."""
        import numpy as np

        rows = self.cells[cell]
        lap, place = divmod(turn, len(rows))
        if self._passes.get(cell, (-1,))[0] != lap:
            order = np.random.default_rng([self.salt, list(self.cells).index(cell), lap]).permutation(rows)
            self._passes[cell] = lap, order.tolist()
        return self._passes[cell][1][place]


class BalancedBatches(Step):
    """Draw each update's rows so that every group has the same share of them, to one row; rows of small groups come repeatedly.

    Rows whose group is missing keep the share that they have in the data. Private training draws its own samples and
    refuses this step.
    """

    needs = frozenset({Capability.TRAINING})

    groups: list[Groups] = Field(
        min_length=1, max_length=1, description="One sensitive column or group spec (intersect several in it)."
    )
    given_label: bool = Field(
        False, description="Equal shares of every group and label together, not of every group (classification)."
    )

    @property
    def tasks(self) -> frozenset[str] | None:  # type: ignore[override]
        """A row has one class in classification only; groups are there in every task."""
        return frozenset({"text-classification"}) if self.given_label else None

    @hook
    def prepare(self, run: Run) -> None:
        groups.check(self, self.groups, "train", run)

    @hook
    def watch(self, moment: str, run: Run) -> None:
        if moment != "started":
            return
        size, total, pools = run.config.train.batch_size, len(run.data["train"]), self._pools(run)
        without = len(pools.cells.get(MISSING, []))
        balanced = size - -(-size * without // total)
        if balanced < len(self._names(run)):
            raise ConfigError(
                f"{run.stack.placed(self).where}  fairness.{run.key(self)}: {balanced} rows of an update cannot hold "
                f"{len(self._names(run))} groups; raise train.batch_size ({run.stack.where('train', 'batch_size')})"
            )

    @hook
    def sample(self, update: int, run: Run) -> Sequence[int]:
        """Places ``update * batch_size`` and on of an endless row of draws, in which the cells take turns."""
        pools, names = self._pools(run), self._names(run)
        size, total, without = run.config.train.batch_size, len(run.data["train"]), len(pools.cells.get(MISSING, []))
        drawn = []
        for place in range(update * size, (update + 1) * size):
            before = place * without // total  # how many of the places before this one had a row without a group
            if (place + 1) * without // total > before:
                drawn.append(pools.row(MISSING, before))
            else:
                turn, cell = divmod(place - before, len(names))
                drawn.append(pools.row(names[cell], turn))
        return drawn

    @hook
    def report(self, run: Run) -> Section:
        from upright.objects import Table, Text

        pools, names = self._pools(run), self._names(run)
        told = "Every group below had the same share of each update, to one row."
        if MISSING in pools.cells:
            told += f" The {len(pools.cells[MISSING])} rows without a group kept their share."
        rows = [(name, len(pools.cells[name])) for name in names]
        return Section("Balanced batches", [Text(told), Table(["group", "training rows"], rows)])

    def _names(self, run: Run) -> list[str]:
        return [name for name in self._pools(run).cells if name != MISSING]

    def _pools(self, run: Run) -> Pools:
        return run.keep(self, "pools", lambda: self._made(run))

    def _made(self, run: Run) -> Pools:
        import torch

        spec = self.groups[0]
        codes, labels = groups.train_rows(spec, run)
        names = groups.values(spec, run)
        if self.given_label:
            codes = torch.where((codes >= 0) & (labels >= 0), codes * len(run.labels) + labels, -1)
            names = [f"{name}, {label}" for name in names for label in run.labels]
        cells = {name: (codes == n).nonzero().flatten().tolist() for n, name in enumerate([*names, MISSING])}
        cells[MISSING] = (codes < 0).nonzero().flatten().tolist()
        salt = int(torch.randint(2**62, (1,), generator=run.generator(self)))
        return Pools({name: rows for name, rows in cells.items() if rows}, salt)


MISSING = ""
"""The cell of the rows whose group is missing."""
