"""Steps that break the contract in one way each, for the tests of the kit: check -> (section, the wrong step)."""

from __future__ import annotations

import os
import random
import socket
from contextlib import suppress
from pathlib import Path
from typing import Any, ClassVar
from weakref import WeakKeyDictionary

from pydantic import ConfigDict, Field, PrivateAttr, field_serializer

from upright import Attribution, Batch, Capability, Decisions, Output, Run, Scope, Step, hook


class Misspelt(Step):
    """A hook's name is not one."""

    @hook
    def penalties(self) -> None:
        """Nobody asks for it."""


class Undescribed(Step):
    """A setting without a word of help."""

    strength: float = 0.1

    @hook
    def watch(self) -> None:
        """Nothing."""


class Open(Step):
    """Takes any setting."""

    model_config = ConfigDict(frozen=True, extra="allow")

    @hook
    def watch(self) -> None:
        """Nothing."""


class OneWay(Step):
    """Writes a setting in a form that it does not read."""

    share: float = Field(0.1, description="A share.")

    @field_serializer("share")
    def _percent(self, value: float) -> str:
        return f"{value:.0%}"

    @hook
    def watch(self) -> None:
        """Nothing."""


class Remembers(Step):
    """Keeps live state on itself."""

    _seen: list[int] = PrivateAttr(default_factory=list)

    @hook
    def watch(self, run: Run) -> None:
        self._seen.append(run.update)


class Speaks(Step):
    """Measures a word."""

    @hook
    def measure(self) -> Any:
        return {"quality": "good"}


class Fails(Step):
    """Has no report to give."""

    @hook
    def report(self) -> Any:
        raise RuntimeError("no report")


class CallsHome(Step):
    """Asks somebody else, and does not mind when nobody answers."""

    @hook
    def prepare(self) -> None:
        try:
            socket.create_connection(("example.org", 80), timeout=1).close()
        except OSError:
            return


class Patches(Step):
    """Makes core's verifier see no difference."""

    @hook
    def prepare(self) -> None:
        from upright.evidence import verify

        verify._same = lambda one, other: True  # type: ignore[assignment]


class Spills(Step):
    """Writes where nobody asked it to, or tries to: the folder is not there."""

    @hook
    def prepare(self) -> None:
        with suppress(OSError):
            Path("/no-such-folder/rows.txt").write_text("rows")


class Shakes(Step):
    """Moves weights by chance that no seed repeats."""

    @hook
    def watch(self, moment: str, run: Run) -> None:
        if moment == "updated":
            for p in run.model.parameters():
                if p.requires_grad:
                    p.data.add_(random.SystemRandom().random() * 1e-3)


class Afterthought(Step):
    """A figure of the model that says it follows from predictions."""

    @hook
    def measure(self, run: Run) -> dict[str, float]:
        return {"norm": float(sum(p.detach().norm() for p in run.model.parameters()))}


class MovesFrozen(Step):
    """Trains nothing but the head, and moves the rest a little."""

    @hook
    def tune(self, model: Any) -> Any:
        return model

    @hook
    def watch(self, moment: str, run: Run) -> None:
        if moment == "updated":
            next(p for p in run.model.parameters() if not p.requires_grad).data.add_(1e-3)


class NotExported(Step):
    """Changes what the model says in a way that its files do not hold."""

    @hook
    def finalize(self, model: Any) -> Any:
        def doubled(module: Any, given: Any, output: Any) -> Any:
            output.logits = 2 * output.logits + 0.1 * output.logits.new_tensor([0.0, 1.0])
            return output

        model.register_forward_hook(doubled)
        return model


class Forgets(Step):
    """Saves a number and does not read it back."""

    @hook
    def save(self, folder: Any, run: Run) -> None:
        counts = run.keep(self, "counts", list)
        counts.append(1)
        (folder / "count.txt").write_text(str(len(counts)))

    @hook
    def restore(self) -> None:
        """Nothing."""


