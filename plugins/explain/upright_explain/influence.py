"""Influence of training rows on a decision: TracInCP (Pruthi et al., 2020, arXiv:2002.08484).

captum's TracInCP knows one learning rate a checkpoint; here the head and the adapter have each their own.
"""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from pydantic import Field

from upright import Attribution, Capability, Metric, Run, Section, Step, hook
from upright.errors import ConfigError, UprightError
from upright.hooks import Moment
from upright.objects import Table, Text
from upright_explain.attribution import drawn
from upright_explain.copies import copied, cut_copies, keep_copy, learning_rates
from upright_explain.estimates import share
from upright_explain.merging import refuse_merging

if TYPE_CHECKING:
    from collections.abc import Iterator

    from datasets import Dataset
    from torch import Tensor
    from torch.nn import Parameter

    from upright import Batch
    from upright.objects import Target

FILE = "influence.json"


class Influence(Step):
    """Name the training rows that pushed a decision most, and those that pushed against it.

    A row's influence is the sum over checkpoints of learning rate x the product of two gradients, of its loss and of the loss
    of the explained row with the decided class as its label: to first order, by how much training on the row lowered the
    latter. Rows are named by `row_id` and label. Refused beside a private step: naming a training row breaks its guarantee.
    """

    needs: ClassVar[frozenset[Capability]] = frozenset(
        {Capability.TRAINING, Capability.TRAINED_PARAMETERS, Capability.OPEN_TRAINING, Capability.CLASS_SCORES}
    )
    tasks: ClassVar[frozenset[str] | None] = frozenset({"text-classification"})

    samples: int = Field(10, ge=1, description="Rows whose decision is explained, drawn with the seed.")
    top: int = Field(3, ge=1, description="Training rows that are named for each, for the decision and against it.")
    checkpoints: int = Field(
        3, ge=1, description="Copies of the trained parameters that are kept, spread over training."
    )
    train_samples: int | None = Field(
        None, ge=1, description="Training rows that are looked at, drawn with the seed; by default all."
    )
    parameters: Literal["trained", "head"] = Field(
        "trained", description="Whose gradients: all that was trained, or the head alone, which takes less memory."
    )

    @hook
    def prepare(self, run: Run) -> None:
        refuse_merging(self, run)

    @hook
    def watch(self, moment: Moment, run: Run) -> None:
        from upright.models import head_parameters

        kept = run.keep(self, "kept", lambda: {"due": {}, "since": {}, "copies": []})
        if moment == "started" and self.parameters == "head" and not head_parameters(run.model):
            mine = run.stack.placed(self)
            raise ConfigError(f"{mine.where}  {mine}: the model has no head of its own; use `parameters: trained`")
        if moment == "updated":
            for name, rate in kept["due"].items():
                kept["since"][name] = kept["since"].get(name, 0.0) + rate
        if moment == "trained" and run.loaded_update is not None:
            cut_copies(kept["copies"], run.loaded_update, copied(run))
        elif moment in ("evaluated", "trained") and kept["since"]:
            keep_copy(kept["copies"], run.update, kept["since"], copied(run), self.checkpoints)
            kept["since"] = {}
        kept["due"] = learning_rates(run)  # the schedule has moved on: this is the next update's

    @hook
    def explain(self, target: Target, rows: Dataset, run: Run) -> list[Attribution]:
        run.keep(self, "found", lambda: self._found(target, rows, run))
        return []

    def _found(self, target: Target, rows: Dataset, run: Run) -> dict[str, Any]:
        explained = [batch for row in drawn(rows, self.samples, self, run) for batch in target.batches([row])]
        decided = [target.decisions(batch) for batch in explained]
        train = sorted(drawn(run.data["train"], self.train_samples or len(run.data["train"]), self, run))
        copies = run.keep(self, "kept", dict)["copies"]
        scores = self._scores([replace(b, labels=c) for b, c in zip(explained, decided, strict=True)], train, run)
        ids, labels = run.data["train"]["row_id"][:], run.data["train"]["label"][:]
        told = []
        for batch, code, line in zip(explained, decided, scores, strict=True):
            order = [int(place) for place in line.argsort(descending=True, stable=True)]
            sides = {"for": order[: self.top], "against": order[::-1][: self.top]}
            told.append(
                {
                    "row_id": rows[int(batch.rows)]["row_id"],
                    "decision": target.labels[int(code)],
                    **{
                        side: [
                            [ids[train[n]], labels[train[n]], float(line[n])] for n in places if _pushes(line[n], side)
                        ]
                        for side, places in sides.items()
                    },
                }
            )
        return {"train_rows": len(train), "updates": [copy["update"] for copy in copies], "rows": told}

    def _scores(self, explained: list[Batch], train: list[int], run: Run) -> Tensor:
        """Influence of each training row on each explained one, ``[E, N]`` float64 on the CPU."""
        import torch

        scores = torch.zeros(len(explained), len(train), dtype=torch.float64)
        if not explained:
            return scores
        for parameters, rates in self._checkpoints(run):
            ours = torch.stack([gradient(batch, parameters, run) for batch in explained]) * rates
            for place, row in enumerate(train):
                for batch in run.batches([row], augment=False):
                    scores[:, place] += (ours @ gradient(batch, parameters, run)).double().cpu()
        return scores

    def _checkpoints(self, run: Run) -> Iterator[tuple[list[Parameter], Tensor]]:
        """The model's parameters as they were at each copy, with the rate of each number in them; put back at the end.

        Raises UprightError where the parameters are no longer those that were trained.
        """
        import torch

        from upright.models import head_parameters

        named = {name: p for name, p in run.model.named_parameters() if p.requires_grad}
        ours = (
            {id(p) for _, p in head_parameters(run.model)}
            if self.parameters == "head"
            else set(map(id, named.values()))
        )
        now = copied(run)
        try:
            for copy in run.keep(self, "kept", dict)["copies"]:
                weights = copy["weights"]
                if {name: value.shape for name, value in weights.items()} != {n: p.shape for n, p in named.items()}:
                    raise UprightError(
                        f"{run.stack.placed(self)}: a step's `finalize` left other parameters than those that were trained, so "
                        "their gradients cannot be taken; remove that step or this one"
                    )
                _load(named, weights)
                chosen = {name: p for name, p in named.items() if id(p) in ours}
                rates = [torch.full((p.numel(),), copy["rates"].get(n, 0.0)) for n, p in chosen.items()]
                yield list(chosen.values()), torch.cat(rates).to(run.device)
        finally:
            _load(named, now)

    @hook
    def save(self, folder: Path, run: Run) -> None:
        found = run.keep(self, "found", dict)
        (folder / FILE).write_text(json.dumps(found, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")

    @hook
    def account(self, folder: Path, run: Run) -> dict[str, Metric]:
        found = json.loads((folder / FILE).read_text(encoding="utf-8"))
        rows = [row for row in found.get("rows", []) if row["for"]]
        if not rows:
            return {}
        return {"identical_class": share(sum(row["for"][0][1] == row["decision"] for row in rows), len(rows))}

    @hook
    def report(self, run: Run) -> Section | None:
        found = run.keep(self, "found", dict)
        if not found.get("rows"):
            return None
        updates = ", ".join(str(update) for update in found["updates"])
        same = run.metrics.get(f"run/{run.home(self)}/identical_class")
        text = (
            f"Which of {found['train_rows']} training rows pushed {len(found['rows'])} decisions, by the gradients of the base "
            f"loss after updates {updates}. To first order, and as if training had been plain gradient descent."
        )
        if same is not None:
            text += f" For {same.value:.0%} the strongest row has the decided class as its label."
        lines = [
            [row["row_id"], row["decision"], side, *pushed]
            for row in found["rows"]
            for side in ("for", "against")
            for pushed in row[side]
        ]
        return Section(
            "Influence of training rows",
            [Text(text), Table(["row", "decision", "pushes", "training row", "its label", "influence"], lines)],
        )


def gradient(batch: Batch, parameters: list[Parameter], run: Run) -> Tensor:
    """The gradient of the base loss of a batch of one row, flat; zeros for what it does not depend on."""
    import torch

    loss = run.calls.objective(batch, run.forward(batch), run).sum()
    parts = torch.autograd.grad(loss, parameters, allow_unused=True)
    flat = [torch.zeros_like(p) if part is None else part for p, part in zip(parameters, parts, strict=True)]
    return torch.cat([part.reshape(-1).float() for part in flat])


def _pushes(score: Tensor, side: str) -> bool:
    return float(score) > 0 if side == "for" else float(score) < 0


def _load(named: dict[str, Parameter], weights: dict[str, Tensor]) -> None:
    import torch

    with torch.no_grad():
        for name, parameter in named.items():
            parameter.copy_(weights[name])
