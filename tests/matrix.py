"""Every tuning method on every architecture and task: trains, saves, reloads with equal logits, merges.

Each cell is *works* or *refused*, with the reason. `make matrix` writes the table into docs/methods.md.

    python tests/matrix.py [--only METHOD] [--write]
"""

from __future__ import annotations

import argparse
import copy
import json
import os
import sys
import tempfile
import time
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]

SEQUENCE, TOKENS, TEXT, PAIRS = "text-classification", "token-classification", "text-generation", "text2text-generation"
MODELS = {
    "bert": (SEQUENCE, TOKENS),
    "roberta": (SEQUENCE, TOKENS),
    "distilbert": (SEQUENCE, TOKENS),
    "gpt2": (SEQUENCE, TOKENS, TEXT),
    "llama": (SEQUENCE, TOKENS, TEXT),
    "qwen2": (SEQUENCE, TOKENS, TEXT),
    "deberta-v2": (SEQUENCE, TOKENS),
    "t5": (SEQUENCE, TOKENS, PAIRS),
    "minilm": (SEQUENCE, TOKENS),
    "stories260k": (TEXT,),
}
METHODS: dict[str, dict[str, Any]] = {
    "full": {},
    "head": {},
    "top-layers": {"layers": 1},
    "bitfit": {},
    "adapter": {"bottleneck": 4},
    "soft-prompt": {"num_virtual_tokens": 4},
    "prefix": {"num_virtual_tokens": 4},
    "p-tuning": {"num_virtual_tokens": 4, "encoder_hidden_size": 16},
    "lora": {"rank": 4},
    "adalora": {"init_r": 4, "target_r": 2},
    "ia3": {},
    "vera": {"rank": 16},
    "oft": {"oft_block_size": 4},
    "boft": {"boft_block_size": 4},
    "loha": {"rank": 4},
    "lokr": {"rank": 4},
    "fourierft": {"n_frequency": 64, "scaling": 10.0},
    "ln-tuning": {},
    "trainable-tokens": {"tokens": ["fever", "walk"]},
    "peft": {"method": "hra", "config": {"r": 4}},
}
PAPERS: dict[str, tuple[str, list[tuple[str, str]]]] = {
    "full": ("Devlin et al., 2019, arXiv:1810.04805", [("bert", SEQUENCE), ("bert", TOKENS)]),
    "head": ("Peters et al., 2019, arXiv:1903.05987", [("bert", SEQUENCE), ("bert", TOKENS)]),
    "top-layers": ("Lee et al., 2019, arXiv:1911.03090", [("bert", SEQUENCE), ("roberta", SEQUENCE)]),
    "bitfit": ("Ben Zaken et al., 2021, arXiv:2106.10199", [("bert", SEQUENCE), ("roberta", SEQUENCE)]),
    "adapter": (
        "Houlsby et al., 2019, arXiv:1902.00751; Pfeiffer et al., 2020, arXiv:2005.00052",
        [("bert", SEQUENCE), ("bert", TOKENS), ("roberta", SEQUENCE), ("roberta", TOKENS)],
    ),
    "soft-prompt": ("Lester et al., 2021, arXiv:2104.08691", [("t5", PAIRS)]),
    "prefix": (
        "Li and Liang, 2021, arXiv:2101.00190; P-tuning v2, arXiv:2110.07602",
        [("gpt2", TEXT), ("bert", SEQUENCE), ("bert", TOKENS), ("roberta", SEQUENCE), ("roberta", TOKENS)],
    ),
    "p-tuning": ("Liu et al., 2021, arXiv:2103.10385", [("bert", SEQUENCE), ("gpt2", SEQUENCE)]),
    "lora": (
        "Hu et al., 2021, arXiv:2106.09685",
        [("roberta", SEQUENCE), ("deberta-v2", SEQUENCE), ("gpt2", TEXT), ("gpt2", SEQUENCE)],
    ),
    "adalora": ("Zhang et al., 2023, arXiv:2303.10512", [("deberta-v2", SEQUENCE)]),
    "ia3": ("Liu et al., 2022, arXiv:2205.05638", [("t5", PAIRS)]),
    "vera": ("Kopiczko et al., 2023, arXiv:2310.11454", [("roberta", SEQUENCE), ("gpt2", TEXT), ("llama", TEXT)]),
    "oft": ("Qiu et al., 2025, arXiv:2506.19847 (OFTv2)", [("llama", TEXT), ("qwen2", TEXT)]),
    "boft": ("Liu et al., 2023, arXiv:2311.06243", [("deberta-v2", SEQUENCE), ("llama", TEXT)]),
    "lokr": ("Edalati et al., 2022, arXiv:2212.10650", [("t5", PAIRS)]),
    "fourierft": ("Gao et al., 2024, arXiv:2405.03003", [("roberta", SEQUENCE), ("gpt2", TEXT), ("llama", TEXT)]),
    "ln-tuning": ("Zhao et al., 2023, arXiv:2312.11420", [("llama", TEXT)]),
    "peft": ("HRA: Yuan et al., 2024, arXiv:2405.17484", [("deberta-v2", SEQUENCE), ("llama", TEXT)]),
}
"""Method -> paper and the cells of our matrix that it reports results on; LoHa's and LoKr's are of image models."""
UPDATES = 40
RATES = {"full": 5e-3, "top-layers": 5e-3, "minilm": 1e-3, "fourierft": 2e-3}


