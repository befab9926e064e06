"""Three verdicts from a figure and its interval: met, violated, or insufficient evidence."""

from __future__ import annotations

from typing import Literal

from upright import Metric, Verdict

OnFail = Literal["block", "warn"]


def at_most(gate: str, metric: Metric | None, bound: float, min_rows: int, on_fail: OnFail) -> Verdict:
    """Met where the whole interval is at most ``bound``, violated where it is above."""
    return _verdict(gate, metric, bound, min_rows, on_fail, upper=True)


def at_least(gate: str, metric: Metric | None, bound: float, min_rows: int, on_fail: OnFail) -> Verdict:
    """Met where the whole interval is at least ``bound``, violated where it is below."""
    return _verdict(gate, metric, bound, min_rows, on_fail, upper=False)


def useful(gate: str, metric: Metric | None, floor: float, min_rows: int, on_fail: OnFail) -> Verdict:
    """Met where the whole interval is above ``floor``: one that decides the same of everybody is exactly at 0.5."""
    verdict = at_least(gate, metric, floor, min_rows, on_fail)
    if verdict.judgement == "met" and metric is not None and metric.low == floor:
        sentence = f"{verdict.sentence.partition(':')[0]}: no better than {floor:g}"
        return Verdict(gate, "insufficient evidence", sentence, on_fail)
    return verdict


def provided(verdict: Verdict, condition: Verdict) -> Verdict:
    """``verdict``, but met only where ``condition`` is: equal rates of a useless predictor show nothing."""
    if verdict.judgement != "met" or condition.judgement == "met":
        return verdict
    sentence = f"{verdict.sentence}; but {condition.sentence}, and equal rates of a useless predictor show nothing"
    return Verdict(verdict.gate, "insufficient evidence", sentence, verdict.on_fail)


def _verdict(gate: str, metric: Metric | None, bound: float, min_rows: int, on_fail: OnFail, *, upper: bool) -> Verdict:
    if metric is None or metric.low is None or metric.high is None or (metric.n or 0) < min_rows:
        rows = 0 if metric is None else metric.n or 0
        sentence = f"{gate}: the smallest cell holds {rows} rows, fewer than {min_rows}; collect more"
        return Verdict(gate, "insufficient evidence", sentence, on_fail)
    told = f"{gate} is {metric.value:.3f} [{metric.low:.3f}, {metric.high:.3f}]"
    under, over = metric.high <= bound, metric.low > bound
    if not upper:
        under, over = metric.low >= bound, metric.high < bound
    if under:
        return Verdict(gate, "met", f"{told}: not {'over' if upper else 'under'} {bound:g}", on_fail)
    if over:
        return Verdict(gate, "violated", f"{told}: {'over' if upper else 'under'} {bound:g}", on_fail)
    return Verdict(gate, "insufficient evidence", f"{told}: {bound:g} lies inside; test on more rows", on_fail)