COUNTS: WeakKeyDictionary[Run, int] = WeakKeyDictionary()


class Amnesia(Step):
    """A penalty that grows with a count that no checkpoint holds."""

    @hook
    def penalty(self, model: Any, run: Run) -> Any:
        COUNTS[run] = COUNTS.get(run, 0) + 1
        return 0.01 * COUNTS[run] * sum(p.square().sum() for p in model.parameters() if p.requires_grad)


class Couples(Step):
    """A loss that reads the other rows of the batch and does not say so."""

    @hook
    def loss(self, output: Output) -> Any:
        return (output.logits - output.logits.mean(0, keepdim=True)).square().mean(1)


class CouplesGradients(Step):
    """A term that is zero, with a gradient of the size of the other rows'."""

    @hook
    def loss(self, output: Output) -> Any:
        own = output.logits[:, 0]
        return (own - own.detach()) * output.logits.detach().sum()


class Dice(Step):
    """Remarks on rows by chance, and says that it does not."""

    @hook
    def clean(self, rows: Any) -> Decisions:
        decisions = Decisions()
        for row_id in rows["row_id"][:]:
            decisions.add(row_id, "flag", "dice", score=random.SystemRandom().random())
        return decisions


class Counts(Step):
    """Says that it looks at single rows, and looks at how many there are."""

    scope: ClassVar[Scope] = Scope(row_local=True)

    @hook
    def clean(self, rows: Any) -> Decisions:
        decisions = Decisions()
        decisions.extend(rows["row_id"][:], "flag", f"one-of-{len(rows)}")
        return decisions


class Repeats(Step):
    """Drops repeated rows, and says that one unit changes one unit."""

    scope: ClassVar[Scope] = Scope(dp_stability=1)

    @hook
    def clean(self, rows: Any) -> Decisions:
        decisions, seen = Decisions(), set()
        for row_id, text in zip(rows["row_id"][:], rows["text"][:], strict=True):
            if text in seen:
                decisions.add(row_id, "drop", "repeated")
            seen.add(text)
        return decisions


class Slope(Step):
    """Embedding times gradient, which adds up to nothing, and is said to."""

    @hook
    def explain(self, target: Any, rows: Any) -> list[Attribution]:
        import torch

        found = []
        for batch in target.batches(range(6)):
            decided, embeds = target.decisions(batch), target.embed(batch).requires_grad_()
            (slopes,) = torch.autograd.grad(target.scores(embeds, batch, decided).sum(), embeds)
            scores = (slopes * embeds).sum(-1).detach().double().cpu().numpy()
            found += _attributions(target, rows, batch, decided, list(scores), 0.0)
        return found


class Lengths(Step):
    """Explains by the length of the tokens, whatever the model is."""

    @hook
    def explain(self, target: Any, rows: Any) -> list[Attribution]:
        import numpy as np

        found = []
        for batch in target.batches(range(6)):
            scores = [np.array([float(end - start) for _, start, end in row]) for row in target.tokens(batch)]
            found += _attributions(target, rows, batch, target.decisions(batch), scores, None)
        return found


def _attributions(
    target: Any, rows: Any, batch: Batch, decided: Any, scores: list[Any], error: float | None
) -> list[Attribution]:
    return [
        Attribution(
            rows[row]["row_id"],
            target.labels[int(decided[place])],
            [token for token, *_ in tokens],
            [(start, end) for _, start, end in tokens],
            scores[place][: len(tokens)],
            error,
        )
        for place, (row, tokens) in enumerate(zip(batch.rows.tolist(), target.tokens(batch), strict=True))
    ]


class Favours(Step):
    """Decides for one group, whatever the rows say."""

    @hook
    def decide(self, scores: Any, batch: Batch) -> Any:
        raised = scores.clone()
        raised[:, 1] += 5.0 * (batch.groups["sex"] == 0).to(scores)
        return raised


