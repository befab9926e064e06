"""Every answer of a step is looked at where it is given: is it what the hook is to return?"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from upright import calls, objects
from upright.step import Step

if TYPE_CHECKING:
    from upright.testing.subject import TinyRun

Given = dict[str, Any]


@contextmanager
def watched(step: Step, seen: TinyRun) -> Iterator[None]:
    """Inside, what ``step`` answers is noted in ``seen.answered``, and what is no such answer in ``seen.amiss``."""
    plain = calls.Answer.__call__

    def call(self: calls.Answer, given: Given) -> Any:
        value = plain(self, given)
        if self.step is step and not inspect.isgenerator(value):  # a wrapper's generator is no answer
            name = self.function.__name__
            seen.answered.add(name)
            problem = amiss(name, value, given)
            if problem and problem not in seen.amiss:
                seen.amiss.append(problem)
        return value

    calls.Answer.__call__ = call  # type: ignore[method-assign]
    try:
        yield
    finally:
        calls.Answer.__call__ = plain  # type: ignore[method-assign]


def amiss(name: str, value: Any, given: Given) -> str | None:
    """One sentence where ``value`` is not what the hook ``name`` is to return."""
    wanted = EXPECTED[name](value, given)
    return f"`{name}` returned {_told(value)}; it is to return {wanted}" if wanted else None


def _told(value: Any) -> str:
    shape = getattr(value, "shape", None)
    return type(value).__name__ + (f" of shape {list(shape)}" if shape is not None else "")


# --- one function a kind of answer: what was wanted, or None where the value is that ---------------------------------


def _is(kind: Callable[[], Any], wanted: str, *, optional: bool = False) -> Callable[[Any, Given], str | None]:
    def look(value: Any, given: Given) -> str | None:
        return None if isinstance(value, kind()) or (optional and value is None) else wanted

    return look


def _module() -> Any:
    from torch.nn import Module

    return Module


def _optimizer() -> Any:
    from torch.optim import Optimizer

    return Optimizer


def _per_row(value: Any, given: Given) -> str | None:
    import torch

    rows = len(given["batch"])
    good = isinstance(value, torch.Tensor) and value.is_floating_point() and value.shape == (rows,)
    return None if good or value is None else f"one number per row, a float tensor of shape [{rows}]"


def _scalar(value: Any, given: Given) -> str | None:
    import torch

    good = isinstance(value, torch.Tensor) and value.is_floating_point() and value.dim() == 0
    return None if good or value is None else "a float tensor without dimensions"


def _statistics(value: Any, given: Given) -> str | None:
    import torch

    rows = len(given["batch"])
    good = value is None or (
        isinstance(value, dict)
        and all(isinstance(one, torch.Tensor) and one.dim() == 2 and len(one) == rows for one in value.values())
    )
    return None if good else f"a mapping of names to tensors of shape [{rows}, K]"


def _batch(value: Any, given: Given) -> str | None:
    if not isinstance(value, objects.Batch):
        return "a Batch"
    parts = [*value.inputs.values(), value.labels, value.unit, *value.groups.values()]
    if any(len(part) != len(value) for part in parts):
        return "a Batch whose tensors all have one entry a row"
    pairs = [set(zip(one.rows.tolist(), one.unit.tolist(), strict=True)) for one in (given["batch"], value)]
    return None if pairs[1] <= pairs[0] else "a Batch whose rows keep their `rows` and `unit`"


def _output(value: Any, given: Given) -> str | None:
    good = isinstance(value, objects.Output) and len(value.logits) == len(given["batch"])
    return None if good else "an Output whose logits have one entry a row"


def _record(value: Any, given: Given) -> str | None:
    good = isinstance(value, dict) and all(isinstance(key, str) for key in value)
    return None if good else "the record, a mapping of column names"


def _modules(value: Any, given: Given) -> str | None:
    good = value is None or (isinstance(value, dict) and all(isinstance(one, _module()) for one in value.values()))
    return None if good else "a mapping of names to modules"


def _rows(value: Any, given: Given) -> str | None:
    count = len(given["run"].data["train"])
    good = hasattr(value, "__len__") and all(int(row) == row and 0 <= row < count for row in value)
    return None if good else f"row numbers below {count}"


def _figures(value: Any, given: Given) -> str | None:
    number = (objects.Metric, int, float)
    good = value is None or (
        isinstance(value, dict) and all(isinstance(k, str) and isinstance(v, number) for k, v in value.items())
    )
    return None if good else "a mapping of names to Metric or float"


def _scores(value: Any, given: Given) -> str | None:
    import torch

    shape = given["scores"].shape
    good = isinstance(value, torch.Tensor) and value.is_floating_point() and value.shape == shape
    return None if good else f"scores of the shape that it was given, {list(shape)}"


def _verdicts(value: Any, given: Given) -> str | None:
    many = value if isinstance(value, (list, tuple)) else [] if value is None else [value]
    return None if all(isinstance(one, objects.Verdict) for one in many) else "Verdicts, or None"


def _sections(value: Any, given: Given) -> str | None:
    many = value if isinstance(value, (list, tuple)) else [] if value is None else [value]
    return None if all(isinstance(one, objects.Section) for one in many) else "Sections, or None"


def _attributions(value: Any, given: Given) -> str | None:
    known = set(given["rows"]["row_id"][:])
    good = isinstance(value, list) and all(
        isinstance(one, objects.Attribution)
        and one.row_id in known
        and len(one.tokens) == len(one.offsets) == len(one.scores)
        for one in value
    )
    return None if good else "a list of Attributions of the given rows, each with one score and one offset a token"


def _nothing(value: Any, given: Given) -> str | None:
    return None if value is None else "nothing"


EXPECTED: dict[str, Callable[[Any, Given], str | None]] = {
    "clean": _is(lambda: objects.Decisions, "Decisions, or None", optional=True),
    "model": _is(_module, "a Module"),
    "prepare": _nothing,
    "prompt": _record,
    "tune": _is(_module, "a Module"),
    "modules": _modules,
    "optimizer": _is(_optimizer, "an Optimizer"),
    "sample": _rows,
    "gradients": _is(lambda: dict, "a mapping of released sums, or None", optional=True),
    "batch": _batch,
    "forward": _output,
    "objective": _per_row,
    "weigh": _per_row,
    "loss": _per_row,
    "statistics": _statistics,
    "penalty": _scalar,
    "watch": _is(lambda: objects.Stop, "a Stop, or None", optional=True),
    "select": _is(lambda: (int, float), "a number"),
    "finalize": _is(_module, "a Module"),
    "export": _is(lambda: str, "the lines that load the model"),
    "calibrate": _nothing,
    "decide": _scores,
    "measure": _figures,
    "account": _figures,
    "judge": _verdicts,
    "explain": _attributions,
    "report": _sections,
    "save": _nothing,
    "restore": _nothing,
    "seal": _nothing,
    "unseal": _is(lambda: bool, "True or False"),
}
