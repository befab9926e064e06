"""Counterfactual logit pairing (Garg et al., 2019, arXiv:1809.10610): the same logits when identity terms are swapped."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

from pydantic import Field

from upright import Batch, Capability, Output, Run, Section, Step, hook
from upright.errors import ConfigError, UprightError
from upright_fairness.terms import GENDER, checked, read_terms, swapped

TEXTS = ("text", "text_pair")


class CounterfactualPairing(Step):
    """Penalise how far a record's logits are from those of the same record with its identity terms swapped.

    A record is coupled with its own variant alone, so its gradient is its own. The variant's label is not learnt from.
    """

    needs = frozenset({Capability.TRAINING, Capability.CLASS_SCORES})
    tasks = frozenset({"text-classification"})

    terms: Path | list[tuple[str, str]] | None = Field(
        None,
        description="Pairs that are swapped both ways: a list, or a file of two terms a line with a tab between; default: "
        "English gender terms.",
    )
    strength: float = Field(1.0, gt=0, description="Factor on the distance of the logits.")

    @hook
    def prepare(self, run: Run) -> None:
        self._refuse_doubles(run)
        kept, where = run.keep(self, "terms", list), f"{run.stack.placed(self).where}  fairness.{run.key(self)}.terms"
        if not kept:
            try:
                pairs = self._listed(run)
            except ConfigError as error:
                raise ConfigError(f"{where}: {error}") from error
            kept += [list(pair) for pair in pairs]
        if not run.private and not self._touched(run):
            run.emit("warning", message=f"{where}: no training text holds one of these terms, so nothing is paired")

    def _listed(self, run: Run) -> list[tuple[str, str]]:
        if isinstance(self.terms, list):
            return checked(self.terms)
        return read_terms(GENDER if self.terms is None else run.stack.root / self.terms.expanduser())

    @hook
    def batch(self, batch: Batch, run: Run) -> Batch:
        """The batch with a swapped copy behind it of each row that holds a term."""
        import torch

        marked = replace(batch, groups={**batch.groups, run.key(self): torch.zeros_like(batch.rows)})
        places, records = [], []
        for place, record in enumerate(run.records(batch)):
            variant, count = self._variant(record, run)
            if count:
                places.append(place)
                records.append(variant)
        if not places:
            return marked
        copies = marked.take(torch.tensor(places, device=batch.rows.device))
        copies.groups[run.key(self)] += 1
        parts = [marked]
        for found in run.batches_of(records):
            if found.inputs.keys() != batch.inputs.keys():
                raise UprightError(
                    f"{run.stack.placed(self).where}  fairness.{run.key(self)}: an earlier step gives the model other inputs "
                    f"({', '.join(batch.inputs)}) than a text does; remove one of the two"
                )
            parts.append(replace(copies.take(found.rows), inputs=found.inputs))
        return _joined(parts, run)

    @hook
    def weigh(self, batch: Batch, run: Run) -> Any:
        """The base loss counts where no term was swapped: core takes the mean over a row's copies, ``[R]``."""
        variant = batch.groups.get(run.key(self))
        if variant is None:
            return None
        same = (batch.rows.unsqueeze(1) == batch.rows).float()
        plain = 1 - variant.float()
        return plain * same.sum(1) / (same * plain).sum(1)

    @hook
    def loss(self, batch: Batch, output: Output, run: Run) -> Any:
        """Strength times the L1 distance to the variant's logits, the same at both; of two classes that of their difference."""
        variant = batch.groups.get(run.key(self))
        if variant is None:
            return None
        paired = ((batch.rows.unsqueeze(1) == batch.rows) & (variant.unsqueeze(1) != variant)).float()
        logits = output.logits.float()
        logits = logits - logits.mean(1, keepdim=True)  # what all classes share decides nothing
        distance = (logits.unsqueeze(1) - logits).abs().sum(2)
        return self.strength * (paired * distance).sum(1) / paired.sum(1).clamp(min=1)

    @hook
    def report(self, run: Run) -> Section | None:
        from upright.objects import Text

        if run.private:  # how many rows hold a term is told by single records
            return None
        told = f"{self._touched(run)} of {len(run.data['train'])} training rows hold a term and were paired with a variant."
        return Section("Counterfactual pairing", [Text(told)])

    def _refuse_doubles(self, run: Run) -> None:
        """Raise ConfigError where another step compares a row with copies that it makes: each would meet the other's."""
        own, comparing = run.stack.placed(self), run.stack.answering("loss")
        for placed in run.stack.answering("batch"):
            if placed.step is not self and placed in comparing:
                raise ConfigError(
                    f"{own.where}  {own} and {placed} ({placed.where}) both compare a row with copies of their own and would "
                    "meet each other's; remove one of them"
                )

    def _pairs(self, run: Run) -> list[tuple[str, str]]:
        return [(one, other) for one, other in run.keep(self, "terms", list)]

    def _variant(self, record: dict[str, Any], run: Run) -> tuple[dict[str, Any], int]:
        changed, total = dict(record), 0
        for name in TEXTS:
            if record.get(name):
                changed[name], count = swapped(record[name], self._pairs(run))
                total += count
        return changed, total

    def _touched(self, run: Run) -> int:
        train = run.data["train"]
        columns = [train[name][:] for name in TEXTS if name in train.column_names]
        pairs = self._pairs(run)
        return sum(any(text and swapped(text, pairs)[1] for text in texts) for texts in zip(*columns, strict=True))


def _joined(parts: list[Batch], run: Run) -> Batch:
    """Batches of different widths as one, padded at the end."""
    import torch
    from torch.nn.functional import pad

    def column(values: list[Any], filler: int) -> Any:
        width = max(value.shape[1] for value in values)
        return torch.cat([pad(value, (0, width - value.shape[1]), value=filler) for value in values])

    fillers = {"input_ids": run.tokenizer.pad_token_id or 0}
    first = parts[0]
    return replace(
        first,
        inputs={name: column([part.inputs[name] for part in parts], fillers.get(name, 0)) for name in first.inputs},
        labels=torch.cat([part.labels for part in parts]),
        rows=torch.cat([part.rows for part in parts]),
        unit=torch.cat([part.unit for part in parts]),
        groups={name: torch.cat([part.groups[name] for part in parts]) for name in first.groups},
    )
