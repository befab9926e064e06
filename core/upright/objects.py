"""CONTRACT. The objects that pass through hooks, so that two people build compatible things.

R is the number of rows of a batch, K of classes, T of tokens, D the width of the features.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    import numpy as np
    import pyarrow as pa
    import torch
    from torch import Tensor

Action = Literal["drop", "edit", "add", "flag", "relabel"]
Source = Literal["predictions", "ledger", "attested"]
Judgement = Literal["met", "violated", "insufficient evidence"]


@dataclass(slots=True)
class Batch:
    """Rows as the model sees them.

    ``inputs`` are the model's keyword arguments, each ``[R, ...]``; ``labels`` is ``Long[R]`` for classification,
    ``Long[R, T]`` with -100 for ignored positions otherwise. ``rows`` are row numbers within ``split``;
    ``unit`` says whose each row is: a step that repeats a row repeats its ``rows`` and ``unit`` entries too.
    ``groups`` holds, for each sensitive column, the code of the row's value (-1: missing); a step that marks rows in
    ``batch`` puts its marks beside them, by its key.
    """

    inputs: dict[str, Tensor]
    labels: Tensor
    rows: Tensor
    unit: Tensor
    groups: dict[str, Tensor] = field(default_factory=dict)
    split: str = "train"

    def __len__(self) -> int:
        return int(self.rows.shape[0])

    def to(self, device: torch.device | str) -> Batch:
        """The same batch with every tensor on ``device``."""
        return self._map(lambda tensor: tensor.to(device))

    def take(self, index: Tensor) -> Batch:
        """The rows at ``index`` (``Long[n]`` or a mask ``Bool[R]``), in that order, repeats allowed."""
        return self._map(lambda tensor: tensor[index])

    def _map(self, change: Any) -> Batch:
        return dataclasses.replace(
            self,
            inputs={name: change(value) for name, value in self.inputs.items()},
            labels=change(self.labels),
            rows=change(self.rows),
            unit=change(self.unit),
            groups={name: change(value) for name, value in self.groups.items()},
        )


@dataclass(slots=True)
class Output:
    """What ``forward`` returns: ``logits [R, K]`` or ``[R, T, K]``, ``features [R, D]`` or None."""

    logits: Tensor
    features: Tensor | None = None


@dataclass(frozen=True, slots=True)
class Stop:
    """Returned by ``watch`` to end training after the present update."""

    reason: str


@dataclass(frozen=True, slots=True)
class Metric:
    """One figure of a run, with its 95 % interval where it has one.

    ``source`` says how it can be checked: ``predictions`` and ``ledger`` are derived again by ``upright verify``.
    """

    value: float
    low: float | None = None
    high: float | None = None
    n: int | None = None
    source: Source = "predictions"

    def to_json(self) -> dict[str, Any]:
        """The form of metrics.json: absent bounds are left out, ``source`` is called ``from``."""
        fields = {"value": self.value, "low": self.low, "high": self.high, "n": self.n, "from": self.source}
        return {name: value for name, value in fields.items() if value is not None}

    @classmethod
    def from_json(cls, fields: dict[str, Any]) -> Metric:
        """The inverse of `to_json`."""
        return cls(fields["value"], fields.get("low"), fields.get("high"), fields.get("n"), fields["from"])


@dataclass(frozen=True, slots=True)
class Verdict:
    """What a gate says of a run: ``sentence`` names the figure, its interval and the bound."""

    gate: str
    judgement: Judgement
    sentence: str
    on_fail: Literal["block", "warn"] = "warn"


@dataclass(slots=True)
class Predictions:
    """One split's predictions as an Arrow table; no text.

    Columns: ``row_id`` (string), ``unit`` (int64) and, by task,

    * text-classification: ``label`` int32 (-1 unknown), ``scores`` list<float64>[K] (probabilities before ``decide``),
      ``decision`` int32 (after ``decide`` and argmax);
    * token-classification: the same three as lists over the row's words;
    * text-generation and text2text-generation: ``log_likelihood`` float64 (summed over the scored tokens), ``tokens`` int32.

    and ``group/<column>`` (string, null where missing) for each sensitive column.
    """

    split: str
    task: str
    labels: list[str]
    table: pa.Table

    def numpy(self, column: str) -> np.ndarray:
        """A flat column as an array; ``scores`` of a classification as ``[n, K]`` float64."""
        import numpy as np

        values = self.table.column(column).combine_chunks()
        if column != "scores":
            return np.asarray(values.to_numpy(zero_copy_only=False))
        flat = np.asarray(values.flatten().to_numpy(zero_copy_only=False), dtype=np.float64)
        return flat.reshape(len(self.table), -1)

    def groups(self, column: str) -> np.ndarray:
        """The group of each row as an object array of names, None where it is missing."""
        import numpy as np

        return np.array(self.table.column(f"group/{column}").to_pylist(), dtype=object)


class Decisions:
    """What a cleaner decides of rows; core applies and records it, the cleaner changes nothing itself.

    ``columns`` holds one list a field, all of the same length. ``values`` are the new column values of an edit, a
    relabelling or an added row; they are applied and never written to the ledger, which holds no text.
    """

    def __init__(self) -> None:
        self.columns: dict[str, list[Any]] = {name: [] for name in DECISION}

    def __len__(self) -> int:
        return len(self.columns["row_id"])

    @property
    def rows(self) -> list[dict[str, Any]]:
        """One mapping a decision; for tests and for steps that look at few."""
        return [dict(zip(self.columns, fields, strict=True)) for fields in zip(*self.columns.values(), strict=True)]

    def add(
        self,
        row_id: str | None,
        action: Action,
        reason: str,
        *,
        score: float | None = None,
        threshold: float | None = None,
        evidence: str | None = None,
        spans: Sequence[tuple[int, int]] = (),
        values: dict[str, Any] | None = None,
    ) -> None:
        """Decide on one row.

        ``reason`` is a short code (``exact-duplicate``): letters, digits and ``-_.:+/@``; ``evidence`` the row_id of the
        row that shows it; ``spans`` character offsets; for ``add``, ``row_id`` is the parent, whose unit the new row
        inherits, or None for a row that derives from no record: ``values`` gives every column, sensitive ones are
        missing, and it is a unit of its own.
        """
        fields = (row_id, action, reason, score, threshold, evidence, [list(span) for span in spans], values or {})
        for column, field_ in zip(self.columns.values(), fields, strict=True):
            column.append(field_)

    def extend(
        self,
        row_ids: Sequence[str],
        action: Action,
        reason: str,
        *,
        score: Sequence[float] | None = None,
        threshold: float | None = None,
        evidence: Sequence[str | None] | None = None,
    ) -> None:
        """Decide the same on many rows at once; ``score`` and ``evidence`` have one entry a row."""
        count = len(row_ids)
        constant = {"action": action, "reason": reason, "threshold": threshold}
        given: dict[str, Sequence[Any]] = {
            "row_id": row_ids,
            "score": score if score is not None else [None] * count,
            "evidence": evidence if evidence is not None else [None] * count,
            "spans": [[] for _ in range(count)],
            "values": [{} for _ in range(count)],
        }
        for name, column in self.columns.items():
            column.extend(given[name] if name in given else [constant[name]] * count)


DECISION = ("row_id", "action", "reason", "score", "threshold", "evidence", "spans", "values")
"""The fields of one decision."""


@dataclass(slots=True)
class Attribution:
    """How much each token of one row speaks for ``target`` (a class's name)."""

    row_id: str
    target: str
    tokens: list[str]
    offsets: list[tuple[int, int]]
    scores: np.ndarray
    completeness_error: float | None = None


@dataclass(frozen=True, slots=True)
class Text:
    """A paragraph of a report section."""

    text: str


@dataclass(frozen=True, slots=True)
class Table:
    """A table of a report section; numbers are formatted by the report."""

    header: Sequence[str]
    rows: Sequence[Sequence[Any]]


@dataclass(frozen=True, slots=True)
class Svg:
    """An inline picture; the report refuses scripts and outside references in it."""

    svg: str
    caption: str = ""


@dataclass(frozen=True, slots=True)
class Section:
    """What a step adds to the report. Text and cells are escaped by core."""

    title: str
    blocks: Sequence[Text | Table | Svg]


if TYPE_CHECKING:
    from typing import Protocol

    class Target(Protocol):
        """All that an explainer needs of a trained model, whatever wrappers surround it."""

        labels: list[str]

        def batches(self, rows: Sequence[int]) -> Iterator[Batch]:
            """The given rows of the explained split, of similar length together, on the run's device."""

        def tokens(self, batch: Batch) -> list[list[tuple[str, int, int]]]:
            """Each row's tokens with character offsets; padding left out, so row r has its true length."""

        def embed(self, batch: Batch) -> Tensor:
            """Input embeddings ``[R, T, D]``, detached."""

        def baseline(self, batch: Batch, kind: str) -> Tensor:
            """Embeddings without content, ``[R, T, D]``: ``pad``, ``mask`` or ``zero``; special tokens stay."""

        def scores(self, embeds: Tensor, batch: Batch, target: Tensor) -> Tensor:
            """The logit of class ``target`` (``Long[R]``), ``[R]``; token tasks: its mean over the decided words."""

        def decisions(self, batch: Batch) -> Tensor:
            """The class that the run decided for each row, ``Long[R]``."""

        def plain(self) -> Any:
            """A context in which adapters are off, so that the untuned model answers."""

        def parameters(self) -> list[torch.nn.Parameter]:
            """The parameters that training moved."""
