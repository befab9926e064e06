"""After training: calibrate, measure, explain, judge, report, save; then everything goes into the manifest."""

from __future__ import annotations

import traceback
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from upright.engine import shards
from upright.engine.blindness import blindness
from upright.engine.evaluate import predict
from upright.engine.export import export_model
from upright.engine.target import CoreTarget
from upright.engine.telling import stage, write_json
from upright.evidence.beside import beside_evidence
from upright.evidence.files import write_atomic
from upright.evidence.gates import write_gates
from upright.evidence.groups import group_evidence
from upright.evidence.manifest import write_manifest
from upright.evidence.metrics import measure, write_metrics
from upright.evidence.predictions import write_predictions
from upright.evidence.rows import row_evidence
from upright.evidence.sealing import new_file, seal_steps
from upright.evidence.status import read_status, write_status
from upright.objects import Attribution, Predictions, Section, Svg, Table, Text
from upright.report import write_report

if TYPE_CHECKING:
    from upright.run import Run

FITTED = ("train", "validation")
"""Splits that choices were made on; every other one is a test split."""


def finish(run: Run) -> None:
    """Take a trained (or untrained, or only cleaned) run past its last hook; sets ``run.exit_code`` to 0, 1 or 4.

    A step that fails in ``explain`` or ``report`` leaves evidence that says *failed*, and exit code 1.
    """
    evidence: dict[str, dict[str, Any]] = {}
    tables: dict[str, Predictions] = {}
    if not run.stack.cleans_only:
        tables = _measure(run)
        _explain(run, tables)
        if run.stack.trains:
            stage(run, "save")
            write_json(run.folder / "evidence" / "export.json", {"how_to_load": export_model(run)})
        run.calls.save(run.step_folder, run)
    run.metrics |= run.calls.account(run.step_folder, run)
    write_metrics(run.folder, run.metrics)
    if tables:
        _audited(run, tables)
    run.verdicts = run.calls.judge(run.metrics, run)
    gate = write_gates(run.folder, run.verdicts)
    stage(run, "report")
    evidence = _sections(run)
    for section, content in evidence.items():
        write_json(run.folder / "evidence" / f"{section}.json", {"steps": content})
    seal_steps(run)
    run.exit_code = run.exit_code or gate


def close(run: Run) -> None:
    """Say how a finished run ended and seal its folder by the manifest; no step is asked any more."""
    state = {0: "done", 4: "gate-failed"}.get(run.exit_code, "failed")
    run.emit("finished", state=state, exit_code=run.exit_code)
    write_status(run.folder, state, exit_code=run.exit_code, updates=run.update)
    write_report(run.folder, _previous(run.folder))
    shards.remove(run)
    write_manifest(run.folder)


def save_cleaned(run: Run) -> None:
    """What a stack that only cleans is for: each split's rows as ``data/<split>.parquet``."""
    for split, rows in run.data.items():
        with new_file(run.folder / "data" / f"{split}.parquet", run) as draft:
            rows.to_parquet(str(draft))


def _measure(run: Run) -> dict[str, Predictions]:
    """Predictions and figures of validation and every test split; thresholds are fitted on validation first."""
    stage(run, "measure")
    run.metrics = {}
    if "validation" in run.data and run.calls.answers("calibrate"):
        run.calls.calibrate(predict(run, "validation"), run)
    tables = {}
    for split in run.data:
        if split == "train":
            continue
        predictions = tables[split] = predict(run, split)
        write_predictions(run, predictions)
        core = {f"{split}/{key}": metric for key, metric in measure(predictions, run.seed).items()}
        run.metrics |= core | run.calls.measure(predictions, run)
    return tables


def _audited(run: Run, tables: dict[str, Predictions]) -> None:
    """What an auditor asks of any run: rows, groups, and the runs beside it."""
    evidence = run.folder / "evidence"
    write_json(evidence / "rows.json", row_evidence(run))
    write_json(evidence / "groups.json", group_evidence(run, tables, blindness(run, _looked_at(run)[0])))
    if run.config.about.compare_with:
        write_json(evidence / "beside.json", beside_evidence(run, tables))


