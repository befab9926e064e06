"""The audit's part of the report: who is in the rows, then gaps, rates, calibration and ranking, in tables and pictures."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

from upright import Metric, Run, Section
from upright.objects import Svg, Table, Text
from upright_fairness import groups, picture, twin
from upright_fairness.groups import GroupSpec
from upright_fairness.rates import RATES
from upright_fairness.splits import audited

if TYPE_CHECKING:
    from upright_fairness.group_audit import GroupAudit

DRAWN = ("true_positive_rate", "false_positive_rate", "selection_rate")
OTHERS = ("brier_score", "expected_calibration_error", "subgroup_auc", "bpsn_auc", "bnsp_auc")
PAIRS = 30
"""Differences that are drawn; the table has all."""
WHOLE = ("_difference", "_ratio", "group_accuracy", "balanced_accuracy")
SOURCES = {
    "unstated": "Where the groups come from is not stated.",
    "self-reported": "The groups are self-reported.",
    "inferred": "The groups are inferred, not what people said of themselves.",
}


def section(step: GroupAudit, run: Run, spec: GroupSpec) -> Section:
    """All that is told of one way of telling groups apart."""
    blocks: list[Any] = [Text(f"{SOURCES[spec.provenance]} They may be used for {', '.join(spec.use)}.")]
    for split in audited({key.split("/")[0] for key in run.metrics} - {"run"}):
        blocks += _of_split(step, run, spec, split)
    return Section(f"Group fairness by {spec.name}", blocks)


def _of_split(step: GroupAudit, run: Run, spec: GroupSpec, split: str) -> Iterator[Any]:
    prefix = f"{split}/{run.home(step)}/"
    found = {key.removeprefix(prefix): metric for key, metric in run.metrics.items() if key.startswith(prefix)}
    mine = {key: metric for key, metric in found.items() if spec.name in key.split("/")[1:3]}
    missing, unlabelled = found[f"missing/{spec.name}"], found.get("unlabelled")
    yield Text(
        f"Split {split}. Intervals are 95 % and hold for all groups, or all pairs of groups, at once. Rows without a value "
        f"of {spec.name}: {int(missing.value)} of {missing.n}. Rows without a label: "
        f"{int(unlabelled.value) if unlabelled else 0}."
    )
    yield Table(
        ["who is in the rows", "rows", "of the class", "base rate", "95 % interval"], list(_base_rates(mine, spec.name))
    )
    yield _table("gap or ratio", mine, [key for key in mine if key.split("/")[0].endswith(WHOLE)])
    yield _table("difference", mine, _of(mine, ["difference"]))
    yield _table("rate", mine, _of(mine, RATES))
    yield _table("calibration and ranking", mine, _of(mine, OTHERS))
    if step.twin is not None:
        start, other = f"run/{run.home(step)}/twin/{split}/", f"{step.twin.parent.name}/{step.twin.resolve().name}"
        told = {key.removeprefix(start): metric for key, metric in run.metrics.items() if key.startswith(start)}
        yield Text(f"Beside the run {other}, on the same rows; a difference is this run's accuracy less the twin's.")
        yield Table(["rate", "of the twin", "of this run", "difference", "rows"], twin.table(told, mine, spec))
    drawn = [(_words(key, spec.name), mine[key]) for rate in DRAWN for key in _of(mine, [rate])]
    yield Svg(picture.points(drawn), f"Rates by {spec.name} on {split}, with 95 % intervals")
    pairs = [(_words(key, spec.name), mine[key]) for key in _of(mine, ["difference"])]
    widest = sorted(pairs, key=lambda pair: -abs(pair[1].value))[:PAIRS]
    some = f" (the {PAIRS} largest of {len(pairs)})" if len(pairs) > PAIRS else ""
    accepted = "" if step.max_gap is None else f"; dashed: the gap of {step.max_gap:g} that is accepted"
    yield Svg(
        picture.points(widest, step.max_gap, low=-1), f"Differences of groups on {split}{some}, 0 is equal{accepted}"
    )
    yield Svg(
        picture.reliability(list(_panels(step, run, spec, split))),
        f"Reliability by {spec.name} on {split}: share of the class (up) against its mean score (across) in 15 bins, with 95 % "
        "intervals of each bin; on the dashed diagonal a score means what it says; bars at the foot: share of the group's rows",
    )


def _base_rates(found: dict[str, Metric], name: str) -> Iterator[tuple[Any, ...]]:
    for key in _of(found, ["base_rate"]):
        rate = found[key]
        yield (
            key.removeprefix(f"base_rate/{name}/"),
            rate.n,
            int(found[key.replace("base_rate", "positives", 1)].value),
            *picture.row(key, rate)[1:3],
        )


def _panels(step: GroupAudit, run: Run, spec: GroupSpec, split: str) -> Iterator[tuple[str, Sequence[Any]]]:
    """Each group's title and bins, of each class that is told of."""
    from upright_fairness.calibration import bins

    predictions = run.predictions(split)
    label = predictions.numpy("label")
    codes, names = groups.codes(spec, predictions)
    for number, suffix in step.classes(predictions.labels):
        scores, truth = predictions.numpy("scores")[:, number], label == number
        for code, name in enumerate(names):
            chosen = (codes == code) & (label >= 0)
            title = f"{name}{suffix.replace('/', ', ')} ({int(chosen.sum())} rows)"
            yield title, bins(scores[chosen], truth[chosen])


def _of(found: dict[str, Metric], measures: Sequence[str]) -> list[str]:
    return [key for key in found if key.split("/")[0] in measures]


def _table(what: str, found: dict[str, Metric], keys: list[str]) -> Table:
    rows = "rows in the smallest cell" if what in ("gap or ratio", "difference") else "rows"
    return Table([what, "value", "95 % interval", rows], [picture.row(key, found[key]) for key in keys])


def _words(key: str, name: str) -> str:
    """``true positive rate f`` of ``true_positive_rate/sex/f``."""
    return key.replace(f"/{name}", "", 1).removeprefix("difference/").replace("/", " ").replace("_", " ")
