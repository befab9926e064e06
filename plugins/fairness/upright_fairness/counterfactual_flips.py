"""How often a decision changes where identity terms are swapped (counterfactual fairness of texts: Garg et al., 2019,
arXiv:1809.10610)."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from pydantic import Field

from upright import Capability, Metric, Predictions, Run, Section, Step, Verdict, hook
from upright_fairness import groups
from upright_fairness.groups import Groups
from upright_fairness.positive import plain
from upright_fairness.splits import audited
from upright_fairness.terms import GENDER, read_terms, swapped

if TYPE_CHECKING:
    from datasets import Dataset

COLUMNS = ("text", "text_pair")


class CounterfactualFlips(Step):
    """Swap identity terms in test rows and count the decisions that change, each rate with an interval; with a bound a gate."""

    needs = frozenset({Capability.CLASS_SCORES})
    tasks = frozenset({"text-classification"})

    terms: Path | None = Field(
        None, description="File of pairs, a line each with a tab between; default: English gender terms."
    )
    groups: list[Groups] = Field(
        default_factory=list, description="Sensitive columns, or group specs (see Groups), whose flips are told apart."
    )
    max_flip_rate: float | None = Field(None, ge=0, le=1, description="Largest share of flips that is accepted.")
    on_fail: Literal["block", "warn"] = Field(
        "warn", description="block: a violated bound ends the run with exit code 4."
    )
    min_rows: int = Field(30, ge=1, description="Fewer rows with a term are insufficient evidence.")

    @hook
    def prepare(self, run: Run) -> None:
        groups.check(self, self.groups, "audit", run)
        self._pairs(run)

    @hook
    def save(self, folder: Path, run: Run) -> None:
        """The terms, and what is decided of the rows that hold one, with all terms swapped; no text of theirs."""
        import pyarrow.parquet as pq

        pairs = self._pairs(run)
        (folder / "terms.tsv").write_text("".join(f"{one}\t{other}\n" for one, other in pairs), encoding="utf-8")
        for split in audited(run.data):
            rows = with_swapped(run.data[split], pairs)
            if len(rows):
                pq.write_table(run.predict(rows).table, folder / f"{split}.parquet")

    @hook
    def account(self, folder: Path, run: Run) -> dict[str, Metric]:
        import pyarrow.parquet as pq

        found: dict[str, Metric] = {}
        for path in sorted(folder.glob("*.parquet")):
            for key, metric in self._figures(run.predictions(path.stem), pq.read_table(path)):
                found[f"{path.stem}/{key}"] = metric
        return found

    @hook
    def judge(self, metrics: dict[str, Metric], run: Run) -> list[Verdict]:
        from upright_fairness import verdicts

        if self.max_flip_rate is None:
            return []
        home = f"run/{run.home(self)}/"
        return [
            verdicts.at_most(
                f"{split} flip rate",
                metrics.get(f"{home}{split}/flip_rate"),
                self.max_flip_rate,
                self.min_rows,
                self.on_fail,
            )
            for split in audited({key.split("/")[0] for key in metrics} - {"run"})
        ]

    @hook
    def report(self, run: Run) -> Section:
        from upright.objects import Svg, Table, Text
        from upright_fairness import picture

        home = f"run/{run.home(self)}/"
        found = {key.removeprefix(home): metric for key, metric in run.metrics.items() if key.startswith(home)}
        rates = [(key, metric) for key, metric in found.items() if "/rows_with_a_term" not in key]
        told = [
            f"{int(metric.value)} of {metric.n} rows of {key.split('/')[0]} hold a term"
            for key, metric in found.items()
            if key.endswith("/rows_with_a_term")
        ]
        text = (
            f"Pairs of terms: {len(self._pairs(run))}, in {self.terms.name if self.terms else GENDER.name}. "
            f"{'; '.join(told) or 'No row holds a term, so nothing is known'}. The swapped text is read as the row's own "
            "was, and the row keeps its recorded group. Intervals are 95 % and hold for all groups at once. A score's change "
            "is half the sum of the classes' changes: 0 where nothing moves, 1 where all of it does."
        )
        blocks: list[Any] = [Text(text)]
        if rates:
            blocks.append(
                Table(["figure", "value", "95 % interval", "rows"], [picture.row(key, one) for key, one in rates])
            )
            blocks.append(
                Svg(
                    picture.points([(key, one) for key, one in rates if "/flip_rate" in key], self.max_flip_rate),
                    "Flip rates with 95 % intervals",
                )
            )
        return Section("Decisions with identity terms swapped", blocks)

    def _figures(self, recorded: Predictions, swapped: Any) -> Iterator[tuple[str, Metric]]:
        """(key, figure) from what was decided of a split, and of its rows with terms swapped."""
        import numpy as np
        import pyarrow.compute as pc

        from upright_fairness.intervals import means, sidak, wilson

        other = Predictions(recorded.split, recorded.task, recorded.labels, swapped)
        place = pc.index_in(swapped["row_id"], recorded.table["row_id"].combine_chunks()).to_numpy()
        one = Predictions(recorded.split, recorded.task, recorded.labels, recorded.table.take(place))
        flipped = one.numpy("decision") != other.numpy("decision")
        change = np.abs(one.numpy("scores") - other.numpy("scores")).sum(1) / 2
        yield "rows_with_a_term", Metric(float(len(flipped)), n=len(recorded.table), source="ledger")
        everybody = "", np.zeros(len(flipped), dtype=np.int64), [""]
        for column, codes, names in [everybody, *((f"/{s.name}", *groups.codes(s, one)) for s in self.groups)]:
            rows = np.bincount(codes[codes >= 0], minlength=len(names))
            flips = np.bincount(codes[flipped & (codes >= 0)], minlength=len(names))
            low, high = wilson(flips, rows, sidak(len(names)))
            changes = means(change, codes, len(names))
            for number, name in enumerate(names):
                end = f"{column}{name and '/' + plain(name)}"
                rate = float(flips[number] / rows[number])
                bounds = float(low[number]), float(high[number])
                yield f"flip_rate{end}", Metric(rate, *bounds, int(rows[number]), "ledger")
                told = changes[number]
                key = f"mean_absolute_score_change{end}"
                yield key, Metric(told.value, told.low, told.high, told.rows, "ledger")

    def _pairs(self, run: Run) -> list[tuple[str, str]]:
        return read_terms(GENDER if self.terms is None else run.stack.root / self.terms.expanduser())


def with_swapped(rows: Dataset, pairs: list[tuple[str, str]]) -> Dataset:
    """The rows that hold a term in a text, with every term swapped."""
    changed = {
        name: [swapped(text or "", pairs) for text in rows[name][:]] for name in COLUMNS if name in rows.column_names
    }
    held = [place for place in range(len(rows)) if any(found[place][1] for found in changed.values())]
    chosen = rows.select(held)
    for name, found in changed.items():
        texts = [
            new if count else old
            for old, (new, count) in zip(chosen[name][:], (found[place] for place in held), strict=True)
        ]
        chosen = chosen.remove_columns(name).add_column(name, texts, feature=rows.features[name])
    return chosen
