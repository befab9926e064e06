"""Are attributions what people mark? Every explainer against hatexplain's human rationales, beside random words.

One MiniLM with LoRA (settings of examples/toxicity-dialect, one epoch; nothing is chosen by what is seen here), trained on
train. Rows of test in which people marked words, the same for every explainer. Prints the table of docs/results.md.

    make results-explain
"""

from __future__ import annotations

import argparse
import json
import os
import random
import tempfile
import time
from pathlib import Path
from typing import Any

from upright import Metric, Stack
from upright.engine.execute import execute
from upright.progress import quiet_libraries

DATA = Path(os.environ.get("UPRIGHT_DATA") or Path(__file__).parents[3] / "shared" / "data") / "hatexplain"
EXPLAINERS: dict[str, dict[str, Any]] = {
    "integrated-gradients": {},
    "occlusion": {},
    "shapley": {"n_samples": 4},  # the two that sample are the dearest: so many points as make them affordable
    "gradient-shap": {"n_samples": 20},
    "input-x-gradient": {},
    "attention": {},
}
COLUMNS = ("token_f1", "token_f1_gain", "iou_f1", "iou_f1_gain")
FAITHFUL = ("comprehensiveness", "comprehensiveness_gain", "sufficiency", "sufficiency_gain", "fall_head")


def read(split: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (DATA / f"{split}.jsonl").read_text(encoding="utf-8").splitlines()]


def written(path: Path, rows: list[dict[str, Any]]) -> str:
    kept = [{name: row[name] for name in ("text", "label", "rationale")} for row in rows]
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in kept), encoding="utf-8")
    return str(path)


def stack(folder: Path, rows: int, samples: int) -> Stack:
    train, test = read("train"), [row for row in read("test") if any(row["rationale"])]
    random.Random(13).shuffle(train)
    data = {
        "train": written(folder / "train.jsonl", train[: -len(train) // 10]),
        "validation": written(folder / "validation.jsonl", train[-len(train) // 10 :]),
        "test": written(folder / "test.jsonl", random.Random(13).sample(test, rows)),
        "columns": {"rationale": "rationale"},
    }
    explain: list[dict[str, Any]] = [{"use": name, "samples": rows, **more} for name, more in EXPLAINERS.items()]
    return Stack.load(
        {
            "name": "plausibility",
            "seed": 13,
            "data": data,
            "model": {"base": "minilm"},
            "tune": {"use": "lora", "rank": 16, "alpha": 32},
            "train": {"epochs": 1, "batch_size": 16, "learning_rate": 1e-3, "eval_strategy": "no"},
            "explain": [*explain, {"use": "faithfulness", "rationales": "rationale", "samples": samples}],
            "output": str(folder / "runs"),
        }
    )


def told(metric: Metric | None) -> str:
    """Value and interval."""
    return "–" if metric is None else f"{metric.value:.3f} [{metric.low:.3f}, {metric.high:.3f}]"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=80, help="rows of test that are explained")
    parser.add_argument("--samples", type=int, default=12, help="of them, those that are checked for faithfulness")
    given = parser.parse_args()
    quiet_libraries()
    started = time.process_time()
    with tempfile.TemporaryDirectory() as folder:
        run = execute(stack(Path(folder), given.rows, given.samples))
        print(f"test accuracy on rows with a rationale: {told(run.metrics['test/accuracy'])}")
        for columns in (COLUMNS, FAITHFUL):
            print("| explainer | " + " | ".join(columns) + " | rows |")
            print("|---" * (len(columns) + 2) + "|")
            for name in EXPLAINERS:
                found = [run.metrics.get(f"run/explain/faithfulness/{column}/{name}") for column in columns]
                print(f"| {name} | " + " | ".join(map(told, found)) + f" | {found[0].n if found[0] else 0} |")
        for verdict in run.verdicts:
            print(f"{verdict.judgement}: {verdict.sentence}")
    print(f"{time.process_time() - started:.0f} s of CPU")


if __name__ == "__main__":
    main()