@dataclass(frozen=True)
class Cell:
    """What became of one method on one model and task: ``works``, ``refused`` or ``failed``."""

    method: str
    model: str
    task: str
    state: str
    detail: str
    merges: bool | None = None
    seconds: float = 0.0


def rows(task: str, count: int, seed: int) -> list[dict[str, Any]]:
    """Separable rows: the label, the tags or the answer follow from the words."""
    from tiny_models import WORDS

    from conftest import toy_rows

    made = [{key: row[key] for key in ("text", "label")} for row in toy_rows(count, seed)]
    if task == SEQUENCE:
        return made
    for row in made:
        row["text"] = " ".join(word for word in row["text"].split() if not word.isdigit())
    if task == TOKENS:
        return [
            {
                "tokens": row["text"].split(),
                "labels": ["B-d" if w in WORDS["sick"] else "O" for w in row["text"].split()],
            }
            for row in made
        ]
    if task == PAIRS:
        return [
            {"prompt": row["text"], "completion": "fever pain" if row["label"] == "sick" else "rest diet"}
            for row in made
        ]
    return [{"text": row["text"]} for row in made]


def base(model: str, folder: Path) -> str:
    """Where the model is; tiny ones are made in ``folder``."""
    from tiny_models import make_model

    from conftest import MODELS as REAL

    if model == "minilm":
        return "minilm"
    if model == "stories260k":
        return str(REAL / "stories260k")
    return str(make_model(model, folder / "base"))


def run_cell(method: str, model: str, task: str, settings: dict[str, Any] | None = None) -> Cell:
    """Train, save, reload and merge once."""
    import torch

    from conftest import MODELS as REAL
    from conftest import write_rows
    from upright import Stack
    from upright.engine.execute import execute
    from upright.errors import ConfigError
    from upright.progress import quiet_libraries

    torch.set_num_threads(1)
    quiet_libraries()
    started = time.perf_counter()
    settings = dict(METHODS.get(method, {}) if settings is None else settings)
    if model == "stories260k":
        if not (REAL / "stories260k").is_dir():
            return Cell(method, model, task, "refused", f"{REAL} holds no stories260k; set UPRIGHT_MODELS")
        if method == "trainable-tokens":
            settings["tokens"] = ["\u2581day"]
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        data = {
            split: write_rows(folder / f"{split}.jsonl", rows(task, size, n))
            for n, (split, size) in enumerate({"train": 48, "validation": 12, "test": 8}.items())
        }
        stack = {
            "seed": 1,
            "data": data,
            "model": {"base": base(model, folder), "task": task, "dropout": 0.0, "max_length": 32},
            "tune": {"use": method, **settings},
            "train": {
                "max_steps": UPDATES,
                "batch_size": 16,
                "learning_rate": RATES.get(model, RATES.get(method, 1e-2)),
                "head_learning_rate": 1e-2,
                "eval_strategy": "no",
            },
            "output": str(folder / "runs"),
        }
        try:
            run = execute(Stack.load(stack))
        except ConfigError as error:
            reason = str(error).replace("<mapping>  ", "").replace(" (<mapping>)", "")
            return Cell(method, model, task, "refused", reason, seconds=time.perf_counter() - started)
        except Exception as error:  # the table says what failed and goes on
            text = str(error)
            trace = next(iter(sorted(folder.glob("runs/*/*/error.txt"))), None)
            last = trace.read_text() if trace else ""
            return Cell(method, model, task, "failed", f"{text} {last[-3000:]}", seconds=time.perf_counter() - started)
        problems = []
        losses = [
            c["train_loss"]
            for c in json.loads((run.folder / "evidence" / "training.json").read_text())["curve"]
            if c.get("train_loss")
        ]
        if not sum(losses[-8:]) < sum(losses[:8]):
            problems.append(f"the loss did not fall: {losses[0]:.3f} to {losses[-1]:.3f}")
        try:
            expected, found = logits(run), reloaded(run)
        except Exception as error:
            return Cell(method, model, task, "failed", f"reloading: {type(error).__name__}: {error}")
        error = float((expected - found).abs().max())
        if not error <= 1e-6 * max(1.0, float(expected.abs().max())):
            problems.append(f"reloaded logits differ by {error:.1e}")
        merges = None
        if "merge" in type(run.stack.answering("tune")[0].step).model_fields:
            try:
                whole = copy.deepcopy(run.model).merge_and_unload().eval()
                run.model, before = whole, run.model
                error = float((logits(run) - expected).abs().max())
                run.model = before
                merges = error <= 1e-4 * max(1.0, float(expected.abs().max()))
                if not merges:
                    problems.append(f"merged logits differ by {error:.1e}")
            except Exception as error:
                problems.append(f"merging: {type(error).__name__}: {error}")
                merges = False
    state = "failed" if problems else "works"
    return Cell(method, model, task, state, "; ".join(problems), merges, time.perf_counter() - started)


