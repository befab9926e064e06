"""CONTRACT. A run: one execution of a stack; what a step may read and keep."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING, Any, TypeVar, cast

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from contextlib import AbstractContextManager
    from pathlib import Path

    import numpy as np
    import torch
    from datasets import Dataset
    from torch import Tensor
    from torch.nn import Module
    from torch.optim import Optimizer
    from transformers import PretrainedConfig, PreTrainedTokenizerBase

    from upright.calls import Calls
    from upright.engine.tasks import Task
    from upright.evidence.events import Events
    from upright.objects import Attribution, Batch, Metric, Output, Predictions, Verdict
    from upright.settings import Settings
    from upright.stack import Stack
    from upright.step import Step

T = TypeVar("T")


class Run:
    """The one mutable object. Members without an underscore are part of the contract.

    ============== ==================================================================================================
    stack, config  what was asked for; ``config`` holds core's settings with every default filled in
    seed, folder   the public seed; the run's folder
    data           split -> ``datasets.Dataset`` with our columns, ``row_id``, ``unit`` and the sensitive columns
    labels         class names, by class number
    group_values   sensitive column -> names of its values, by the codes of ``batch.groups``
    task           the task's own rules (`upright.engine.tasks.Task`)
    tokenizer      the base's tokenizer; ``max_length`` tokens per row
    model          the model being tuned; ``modules`` the helpers trained beside it
    optimizer      the optimizer of both
    update         updates done so far; ``updates`` how many there will be (known before ``tune``)
    loaded_update  the update whose weights were loaded again at the end of training, as the best; else None
    metrics        the latest figures, by key
    groups         step -> name -> released sum ``Tensor[K]`` of the last update's ``statistics``
    widths         step -> name -> K, known before the first update
    attributions   step -> what it explained; ``verdicts`` what the gates said; ``exit_code`` of the finished run
    device         where tensors live; ``private`` whether figures about single training records are withheld
    ============== ==================================================================================================
    """

    def __init__(self, stack: Stack, folder: Path, calls: Calls, events: Events | None = None) -> None:
        self.stack = stack
        self.config: Settings = stack.settings
        self.seed: int = stack.settings.seed
        self.folder = folder
        self.calls = calls
        self.events = events
        self.data: dict[str, Dataset] = {}
        self.labels: list[str] = []
        self.group_values: dict[str, list[str]] = {}
        self.task: Task = cast("Task", None)  # set before the first hook that could read it
        self.tokenizer: PreTrainedTokenizerBase = cast("PreTrainedTokenizerBase", None)  # set by `model`
        self.max_length: int = 0
        self.model: Module = cast("Module", None)  # set by `model`, then `tune`
        self.modules: dict[str, Module] = {}
        self.optimizer: Optimizer = cast("Optimizer", None)  # set after `tune`
        self.update = 0
        self.updates = 0
        self.loaded_update: int | None = None
        self.metrics: dict[str, Metric] = {}
        self.groups: dict[str, dict[str, Tensor]] = {}
        self.widths: dict[str, dict[str, int]] = {}
        self.private: bool = stack.private
        self.attributions: dict[str, list[Attribution]] = {}
        self.verdicts: list[Verdict] = []
        self.exit_code = 0
        self.train_loss: Tensor | None = None
        self.base_parameters: frozenset[int] = frozenset()
        self.kept: dict[str, Any] = {}
        self.restored: dict[str, Any] = {}
        self._base: Module | None = None
        self.encoded: dict[str, Any] = {}
        self.opened_models: dict[Path, Path] = {}
        self.scratch: Path | None = None

    @classmethod
    def load(cls, folder: Path | str, *, run_code: bool = False) -> Run:
        """The run of a folder without data and model, to read its files (`opened`) and to ask its steps.

        In-house steps are code that the folder brings along: they are run only where ``run_code`` says so.

        Raises ConfigError where it is no run folder, PluginError where a step cannot be had.
        """
        from pathlib import Path

        from upright.calls import Calls
        from upright.stack import Stack

        folder = Path(folder).resolve()
        stack = Stack.load(folder / "stack.resolved.yaml", run_code=run_code)
        return cls(stack, folder, Calls([placed.step for placed in stack.steps]))

    # --- who a step is ----------------------------------------------------------------------------------------------

    def key(self, step: Step) -> str:
        """The step's ``name:`` (default: its ``use``); keys metrics, state, random streams and folders."""
        return self.stack.placed(step).key

    def home(self, step: Any) -> str:
        """``<section>/<key>`` of a step; empty for core's own."""
        placed = self.stack.find(step)
        return f"{placed.section}/{placed.key}" if placed else ""

    def step_folder(self, step: Step) -> Path:
        """``steps/<step>/`` in the run's folder, made on first use."""
        folder = self.folder / "steps" / self.key(step)
        folder.mkdir(parents=True, exist_ok=True)
        return folder

    def opened(self, name: str) -> AbstractContextManager[Path]:
        """For a ``with`` block: a path at which a file or folder of the run (``model``) can be read, sealed or not.

        Raises NoKeyError where it is sealed and there is no key, IntegrityError where it is not what was sealed.
        """
        from upright.evidence.sealing import opened

        return opened(self.folder / name, self)

    # --- randomness and state ---------------------------------------------------------------------------------------

    def generator(self, step: Step | str, row: int | None = None) -> torch.Generator:
        """A CPU generator keyed on (seed, step, update, row): the same numbers after a resume, whatever ran before.

        It follows from the public seed: never take the noise or the sampling of a private run from it.
        """
        import torch

        key = step if isinstance(step, str) else self.key(step)
        words = f"{self.seed}/{key}/{self.update}/{'' if row is None else row}"
        digest = hashlib.blake2b(words.encode(), digest_size=8).digest()
        return torch.Generator().manual_seed(int.from_bytes(digest, "big") >> 1)

    def keep(self, step: Step, name: str, make: Callable[[], T]) -> T:
        """The step's live object ``name``: made on first use, restored on resume, checkpointed by core.

        It may be a tensor (change it in place), an object with ``state_dict`` and ``load_state_dict``, or a dict or
        list of JSON values.
        """
        from upright.engine.checkpoint import restore_kept

        key = f"{self.key(step)}/{name}"
        if key not in self.kept:
            self.kept[key] = make()
            if key in self.restored:
                self.kept[key] = restore_kept(self.kept[key], self.restored.pop(key))
        kept: T = self.kept[key]
        return kept

    # --- data and model ---------------------------------------------------------------------------------------------

    @property
    def device(self) -> torch.device:
        """cuda where there is one, else the CPU."""
        import torch

        return torch.device("cuda" if torch.cuda.is_available() else "cpu")

    @property
    def base(self) -> Module:
        """The untuned base without a task head, on ``device``, in eval mode; loaded on first use."""
        if self._base is None:
            from upright.engine.embedding import load_encoder

            self._base = load_encoder(self)
        return self._base

    @property
    def base_config(self) -> PretrainedConfig:
        """transformers' config of the base, read without its weights."""
        from upright.engine.base import base_config

        config: PretrainedConfig = base_config(self)
        return config

    def load_as(self, auto: str) -> Module:
        """The base by an Auto class of transformers (``AutoModelForMaskedLM``), for a step that answers ``model``.

        With the stack's revision, type, dropout and bits; sets ``tokenizer`` and ``max_length``. Raises ConfigError.
        """
        from upright.engine.base import load_as

        return load_as(self, auto)

    def embed(self, rows: Sequence[str] | Dataset) -> np.ndarray:
        """Sentence embeddings ``[N, D]`` (float32, unit norm) of texts, or of rows' texts, by `base`; no prompts."""
        from upright.engine.embedding import embed

        return embed(self, rows)

    def batches(self, rows: Sequence[int], split: str = "train", *, augment: bool = True) -> Iterator[Batch]:
        """The rows as micro-batches on ``device``, sorted by length; ``augment`` applies the ``batch`` hooks."""
        from upright.engine.batches import batches

        for batch in batches(self, rows, split):
            yield self.calls.batch(batch, self) if augment and split == "train" else batch

    def batches_of(self, records: Sequence[dict[str, Any]]) -> Iterator[Batch]:
        """Records that are in no split (a request, a text without content) as batches, rendered by the ``prompt`` hooks.

        ``rows`` are places in ``records``; a class label may be left out; ``groups`` are missing.
        """
        from upright.engine.batches import batches_of

        yield from batches_of(self, records)

    def predict(self, rows: Dataset) -> Predictions:
        """What the model, thresholds included, decides of rows that are in no split: a split's rows with other words.

        They go through the same prompts and batches; ``row_id``, ``unit`` and sensitive columns are theirs.
        """
        from upright.engine.evaluate import predict_rows

        return predict_rows(self, rows)

    def features(self, rows: Dataset) -> np.ndarray:
        """What the task's head reads of each row, ``[N, D]`` float32: the tuned representation.

        Raises ConfigError where no head is asked (a zero-shot answer).
        """
        from upright.engine.features import features

        return features(self, rows)

    def predictions(self, split: str) -> Predictions:
        """What was decided of a split when the run was measured, from its file, sealed or not.

        Raises IntegrityError where it cannot be read, NoKeyError where it is sealed and there is no key.
        """
        from upright.evidence.predictions import read_predictions

        return read_predictions(self.folder, split, self)

    def records(self, batch: Batch) -> list[dict[str, Any]]:
        """The batch's rows as records without sensitive columns, as they were before the ``prompt`` hooks."""
        given = self.encoded[batch.split].given
        return [given[row] for row in batch.rows.tolist()]

    def forward(self, batch: Batch) -> Output:
        """The model's output through the ``forward`` hook."""
        return self.calls.forward(batch, self)

    def losses(self, batch: Batch) -> tuple[Tensor, dict[str, dict[str, Tensor]]]:
        """Each row's loss ``[R]`` (objective x weigh + loss) and each step's statistics ``{step: {name: [R, K]}}``."""
        output = self.calls.forward(batch, self)
        losses = self.calls.objective(batch, output, self)
        weights = self.calls.weigh(batch, self)
        if weights is not None:
            losses = losses * weights
        added = self.calls.loss(batch, output, self)
        if added is not None:
            losses = losses + added
        statistics = self.calls.statistics(batch, output, self)
        return losses, {
            step: {name: value.detach() for name, value in named.items()} for step, named in statistics.items()
        }

    def all_reduce(self, tensor: Tensor) -> Tensor:
        """The sum over processes; the identity on one."""
        return tensor

    # --- what is told -----------------------------------------------------------------------------------------------

    def emit(self, event: str, **fields: Any) -> None:
        """Append one line to ``events.jsonl``; progress, trackers and pages read it."""
        if self.events is not None:
            self.events.write(event, **fields)