def _looked_at(run: Run) -> list[str]:
    """The test splits; without any, validation."""
    return [split for split in run.data if split not in FITTED] or [s for s in run.data if s == "validation"]


def _explain(run: Run, tables: dict[str, Predictions]) -> None:
    splits = _looked_at(run)
    if not splits or not run.calls.answers("explain"):
        return
    stage(run, "explain")
    split = splits[0]
    target = CoreTarget(run, split)
    steps: dict[str, Any] = {}
    for step, found, error in _guarded(run, "explain", {"target": target, "rows": run.data[split], "run": run}):
        key = run.key(step)
        run.attributions[key] = found or []
        steps[key] = {
            "use": run.stack.placed(step).use,
            "split": split,
            "status": "failed" if error else "ok",
            "error": error,
            "rows": _attributed(run, run.attributions[key], tables[split]),
        }
    write_json(run.folder / "evidence" / "attributions.json", {"steps": steps})


def _attributed(run: Run, found: list[Attribution], predictions: Predictions) -> list[dict[str, Any]]:
    place = {row_id: n for n, row_id in enumerate(predictions.table.column("row_id").to_pylist())}
    columns = [column for column in ("label", "decision") if column in predictions.table.column_names]
    known = {column: predictions.table.column(column).to_pylist() for column in columns}

    def name(column: str, row_id: str) -> str | None:
        code = known[column][place[row_id]] if column in known else None  # a language model decides on no class
        return run.labels[code] if isinstance(code, int) and code >= 0 else None

    return [
        {
            "row_id": one.row_id,
            "target": one.target,
            "decision": name("decision", one.row_id),
            "label": name("label", one.row_id),
            "tokens": one.tokens,
            "offsets": [list(pair) for pair in one.offsets],
            "scores": [float(score) for score in one.scores],
            "completeness_error": one.completeness_error,
            "standard_errors": None if one.standard_errors is None else [float(error) for error in one.standard_errors],
        }
        for one in found
    ]


def _sections(run: Run) -> dict[str, dict[str, Any]]:
    """evidence/<section>.json: what each step reports, failures included."""
    evidence: dict[str, dict[str, Any]] = {}
    for step, sections, error in _guarded(run, "report", {"run": run}):
        placed = run.stack.placed(step)
        listed = sections if isinstance(sections, (list, tuple)) else [sections] if sections is not None else []
        evidence.setdefault(placed.section, {})[placed.key] = {
            "use": placed.use,
            "status": "failed" if error else "ok",
            "error": error,
            "sections": [_section_json(section) for section in listed],
        }
    return evidence


def _guarded(run: Run, hook: str, given: dict[str, Any]) -> Iterator[tuple[Any, Any, str | None]]:
    """(step, answer, error) for each step: one that fails leaves a sentence, the others go on."""
    for answer in run.calls.answers(hook):
        try:
            yield answer.step, answer(given), None
        except Exception as error:  # whatever a plugin raises, its evidence says failed and the run ends with 1
            run.exit_code = 1
            sentence = f"{type(error).__name__}: {error}"
            run.emit("warning", message=f"{run.stack.placed(answer.step)} failed in `{hook}`: {sentence}")
            write_atomic(run.step_folder(answer.step) / f"{hook}-error.txt", traceback.format_exc())
            yield answer.step, None, sentence


def _section_json(section: Section) -> dict[str, Any]:
    blocks: list[dict[str, Any]] = []
    for block in section.blocks:
        if isinstance(block, Text):
            blocks.append({"type": "text", "text": block.text})
        elif isinstance(block, Table):
            blocks.append({"type": "table", "header": list(block.header), "rows": [list(row) for row in block.rows]})
        elif isinstance(block, Svg):
            blocks.append({"type": "svg", "svg": block.svg, "caption": block.caption})
    return {"title": section.title, "blocks": blocks}


def _previous(folder: Path) -> Path | None:
    """The newest finished run of the same name before this one."""
    others = [path for path in folder.parent.iterdir() if path.is_dir() and not path.is_symlink() and path != folder]
    ended = {
        path: status["time"] for path in others if (status := read_status(path))["state"] in ("done", "gate-failed")
    }
    return max(ended, key=ended.__getitem__) if ended else None
