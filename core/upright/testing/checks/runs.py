"""What a whole run on tiny models shows."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from upright.errors import ConfigError
from upright.testing.outcome import Failed, Skipped

if TYPE_CHECKING:
    from upright.objects import Metric
    from upright.run import Run
    from upright.testing.subject import Subject

CLOSE = 1e-4
"""Relative. Float32 sums in another order differ by some 1e-6; another model's scores by much more."""


def returns(subject: Subject) -> str:
    """Every answer is of the kind that `upright.hooks` names."""
    if subject.main.amiss:
        raise Failed(subject.main.amiss[0])
    return ", ".join(sorted(subject.main.answered)) or "no hook was asked on this task"


def runs(subject: Subject) -> str:
    """A run with the step ends well: four updates on a tiny model, then the evidence."""
    tiny = subject.main
    subject.needs("joins-a-hook")
    if tiny.amiss:
        raise Skipped("see `returns`")
    if tiny.error is not None:
        if str(tiny.error).startswith("after training:"):
            raise Skipped("see `trains-what-it-claims`")
        hint = " (set what the step needs in StepChecks.stack)" if isinstance(tiny.error, ConfigError) else ""
        raise Failed(f"the tiny run stopped: {tiny.error}{hint}")
    assert tiny.run is not None
    if tiny.run.exit_code not in (0, 4):
        evidence = [json.loads(path.read_text()) for path in sorted((tiny.run.folder / "evidence").glob("*.json"))]
        errors = [one["error"] for part in evidence for one in _steps(part) if one.get("error")]
        raise Failed(f"the tiny run ended with {tiny.run.exit_code}: {(errors or ['see its events'])[0]}")
    return f"ended with {tiny.run.exit_code} on {tiny.run.device.type}"


def _steps(part: Any) -> list[dict[str, Any]]:
    found = part.get("steps", {}) if isinstance(part, dict) else {}
    return [one for one in found.values() if isinstance(one, dict)] if isinstance(found, dict) else []


def works_offline(subject: Subject) -> str:
    """No hook asks for the network: all that a step needs is installed or named in the stack."""
    subject.finished()
    if subject.main.connections:
        raise Failed(f"the run asked the network for {subject.main.connections[0]!r}; bring what is needed along")
    return "nothing asked for the network"


def same_seed_same_result(subject: Subject) -> str:
    """Two runs of one stack give the same predictions and weights, bit for bit on a CPU."""
    run = subject.finished()
    _not_private(subject)
    if run.device.type != "cpu":
        raise Skipped("sums on a GPU differ from run to run; look on a CPU")
    again = subject.execute().run
    if again is None:
        raise Failed("the same stack ran once and stopped the second time; keep no state outside of the run")
    odd = _different(run, again)
    if odd:
        raise Failed(f"{odd} differs between two runs of one seed; draw from run.generator(self)")
    return "predictions and weights are the same"


def figures_follow(subject: Subject) -> str:
    """``measure``, ``account`` and ``judge`` say the same again without data and model, as ``upright verify`` asks them."""
    from upright.calls import Calls
    from upright.evidence.predictions import predicted_splits, read_predictions
    from upright.run import Run as Plain

    run = subject.finished()
    if not subject.answers("measure", "account", "judge"):
        raise Skipped("it answers none of `measure`, `account`, `judge`")
    plain = Plain(run.stack, run.folder, Calls([placed.step for placed in run.stack.steps]))
    home = f"{subject.section}/{subject.name}/"
    figures: dict[str, Metric] = {}
    try:
        for split in predicted_splits(run.folder):
            predictions = read_predictions(run.folder, split, plain)
            plain.labels = predictions.labels
            figures |= plain.calls.measure(predictions, plain)
        figures |= plain.calls.account(plain.step_folder, plain)
        verdicts = plain.calls.judge(run.metrics, plain)
    except Exception as error:  # whatever a hook raises there, `upright verify` would meet it
        raise Failed(f"asked again without data and model, it fails ({type(error).__name__}: {error})") from error
    told = {
        key: metric for key, metric in run.metrics.items() if f"/{home}" in f"/{key}" and metric.source != "attested"
    }
    for key, metric in told.items():
        again = figures.get(key)
        if again is None or abs(again.value - metric.value) > 1e-9 * (1 + abs(metric.value)):
            raise Failed(
                f"{key!r} was {metric.value:.6g} and is {again.value if again else 'nothing'} when asked again; a figure "
                "follows from the predictions alone, or says source='attested'"
            )
    if list(run.verdicts) != verdicts:
        raise Failed("`judge` gives other verdicts for the same figures")
    return f"{len(told)} figures, {len(verdicts)} verdicts"


