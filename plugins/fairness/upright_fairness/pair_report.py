"""What `pair-bias` says in the report: one line a type of pairs, before and after tuning."""

from __future__ import annotations

from collections import Counter
from typing import Any

from upright import Metric, Section
from upright.objects import Table, Text
from upright_fairness.pairs import Kind

TITLES = {"templates": "template sentences", "crows-pairs": "CrowS-Pairs", "winobias": "WinoBias"}
SCORED = {
    "causal": "A sentence's score is the log-likelihood of all of its tokens.",
    "masked": "A sentence's score is the log-likelihood of the tokens that both sentences of its pair have, each masked alone.",
}
PHASES = {"": "", "untuned/": "untuned ", "change/": "change by tuning of the "}


def section(
    kind: Kind, found: dict[str, Metric], suffixes: list[str], reasons: list[str], about: dict[str, Any]
) -> Section:
    """A table of preferences and, where types have two groups, one of gaps."""
    phases = [phase for phase in PHASES if f"{phase}preference" in found]
    left_out = ", ".join(f"{count} ({reason})" for reason, count in sorted(Counter(reasons).items())) or "0"
    intervals = (
        "hold for all types at once; the line of all pairs stands alone" if len(suffixes) > 1 else "are of all pairs"
    )
    blocks: list[Text | Table] = [
        Text(
            f"{SCORED[about['reading']]} The preference is the share of pairs whose stereotyped sentence has the higher "
            f"score; one half is none. Intervals are 95 % and {intervals}. Pairs left out: {left_out}. SHA-256 of the pairs: "
            f"{about['sha256']}."
        )
    ]
    rows = [
        [
            suffix.removeprefix("/") or "all",
            found[f"preference{suffix}"].n,
            *_cells(found, phases, f"preference{suffix}"),
        ]
        for suffix in suffixes
    ]
    blocks.append(Table(["type", "pairs", *_header(phases, "preference")], rows))
    gaps = [key for key in found if key.startswith("gap/")]
    if gaps:
        blocks.append(
            Text(
                "The gap is how much higher the log-odds of the first group (he, young) over the second are with the terms "
                "that a stereotype ties to the first than with those that it ties to the second; a constant preference for "
                "one group is in neither figure. p is the share of deals of the terms at random that are as far apart, of "
                "each type by itself."
            )
        )
        rows = [
            [
                key.removeprefix("gap/"),
                found[key].n,
                *_cells(found, phases, key),
                *(found[f"{phase}{key.replace('gap/', 'p_value/')}"].value for phase in phases),
            ]
            for key in gaps
        ]
        header = [*_header(phases, "gap"), *(f"p of the {PHASES[phase]}gap" for phase in phases)]
        blocks.append(Table(["type", "terms", *header], rows))
    return Section(f"Stereotypes in {TITLES[kind]}", blocks)


def _header(phases: list[str], figure: str) -> list[str]:
    return [title for phase in phases for title in (f"{PHASES[phase]}{figure}", "95 % interval")]


def _cells(found: dict[str, Metric], phases: list[str], key: str) -> list[Any]:
    cells: list[Any] = []
    for metric in (found[f"{phase}{key}"] for phase in phases):
        undefined = metric.low is None or metric.high is None
        cells += [metric.value, "undefined" if undefined else f"{metric.low:.3f} to {metric.high:.3f}"]
    return cells
