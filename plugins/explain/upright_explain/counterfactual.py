"""The smallest edit that flips a decision (counterfactuals: Wachter et al., 2017, arXiv:1711.00399; of documents: Martens
and Provost, 2014, doi:10.25300/MISQ/2014/38.1.04)."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal, NamedTuple

from pydantic import Field

from upright import Attribution, Capability, Metric, Run, Section, Step, hook
from upright.errors import ConfigError
from upright.objects import Table, Text
from upright_explain.attribution import drawn
from upright_explain.estimates import share, told

if TYPE_CHECKING:
    from datasets import Dataset
    from torch import Tensor

    from upright import Batch
    from upright.objects import Target

FILE = "counterfactual.json"
Edit = frozenset[int]
"""Places of tokens that are deleted or replaced."""


class Counterfactual(Step):
    """Delete or replace as few tokens as it takes to change the decision; a beam over edits, led by occlusion.

    Every edit of one token is tried, and larger ones that grow from those that hurt the decided class most. Of an edit that is
    found no part can be undone: with any one of its tokens back, the decision is the first one again.
    """

    needs: ClassVar[frozenset[Capability]] = frozenset({Capability.CLASS_SCORES})
    tasks: ClassVar[frozenset[str] | None] = frozenset({"text-classification"})

    samples: int = Field(50, ge=1, description="Rows whose decision is to be flipped, drawn with the seed.")
    edit: Literal["delete", "mask", "pad"] = Field(
        "delete", description="What is done to a token: it goes, or the mask or pad token stands in its place."
    )
    max_edits: int = Field(5, ge=1, description="Tokens that are edited at the most.")
    beam_width: int = Field(5, ge=1, description="Edits of each size that larger ones grow from.")
    internal_batch_size: int = Field(64, ge=1, description="Edited texts per forward pass, as in captum.")

    @hook
    def prepare(self, run: Run) -> None:
        if self.edit == "mask" and run.tokenizer.mask_token_id is None:
            placed = run.stack.placed(self)
            raise ConfigError(
                f"{placed.where}  {placed}: edit is mask, and the model's tokenizer has no mask token; choose delete or pad"
            )

    @hook
    def explain(self, target: Target, rows: Dataset, run: Run) -> list[Attribution]:
        run.keep(self, "rows", lambda: self._lines(target, rows, run))
        return []

    def _lines(self, target: Target, rows: Dataset, run: Run) -> list[dict[str, Any]]:
        lines = []
        for row in sorted(drawn(rows, self.samples, self, run)):
            for batch in target.batches([row]):
                tokens = target.tokens(batch)[0]
                first = target.decisions(batch)
                places = [place for place in _words(batch, run) if tokens[place][2] > tokens[place][1]]
                found = self._search(_Row(target, batch, first, run), places)
                edit, other = found or (frozenset(), -1)
                lines.append(
                    {
                        "row_id": rows[row]["row_id"],
                        "decision": target.labels[int(first)],
                        "flipped_to": target.labels[other] if found else None,
                        "spans": [list(tokens[place][1:]) for place in sorted(edit)],
                    }
                )
        return lines

    def _search(self, row: _Row, places: list[int]) -> tuple[Edit, int] | None:
        """A smallest edit among those tried, and the class that is decided then; None where none was found.

        Of several that flip, the one after which the class that was decided first has the lowest score.
        """
        beam: list[Edit] = [frozenset()]
        for _ in range(min(self.max_edits, len(places), row.length - 1)):
            grown = list(dict.fromkeys(edit | {place} for edit in beam for place in places if place not in edit))
            tried = sorted(self._try(row, grown), key=lambda one: one[1])
            flips = [(edit, other) for edit, _, other in tried if other is not None]
            if flips:
                return self._shrunk(row, *flips[0])
            beam = [edit for edit, _, _ in tried[: self.beam_width]]
        return None

    def _shrunk(self, row: _Row, edit: Edit, other: int) -> tuple[Edit, int]:
        """The edit less what it does not need: the beam need not have tried every smaller one."""
        if len(edit) > 1:
            for part, _, found in self._try(row, [edit - {place} for place in sorted(edit)]):
                if found is not None:
                    return self._shrunk(row, part, found)
        return edit, other

    def _try(self, row: _Row, edits: list[Edit]) -> list[tuple[Edit, float, int | None]]:
        """Each edit, the logit of the first decision after it, and the class decided then, None where that stays."""
        import torch

        tried: list[tuple[Edit, float, int | None]] = []
        for start in range(0, len(edits), self.internal_batch_size):
            some = edits[start : start + self.internal_batch_size]
            changed = edited(row.batch, some, self.edit, row.run)
            with torch.no_grad():
                decided = row.target.decisions(changed).tolist()
                embeds = row.target.embed(changed)
                scores = row.target.scores(embeds, changed, row.first.expand(len(some))).tolist()
            flipped = [code if code != int(row.first) else None for code in decided]
            tried += zip(some, scores, flipped, strict=True)
        return tried

    @hook
    def save(self, folder: Path, run: Run) -> None:
        lines = run.keep(self, "rows", list)
        (folder / FILE).write_text(json.dumps(lines, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")

    @hook
    def account(self, folder: Path, run: Run) -> dict[str, Metric]:
        lines = json.loads((folder / FILE).read_text(encoding="utf-8"))
        sizes = [len(line["spans"]) for line in lines if line["flipped_to"] is not None]
        return {
            f"flipped_by/{most}": share(sum(size <= most for size in sizes), len(lines), self.max_edits)
            for most in range(1, self.max_edits + 1)
            if lines
        }

    @hook
    def report(self, run: Run) -> Section | None:
        lines = run.keep(self, "rows", list)
        if not lines:
            return None
        prefix = f"run/{run.home(self)}/flipped_by/"
        shares = [(int(key.removeprefix(prefix)), m) for key, m in run.metrics.items() if key.startswith(prefix)]
        verb = {"delete": "deleting", "mask": "masking", "pad": "blanking"}[self.edit]
        text = (
            f"How many tokens it takes to change {len(lines)} decisions by {verb} them. A row that no edit flipped may have "
            f"one that was not tried (beam of {self.beam_width}). Intervals are 95 % and hold for all sizes at once. Spans are "
            "characters of the text as the model saw it."
        )
        flipped = [
            (line["row_id"], line["decision"], line["flipped_to"], ", ".join(f"{a}–{b}" for a, b in line["spans"]))
            for line in sorted(lines, key=lambda line: len(line["spans"]))
            if line["flipped_to"] is not None
        ]
        return Section(
            "Smallest edits that flip the decision",
            [
                Text(text),
                Table(
                    ["tokens at the most", "share of rows flipped", "95 % interval", "rows"],
                    [(most, m.value, told(m), m.n) for most, m in sorted(shares)],
                ),
                Table(["row", "decision", "becomes", "tokens at"], flipped),
            ],
        )


class _Row(NamedTuple):
    """A batch of one row, and the class that is decided for it (``Long[1]``)."""

    target: Target
    batch: Batch
    first: Tensor
    run: Run

    @property
    def length(self) -> int:
        """Tokens, special ones included."""
        return int(self.batch.inputs["attention_mask"].sum())


def _words(batch: Batch, run: Run) -> list[int]:
    """Places of tokens that are not special; an unknown word is a word. A template's mask token stays."""
    tokenizer: Any = run.tokenizer
    special = set(tokenizer.all_special_ids) - {tokenizer.unk_token_id}
    length = int(batch.inputs["attention_mask"].sum())
    return [place for place, code in enumerate(batch.inputs["input_ids"][0, :length].tolist()) if code not in special]


def edited(batch: Batch, edits: list[Edit], how: str, run: Run) -> Batch:
    """A batch of one row as a batch of its edited forms; all edits are of one size."""
    import torch

    ids = batch.inputs["input_ids"]
    width, device = ids.shape[1], ids.device
    many = batch.take(torch.zeros(len(edits), dtype=torch.long, device=device))
    touched = torch.tensor([[place in edit for place in range(width)] for edit in edits], device=device)
    if how == "delete":
        left = torch.stack([(~line).nonzero().squeeze(1) for line in touched])
        inputs = {name: _kept(value, left, width) for name, value in many.inputs.items()}
    else:
        inputs = {**many.inputs, "input_ids": many.inputs["input_ids"].masked_fill(touched, _filler(how, run))}
    return replace(many, inputs=inputs)


def _kept(value: Tensor, left: Tensor, width: int) -> Tensor:
    """The columns ``left [R, L]`` of an input that has one value a token."""
    return value.gather(1, left) if value.dim() == 2 and value.shape[1] == width else value


def _filler(how: str, run: Run) -> int:
    tokenizer: Any = run.tokenizer
    return int((tokenizer.mask_token_id if how == "mask" else tokenizer.pad_token_id) or 0)
