"""What the report says of a private run: its guarantee, how it was kept, and what lies outside of it."""

from __future__ import annotations

from pathlib import PurePath
from typing import TYPE_CHECKING, Any

from upright import Run, Section
from upright.objects import Table, Text

if TYPE_CHECKING:
    from upright_privacy.dp_sgd import DpSgd

MODES = {"direct": "a rule for each tensor", "functorch": "vmap"}


def section(
    step: DpSgd, run: Run, state: dict[str, Any], noise: tuple[float, float | None, float | None], draws: int
) -> Section:
    """``state`` is what the step keeps; ``noise`` its multipliers of gradient, statistics and count; ``draws`` charged."""
    gradient, statistics, count = noise
    home = run.home(step)
    column = run.config.data.unit
    unit = "one training record" if column is None else f"all training rows of one {column}"
    facts = [
        ("epsilon (PRV accountant, from the ledger)", run.metrics[f"run/{home}/epsilon"].value),
        ("epsilon (RDP accountant)", run.metrics[f"run/{home}/epsilon_rdp"].value),
        ("delta", step.delta),
        ("unit of privacy", unit),
        ("neighbouring data sets", "one unit more or less"),
        ("sampling rate (Poisson)", state["sample_rate"]),
        ("draws charged", draws),
        ("noise multiplier of the gradient", gradient),
        ("noise multiplier of statistics", statistics if statistics is not None else "none released"),
        ("clipping", step.clipping),
        ("clipping norm", step.max_grad_norm),
        *([("noise multiplier of the count below the norm", count)] if count else []),
        ("per-unit gradients", MODES.get(state["mode"], "a loop")),
        *((f"tensors served by: {name}", number) for name, number in state["rules"].items()),
        ("attempts (a resume draws fresh noise and is charged)", state["attempt"]),
    ]
    return Section(
        "Differential privacy",
        [
            Text(
                "Whoever sees the model, every released figure of the training and all intermediate weights learns "
                f"little about whether {unit} was there. The bound holds for the training rows as they were after "
                "cleaning."
            ),
            Table(["what", "value"], facts),
            Text("Not covered by epsilon:"),
            Table(["what", "because of"], outside(run)),
        ],
    )


def outside(run: Run) -> list[tuple[str, str]]:
    """What was learned of the data beside the private release, and the line of the stack that caused it."""
    stack, train = run.stack, run.config.train
    found = [(f"what {p} saw of the training rows", p.where) for p in stack.steps if p.reads_private]
    found += [
        ("the set of labels", stack.where("data", "train")),
        ("the number of units", stack.where("data", "train")),
    ]
    if train.eval_strategy != "no":
        place = stack.where("train", "eval_strategy")
        found.append(("figures on validation while training, if its rows are private too", place))
        if train.load_best_model_at_end:
            found.append(("which iterate was best on validation", stack.where("train", "load_best_model_at_end")))
        if train.early_stopping_patience is not None:
            found.append(("when training stopped", stack.where("train", "early_stopping_patience")))
    found += [(f"what {p} chose on validation", p.where) for p in stack.answering("calibrate")]
    found.append(("how long the run took", stack.where("train")))
    return [(what, PurePath(where).name) for what, where in found]
