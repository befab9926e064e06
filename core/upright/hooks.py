"""CONTRACT. Every hook: who calls it, when, and how the answers of several steps combine.

A hook is a moment of a run. A step answers it with a method of the same name marked ``@hook``; it takes any subset of
the arguments, by name. Answers come in the order of the stack file. Core's own come last, through the same door.

``combine`` names the rule: *chain* (each gets what the last one returned), *first* (one step only; two are an error),
*all* (every step sees the moment), *list*, *merge* (equal keys are an error), *sum* and *product*.

A ``@hook(wrapper=True)`` generator surrounds the combined answer; the first wrapper in the file is outermost.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal, TypeVar

import pluggy

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from datasets import Dataset
    from torch import Tensor
    from torch.nn import Module
    from torch.optim import Optimizer

    from upright.objects import (
        Attribution,
        Batch,
        Decisions,
        Metric,
        Output,
        Predictions,
        Section,
        Stop,
        Target,
        Verdict,
    )
    from upright.run import Run
    from upright.step import Step

Combine = Literal["chain", "first", "all", "list", "merge", "sum", "product"]
Moment = Literal["started", "updated", "evaluated", "trained"]

_spec = pluggy.HookspecMarker("upright")
HOOKS: dict[str, Combine] = {}
Spec = TypeVar("Spec", bound="Callable[..., Any]")


def _combines(rule: Combine) -> Callable[[Spec], Spec]:
    def mark(spec: Spec) -> Spec:
        HOOKS[spec.__name__] = rule
        return _spec(spec)

    return mark


# --- data -----------------------------------------------------------------------------------------------------------


@_combines("all")
def clean(rows: Dataset, split: str, step: Step, run: Run) -> Decisions:
    """Decide which rows to drop, edit, add, flag or relabel.

    Called for each step and split, before the model is loaded; the next cleaner sees the rows as the last one left
    them. What a step declares in ``scope`` is held to: a row-local one may be asked about parts of a split, and
    ``run.data`` holds only what it ``reads``. Core applies the decisions and writes them to ``data/ledger.parquet``. On a
    test split only flags and the edits of row-local cleaners are applied; a drop there is recorded as a flag, so that a
    cleaner cannot make its own examination easier. ``step`` is the cleaner that is asked, for a wrapper, which surrounds
    the decisions on a whole split.
    """


# --- model ----------------------------------------------------------------------------------------------------------


@_combines("first")
def model(run: Run) -> Module:
    """Return the base model with its head, on the CPU, and set ``run.tokenizer``. Core: the stack's ``model.base``."""


@_combines("all")
def prepare(run: Run) -> None:
    """Prepare what prompts or zero-shot scoring need, on the untuned ``run.base``; called once, before prompts."""


@_combines("chain")
def prompt(record: dict[str, Any], run: Run) -> dict[str, Any]:
    """Return the record with its text rendered. Pure; called once per row of every split, after ``prepare``.

    ``record`` holds our column names (``text``, ``text_pair``, ``tokens``, ``prompt``, ...) without sensitive ones.
    """


@_combines("chain")
def tune(model: Module, run: Run) -> Module:
    """Return the model made trainable in this method's way. It is on ``run.device`` already.

    All parameters are frozen when the first step is called. Afterwards core makes the task's head trainable. A stack
    without a step that answers ``tune`` trains nothing.
    """


@_combines("merge")
def modules(run: Run) -> dict[str, Module]:
    """Return helpers that are trained and checkpointed beside the model and never exported (an adversary)."""


@_combines("first")
def optimizer(run: Run) -> Optimizer:
    """Return the optimizer of ``run.model`` and ``run.modules``. Core: ``train.optimizer``."""


# --- one update -----------------------------------------------------------------------------------------------------


@_combines("first")
def sample(update: int, run: Run) -> Sequence[int]:
    """Return the row numbers (of the train split) of update ``update``; may be empty.

    Must be seekable: a resumed run asks for update 17 without having asked for 16. Core: seeded epochs.
    """


@_combines("first")
def gradients(rows: Sequence[int], run: Run) -> dict[str, dict[str, Tensor]]:
    """Leave this update's gradient in every trainable parameter's ``.grad``; return the released statistics.

    Gradients are zero on entry. Goes through ``run.batches(rows)`` and ``run.losses(batch)``; the gradient is the sum
    over rows divided by the number of units (under Poisson sampling: by its expectation). The returned sums,
    ``{step: {name: Tensor[K]}}``, become ``run.groups``. Privacy answers here. Core: plain accumulation.
    """


@_combines("chain")
def batch(batch: Batch, run: Run) -> Batch:
    """Augment a micro-batch of training rows. Repeated rows keep their ``rows`` and ``unit``. Random numbers come
    from ``run.generator(self)``."""


@_combines("first")
def forward(batch: Batch, run: Run) -> Output:
    """Return the model's output; the one place for training, evaluation, explanation and serving.

    Pure (a private run calls it under ``vmap``). Core: ``run.model(**batch.inputs)``.
    """


@_combines("first")
def objective(batch: Batch, output: Output, run: Run) -> Tensor:
    """Return the base loss of each row, ``[R]``; pure. Core: the task's (mean over a record's own tokens)."""


