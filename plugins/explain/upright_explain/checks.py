"""What is looked at for one explainer, row by row, and the figures that follow."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from upright import Metric
from upright.errors import UprightError
from upright_explain import rationales
from upright_explain.estimates import mean_of_known, of_means
from upright_explain.few import Few
from upright_explain.randomisation import STAGES, drawn_anew, rank_correlation, stages

if TYPE_CHECKING:
    from collections.abc import Callable

    import torch
    from datasets import Dataset

    from upright import Attribution, Run
    from upright.objects import Target

ORDERS = 3
"""Random orders of tokens that a row's explanation is compared with."""
PERTURBED = 10
"""Texts without some of their tokens from which a row's infidelity is estimated; captum's number."""
DRAWS = 10
"""Random rationales that a row's is compared with."""
RANKED = 3
"""Tokens under which a row has no order to speak of."""


class Some(NamedTuple):
    """The explained rows that are checked: row number -> what was said, and of which class."""

    said: dict[int, Attribution]
    decided: dict[int, int]
    target: Target
    run: Run
    generator: torch.Generator
    found: dict[int, dict[str, float]]


def against_the_model(
    ask: Callable[[Any], list[Attribution]],
    explained: list[Attribution],
    samples: int,
    target: Target,
    rows: Dataset,
    run: Run,
    generator: torch.Generator,
) -> dict[str, Any]:
    """Row by row what each check finds, as JSON; ``ask(target)`` asks the explainer again.

    One that cannot be asked again leaves a sentence.
    """
    import torch

    place = {row_id: number for number, row_id in enumerate(rows["row_id"][:])}
    chosen = torch.randperm(len(explained), generator=generator)[:samples].tolist()
    said = {place[explained[number].row_id]: explained[number] for number in chosen}
    decided = {row: target.labels.index(one.target) for row, one in said.items()}
    some = Some(said, decided, target, run, generator, {row: {} for row in said})
    error = None
    try:
        _against_erasure(some)
        _against_other_models(some, ask)
    except Exception as what:  # an explainer may raise anything
        error = f"{type(what).__name__}: {what}"
    return {"error": error, "rows": {said[row].row_id: figures for row, figures in some.found.items()}}


def against_people(
    explained: list[Attribution], column: str, rows: Dataset, run: Run, generator: torch.Generator
) -> list[dict[str, Any]]:
    """What the strongest words have in common with the marked ones; how many count follows from rows before the test.

    In a private run those of validation, since a mean over train rows would be a release without noise.
    """
    before_test = ("validation",) if run.private else ("train", "validation")
    before = next((run.data[split] for split in before_test if split in run.data), rows)
    share = rationales.share_marked(before, column)
    return rationales.plausibility(explained, rows, column, share, DRAWS, np.random.default_rng(_seed(generator)))


def _against_erasure(some: Some) -> None:
    """What the trained model says of each row without some of its tokens."""
    import torch

    from upright_explain.erasure import erasure
    from upright_explain.infidelity import infidelity

    chance = np.random.default_rng(_seed(some.generator))
    for batch in some.target.batches(list(some.said)):
        for place, tokens in enumerate(some.target.tokens(batch)):
            row = int(batch.rows[place])
            one, label = some.said[row], some.decided[row]
            if one.tokens != [token for token, _, _ in tokens] or not np.isfinite(one.scores).all():
                raise UprightError(f"its attributions of row {one.row_id} are not one finite score a token")
            content = _content(one)
            if len(content) < 2:
                continue
            single = batch.take(torch.tensor([place], device=batch.rows.device))
            strongest = content[np.lexsort((chance.permutation(len(content)), -one.scores[content]))]
            orders = np.stack([strongest, *(chance.permutation(content) for _ in range(ORDERS))])
            without, alone = erasure(some.run, single, label, orders, len(tokens))
            removed = np.zeros((PERTURBED, len(tokens)), dtype=bool)
            removed[:, content] = chance.random((PERTURBED, len(content))) < 0.5
            some.found[row] |= {
                "comprehensiveness": float(without[0]),
                "comprehensiveness_gain": float(without[0] - without[1:].mean()),
                "sufficiency": float(alone[0]),
                "sufficiency_gain": float(alone[1:].mean() - alone[0]),
                "infidelity": infidelity(some.target, single, label, one.scores, removed),
            }


