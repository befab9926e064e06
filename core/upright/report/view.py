"""A run folder as plain data for the pages."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from upright.evidence.beside import read_beside
from upright.evidence.gates import read_gates
from upright.evidence.groups import read_groups
from upright.evidence.ledger import read_counts
from upright.evidence.metrics import read_metrics
from upright.evidence.rows import read_rows
from upright.objects import Metric, Verdict
from upright.stack import SECTIONS

CORE_EVIDENCE = ("training", "attributions", "gates", "export", "cleaning", "undo", "rows", "groups", "beside")
FEW = 4
"""Labels at the most whose shares are told for each group."""
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
    rows: dict[str, Any]
    groups: dict[str, Any]
    beside: list[dict[str, Any]]

    @property
    def tests(self) -> list[str]:
        """Splits that no choice was made on."""
        return [split for split in self.splits if split not in ("train", "validation")]

    @property
    def splits(self) -> list[str]:
        """Tests first, validation last."""
        named = dict.fromkeys(key.split("/")[0] for key in self.metrics)
        named.pop("run", None)
        return sorted(named, key=lambda split: (split == "validation", split))

    def headlines(self, split: str) -> dict[str, Metric]:
        """Core's main figures of a split, by key."""
        return {key: self.metrics[key] for name in HEADLINES if (key := f"{split}/{name}") in self.metrics}

    def details(self, split: str) -> dict[str, Metric]:
        """Core's other figures of a split: per class, per type."""
        sections = {step["section"] for step in self.lock["steps"]}
        found = {}
        for key, metric in self.metrics.items():
            head, _, name = key.partition("/")
            if head == split and name not in HEADLINES and name.split("/")[0] not in sections:
                found[key] = metric
        return found

    def of_steps(self) -> dict[str, Metric]:
        """The figures of steps, run-wide ones first."""
        sections = {step["section"] for step in self.lock["steps"]}
        keys = [key for key in self.metrics if len(key.split("/")) > 2 and key.split("/")[1] in sections]
        return {key: self.metrics[key] for key in sorted(keys, key=lambda key: (not key.startswith("run/"), key))}

    @property
    def apart(self) -> bool | None:
        """Whether no input is in two splits; None where that is withheld."""
        counts = [pair["inputs"] for pair in self.rows.get("common", [])]
        return False if any(counts) else None if None in counts else True

    @property
    def lock_rows(self) -> dict[str, int]:
        """Rows of each split, for a run without a plan."""
        return {split: facts["rows"] for split, facts in self.lock["data"].items()}

    @property
    def cleaned(self) -> list[str]:
        """The splits that a cleaner decided on, in the order of the data."""
        there = {entry["split"] for entry in self.ledger}
        return [split for split in self.plan.get("rows") or self.lock_rows if split in there]

    @property
    def decisions(self) -> list[dict[str, Any]]:
        """What each cleaner did for which reason, with the rows of each split."""
        found: dict[tuple[str, ...], dict[str, Any]] = {}
        for entry in self.ledger:
            told = {name: entry[name] for name in ("cleaner", "action", "reason", "status")}
            found.setdefault(tuple(told.values()), {**told, "rows": {}})["rows"][entry["split"]] = entry["rows"]
        return list(found.values())

    @property
    def base_rates(self) -> dict[str, dict[str, Any]]:
        """Way of grouping -> split -> group -> rows and labels."""
        found: dict[str, dict[str, Any]] = {}
        for split, ways in self.groups.get("base_rates", {}).items():
            for way, rates in ways.items():
                found.setdefault(way, {})[split] = rates
        return found

    @property
    def tells_groups(self) -> bool:
        """Whether there is anything to say of groups."""
        said = {"groups", "criterion"} & self.about.keys()
        return bool(self.base_rates or self.groups.get("criteria") or said)

    def groups_of(self, way: str) -> list[str]:
        """The groups that occur in any split."""
        return sorted({group for rates in self.base_rates[way].values() for group in rates})

    @property
    def few_labels(self) -> list[str]:
        """The labels whose shares are told: the second of two, all of a few, none of many."""
        labels = self.plan.get("labels", [])
        return [] if len(labels) > FEW else labels[1:] if len(labels) == 2 else labels

    def shared_with(self, other: dict[str, Any]) -> dict[str, tuple[Metric, Metric]]:
        """The main test figures, the gaps and the epsilons that another run has too: before and after."""
        mine = {key: metric for split in self.tests for key, metric in self.headlines(split).items()}
        mine |= self.gaps | {key: self.metrics[key] for key in self.promises if key.endswith("/epsilon")}
        theirs = other["figures"]
        return {key: (Metric.from_json(theirs[key]), metric) for key, metric in mine.items() if key in theirs}

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
    def about(self) -> dict[str, str]:
        """What people said of the run, by the names of ``about``; what was left out is not there."""
        return {name: said for name, said in self.settings.get("about", {}).items() if isinstance(said, str)}

    @property
    def gaps(self) -> dict[str, Metric]:
        """The test gaps of the criteria that the run's steps hold or measure, by key."""
        names = {f"{held['criterion']}_difference" for held in self.groups.get("criteria", [])}
        return {
            key: metric
            for key, metric in self.metrics.items()
            if not key.startswith(("run/", "validation/")) and key.count("/") > 2 and key.split("/")[3] in names
        }

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
        sections={
            name: content["steps"]
            for name, content in sorted(evidence.items(), key=lambda item: _order(item[0]))
            if name not in CORE_EVIDENCE
        },
        attributions=evidence.get("attributions", {}).get("steps", {}),
        how_to_load=evidence.get("export", {}).get("how_to_load", ""),
        ledger=read_counts(folder),
        undo=evidence.get("undo", {}),
        rows=read_rows(folder),
        groups=read_groups(folder),
        beside=read_beside(folder),
    )


def _order(section: str) -> tuple[int, str]:
    """Core's sections in the order of a stack, others behind them."""
    return (SECTIONS.index(section) if section in SECTIONS else len(SECTIONS), section)


def _json(path: Path) -> dict[str, Any]:
    content: dict[str, Any] = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    return content
