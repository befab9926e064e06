"""Whether the group can be told from what the head reads, by probes that are forgotten (Elazar and Goldberg, 2018,
arXiv:1808.06640)."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import Field

from upright import Capability, Metric, Run, Section, Step, hook
from upright.errors import ConfigError
from upright_fairness import groups
from upright_fairness.groups import Groups, GroupSpec
from upright_fairness.positive import plain
from upright_fairness.splits import FITTED

if TYPE_CHECKING:
    from collections.abc import Iterator

    import pyarrow as pa

LIMIT = 3000
"""Validation rows that a probe is fitted on at the most."""


class GroupProbe(Step):
    """Tell the group from the features, linearly and not, by probes that validation fits and test measures; none is kept."""

    needs = frozenset({Capability.CLASS_SCORES})
    tasks = frozenset({"text-classification"})

    groups: list[Groups] = Field(min_length=1, description="Sensitive columns, or group specs (see Groups).")
    min_rows: int = Field(
        10, ge=5, description="A group of fewer rows in validation, or in the split measured on, is left out."
    )

    @hook
    def prepare(self, run: Run) -> None:
        groups.check(self, self.groups, "audit", run)
        if "validation" not in run.data or not set(run.data).difference(FITTED):
            raise ConfigError(
                f"{run.stack.placed(self).where}  fairness.{run.key(self)}: fits on validation and measures on a test split; "
                "give both in data"
            )
        run.features(run.data["validation"].select(range(1)))  # says so where there are none

    @hook
    def save(self, folder: Path, run: Run) -> None:
        """What the probes say of the rows that they are measured on, for the figures; the probes themselves are dropped."""
        import pyarrow as pa
        import pyarrow.parquet as pq

        given = run.features(run.data["validation"])
        for split in sorted(set(run.data).difference(FITTED)):
            asked = run.features(run.data[split])
            found = {spec.name: self._probed(spec, split, given, asked, run) for spec in self.groups}
            about = {"names": json.dumps({name: names for name, (names, _) in found.items()})}
            table = pa.concat_tables([part for _, part in found.values()]).replace_schema_metadata(about)
            pq.write_table(table, folder / f"{split}.parquet")

    @hook
    def account(self, folder: Path, run: Run) -> dict[str, Metric]:
        import pyarrow.compute as pc
        import pyarrow.parquet as pq

        found: dict[str, Metric] = {}
        for path in sorted(folder.glob("*.parquet")):
            table = pq.read_table(path)
            for name, names in json.loads(table.schema.metadata[b"names"]).items():
                part = table.filter(pc.equal(table["groups"], name))
                for kind, group, metric in _figures(part, names, run.seed) if names else ():
                    found[f"{path.stem}/{kind}/{name}{group}"] = metric
        return found

    @hook
    def report(self, run: Run) -> Section:
        from upright.objects import Svg, Table, Text
        from upright_fairness import picture

        home = f"run/{run.home(self)}/"
        found = {key.removeprefix(home): metric for key, metric in run.metrics.items() if key.startswith(home)}
        text = (
            "How well a probe tells the group from what the head reads: AUC, the mean over groups of each against the "
            "others; .5 is chance. Fitted on validation, measured on rows that it has not seen; no train row is read, and the "
            "probes are not kept. Null: the same scores with the groups dealt anew to the rows 1,000 times, between its 2.5th "
            "and 97.5th percentile. A linear probe at .5 does not show that the group is gone: look at the other one too. "
            "That a group can be told does not show that decisions use it, and a better probe may tell more."
        )
        blocks: list[Any] = [Text(text)]
        if found:
            rows = [picture.row(key, metric) for key, metric in found.items()]
            drawn = [(key, metric) for key, metric in found.items() if not key.split("/")[1].endswith("p_value")]
            blocks.append(Table(["figure", "value", "95 % interval", "rows"], rows))
            blocks.append(Svg(picture.points(drawn, 0.5), "AUC of the probes and of their nulls; dashed: chance"))
        else:
            blocks.append(Text(f"Fewer than two groups have {self.min_rows} rows, so nothing is known."))
        return Section("Can the group be told from the representation?", blocks)

    def _probed(self, spec: GroupSpec, split: str, given: Any, asked: Any, run: Run) -> tuple[list[str], pa.Table]:
        """The groups that are told apart, and each probe's scores of each row of ``split`` that is of one of them.

        ``given`` and ``asked`` are the features of validation and of ``split``.
        """
        import numpy as np
        import pyarrow as pa
        import torch

        from upright_fairness.probes import KINDS, fitted

        (before, first), (after, second) = (self._held(spec, name, run) for name in ("validation", split))
        names = sorted(set(first) & set(second))
        if len(names) < 2:
            return [], _schema().empty_table()
        chance = run.generator(self)
        order = torch.randperm(len(before), generator=chance).tolist()
        state = int(torch.randint(2**31, (1,), generator=chance))
        fit = _of_each(names, [(place, before[place]) for place in order], LIMIT // len(names))
        measured = [place for place, group in enumerate(after) if group in names]
        codes = np.array([names.index(str(before[place])) for place in fit])
        rows = run.data[split]["row_id"][:]
        columns = {
            "groups": [spec.name] * len(measured),
            "row_id": [rows[place] for place in measured],
            "group": [after[place] for place in measured],
        }
        scores = {kind: fitted(kind, given[fit], codes, state)(asked[measured]).tolist() for kind in KINDS}
        return names, pa.table({**columns, **scores}, _schema())

    def _held(self, spec: GroupSpec, split: str, run: Run) -> tuple[list[str | None], list[str]]:
        """Each row's group, None where it is missing, and the groups of ``min_rows`` rows or more."""
        codes, names = groups.codes(spec, run.predictions(split))
        enough = [name for code, name in enumerate(names) if int((codes == code).sum()) >= self.min_rows]
        return [names[code] if code >= 0 else None for code in codes], enough