@_combines("product")
def weigh(batch: Batch, run: Run) -> Tensor:
    """Return a factor on the base loss of each row, ``[R]``; pure."""


@_combines("sum")
def loss(batch: Batch, output: Output, run: Run) -> Tensor:
    """Return a term added to each row's loss, ``[R]``; pure: no state changes, no ``.item()``.

    What couples rows must be said in ``breaks = {Capability.INDEPENDENT_RECORDS}``, unless it couples through
    ``run.groups`` alone, or a row with its own repeats (the same ``batch.rows``), which are always seen together. Under
    ``vmap`` that is told by comparing ``rows``, not by a branch.
    """


@_combines("merge")
def statistics(batch: Batch, output: Output, run: Run) -> dict[str, Tensor]:
    """Return each row's own contribution to sums over the update, ``{name: [R, K]}``; pure, detached from the loss.

    The released sums appear in ``run.groups[step][name]``, each ``[K]``, after the update. A private run bounds each
    row's contribution and adds noise.
    """


@_combines("sum")
def penalty(model: Module, run: Run) -> Tensor:
    """Return a scalar that touches no record (L2, EWC); its gradient is added once per update, after ``gradients``,
    outside clipping and noise."""


@_combines("all")
def watch(moment: Moment, run: Run) -> Stop | None:
    """See the run at ``started``, ``updated`` (gradients still in place), ``evaluated`` and ``trained``.

    State that a loss reads changes here. Returning `Stop` after ``updated`` or ``evaluated`` ends the training; the
    other steps still see the moment.
    """


@_combines("first")
def select(metrics: dict[str, Metric], run: Run) -> float:
    """Return how good the present iterate is (more is better), from validation. Core: the task's main figure."""


# --- after training -------------------------------------------------------------------------------------------------


@_combines("chain")
def finalize(model: Module, run: Run) -> Module:
    """Return the model to evaluate and export: merged, averaged, folded."""


@_combines("first")
def export(folder: Path, run: Run) -> str:
    """Write the tuned model into ``folder`` (``model/``); return the lines of Python that load it from there without us.

    Core writes what transformers and peft read. A method with parts of its own wraps this: it takes them off the model,
    lets core write the rest, writes them to a file beside it, puts them back and adds its lines.
    """


@_combines("all")
def calibrate(predictions: Predictions, run: Run) -> None:
    """Fit thresholds on the validation split's predictions; keep them with ``run.keep``."""


@_combines("chain")
def decide(scores: Tensor, batch: Batch, run: Run) -> Tensor:
    """Return adjusted scores ``[R, K]`` in evaluation and serving alike; core's argmax comes last."""


@_combines("merge")
def measure(predictions: Predictions, run: Run) -> dict[str, Metric | float]:
    """Return figures of one split. Called for every evaluated split, and again by ``upright verify``.

    Keys become ``<split>/<section>/<step>/<key>``. A figure that follows from ``predictions``, the step's settings and
    ``run.seed`` alone has ``source="predictions"`` (what a bare float means); another must say ``attested``.
    """


@_combines("merge")
def account(folder: Path, run: Run) -> dict[str, Metric | float]:
    """Return run-wide figures that follow from this step's own files in ``folder`` (``steps/<step>/``).

    Keys become ``run/<section>/<step>/<key>`` with source ``ledger``. Called at the end, and again by ``verify``.
    """


@_combines("list")
def judge(metrics: dict[str, Metric], run: Run) -> list[Verdict] | Verdict | None:
    """Return verdicts on the final metrics. A violated one with ``on_fail="block"`` ends the run with exit code 4."""


@_combines("list")
def explain(target: Target, rows: Dataset, run: Run) -> list[Attribution]:
    """Explain decisions on ``rows`` (the first test split, else validation); the step chooses which and how many."""


@_combines("list")
def report(run: Run) -> Section | list[Section] | None:
    """Return this step's part of the report."""


@_combines("all")
def save(folder: Path, run: Run) -> None:
    """Write this step's artefacts into ``folder`` (``steps/<step>/``)."""


@_combines("all")
def restore(folder: Path, run: Run) -> None:
    """Read back what ``save`` wrote."""


# --- files at rest --------------------------------------------------------------------------------------------------


@_combines("first")
def seal(path: Path, into: Path, name: str, run: Run) -> None:
    """Write the sealed (encrypted) form of the plain file ``path`` to ``into``; leave ``path`` as it is.

    Called for every finished file that holds data or weights, before its rename: model/, checkpoints/, data/ and
    predictions/, and for steps/ at the end of the run, less this step's own folder (which may hold a wrapped key).
    ``name`` is the file's place in the run's folder (``model/config.json``); `unseal` is given the same. Called once
    with an empty file before any work. Raises `NoKeyError` without a key. The step also answers `unseal`.
    """


@_combines("first")
def unseal(path: Path, into: Path, name: str, run: Run) -> bool:
    """Write what was sealed as ``path`` to ``into``, outside the run's folder; return False where it is not sealed.

    Called wherever core or `Run.opened` reads such a file: resume, the best iterate, ``verify``, a base that is a run.
    Raises `NoKeyError` without a key, `IntegrityError` where the key is wrong or the file is not what was sealed.
    """
