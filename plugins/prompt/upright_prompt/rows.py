"""What `few-shot`, `chat` and `retrieve` share: names of columns, a text's normal form, room, the best scores."""

from __future__ import annotations

import difflib
import re
import unicodedata
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

from upright.errors import ConfigError

if TYPE_CHECKING:
    import numpy as np

    from upright import Run, Step

INPUTS = ("text", "text_pair", "prompt")
HIDDEN = ("row_id", "unit", "label", "labels", "completion")
"""Columns that no template shows of the row that is asked about."""


def normal(text: str) -> str:
    """NFKC, case folded, white space folded: equal for texts that a reader would call the same."""
    folded = unicodedata.normalize("NFKC", text).casefold()
    return " ".join(unicodedata.normalize("NFKC", folded).split())


def asked(run: Run) -> str:
    """The column that holds what the model is asked: ``prompt`` beside a ``completion``, else ``text``."""
    there = next(iter(run.data.values())).column_names
    return "prompt" if "prompt" in there and "completion" in there and _generates(run) else "text"


def columns(run: Run) -> list[str]:
    """The data's columns that a template may show."""
    hidden = {*HIDDEN, *run.config.data.sensitive}
    return [name for name in next(iter(run.data.values())).column_names if name not in hidden]


def check_names(wanted: Iterable[str], known: list[str], told: str) -> None:
    """Raises ConfigError for a name that no column has."""
    for name in wanted:
        if name not in known:
            near = difflib.get_close_matches(name, known, n=1)
            hint = f"did you mean {near[0]!r}?" if near else f"there are {', '.join(known)}"
            raise ConfigError(f"{told}: {{{name}}} is no column that it may show ({hint}); correct the name")


def told(step: Step, run: Run) -> str:
    """``file:line:col  section.key``."""
    placed = run.stack.placed(step)
    return f"{placed.where}  {placed}"


def earlier(step: Step, run: Run) -> list[Any]:
    """What the stack places before ``step`` that renders records too."""
    before = run.stack.steps[: run.stack.steps.index(run.stack.placed(step))]
    rendering = run.stack.answering("prompt")
    return [placed for placed in before if placed in rendering]


def unrendered(step: Step, run: Run, adding: tuple[type, ...]) -> None:
    """Raises ConfigError where a step before this one may have changed the texts by which it knows the data's rows.

    Steps of the kinds ``adding`` only add a column.
    """
    for placed in earlier(step, run):
        if not isinstance(placed.step, adding):
            raise ConfigError(
                f"{told(step, run)}: knows the data's rows by their text, which {placed} ({placed.where}) has changed by "
                f"then; put it before {placed}"
            )


def room(record: Mapping[str, Any], run: Run) -> int:
    """Tokens that a rendered text may have, special ones included.

    A causal model reads the completion in the same window, and core would take the prompt's beginning away for it; half
    of the window stays the prompt's.
    """
    window = run.max_length
    if run.config.model.task != "text-generation" or record.get("completion") is None:
        return window
    scored = len(run.tokenizer(record["completion"], add_special_tokens=False, verbose=False)["input_ids"]) + 1
    return max(window - scored, window // 2)


def best(scores: np.ndarray, count: int) -> list[int]:
    """Places of the ``count`` highest of ``scores [N]``, highest first, equal ones in order."""
    import numpy as np

    count = min(count, len(scores))
    if not count:
        return []
    bound = np.partition(scores, len(scores) - count)[len(scores) - count]
    among = np.flatnonzero(scores >= bound)
    return among[np.argsort(-scores[among], kind="stable")][:count].tolist()


def _generates(run: Run) -> bool:
    return run.config.model.task.endswith("generation")


def words(text: str) -> list[str]:
    """The words of a text's normal form: runs of letters and digits."""
    return re.findall(r"\w+", normal(text))