def logits(run: Any) -> Any:
    """The test rows' logits by the run's own model."""
    import torch

    from upright.engine.batches import collate

    run.model.eval()
    with torch.no_grad():
        output = run.forward(collate(run, range(len(run.data["test"])), "test")).logits
    return output


def reloaded(run: Any) -> Any:
    """The same by the exported folder alone, loaded by the lines of the model card."""
    import torch

    from upright.engine.batches import collate

    space: dict[str, Any] = {"folder": str(run.folder / "model")}
    exec(json.loads((run.folder / "evidence" / "export.json").read_text())["how_to_load"], space)
    with torch.no_grad():
        if "logits" in space:
            return space["logits"](run.data["test"]["text"][:])
        return space["model"](**collate(run, range(len(run.data["test"])), "test").inputs).logits


def cells(only: str | None = None) -> list[tuple[str, str, str]]:
    """Every (method, model, task)."""
    return [
        (method, model, task)
        for method in METHODS
        for model, tasks in MODELS.items()
        for task in tasks
        if only is None or method == only or model == only
    ]


def table(found: list[Cell]) -> str:
    """docs/methods.md."""
    letters = {SEQUENCE: "S", TOKENS: "T", TEXT: "G", PAIRS: "P"}
    state = {(cell.method, cell.model, cell.task): cell for cell in found}
    notes: dict[str, int] = {}
    lines = ["| method | " + " | ".join(MODELS) + " | merges |", "|---" * (len(MODELS) + 2) + "|"]
    for method in METHODS:
        row = []
        for model, tasks in MODELS.items():
            marks = []
            for task in tasks:
                cell = state[method, model, task]
                if cell.state == "works":
                    marks.append(letters[task])
                else:
                    note = notes.setdefault(f"{cell.state}: {cell.detail}", len(notes) + 1)
                    marks.append(f"{letters[task].lower()}[{note}]")
            row.append(" ".join(marks))
        merging = {cell.merges for cell in found if cell.method == method and cell.merges is not None}
        row.append("" if not merging else "yes" if merging == {True} else "no")
        lines.append(f"| `{method}` | " + " | ".join(row) + " |")
    covered = [(m, *cell) for m, (_, cells) in PAPERS.items() for cell in cells]
    right = [state[cell] for cell in covered if state[cell].state == "works"]
    counted = {kind: sum(cell.state == kind for cell in found) for kind in ("works", "refused", "failed")}
    seconds = sum(cell.seconds for cell in found)
    text = [
        "# Tuning methods",
        "",
        "Written by `make matrix`. Each cell trains a method on a toy set until the loss has fallen, exports the model, loads "
        "it by the lines of its model card without Upright, compares the logits (within 1e-6 of the largest), and merges "
        "where the method can (within 1e-4). The models are tiny and random, but for MiniLM and stories260k.",
        "",
        "S: text-classification, T: token-classification, G: text-generation, P: text2text-generation; a small letter is "
        "refused, with the reason below.",
        "",
        *lines,
        "",
        *[f"{number}. {note}" for note, number in notes.items()],
        "",
        f"{counted['works']} of {len(found)} cells work, {counted['refused']} are refused, {counted['failed']} fail; "
        f"{seconds / 60:.0f} minutes of one core.",
        "",
        "## What the papers cover",
        "",
        f"{len(right)} of {len(covered)} cells that the methods' papers report on (in the models above) work.",
        "",
        "| method | paper | cells |",
        "|---|---|---|",
        *[
            f"| `{method}` | {paper} | {', '.join(f'{model} {letters[task]}' for model, task in cells)} |"
            for method, (paper, cells) in PAPERS.items()
        ],
        "",
    ]
    return "\n".join(text)


def main() -> None:
    """Print every cell as it ends; ``--write`` puts the table into docs/methods.md. Fails where a cell fails."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--only", help="one method or one model")
    parser.add_argument("--write", action="store_true", help="write docs/methods.md")
    arguments = parser.parse_args()
    os.environ |= {"HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}
    found = []
    with ProcessPoolExecutor(os.cpu_count()) as pool:
        for cell in pool.map(run_cell, *zip(*cells(arguments.only), strict=True)):
            found.append(cell)
            merges = {None: "", True: "merges", False: "does not merge"}[cell.merges]
            told = f"{cell.method:17} {cell.model:12} {cell.task:22} {cell.state:8} {cell.seconds:5.1f} s"
            print(f"{told} {merges} {cell.detail[-400:]}", flush=True)
    if arguments.write:
        (ROOT / "docs" / "methods.md").write_text(table(found), encoding="utf-8")
    failed = [cell for cell in found if cell.state == "failed"]
    print(f"{sum(cell.state == 'works' for cell in found)} of {len(found)} work, {len(failed)} fail")
    sys.exit(bool(failed))


if __name__ == "__main__":
    main()