def _against_other_models(some: Some, ask: Callable[[Any], list[Attribution]]) -> None:
    """What the explainer says of a row where its embeddings move a little, and where the weights are drawn anew.

    To explain again is what costs: half of the rows must do.
    """
    import torch

    def again(wanted: dict[int, int], noise: torch.Generator | None = None) -> dict[int, np.ndarray]:
        answers = {one.row_id: one.scores for one in ask(Few(some.target, wanted, noise))}
        missing = next((some.said[row].row_id for row in wanted if some.said[row].row_id not in answers), None)
        if missing is not None:
            raise UprightError(f"asked again, it did not explain row {missing}")
        return {row: answers[some.said[row].row_id] for row in wanted}

    half = dict(list(some.decided.items())[: -(-len(some.decided) // 2)])
    ranked = {row: content for row in half if len(content := _content(some.said[row])) >= RANKED}
    for row, moved in again(half, some.generator).items():
        own = some.said[row].scores
        some.found[row]["sensitivity"] = float(np.linalg.norm(moved - own) / (np.linalg.norm(own) or 1.0))
        if row in ranked:
            some.found[row]["correlation_none"] = rank_correlation(own[ranked[row]], moved[ranked[row]])
    for stage, parameters in stages(some.run.model).items():
        # Where a model's features lie on one line, a new head keeps the order or turns it round. A draw and its mirror image
        # (antithetic variates: Hammersley and Morton, 1956) then say together what many draws would.
        signs = (1, -1) if stage == "head" else (1,)
        for row, content in ranked.items():  # a draw for each row: rows that share one would not be independent
            seed, after = _seed(some.generator), []
            for sign in signs:
                with drawn_anew(parameters, torch.Generator(parameters[0].device).manual_seed(seed), sign):
                    other = again({row: half[row]})[row]
                after.append(rank_correlation(some.said[row].scores[content], other[content]))
            found, left = some.found[row], float(np.mean(after))
            found |= {f"correlation_{stage}": left, f"fall_{stage}": found["correlation_none"] - left}


def figures(found: dict[str, Any], seed: int) -> dict[str, Metric]:
    """One explainer's figures, with intervals, from what was found of its rows."""
    names = ["comprehensiveness", "comprehensiveness_gain", "sufficiency", "sufficiency_gain", "infidelity"]
    names += ["sensitivity", "correlation_none"]
    names += [f"{what}_{stage}" for what in ("correlation", "fall") for stage in STAGES]
    told = {name: mean_of_known([row.get(name) for row in found["rows"].values()]) for name in names}
    told["completeness_error"] = mean_of_known(found["completeness_error"])
    marked = found["rationales"]
    told["token_f1"] = mean_of_known([row["token_f1"] for row in marked])
    told["token_f1_gain"] = mean_of_known([row["token_f1"] - row["random_token_f1"] for row in marked])
    spans = np.array([[*row["iou"], *row["random_iou"]] for row in marked]).reshape(len(marked), 4)
    told["iou_f1"] = of_means(spans, lambda means: _f1(means[:, :2]), seed)
    told["iou_f1_gain"] = of_means(spans, lambda means: _f1(means[:, :2]) - _f1(means[:, 2:]), seed)
    known = {name: metric for name, metric in told.items() if metric is not None}
    return {"rows": Metric(float(sum(map(bool, found["rows"].values()))), source="ledger"), **known}


def _f1(means: np.ndarray) -> np.ndarray:
    """Of mean precision and mean recall, ``[B, 2] -> [B]``: ERASER's macro average."""
    both, total = means.prod(1), means.sum(1)
    return np.divide(2 * both, total, out=np.zeros_like(total), where=total > 0)


def _content(one: Attribution) -> np.ndarray:
    """The columns of tokens that stand for characters of the text."""
    return np.array([place for place, (start, end) in enumerate(one.offsets) if end > start], dtype=np.int64)


def _seed(generator: torch.Generator) -> int:
    import torch

    return int(torch.randint(2**31, (1,), generator=generator))
