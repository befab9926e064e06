"""Bias of a language model by pairs of sentences, before and after tuning.

CrowS-Pairs (Nangia et al., 2020, arXiv:2010.00133), WinoBias (Zhao et al., 2018, arXiv:1804.06876), template sets.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any, Literal

from pydantic import Field, model_validator

from upright import Metric, Run, Section, Step, Verdict, hook
from upright.errors import ConfigError
from upright_fairness.pairs import Kind, Pair, fingerprint, read


class PairBias(Step):
    """How often a language model finds the stereotyped sentence of a pair likelier, and whether tuning made that more."""

    tasks = frozenset({"text-generation", "text-classification"})

    pairs: Kind = Field("templates", description="What the pairs are; templates come with the step.")
    path: Path | None = Field(
        None, description="File of the pairs, needed for crows-pairs and winobias; for templates, a set of your own."
    )
    max_preference: float | None = Field(
        None,
        gt=0.5,
        le=1,
        description="Largest share of pairs decided in one direction that is accepted; one half is no preference.",
    )
    max_increase: float | None = Field(
        None,
        ge=0,
        le=1,
        description="Largest rise by tuning, of the share that prefers the stereotype, that is accepted.",
    )
    on_fail: Literal["block", "warn"] = Field(
        "warn", description="block: a violated bound ends the run with exit code 4."
    )
    min_rows: int = Field(30, ge=1, description="Fewer pairs are insufficient evidence.")

    @model_validator(mode="after")
    def _named(self) -> PairBias:
        if self.path is None and self.pairs != "templates":
            raise ValueError(f"path is missing: {self.pairs} does not come with the step; name its file")
        return self

    @hook
    def prepare(self, run: Run) -> None:
        """Refuse what has no likelihood, and ask the untuned base. Raises ConfigError."""
        from upright_fairness import pair_scores

        pairs = self._read(run)
        try:
            pair_scores.check(run, pairs)
        except ValueError as error:
            raise self._refusal(run, str(error)) from error
        if run.stack.trains:
            self._untuned(run, pairs)
        elif self.max_increase is not None:
            raise self._refusal(run, "max_increase compares with the untuned base, and no step trains; remove it")

    @hook
    def save(self, folder: Path, run: Run) -> None:
        """``pairs.parquet``: the log-likelihoods of each pair, no sentence."""
        from upright_fairness import pair_scores

        pairs = self._read(run)
        reasons = pair_scores.left_out(run, pair_scores.encoded(run, pairs))
        untuned = self._untuned(run, pairs).numpy() if run.stack.trains else None
        about = {"reading": pair_scores.reading(run), "sha256": fingerprint(pairs)}
        pair_scores.write(folder, pairs, reasons, pair_scores.score(run, pairs), untuned, about)

    @hook
    def account(self, folder: Path, run: Run) -> dict[str, Metric]:
        from upright_fairness import pair_scores
        from upright_fairness.pair_figures import everything

        scores, reasons, _ = pair_scores.read(folder)
        total = len(scores.types) + len(reasons)
        found = {"left_out": Metric(float(len(reasons)), n=total, source="ledger")}
        for key, one in everything(scores, run.seed):
            bounds = [None if math.isnan(bound) else bound for bound in (one.low, one.high)]
            found[key] = Metric(one.value, *bounds, n=one.rows, source="ledger")
        return found

    @hook
    def judge(self, metrics: dict[str, Metric], run: Run) -> list[Verdict]:
        from upright_fairness import verdicts

        found, rest = [], (self.min_rows, self.on_fail)
        prefix, who = f"run/{run.home(self)}/", run.key(self)
        for suffix in sorted(_suffixes(metrics, f"{prefix}preference")) or [""]:
            of = suffix.replace("/", " ")
            if self.max_preference is not None:
                share = metrics.get(f"{prefix}preference{suffix}")
                bounds = 1 - self.max_preference, self.max_preference
                found.append(verdicts.between(f"{who} preference{of}", share, *bounds, *rest))
            if self.max_increase is not None:
                moved = metrics.get(f"{prefix}change/preference{suffix}")
                found.append(verdicts.at_most(f"{who} change of preference{of}", moved, self.max_increase, *rest))
        return found

    @hook
    def report(self, run: Run) -> Section:
        from upright_fairness import pair_scores
        from upright_fairness.pair_report import section

        prefix = f"run/{run.home(self)}/"
        mine = {key.removeprefix(prefix): metric for key, metric in run.metrics.items() if key.startswith(prefix)}
        _, reasons, about = pair_scores.read(run.step_folder(self))
        return section(self.pairs, mine, sorted(_suffixes(mine, "preference")), reasons, about)

    def _read(self, run: Run) -> list[Pair]:
        try:
            return read(self.pairs, None if self.path is None else run.stack.root / self.path.expanduser())
        except ValueError as error:
            raise self._refusal(run, str(error)) from error

    def _untuned(self, run: Run, pairs: list[Pair]) -> Any:
        """The untuned base's log-likelihoods ``float64 [n, 2]``; asked once, a resumed run keeps them."""
        import torch

        from upright_fairness.pair_scores import score

        return run.keep(self, "untuned", lambda: torch.from_numpy(score(run, pairs)))

    def _refusal(self, run: Run, sentence: str) -> ConfigError:
        placed = run.stack.placed(self)
        return ConfigError(f"{placed.where}  {placed}: {sentence}")


def _suffixes(metrics: dict[str, Metric], name: str) -> list[str]:
    """What follows ``name`` in the keys: nothing for all pairs, ``/<type>`` for one type."""
    return [key.removeprefix(name) for key in metrics if key == name or key.startswith(f"{name}/")]
