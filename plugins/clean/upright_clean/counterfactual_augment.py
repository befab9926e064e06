"""Counterfactual data augmentation (Lu et al., 2018, arXiv:1807.11714; Zmigrod et al., 2019, arXiv:1906.04571)."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from pydantic import Field

from upright import Decisions, Scope, Step, hook
from upright.errors import ConfigError
from upright_clean.inputs import COLUMNS
from upright_clean.lists import given, shipped
from upright_clean.swaps import Swaps, swapped
from upright_clean.words import held

if TYPE_CHECKING:
    from datasets import Dataset

    from upright import Run

Kind = Literal["gender", "religion", "ethnicity", "orientation", "age", "disability"]


class CounterfactualAugment(Step):
    """Add to each training row that names an identity the same row with the other one: `he` for `she`, 他 for 她.

    Looks at one row at a time. The terms come from versioned English and Chinese lists; case and inflection are kept,
    words of token tasks keep their number and labels. All terms of a row are swapped in one pass. `her` becomes `his`
    before a noun and `him` elsewhere. The added row keeps its parent's label, unit and sensitive values.
    """

    scope: ClassVar[Scope] = Scope(row_local=True, splits=frozenset({"train"}))

    kinds: list[Kind] = Field(["gender"], min_length=1, description="Which kinds of identity are swapped.")
    names: bool = Field(False, description="Swap frequent English first names with those of the other gender as well.")
    pairs: Path | None = Field(
        None,
        description="Your own list beside the shipped ones: a line holds two terms with a tab between; yours win.",
    )

    @hook
    def clean(self, rows: Dataset, run: Run) -> Decisions:
        decisions = Decisions()
        swaps = Swaps([*self._own(run), *self._shipped()])
        columns = [name for name in COLUMNS if name in rows.column_names]
        for row in held(rows, swaps.table, columns, ["row_id"]):
            values: dict[str, Any] = {}
            total, found = 0, set()
            for name in columns:
                new, count, kinds = swapped(row[name], swaps) if row[name] else (row[name], 0, set())
                if count:
                    values[name], total, found = new, total + count, found | kinds
            if values:
                decisions.add(row["row_id"], "add", "swap-" + "+".join(sorted(found)), score=total, values=values)
        return decisions

    def _shipped(self) -> list[tuple[str, str, str]]:
        lines = [*shipped("swaps-en"), *shipped("swaps-zh"), *(shipped("names-en") if self.names else [])]
        return [(kind, one, other) for kind, one, other in lines if kind in (*self.kinds, "keep", "names")]

    def _own(self, run: Run) -> list[tuple[str, str, str]]:
        """The user's pairs. Raises ConfigError where the file cannot be read or a line is no pair."""
        if self.pairs is None:
            return []
        where = f"{run.stack.placed(self).where}  clean.{run.key(self)}.pairs"
        try:
            lines = given(run.stack.root / self.pairs.expanduser())
        except (OSError, UnicodeDecodeError) as error:
            raise ConfigError(f"{where}: {self.pairs} cannot be read ({error}); name a text file in UTF-8") from error
        for line in lines:
            like = len(line) == 2 and all(line) and len(line[0].split(" ")) == len(line[1].split(" "))
            if not like or len({len(term) if ord(term[0]) > 0x2E80 else 0 for term in line}) > 1:
                raise ConfigError(
                    f"{where}: {self.pairs} holds {' | '.join(line)!r}, which is no pair; give two terms of as many words "
                    "(Chinese: characters) with a tab between"
                )
        return [("own", one, other) for one, other in lines]
