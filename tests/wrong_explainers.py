"""Explainers that do not explain the model, each in one way, and one that does: for the tests of `faithfulness`."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch

from upright import Attribution, Batch, Step, hook

SAMPLES = 16
DICE = np.random.default_rng(0)


def told(target: Any, rows: Any, run: Any, scores_of: Callable[[Batch, Any, list[Any]], Any]) -> list[Attribution]:
    """``SAMPLES`` rows; ``scores_of(batch, decided, tokens)`` gives each row's scores, one a token."""
    found = []
    for batch in target.batches(range(min(SAMPLES, len(rows)))):
        decided, tokens = target.decisions(batch), target.tokens(batch)
        scores = scores_of(batch, decided, tokens)
        for place, row in enumerate(batch.rows.tolist()):
            words, offsets = [token for token, *_ in tokens[place]], [(start, end) for _, start, end in tokens[place]]
            label = target.labels[int(decided[place])]
            mine = np.asarray(scores[place], dtype=np.float64)[: len(words)]
            found.append(Attribution(rows[row]["row_id"], label, words, offsets, mine))
    return found


class Without(Step):
    """Honest: what the score loses where a token gives way to the pad."""

    @hook
    def explain(self, target: Any, rows: Any, run: Any) -> list[Attribution]:
        def scores(batch: Batch, decided: Any, tokens: Any) -> Any:
            embeds, blank = target.embed(batch), target.baseline(batch, "pad")
            with torch.no_grad():
                whole, parts = target.scores(embeds, batch, decided), torch.zeros(embeds.shape[:2])
                for token in range(embeds.shape[1]):
                    here = embeds.clone()
                    here[:, token] = blank[:, token]
                    parts[:, token] = whole - target.scores(here, batch, decided)
            return parts

        return told(target, rows, run, scores)


class Lengths(Step):
    """Copies the input: longer tokens matter more."""

    @hook
    def explain(self, target: Any, rows: Any, run: Any) -> list[Attribution]:
        def scores(batch: Batch, decided: Any, tokens: Any) -> Any:
            return [[end - start for _, start, end in row] for row in tokens]

        return told(target, rows, run, scores)


class Constant(Step):
    """Every token gets the same part of the score, which does follow from the model."""

    @hook
    def explain(self, target: Any, rows: Any, run: Any) -> list[Attribution]:
        def scores(batch: Batch, decided: Any, tokens: Any) -> Any:
            with torch.no_grad():
                whole = target.scores(target.embed(batch), batch, decided)
            return [[float(score)] * len(row) for score, row in zip(whole, tokens, strict=True)]

        return told(target, rows, run, scores)


class Ignores(Step):
    """Numbers that follow from the row and the seed, whatever the model is."""

    @hook
    def explain(self, target: Any, rows: Any, run: Any) -> list[Attribution]:
        def scores(batch: Batch, decided: Any, tokens: Any) -> Any:
            draws = [run.generator(self, row) for row in batch.rows.tolist()]
            return [torch.rand(len(row), generator=draw) for row, draw in zip(tokens, draws, strict=True)]

        return told(target, rows, run, scores)


class Dice(Step):
    """Other numbers every time: they change with the model, as they do without it."""

    @hook
    def explain(self, target: Any, rows: Any, run: Any) -> list[Attribution]:
        return told(target, rows, run, lambda batch, decided, tokens: [DICE.random(len(row)) for row in tokens])


class Looks(Step):
    """Follows from the base, and not from the head that decides: as attention does."""

    @hook
    def explain(self, target: Any, rows: Any, run: Any) -> list[Attribution]:
        def scores(batch: Batch, decided: Any, tokens: Any) -> Any:
            with torch.no_grad():
                return run.model.base_model(**batch.inputs).last_hidden_state.norm(dim=-1)

        return told(target, rows, run, scores)


class Backwards(Step):
    """Honest numbers with the wrong sign: what it names first matters least."""

    @hook
    def explain(self, target: Any, rows: Any, run: Any) -> list[Attribution]:
        found: list[Attribution] = Without().explain(target, rows, run)
        return [Attribution(one.row_id, one.target, one.tokens, one.offsets, -one.scores) for one in found]


class Once(Step):
    """Cannot be asked twice."""

    @hook
    def explain(self, target: Any, rows: Any, run: Any) -> list[Attribution]:
        if run.key(self) in run.attributions:
            raise RuntimeError("<b>ask me once</b>")
        found: list[Attribution] = Without().explain(target, rows, run)
        return found


NOT_OF_THE_MODEL = (Lengths(), Constant(), Ignores(), Looks())