def _schema() -> Any:
    import pyarrow as pa

    scores = pa.list_(pa.float64())
    texts = {name: pa.string() for name in ("groups", "row_id", "group")}
    return pa.schema({**texts, "linear": scores, "non_linear": scores})


def _figures(rows: pa.Table, names: list[str], seed: int) -> Iterator[tuple[str, str, Metric]]:
    """(figure, a group where there are more than two, the figure) of one way of telling groups apart."""
    import numpy as np
    import pyarrow as pa
    import pyarrow.compute as pc

    from upright_fairness.probes import KINDS, balanced_auc, by_group, permuted

    codes = pc.index_in(rows["group"], pa.array(names)).to_numpy()
    for kind in KINDS:
        scores = rows[kind].combine_chunks().flatten().to_numpy().reshape(len(rows), len(names))
        told, null = balanced_auc(scores, codes), permuted(scores, codes, seed)
        low, high = np.percentile(null, [2.5, 97.5])
        yield f"{kind}_auc", "", Metric(told.value, told.low, told.high, told.rows, "ledger")
        yield f"{kind}_auc_null", "", Metric(float(null.mean()), float(low), float(high), told.rows, "ledger")
        share = (1 + int((null >= told.value - 1e-12).sum())) / (1 + len(null))
        yield f"{kind}_p_value", "", Metric(share, n=told.rows, source="ledger")
        for name, one in zip(names, by_group(scores, codes), strict=True) if len(names) > 2 else ():
            yield f"{kind}_auc", f"/{plain(name)}", Metric(one.value, one.low, one.high, one.rows, "ledger")


def _of_each(names: list[str], order: list[tuple[int, str | None]], most: int) -> list[int]:
    """The first ``most`` places of each group, in their order: a small group keeps its rows."""
    left = dict.fromkeys(names, most)
    chosen = []
    for place, group in order:
        if group is not None and left.get(group, 0) > 0:
            left[group] -= 1
            chosen.append(place)
    return chosen
