"""Rows whose label is probably wrong (confident learning: Northcutt et al., 2021, arXiv:1911.00068), with two changes.

Class probabilities are divided by the class priors (logit adjustment: Menon et al., 2021, arXiv:2007.07314): without it a
rare class looks unlikely for its own rows, and they are removed. And a row's nearest neighbours in each class vote too.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar, Literal

from pydantic import Field

from upright import Decisions, Run, Scope, Step, hook
from upright.errors import ConfigError

if TYPE_CHECKING:
    import numpy as np
    from datasets import Dataset


class LabelIssues(Step):
    """Flag train rows for which another class is much likelier than the given one.

    How likely a class is follows from a logistic regression on sentence embeddings of the base that has not seen the row
    (cross-validation), divided by the share of the class, and from the row's nearest neighbours in each class. The score in
    the ledger is the logarithm of the odds, the threshold that of `odds` times the root of the number of other
    classes. For rows of a class that is smaller than the mean class it is multiplied by the power 0.75 of how many times
    smaller: little is known of such a class, so more of its right rows look wrong. The evidence is the nearest row of the
    likelier class. Rows of classes with fewer rows than folds are neither judged nor compared with. Memory grows with rows
    times classes.
    """

    scope: ClassVar[Scope] = Scope(splits=frozenset({"train"}))
    tasks = frozenset({"text-classification"})

    action: Literal["flag", "drop", "relabel"] = Field(
        "flag", description="What becomes of such a row; relabel gives it the likelier class."
    )
    odds: float = Field(
        3,
        gt=0,
        description="How many times likelier another class must be, times the root of the number of other classes; more "
        "for rows of small classes.",
    )
    folds: int = Field(5, ge=2, description="Parts of the cross-validation.")
    inverse_regularization: float = Field(
        10, gt=0, description="`C` of the logistic regression; smaller for noisier labels or fewer rows."
    )
    neighbours: int = Field(3, ge=0, description="Nearest rows of each class that vote; 0: no vote.")

    @hook
    def clean(self, rows: Dataset, run: Run) -> Decisions:
        import numpy as np

        from upright_clean import label_odds

        decisions = Decisions()
        if "label" not in rows.column_names:
            raise ConfigError(
                f"{run.stack.where('data')}  {run.stack.placed(self)} needs a label for each row: map a column to `label` in "
                "data.columns"
            )
        place, classes, labels = _judged(rows, self.folds)
        if len(classes) < 2:
            return decisions
        features = run.embed(rows.select(place))
        held = 2 * features.nbytes + 24 * len(place) * len(classes)
        run.emit("memory", step=run.key(self), split="train", bytes=held)
        log_odds, likelier = label_odds.log_odds(
            features, labels, self.folds, self.inverse_regularization, self.neighbours, run.seed
        )
        threshold = label_odds.thresholds(labels, self.odds)[labels]
        found = np.flatnonzero(log_odds > threshold)
        ids = rows.select_columns(["row_id"]).select(place)["row_id"][:]
        evidence = label_odds.nearest(features, labels, found, likelier[found])
        for row, shown in zip(found.tolist(), evidence.tolist(), strict=True):
            decisions.add(
                ids[row],
                self.action,
                "label-issue",
                score=float(log_odds[row]),
                threshold=float(threshold[row]),
                evidence=ids[shown],
                values={"label": classes[likelier[row]]} if self.action == "relabel" else None,
            )
        return decisions


def _judged(rows: Dataset, least: int) -> tuple[np.ndarray, list[Any], np.ndarray]:
    """The places of rows whose class has ``least`` rows, by row id, their classes, and each one's class number ``[N]``.

    By row id, so that the order of the rows decides nothing: neither the folds nor the last bits of a sum.
    """
    import numpy as np
    import pyarrow.compute as pc

    table = rows.select_columns(["row_id", "label"]).with_format("arrow")[:]
    place = pc.sort_indices(table.column("row_id")).to_numpy().astype(np.int64)
    encoded = table.column("label").combine_chunks().dictionary_encode()
    names = encoded.dictionary.to_pylist()
    codes = np.asarray(pc.fill_null(encoded.indices, -1).to_numpy(zero_copy_only=False))
    count = np.bincount(codes[codes >= 0], minlength=len(names))
    enough = sorted((number for number in range(len(names)) if count[number] >= least), key=lambda n: names[n])
    number = np.full(len(names) + 1, -1)
    number[enough] = np.arange(len(enough))
    labels = number[codes[place]]
    return place[labels >= 0], [names[n] for n in enough], labels[labels >= 0]