class Mixes(Step):
    """Puts the first row's text into the second row, under the second's unit."""

    @hook
    def batch(self, batch: Batch) -> Batch:
        import dataclasses

        if len(batch) < 2:
            return batch
        inputs = {name: value.clone() for name, value in batch.inputs.items()}
        labels = batch.labels.clone()
        for value in (*inputs.values(), labels):
            value[1] = value[0]
        return dataclasses.replace(batch, inputs=inputs, labels=labels)


class Unbounded(Step):
    """Noise on a gradient that nothing bounds."""

    breaks: ClassVar[frozenset[Capability]] = frozenset({Capability.OPEN_TRAINING})
    needs: ClassVar[frozenset[Capability]] = frozenset({Capability.INDEPENDENT_RECORDS})

    @hook
    def gradients(self, rows: Any, run: Run) -> None:
        import torch

        for batch in run.batches(rows):
            (run.losses(batch)[0].sum() / max(len(rows), 1)).backward()
        secret = torch.Generator().manual_seed(int.from_bytes(os.urandom(7), "big"))
        _noise(run, secret)


class PublicNoise(Step):
    """Bounded gradients with noise that follows from the public seed."""

    breaks: ClassVar[frozenset[Capability]] = frozenset({Capability.OPEN_TRAINING})
    needs: ClassVar[frozenset[Capability]] = frozenset({Capability.INDEPENDENT_RECORDS})

    @hook
    def gradients(self, rows: Any, run: Run) -> None:
        import torch

        parameters = [p for p in run.model.parameters() if p.requires_grad]
        totals = [torch.zeros_like(p) for p in parameters]
        for row in rows:
            for batch in run.batches([row]):
                found = torch.autograd.grad(run.losses(batch)[0].sum(), parameters)
                norm = torch.sqrt(sum(g.square().sum() for g in found))
                for total, g in zip(totals, found, strict=True):
                    total += g * min(1.0, 1.0 / float(norm)) / max(len(rows), 1)
        for p, total in zip(parameters, totals, strict=True):
            p.grad = total
        _noise(run, run.generator(self))


def _noise(run: Run, generator: Any) -> None:
    import torch

    for p in run.model.parameters():
        if p.grad is not None:
            p.grad += 1e-2 * torch.randn(p.shape, generator=generator).to(p)


class Crowded(Step):
    """Falls over where it is not alone."""

    @hook
    def prepare(self, run: Run) -> None:
        if len(run.stack.steps) > 2:
            raise TypeError("who are you?")


WRONG: list[tuple[str, str, Step]] = [
    ("joins-a-hook", "train", Misspelt()),
    ("settings-described", "train", Undescribed()),
    ("settings-closed", "train", Open()),
    ("settings-round-trip", "train", OneWay()),
    ("frozen", "train", Remembers()),
    ("returns", "fairness", Speaks()),
    ("runs", "explain", Fails()),
    ("works-offline", "prompt", CallsHome()),
    ("leaves-core-alone", "train", Patches()),
    ("writes-inside", "train", Spills()),
    ("same-seed-same-result", "train", Shakes()),
    ("figures-follow", "fairness", Afterthought()),
    ("trains-what-it-claims", "tune", MovesFrozen()),
    ("reloads", "tune", NotExported()),
    ("save-restores", "train", Forgets()),
    ("state-survives", "train", Amnesia()),
    ("losses-alone", "train", Couples()),
    ("per-unit-gradients", "train", CouplesGradients()),
    ("cleaner-deterministic", "clean", Dice()),
    ("cleaner-shards", "clean", Counts()),
    ("cleaner-stability", "clean", Repeats()),
    ("explainer-complete", "explain", Slope()),
    ("explainer-depends-on-model", "explain", Lengths()),
    ("fairness-permuted-group", "fairness", Favours()),
    ("privacy-sensitivity", "privacy", Mixes()),
    ("privacy-sensitivity", "privacy", Unbounded()),
    ("noise-not-seeded", "privacy", PublicNoise()),
    ("beside-others", "train", Crowded()),
]
"""(the check that it fails, the section it stands in, the step)."""