def reloads(subject: Subject) -> str:
    """``model/`` loads by its own lines of Python, without us, and scores as the run did."""
    import torch

    from upright.evidence.predictions import read_predictions

    run = subject.finished()
    if not (subject.trains and subject.answers("tune", "finalize", "export")):
        raise Skipped("it leaves the model's form alone")
    if subject.task != "text-classification":
        raise Skipped("looked at for text-classification only")
    lines = json.loads((run.folder / "evidence" / "export.json").read_text(encoding="utf-8"))["how_to_load"]
    space: dict[str, Any] = {"folder": str(run.folder / "model")}
    try:
        exec(lines, space)
        model, tokenizer = space["model"], space["tokenizer"]
        texts = [record["text"] for record in run.encoded["test"].records]
        inputs = tokenizer(texts, padding=True, truncation=True, max_length=run.max_length, return_tensors="pt")
        with torch.no_grad():
            found = torch.softmax(model(**inputs).logits.double(), -1)
    except Exception as error:  # whatever the exported files and lines do
        raise Failed(f"model/ does not load by its own lines ({type(error).__name__}: {error})") from error
    expected = torch.from_numpy(read_predictions(run.folder, "test", run).numpy("scores").copy())
    apart = float((found - expected).abs().max())
    if not apart < CLOSE:
        raise Failed(f"the reloaded model's scores differ by {apart:.2g} from those of the run; wrap `export`")
    return f"largest difference {apart:.1e}"


def save_restores(subject: Subject) -> str:
    """What ``save`` wrote, ``restore`` reads back: saved again, the files are the same."""
    run = subject.finished()
    if not subject.answers("save", "restore"):
        raise Skipped("it answers neither `save` nor `restore`")
    if not (subject.answers("save") and subject.answers("restore")):
        return "writes artefacts and reads none back"
    first, second = run.folder / "steps" / subject.name, subject.folder / "saved-again"
    second.mkdir(exist_ok=True)
    run.calls.restore(lambda step: first if step is subject.step else run.step_folder(step), run)
    run.calls.save(lambda step: second if step is subject.step else run.step_folder(step), run)
    odd = [path.name for path in sorted(second.rglob("*")) if path.is_file() and not _same_file(path, second, first)]
    if odd:
        raise Failed(f"{odd[0]} differs when saved after being restored; restore all that `save` writes")
    return "saved, restored, saved again: the same files"


def state_survives(subject: Subject) -> str:
    """Stopped after its second update and resumed from the checkpoint, a run ends as one that was never stopped."""
    run = subject.finished()
    subject.needs_training()
    subject.needs("same-seed-same-result")

    def stop(event: dict[str, Any]) -> None:
        if event["event"] == "update" and event["update"] == 3:
            raise KeyboardInterrupt

    stack = subject.stack()
    try:
        stopped = subject.execute(stack, listen=stop)
    except KeyboardInterrupt:
        pass
    else:
        raise Skipped("the run ended before its third update" if stopped.run else "see `same-seed-same-result`")
    folder = (Path(stack.settings.output) / stack.settings.name / "latest").resolve()
    resumed = subject.execute(stack, resume=folder)
    if resumed.run is None:
        raise Failed(f"a resumed run stopped: {resumed.error}")
    if _private(subject):
        return "a private run resumes; its noise is drawn anew"
    if run.device.type != "cpu":
        return "a resumed run ends well"
    odd = _different(run, resumed.run)
    if odd:
        raise Failed(f"{odd} differs after a resume; keep live state with run.keep, draw from run.generator(self)")
    return "a resumed run is the same"


def cuda_bf16(subject: Subject) -> str:
    """It runs on a GPU in bf16."""
    import torch

    if not torch.cuda.is_available():
        raise Skipped("there is no CUDA device here")
    subject.needs_training()
    tiny = subject.execute(subject.stack(train={"precision": "bf16"}))
    if tiny.run is None:
        raise Failed(f"in bf16 the run stopped: {tiny.error}")
    return f"runs on {torch.cuda.get_device_name()}"


def _private(subject: Subject) -> bool:
    return subject.trains and subject.finished().private


def _not_private(subject: Subject) -> None:
    if _private(subject):
        raise Skipped("a private run draws noise that no seed repeats")


def _different(one: Run, other: Run) -> str | None:
    """The first file of predictions or weights that is not the same in both."""
    from upright.evidence.predictions import predicted_splits, read_predictions

    for split in predicted_splits(one.folder):
        tables = [read_predictions(run.folder, split, run).table for run in (one, other)]
        if not tables[0].equals(tables[1]):
            return f"predictions/{split}.parquet"
    if not (one.folder / "model").is_dir():
        return None
    with one.opened("model") as first, other.opened("model") as second:
        for path in sorted(first.rglob("*.safetensors")):
            if not _same_file(path, first, second):
                return f"model/{path.relative_to(first)}"
    return None


def _same_file(path: Path, folder: Path, other: Path) -> bool:
    twin = other / path.relative_to(folder)
    return twin.is_file() and twin.read_bytes() == path.read_bytes()
