"""Balance of classes and groups, by weights (inverse frequency) or by repeated rows (random oversampling).

See Japkowicz and Stephen, 2002, doi:10.3233/IDA-2002-6504; for groups Idrissi et al., 2022, arXiv:2110.14503.
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from pydantic import Field, field_validator

from upright import Batch, Capability, Decisions, Metric, Run, Scope, Section, Step, hook
from upright.errors import ConfigError
from upright.objects import Table, Text
from upright_clean.cells import cells, factors, wanted

if TYPE_CHECKING:
    import numpy as np
    from datasets import Dataset
    from torch import Tensor

CELLS = "cells.json"
LABEL = "label"


class Balance(Step):
    """Make every class, group, or combination of both count the same in training.

    With `weights` each row's loss gets a factor (mean 1 over the rows that have one), with `add` rows of small cells are
    repeated up to the size of the largest; repeated rows keep their unit. Rows without a value of a column in `by` are
    counted, keep the factor 1 and are never repeated. Both read how many training rows there are of each kind, which a
    private run lists as outside its epsilon.
    """

    reads_private: ClassVar[bool] = True

    by: list[str] = Field(
        ["label"], min_length=1, description="What is balanced: `label`, sensitive columns, or their combinations."
    )
    how: Literal["weights", "add"] = Field("weights", description="Weigh the rows, or repeat those of small cells.")
    max_factor: float = Field(
        10.0, ge=1, description="Largest factor of a row, or most rows that one row becomes on the mean of its cell."
    )

    @field_validator("by")
    @classmethod
    def _once(cls, by: list[str]) -> list[str]:
        if len(set(by)) < len(by):
            raise ValueError("a column stands there twice; name each once")
        return by

    @property
    def needs(self) -> frozenset[Capability]:  # type: ignore[override]
        """Weights act on the loss."""
        return frozenset({Capability.TRAINING} if self.how == "weights" else ())

    @property
    def tasks(self) -> frozenset[str] | None:  # type: ignore[override]
        """A row has one class in classification only; groups are there in every task."""
        return frozenset({"text-classification"}) if LABEL in self.by else None

    @property
    def scope(self) -> Scope:  # type: ignore[override]
        """Weights change no row; how often a row is repeated depends on all others."""
        return Scope(splits=frozenset({"train"}), dp_stability=1 if self.how == "weights" else None)

    @hook
    def clean(self, rows: Dataset, split: str, run: Run) -> Decisions:
        self._check(rows, run)
        decisions = Decisions()
        if self.how == "add":
            import numpy as np

            names, places = cells(rows, self.by)
            counts = [int(count) for count in np.bincount(places[places >= 0], minlength=len(names))]
            more = [goal - count for goal, count in zip(wanted(counts, self.max_factor), counts, strict=True)]
            ids = np.array(rows["row_id"][:], dtype=object)
            held = places.nbytes * (len(self.by) + 1) + sum(map(len, ids))
            run.emit("memory", step=run.key(self), split=split, bytes=held)
            for cell, added in enumerate(more):
                decisions.extend(self._repeated(ids[places == cell], added, run), "add", "small-cell")
            self._write(run, names, counts, more, len(rows))
        return decisions

    @hook
    def prepare(self, run: Run) -> None:
        if self.how == "weights":
            run.keep(self, "factors", lambda: self._table(run))

    @hook
    def weigh(self, batch: Batch, run: Run) -> Tensor | None:
        if self.how != "weights":
            return None
        table = run.keep(self, "factors", lambda: self._table(run)).to(batch.rows.device)
        factor: Tensor = table[tuple(batch.labels if name == LABEL else batch.groups[name] for name in self.by)]
        return factor

    @hook
    def account(self, folder: Path, run: Run) -> dict[str, Metric]:
        if not (folder / CELLS).is_file():
            return {}
        told = json.loads((folder / CELLS).read_text(encoding="utf-8"))
        counts, change = [cell["rows"] for cell in told["cells"]], [cell["change"] for cell in told["cells"]]
        found = {"missing": Metric(float(told["missing"]), n=told["rows"], source="ledger")}
        if self.how == "add":
            found["added"] = Metric(float(sum(change)), n=told["rows"], source="ledger")
        elif counts:
            weight = sum(n * w for n, w in zip(counts, change, strict=True))
            squares = sum(n * w * w for n, w in zip(counts, change, strict=True))
            found["largest_factor"] = Metric(max(change), source="ledger")
            # How many evenly weighted rows carry as much information (Kish, 1965).
            found["effective_rows"] = Metric(weight**2 / squares, n=sum(counts), source="ledger")
        return found

    @hook
    def report(self, run: Run) -> Section | None:
        path = run.step_folder(self) / CELLS
        if not path.is_file():
            return None
        told = json.loads(path.read_text(encoding="utf-8"))
        what = "factor of each row" if self.how == "weights" else "rows added"
        count = f"{told['missing']} of {told['rows']} train rows"
        missing = f"{count} have no value of {' or '.join(self.by)}; they stay as they are."
        table = [[*cell["values"], cell["rows"], cell["change"]] for cell in told["cells"]]
        return Section(f"Balance by {' and '.join(self.by)}", [Text(missing), Table([*self.by, "rows", what], table)])

    def _check(self, rows: Dataset, run: Run) -> None:
        """Raises ConfigError where a column of ``by`` is neither the label nor a sensitive one."""
        offered = [name for name in (LABEL, *run.config.data.sensitive) if name in rows.column_names]
        for name in self.by:
            if name not in offered:
                there = f"there are {', '.join(offered)}" if offered else "there is none"
                raise ConfigError(
                    f"{run.stack.placed(self).where}  clean.{run.key(self)}.by: {name!r} is neither the label nor a "
                    f"column of data.sensitive ({there}); name one or add it there"
                )

    def _repeated(self, ids: np.ndarray, added: int, run: Run) -> list[str]:
        """The parents of ``added`` rows: all of ``ids`` as often as it goes, then those that the seed ranks first."""
        whole, rest = divmod(added, len(ids))
        ranked = sorted(ids, key=lambda row_id: self._rank(run, row_id)) if rest else []
        return [*sorted(ids) * whole, *ranked[:rest]]

    def _rank(self, run: Run, row_id: str) -> bytes:
        return hashlib.blake2b(f"{run.seed}/{run.key(self)}/{row_id}".encode(), digest_size=8).digest()

    def _table(self, run: Run) -> Tensor:
        """The factor of each cell of the cleaned train split, one axis a column of ``by``; the last place is `missing`."""
        import numpy as np
        import torch

        names, places = cells(run.data["train"], self.by)
        counts = [int(count) for count in np.bincount(places[places >= 0], minlength=len(names))]
        found = factors(counts, self.max_factor)
        codes = {column: run.labels if column == LABEL else run.group_values[column] for column in self.by}
        table = torch.ones([len(codes[column]) + 1 for column in self.by])
        for values, factor in zip(names, found, strict=True):
            table[tuple(codes[column].index(v) for column, v in zip(self.by, values, strict=True))] = factor
        self._write(run, names, counts, found, len(run.data["train"]))
        return table

    def _write(self, run: Run, names: list[tuple[str, ...]], counts: list[int], change: list[Any], rows: int) -> None:
        listed = [
            {"values": list(values), "rows": count, "change": what}
            for values, count, what in zip(names, counts, change, strict=True)
        ]
        told = {"by": self.by, "rows": rows, "missing": rows - sum(counts), "cells": listed}
        (run.step_folder(self) / CELLS).write_text(
            json.dumps(told, indent=1, ensure_ascii=False) + "\n", encoding="utf-8"
        )
