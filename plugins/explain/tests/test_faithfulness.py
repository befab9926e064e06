"""Do the checks of explanations say what they claim? Float64 loops, planted words, and explainers that are wrong on purpose."""

from __future__ import annotations

import hashlib
import itertools
import json
import random
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
import wrong_explainers as wrong
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny_models import WORDS

from conftest import toy_rows, write_rows
from upright import Metric, Run, Stack, Step
from upright.engine.execute import execute
from upright.engine.target import CoreTarget
from upright.errors import ConfigError
from upright.evidence.verify import verify
from upright.stack import Placed
from upright_explain import erasure, infidelity, randomisation, rationales
from upright_explain.estimates import mean
from upright_explain.faithfulness import Faithfulness

SHARES = (0.01, 0.05, 0.1, 0.2, 0.5)


def beside(stack: dict[str, Any], *steps: Step, **settings: Any) -> Stack:
    """The stack with explainers of the tests and `faithfulness` after them."""
    loaded = Stack.load({**stack, "explain": [*stack.get("explain", []), {"use": "faithfulness", **settings}]})
    for step in steps:
        key = type(step).__name__.lower()
        loaded.steps.insert(len(loaded.steps) - 1, Placed("explain", key, key, step, "test:1:1"))
    return loaded


@pytest.fixture(scope="module")
def learnt(tiny_bert: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """A stack whose model learns the toy task."""
    folder = tmp_path_factory.mktemp("learnt")
    files = {
        split: write_rows(folder / f"{split}.jsonl", toy_rows(size, seed))
        for seed, (split, size) in enumerate({"train": 80, "validation": 20, "test": 60}.items())
    }
    return {
        "name": "learnt",
        "data": files,
        "model": {"base": str(tiny_bert)},
        "tune": "full",
        "train": {"max_steps": 80, "batch_size": 16, "learning_rate": 5e-3, "head_learning_rate": 1e-2},
        "output": str(folder / "runs"),
    }


@pytest.fixture(scope="module")
def judged(learnt: dict[str, Any]) -> Run:
    """Every explainer of the tests beside integrated gradients, in one run."""
    bundled = [{"use": name, "samples": 16} for name in ("integrated-gradients", "occlusion", "attention")]
    steps = (*wrong.NOT_OF_THE_MODEL, wrong.Dice(), wrong.Without(), wrong.Backwards(), wrong.Once())
    run = execute(beside({**learnt, "explain": bundled}, *steps))
    assert run.metrics["test/accuracy"].value > 0.9
    return run


def verdict(run: Run, gate: str) -> str:
    return next(one.judgement for one in run.verdicts if one.gate == gate)


# --- the suite tells right from wrong ---------------------------------------------------------------------------------


def test_an_honest_explainer_passes(judged: Run) -> None:
    for key in ("integrated-gradients", "occlusion", "without"):
        assert verdict(judged, f"sanity of {key}") == "met"
        assert verdict(judged, f"comprehensiveness of {key}") == "met"


@pytest.mark.parametrize("step", wrong.NOT_OF_THE_MODEL, ids=lambda step: type(step).__name__)
def test_an_explainer_that_does_not_follow_the_model_fails(judged: Run, step: Step) -> None:
    assert verdict(judged, f"sanity of {type(step).__name__.lower()}") == "violated"


def test_attention_fails_as_its_text_says(judged: Run) -> None:
    assert verdict(judged, "sanity of attention") == "violated"


def test_numbers_by_lot_pass_neither_check(judged: Run) -> None:
    assert verdict(judged, "sanity of dice") != "met"
    assert verdict(judged, "comprehensiveness of dice") != "met"


def test_an_explainer_that_names_what_matters_least_fails(judged: Run) -> None:
    assert verdict(judged, "comprehensiveness of backwards") == "violated"


def test_an_explainer_that_cannot_be_asked_again_proves_nothing_and_spoils_nothing(judged: Run) -> None:
    assert verdict(judged, "sanity of once") == "insufficient evidence"
    assert verdict(judged, "comprehensiveness of once") == "met"
    assert judged.exit_code == 0
    page = (judged.folder / "report.html").read_text()
    assert "once could not be asked again: RuntimeError: &lt;b&gt;ask me once&lt;/b&gt;" in page


def test_a_failed_check_stands_in_red_beside_every_picture_of_that_explainer_alone(judged: Run) -> None:
    page = (judged.folder / "report.html").read_text()
    pictures = page.partition('id="explanations"')[2].partition('id="stack"')[0]
    by_key = dict(part.split("</h3>", 1) for part in pictures.split("<h3>")[1:])
    for key, content in by_key.items():
        rows = content.split('<div class="row">')[1:]
        assert len(rows) == 16
        failed = any(one.about == key.split()[0] and one.judgement == "violated" for one in judged.verdicts)
        assert all(('<div class="failed">' in row) == failed for row in rows)
    assert "lengths fails its sanity check" in by_key["lengths on test"]
    assert "faithfulness on test" not in by_key


def test_rows_json_holds_no_text(judged: Run) -> None:
    told = (judged.folder / "steps" / "faithfulness" / "rows.json").read_text()
    assert not any(word in told for word in ("fever", "cough", "patient", "walk"))


def test_a_failed_check_can_end_the_run_with_4(learnt: dict[str, Any]) -> None:
    assert execute(beside(learnt, wrong.Lengths(), samples=8, on_fail="block")).exit_code == 4


@pytest.fixture(scope="module")
def alone(learnt: dict[str, Any]) -> list[Run]:
    """Integrated gradients with the step and without it."""
    honest = {**learnt, "explain": [{"use": "integrated-gradients", "samples": 6}]}
    return [execute(beside(honest, samples=4)), execute(Stack.load(honest))]


def test_what_is_checked_is_left_as_it_was(alone: list[Run]) -> None:
    """With the step or without it: the same explanations, weights and predictions."""
    for name in ("model/model.safetensors", "predictions/test.parquet"):
        one, other = (hashlib.sha256((run.folder / name).read_bytes()).hexdigest() for run in alone)
        assert one == other
    told = [json.loads((run.folder / "evidence" / "attributions.json").read_text())["steps"] for run in alone]
    assert told[0]["integrated-gradients"] == told[1]["integrated-gradients"]


def test_every_figure_and_verdict_is_derived_again(alone: list[Run]) -> None:
    folder = alone[0].folder
    found = verify(folder)
    assert found.problems == found.unchecked == []
    assert found.verdicts == 2
    path = folder / "steps" / "faithfulness" / "rows.json"
    told = json.loads(path.read_text())
    for row in told["integrated-gradients"]["rows"].values():
        row["comprehensiveness"] = 1.0
    path.write_text(json.dumps(told))
    assert any("comprehensiveness/integrated-gradients" in problem for problem in verify(folder).problems)


# --- a planted word ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", [7, pytest.param(None, marks=pytest.mark.slow)])
def test_a_secret_word_that_decides_ranks_first(seed: int | None, tiny_bert: Path, tmp_path: Path) -> None:
    """Every row with it is `sick`, and nothing else tells. Without a seed it is drawn now: nothing was fitted to it."""
    chance = random.Random(seed)
    secret = chance.choice([*WORDS["sick"], *WORDS["well"]])  # one token: of three, two can stand in for the third
    other = ["patient", "today", "has", "some", "and", "the", "note", "very", "again", "mild"]

    def rows(count: int) -> list[dict[str, Any]]:
        found = []
        for number in range(count):
            words = chance.choices(other, k=chance.randint(2, 6))
            if number % 2:
                words.insert(chance.randint(0, len(words)), secret)
            found.append({"text": " ".join(words), "label": "sick" if number % 2 else "well"})
        return found

    files = {name: write_rows(tmp_path / f"{name}.jsonl", rows(size)) for name, size in (("train", 160), ("test", 220))}
    stack = {
        "data": {"train": files["train"], "validation": files["test"], "test": files["test"]},
        "model": {"base": str(tiny_bert)},
        "tune": "full",
        "train": {"max_steps": 120, "batch_size": 16, "learning_rate": 5e-3, "head_learning_rate": 1e-2},
        "explain": [{"use": name, "samples": 220, **more} for name, more in HONEST.items()],
        "output": str(tmp_path / "runs"),
    }
    run = execute(Stack.load(stack))
    assert run.metrics["test/accuracy"].value > 0.99
    texts = dict(zip(run.data["test"]["row_id"][:], run.data["test"]["text"][:], strict=True))
    for name in HONEST:
        first = [
            texts[one.row_id].split()[int(rationales.word_scores(one, texts[one.row_id]).argmax())] == secret
            for one in run.attributions[name]
            if one.target == "sick"
        ]
        assert len(first) >= 100
        assert np.mean(first) >= 0.99, name


HONEST: dict[str, dict[str, int]] = {
    "integrated-gradients": {},
    "occlusion": {},
    "shapley": {"n_samples": 5},  # fewer than by default, which takes longer and makes it easier
    "gradient-shap": {"n_samples": 80},  # its noise falls with their number
}

# --- erased tokens, by a loop in float64 ------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def double(judged: Run) -> Iterator[SimpleNamespace]:
    """The trained model in float64, and one row of it: a batch, its token ids, the class, and what an explainer said."""
    judged.model.double()
    target = CoreTarget(judged, "test")
    one = judged.attributions["integrated-gradients"][3]
    row = judged.data["test"]["row_id"][:].index(one.row_id)
    batch = next(iter(target.batches([row])))
    ids = batch.inputs["input_ids"][0].tolist()
    content = np.array([place for place, (start, end) in enumerate(one.offsets) if end > start])
    yield SimpleNamespace(run=judged, target=target, batch=batch, ids=ids, label=0, content=content, said=one)
    judged.model.float()


def chance_of(case: SimpleNamespace, kept: list[int]) -> float:
    """The class's probability of the kept tokens, read by the model itself as one short text."""
    with torch.no_grad():
        ids = torch.tensor([[case.ids[place] for place in kept]])
        logits = case.run.model(input_ids=ids, attention_mask=torch.ones_like(ids)).logits[0]
    powers = [float(torch.exp(logit - logits.max())) for logit in logits]
    return powers[case.label] / sum(powers)


def by_loop(case: SimpleNamespace, order: list[int]) -> tuple[float, float]:
    """ERASER's two figures by their definition."""
    every = list(range(len(case.ids)))
    whole = chance_of(case, every)
    without, alone = 0.0, 0.0
    for share in SHARES:
        count = 1
        while count < share * len(order):
            count += 1
        first = set(order[:count])
        without += (whole - chance_of(case, [place for place in every if place not in first])) / len(SHARES)
        special = [place for place in every if place not in order]
        alone += (whole - chance_of(case, sorted([*special, *first]))) / len(SHARES)
    return without, alone


def worst_erasure(case: SimpleNamespace, orders: np.ndarray) -> float:
    found = erasure.erasure(case.run, case.batch, case.label, orders, len(case.ids))
    expected = [by_loop(case, order.tolist()) for order in orders]
    return float(np.abs(np.stack(found, axis=1) - np.array(expected)).max())


@settings(max_examples=15, deadline=None)
@given(seed=st.integers(0, 2**32 - 1))
def test_comprehensiveness_and_sufficiency_are_the_loop(double: SimpleNamespace, seed: int) -> None:
    chance = np.random.default_rng(seed)
    orders = np.stack([chance.permutation(double.content) for _ in range(3)])
    assert worst_erasure(double, orders) < 1e-9  # float64; other lengths of padding change the last digits


def _weakest(order: np.ndarray, width: int) -> np.ndarray:
    return HONEST_REMOVED(order[::-1], width)


def _swapped(order: np.ndarray, width: int) -> np.ndarray:
    return HONEST_REMOVED(order, width)[::-1]


def _rounded_down(order: np.ndarray, width: int) -> np.ndarray:
    removed = np.zeros((2, len(SHARES), width), dtype=bool)
    for place, share in enumerate(SHARES):
        removed[0, place, order[: int(share * len(order))]] = True
        removed[1, place, order[int(share * len(order)) :]] = True
    return removed


HONEST_REMOVED = erasure._removed


@pytest.mark.parametrize("mutant", [_weakest, _swapped, _rounded_down])
def test_mutant_of_erasure_is_noticed(
    double: SimpleNamespace, monkeypatch: pytest.MonkeyPatch, mutant: Callable[..., Any]
) -> None:
    monkeypatch.setattr(erasure, "_removed", mutant)
    assert worst_erasure(double, double.content[None]) > 1e-4


# --- infidelity -------------------------------------------------------------------------------------------------------


def infidelity_by_loop(case: SimpleNamespace, removed: np.ndarray) -> float:
    """Yeh et al., equation 1, with the best factor on the parts (their section 2.3); one text at a time."""
    table = case.run.model.get_input_embeddings().weight
    pad = table[case.run.tokenizer.pad_token_id]

    def score(gone: list[bool]) -> float:
        rows = [pad if gone[place] else table[token] for place, token in enumerate(case.ids)]
        with torch.no_grad():
            ones = torch.ones((1, len(rows)), dtype=torch.long)
            return float(
                case.run.model(inputs_embeds=torch.stack(rows)[None], attention_mask=ones).logits[0, case.label]
            )

    whole = score([False] * len(case.ids))
    falls = [whole - score(gone) for gone in removed.tolist()]
    parts = [sum(float(s) for s, out in zip(case.said.scores, gone, strict=True) if out) for gone in removed.tolist()]
    factor = sum(p * f for p, f in zip(parts, falls, strict=True)) / sum(p * p for p in parts)
    return sum((factor * p - f) ** 2 for p, f in zip(parts, falls, strict=True)) / len(falls)


def drawn_removals(case: SimpleNamespace, seed: int) -> np.ndarray:
    removed = np.zeros((10, len(case.ids)), dtype=bool)
    removed[:, case.content] = np.random.default_rng(seed).random((10, len(case.content))) < 0.5
    removed[0, case.content[0]] = True
    return removed


@settings(max_examples=15, deadline=None)
@given(seed=st.integers(0, 2**32 - 1))
def test_infidelity_is_the_loop(double: SimpleNamespace, seed: int) -> None:
    removed = drawn_removals(double, seed)
    found = infidelity.infidelity(double.target, double.batch, double.label, double.said.scores, removed)
    # captum expands the square, which loses half of the digits where the parts fit well
    assert found == pytest.approx(infidelity_by_loop(double, removed), rel=1e-6, abs=1e-9)


@pytest.mark.parametrize("change", [lambda scores: scores[::-1].copy(), np.abs, np.square])
def test_infidelity_of_other_parts_is_noticed(double: SimpleNamespace, change: Callable[..., Any]) -> None:
    removed = drawn_removals(double, 7)
    found = infidelity.infidelity(double.target, double.batch, double.label, change(double.said.scores), removed)
    assert abs(found - infidelity_by_loop(double, removed)) > 1e-5


# --- randomised models ------------------------------------------------------------------------------------------------


def digest(model: torch.nn.Module) -> str:
    found = hashlib.sha256()
    for name, value in model.state_dict().items():
        found.update(name.encode() + value.contiguous().flatten().view(torch.uint8).numpy().tobytes())
    return found.hexdigest()


def small_model() -> torch.nn.Module:
    torch.manual_seed(3)
    layers = torch.nn.Sequential(torch.nn.Linear(5, 7), torch.nn.LayerNorm(7), torch.nn.Linear(7, 2))
    layers[0].weight.data[0, 0] = -0.0  # bytes that arithmetic would not give back
    layers.register_parameter("short", torch.nn.Parameter(torch.randn(6).bfloat16()))
    layers.register_parameter("codes", torch.nn.Parameter(torch.arange(6, dtype=torch.uint8), requires_grad=False))
    return layers


def survives(draw: Callable[..., Any], error: type[BaseException] | None) -> bool:
    """Whether the weights change inside and have their bytes again afterwards."""
    model = small_model()
    before = digest(model)
    try:
        with draw(list(model.parameters()), torch.Generator().manual_seed(1)):
            assert digest(model) != before
            if error is not None:
                raise error
    except (ValueError, KeyboardInterrupt):
        pass
    return digest(model) == before


@pytest.mark.parametrize("error", [None, ValueError, KeyboardInterrupt])
def test_the_weights_have_their_bytes_again(error: type[BaseException] | None) -> None:
    assert survives(randomisation.drawn_anew, error)


def test_an_interrupt_while_weights_are_drawn_leaves_them_as_they_were() -> None:
    model = small_model()
    before = digest(model)

    def interrupted() -> Iterator[torch.nn.Parameter]:
        yield from itertools.islice(model.parameters(), 2)
        raise KeyboardInterrupt

    with (
        pytest.raises(KeyboardInterrupt),
        randomisation.drawn_anew(interrupted(), torch.Generator().manual_seed(1)),  # type: ignore[arg-type]
    ):
        raise AssertionError("never reached")
    assert digest(model) == before


@contextmanager
def _takes_the_noise_off_again(parameters: Any, generator: torch.Generator) -> Iterator[None]:
    noises = [torch.randn(p.shape, generator=generator).to(p) if p.is_floating_point() else 0 for p in parameters]
    with torch.no_grad():
        for parameter, noise in zip(parameters, noises, strict=True):
            parameter += noise
    yield
    with torch.no_grad():
        for parameter, noise in zip(parameters, noises, strict=True):
            parameter -= noise


@pytest.mark.parametrize("error", [None, KeyboardInterrupt])
def test_mutant_that_takes_its_noise_off_again_is_noticed(error: type[BaseException] | None) -> None:
    assert not survives(_takes_the_noise_off_again, error)


def test_the_cascade_goes_from_the_head_down_and_leaves_the_embeddings(judged: Run) -> None:
    found = {stage: {id(p) for p in parameters} for stage, parameters in randomisation.stages(judged.model).items()}
    names = {id(parameter): name for name, parameter in judged.model.named_parameters()}
    told = {stage: {names[one] for one in parameters} for stage, parameters in found.items()}
    assert told["head"] == {"classifier.weight", "classifier.bias"}
    assert told["head"] < told["top_half"] < told["all"]
    sizes = {name: parameter.numel() for name, parameter in judged.model.named_parameters()}
    upper, body = (sum(sizes[name] for name in told[stage] - told["head"]) for stage in ("top_half", "all"))
    assert 0.4 < upper / body <= 0.5
    assert not any("embeddings" in name or "layer.0.attention" in name for name in told["top_half"])
    assert set(names.values()) - told["all"] == {"bert.embeddings.word_embeddings.weight"}


@settings(max_examples=50, deadline=None)
@given(st.lists(st.tuples(st.integers(-3, 3), st.integers(-3, 3)), min_size=3, max_size=12))
def test_rank_correlation_is_the_loop(pairs: list[tuple[int, int]]) -> None:
    one, other = (np.array(column, dtype=np.float64) for column in zip(*pairs, strict=True))
    if len(set(one)) == 1 or len(set(other)) == 1:
        expected = float(len(set(one)) == len(set(other)) == 1)
    else:
        ranks = [
            [sum(b < a for b in v) + sum(b == a for b in v) / 2 for a in v] for v in (one.tolist(), other.tolist())
        ]
        middles = [sum(r) / len(r) for r in ranks]
        apart = [[a - m for a in r] for r, m in zip(ranks, middles, strict=True)]
        products = sum(a * b for a, b in zip(*apart, strict=True))
        expected = products / (sum(a * a for a in apart[0]) * sum(b * b for b in apart[1])) ** 0.5
    assert randomisation.rank_correlation(one, other) == pytest.approx(expected, abs=1e-12)


# --- how often the verdict is wrong -----------------------------------------------------------------------------------

ROWS, TIMES = 8, 3000


def accused(falls: np.ndarray, interval: Callable[..., Any] = mean) -> float:
    """How often the sanity check is said to be failed, over ``falls [N, ROWS]``."""
    judge = Faithfulness()._sanity
    found = [judge("x", {"fall_head/x": interval(row.tolist())}).judgement for row in falls]
    return float(np.mean([one == "violated" for one in found]))


def honest_falls(chance: np.random.Generator) -> np.ndarray:
    """What explainers give whose order under a random model has nothing to do with the first: half of them on a model
    whose features lie on one line, so that a random head turns the order around or leaves it."""
    falls = []
    for number in range(TIMES // 5 * ROWS):
        one, other = chance.random(size := chance.integers(3, 30)), chance.random(size)
        after = randomisation.rank_correlation(one, other) if number % 2 else chance.choice([-1.0, 1.0])
        falls.append(1.0 - after)
    return np.array(falls).reshape(-1, ROWS)


def test_an_honest_explainer_is_seldom_accused() -> None:
    falls = honest_falls(np.random.default_rng(0))
    assert accused(falls) <= 0.005  # their mean is 1, far over what is asked


def at_the_bound(chance: np.random.Generator) -> np.ndarray:
    """Falls whose true mean is just what is asked, 0.5: half honest rows, half rows that do not follow the model."""
    return np.clip(chance.normal(0.5, 0.3, (TIMES, ROWS)), 0, 1)


def test_at_the_bound_the_verdict_is_wrong_at_the_nominal_rate() -> None:
    """2.5 % on either side; three standard errors of 3,000 draws are 0.9 points."""
    falls = at_the_bound(np.random.default_rng(1))
    assert accused(falls) == pytest.approx(0.025, abs=0.009)
    assert accused(1 - falls) == pytest.approx(0.025, abs=0.009)


def _normal(values: list[float]) -> Metric:
    half = 1.96 * float(np.std(values)) / len(values) ** 0.5
    return Metric(float(np.mean(values)), float(np.mean(values)) - half, float(np.mean(values)) + half, len(values))


def test_mutant_with_a_normal_interval_of_few_rows_is_noticed() -> None:
    assert accused(at_the_bound(np.random.default_rng(1)), _normal) > 0.034


# --- against people -------------------------------------------------------------------------------------------------


def test_an_explainer_is_compared_with_people_where_they_marked_words(learnt: dict[str, Any], tmp_path: Path) -> None:
    """The words that decide are those that are marked, so that an honest explainer finds them and random words do not."""

    files = {}
    for split, path in learnt["data"].items():
        rows = [json.loads(line) for line in Path(path).read_text().splitlines()]
        for row in rows:
            row["marks"] = [int(word in WORDS[row["label"]]) for word in row["text"].split()]
        files[split] = write_rows(tmp_path / f"{split}.jsonl", rows)
    stack = {**learnt, "data": {**files, "columns": {"marks": "marks"}}}
    run = execute(beside(stack, wrong.Without(), wrong.Lengths(), samples=4, rationales="marks"))
    found = {key.split("/", 3)[3]: metric for key, metric in run.metrics.items() if "/faithfulness/" in key}
    assert found["token_f1/without"].value > 0.6
    for name in ("token_f1_gain", "iou_f1_gain"):
        assert found[f"{name}/without"].low > 0
        assert found[f"{name}/without"].value > found[f"{name}/lengths"].value


# --- what cannot be done is refused -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("explain", "more", "sentence"),
    [
        (["faithfulness"], {}, "there is no explainer to check"),
        (["faithfulness", "integrated-gradients"], {}, "stands after it and would go unchecked"),
        (["integrated-gradients", {"use": "faithfulness", "rationales": "marks"}], {}, "is no column of data.columns"),
        (
            ["integrated-gradients", {"use": "faithfulness", "rationales": "label"}],
            {"prompt": {"use": "template", "text": "note: {text}"}, "data": {"columns": {"label": "label"}}},
            "gives the model another one",
        ),
    ],
)
def test_what_cannot_be_checked_is_refused_before_training(
    learnt: dict[str, Any], explain: list[Any], more: dict[str, Any], sentence: str
) -> None:
    data = {**learnt["data"], **more.get("data", {})}
    with pytest.raises(ConfigError, match=sentence):
        execute(Stack.load({**learnt, **more, "data": data, "explain": explain}))
