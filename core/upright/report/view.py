"""A run folder as plain data for the pages."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from upright.evidence.gates import read_gates
from upright.evidence.ledger import read_counts
from upright.evidence.metrics import read_metrics
from upright.objects import Metric, Verdict

CORE_EVIDENCE = ("training", "attributions", "gates", "export", "cleaning", "undo")
HEADLINES = ("accuracy", "macro_f1", "span_f1", "perplexity", "loss")


@dataclass
class View:
    """Everything that a page shows; ``None`` or empty where the run has none of it."""

    folder: str
    settings: dict[str, Any]
    status: dict[str, Any]
    lock: dict[str, Any]
    plan: dict[str, Any]
    training: dict[str, Any]
    metrics: dict[str, Metric]
    verdicts: list[Verdict]
    sections: dict[str, dict[str, Any]]
    attributions: dict[str, Any]
    how_to_load: str
    ledger: list[dict[str, Any]]
    undo: dict[str, Any]

    @property
    def splits(self) -> list[str]:
        """Tests first, validation last."""
        named = dict.fromkeys(key.split("/")[0] for key in self.metrics)
        named.pop("run", None)
        return sorted(named, key=lambda split: (split == "validation", split))

    def headlines(self, split: str) -> dict[str, Metric]:
        """Core's main figures of a split, by name."""
        return {name: self.metrics[key] for name in HEADLINES if (key := f"{split}/{name}") in self.metrics}

    def details(self, split: str) -> dict[str, Metric]:
        """Core's other figures of a split: per class, per type."""
        sections = {step["section"] for step in self.lock["steps"]}
        found = {}
        for key, metric in self.metrics.items():
            head, _, name = key.partition("/")
            if head == split and name not in HEADLINES and name.split("/")[0] not in sections:
                found[name] = metric
        return found

    def of_steps(self) -> dict[str, Metric]:
        """The figures of steps, run-wide ones first."""
        sections = {step["section"] for step in self.lock["steps"]}
        keys = [key for key in self.metrics if len(key.split("/")) > 2 and key.split("/")[1] in sections]
        return {key: self.metrics[key] for key in sorted(keys, key=lambda key: (not key.startswith("run/"), key))}

    @property
    def failed(self) -> list[str]:
        """Steps whose evidence is *failed*, with what went wrong."""
        told = [
            f"{key}: {entry['error']}"
            for steps in [*self.sections.values(), self.attributions]
            for key, entry in steps.items()
            if entry["status"] == "failed"
        ]
        return list(dict.fromkeys(told))

    def doubts(self, step: str) -> list[Verdict]:
        """What gates about this step's evidence say against it, or cannot say for it."""
        return [verdict for verdict in self.verdicts if verdict.about == step and verdict.judgement != "met"]

    @property
    def promises(self) -> list[str]:
        """Epsilons and other run-wide figures that come from a ledger."""
        return [key for key, metric in self.metrics.items() if metric.source == "ledger"]


def view(folder: Path) -> View:
    """Read a run folder. Raises OSError or ValueError where a file that must be there is not or cannot be read."""
    evidence = {path.stem: _json(path) for path in sorted((folder / "evidence").glob("*.json"))}
    plan = _json(folder / "plan.json")
    return View(
        folder=_json(folder / "lock.json").get("run", folder.name),
        settings=yaml.safe_load((folder / "stack.resolved.yaml").read_text(encoding="utf-8")),
        status=_json(folder / "status.json"),
        lock=_json(folder / "lock.json"),
        plan=plan,
        training=evidence.get("training", {}),
        metrics=read_metrics(folder),
        verdicts=read_gates(folder),
        sections={name: content["steps"] for name, content in evidence.items() if name not in CORE_EVIDENCE},
        attributions=evidence.get("attributions", {}).get("steps", {}),
        how_to_load=evidence.get("export", {}).get("how_to_load", ""),
        ledger=read_counts(folder),
        undo=evidence.get("undo", {}),
    )


def _json(path: Path) -> dict[str, Any]:
    content: dict[str, Any] = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    return content
