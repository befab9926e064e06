"""Three verdicts from a figure and its interval: met, violated, or insufficient evidence."""

from __future__ import annotations

from math import inf
from typing import Literal

from upright import Metric, Verdict

OnFail = Literal["block", "warn"]


def at_most(gate: str, metric: Metric | None, bound: float, min_rows: int, on_fail: OnFail) -> Verdict:
    """Met where the whole interval is at most ``bound``, violated where it is above."""
    return between(gate, metric, -inf, bound, min_rows, on_fail)


def at_least(gate: str, metric: Metric | None, bound: float, min_rows: int, on_fail: OnFail) -> Verdict:
    """Met where the whole interval is at least ``bound``, violated where it is below."""
    return between(gate, metric, bound, inf, min_rows, on_fail)


def between(gate: str, metric: Metric | None, least: float, most: float, min_rows: int, on_fail: OnFail) -> Verdict:
    """Met where the whole interval is from ``least`` to ``most``, violated where it is all below or all above."""
    if metric is None or metric.low is None or metric.high is None or (metric.n or 0) < min_rows:
        rows = 0 if metric is None else metric.n or 0
        sentence = f"{gate}: the smallest cell holds {rows} rows, fewer than {min_rows}; collect more"
        return Verdict(gate, "insufficient evidence", sentence, on_fail)
    told = f"{gate} is {metric.value:.3f} [{metric.low:.3f}, {metric.high:.3f}]"
    if least <= metric.low and metric.high <= most:
        bounds = [f"not under {least:g}"] * (least > -inf) + [f"not over {most:g}"] * (most < inf)
        return Verdict(gate, "met", f"{told}: {' and '.join(bounds)}", on_fail)
    if metric.low > most or metric.high < least:
        beyond = f"over {most:g}" if metric.low > most else f"under {least:g}"
        return Verdict(gate, "violated", f"{told}: {beyond}", on_fail)
    crossed = most if metric.high > most else least
    return Verdict(gate, "insufficient evidence", f"{told}: {crossed:g} lies inside; test on more rows", on_fail)


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
