"""What a run can be shown to leak: a lower bound on epsilon beside the claimed one, and a membership attack.

Canaries in one run (Steinke, Nasr and Jagielski, 2023, arXiv:2305.08846) with gradients of the audit's choice (Nasr et al.,
2023, arXiv:2302.07956).
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any, ClassVar, Literal

from pydantic import Field, PrivateAttr, model_validator

from upright import Batch, Capability, Decisions, Metric, Run, Scope, Section, Step, Verdict, hook
from upright.errors import ConfigError, IntegrityError, UprightError

COINS, SCORES, ATTACK = "coins.json", "scores.json", "membership.json"
WORDS = "a canary in a coal mine"
STEEP = 2.0**20
"""Slope of a canary's loss: far over any norm that gradients are clipped to."""
REFERENCE = 500
"""Places of the audit's own vector that no row touches: what is released there is the noise alone."""
ENOUGH = 0.8
"""Power below which a passed audit says little."""


class Audit(Step):
    """Bound the privacy loss from below by canaries, and try to tell training rows by their loss.

    Each canary is a training row or not, by a coin of the operating system. Its gradient is one coordinate of a vector that
    only the audit has, which is clipped, noised and released with all the others; the model never learns from it.
    """

    needs = frozenset({Capability.TRAINING})

    canaries: int = Field(
        200, ge=0, description="Rows made up for the audit, each in train with a chance of one half; 0 for none."
    )
    confidence: float = Field(
        0.95, gt=0.5, lt=1, description="Chance that a mechanism that keeps its claim is not accused."
    )
    attack_rows: int = Field(
        1000, ge=0, description="Training rows, and as many held-out rows, for the membership attack; 0 for none."
    )
    on_fail: Literal["block", "warn"] = Field(
        "warn", description="block: an epsilon shown to be over the claimed one ends the run with exit code 4."
    )

    _places: tuple[Any, Any] | None = PrivateAttr(None)
    _untuned: dict[str, Any] = PrivateAttr(default_factory=dict)

    @model_validator(mode="after")
    def _something(self) -> Audit:
        if not self.canaries and not self.attack_rows:
            raise ValueError("canaries and attack_rows are both 0, so there is nothing to do; remove the step")
        return self

    scope: ClassVar[Scope] = Scope(splits=frozenset({"train"}), deterministic=False, dp_stability=1)

    @property
    def reads_private(self) -> bool:  # type: ignore[override]
        """Whether losses of training rows are looked at; canaries are nobody's."""
        return self.attack_rows > 0

    # --- canaries in training ---------------------------------------------------------------------------------------

    @hook
    def clean(self, rows: Any, split: str, run: Run) -> Decisions:
        """Add the canaries whose coin fell so. Raises ConfigError where there is no mechanism to audit."""
        decisions = Decisions()
        if split == "train" and self.canaries:
            self._mechanism(run)
            for number, included in enumerate(self._toss(run.step_folder(self) / COINS)):
                if included:
                    decisions.add(None, "add", "canary", values=_canary(number, rows, run))
        return decisions

    @hook
    def modules(self, run: Run) -> dict[str, Any]:
        """The audit's vector: line 0 for every other row, one line for each canary, and lines that nobody touches."""
        if not self.canaries:
            return {}
        from torch import nn

        vector = nn.Embedding(1 + self.canaries + REFERENCE, 1, padding_idx=0)
        nn.init.zeros_(vector.weight)
        return {"canaries": vector}

    @hook
    def weigh(self, batch: Batch, run: Run) -> Any:
        """The model learns nothing from a canary."""
        if not self.canaries or batch.split != "train":
            return None
        return (self._lines(batch, run) == 0).float()

    @hook
    def loss(self, batch: Batch, run: Run) -> Any:
        """A canary's loss is its own coordinate times a slope, so that its clipped gradient is the norm in that place."""
        if not self.canaries or batch.split != "train":
            return None
        return self._vector(run)(self._lines(batch, run)).squeeze(-1) * STEEP

    @hook
    def watch(self, moment: str, run: Run) -> None:
        from upright_privacy.attack import confidences

        if moment == "started" and self.attack_rows:  # a resumed run no longer has the untuned model
            chosen = {} if run.update else self._attacked(run)
            self._untuned = {split: confidences(run, split, rows) for split, rows in chosen.items()}
        if moment == "updated" and self.canaries:
            self._observe(run)

    def _observe(self, run: Run) -> None:
        """Add what this update's released gradient says of each canary."""
        import torch

        from upright_privacy.guessing import evidence

        entry = _last(self._ledger(run))
        released = self._vector(run).weight.grad.flatten().double().cpu()
        noise = released[1 + self.canaries :].square().mean().sqrt().clamp(min=torch.finfo(torch.float64).tiny)
        values = (released[1 : 1 + self.canaries] / noise).clamp(-1e6, 1e6).numpy()
        found = evidence(
            values, entry.get("gradient_noise_multiplier", entry["noise_multiplier"]), entry["sample_rate"]
        )
        self._scores(run).add_(torch.from_numpy(found))

    # --- after training ---------------------------------------------------------------------------------------------

    @hook
    def save(self, folder: Path, run: Run) -> None:
        """``scores.json``: each canary's score. ``membership.json``: the attack's figures, of no single row."""
        from upright_privacy.attack import attack

        if self.canaries:
            _write(folder / SCORES, self._scores(run).tolist())
        if self.attack_rows:
            _write(folder / ATTACK, attack(run, self._attacked(run), self._untuned))

    @hook
    def account(self, folder: Path, run: Run) -> dict[str, Metric]:
        found: dict[str, Metric] = {}
        if self.canaries:
            found |= self._bounds(folder, run)
        if self.attack_rows:
            for key, figure in _read(folder / ATTACK).items():
                found[key] = Metric(figure["value"], figure["low"], figure["high"], figure["n"], source="attested")
        return found

    @hook
    def judge(self, metrics: dict[str, Metric], run: Run) -> list[Verdict]:
        if not self.canaries:
            return []
        home, gate = f"run/{run.home(self)}", f"epsilon of {run.key(self)}"
        value = {key: metrics[f"{home}/{key}"].value for key in ("epsilon_lower", "p_value", "power")}
        claimed = metrics[f"run/{run.home(self._mechanism(run))}/epsilon"].value
        lower = value["epsilon_lower"]
        told = f"{gate}: claimed {claimed:.3g}, at least {lower:.3g} shown"
        if lower > claimed:
            return [Verdict(gate, "violated", f"{told}: the claim is refuted", self.on_fail)]
        if value["p_value"] < self._error:
            likely = metrics[f"{home}/epsilon_lower_gaussian"].value
            sentence = (
                f"{gate}: more canaries were told than the noise of the ledger allows (p = {value['p_value']:.1g}); such "
                f"noise has an epsilon of at least {likely:.3g}, claimed {claimed:.3g}"
            )
            return [Verdict(gate, "violated", sentence, self.on_fail)]
        told += f"; half the noise would have been noticed with a chance of {value['power']:.2f}"
        if value["power"] < ENOUGH:
            return [Verdict(gate, "insufficient evidence", f"{told}; use more canaries", self.on_fail)]
        return [Verdict(gate, "met", told, self.on_fail)]

    @hook
    def report(self, run: Run) -> list[Section]:
        from upright_privacy.attack import held_out
        from upright_privacy.audit_report import attack_section, canary_section

        home = f"run/{run.home(self)}/"
        mine = {key.removeprefix(home): metric for key, metric in run.metrics.items() if key.startswith(home)}
        sections = []
        if self.canaries:
            claim = f"run/{run.home(self._mechanism(run))}/"
            coins = _read(run.step_folder(self) / COINS)
            claimed, delta = (run.metrics[claim + key].value for key in ("epsilon", "delta"))
            sections.append(canary_section(mine, self.confidence, claimed, delta, sum(coins)))
        if self.attack_rows:
            sections.append(attack_section(mine, run, held_out(run)))
        return sections

    # --- the bounds -------------------------------------------------------------------------------------------------

    @property
    def _error(self) -> float:
        """Each of the two tests may err with half of what the confidence leaves."""
        return (1 - self.confidence) / 2

    def _bounds(self, folder: Path, run: Run) -> dict[str, Metric]:
        """Both bounds, from the files of the audit and the mechanism's ledger."""
        import numpy as np
        from scipy.stats import binom, binomtest

        from upright_privacy import guessing, one_run
        from upright_privacy.ledger import draws, read_ledger

        included = np.array(_read(folder / COINS), dtype=bool)
        scores = np.array(_read(folder / SCORES), dtype=np.float64)
        if len(included) != self.canaries or len(scores) != self.canaries:
            raise IntegrityError(f"{folder}: does not hold a coin and a score for each of {self.canaries} canaries")
        delta = self._mechanism(run).delta
        with run.opened(f"steps/{run.key(self._mechanism(run))}/accountant.jsonl") as path:
            charged = draws(read_ledger(path))
        count, correct = self.canaries, one_run.right(scores, included, self.canaries)
        allowed = guessing.most_right(charged) if charged else 0.5
        seen = binomtest(correct, count, alternative="greater").proportion_ci(1 - self._error)
        about = binomtest(correct, count).proportion_ci(0.95)
        likely = guessing.epsilon_that_allows(float(seen.low), charged, delta) if charged else 0.0
        share = guessing.share_guessed(charged, 0.5, run.seed) if charged else 0.5
        power = guessing.power(count, allowed, share, self._error)
        ledger: Any = {"n": count, "source": "ledger"}
        return {
            "epsilon_lower": Metric(one_run.best_lower_bound(scores, included, delta, self._error), **ledger),
            "epsilon_lower_largest": Metric(one_run.largest_bound(count, delta, self._error), **ledger),
            "epsilon_lower_gaussian": Metric(likely, **ledger),
            "guessed_right": Metric(correct / count, float(about.low), float(about.high), **ledger),
            "guessed_right_allowed": Metric(allowed, **ledger),
            "p_value": Metric(float(binom.sf(correct - 1, count, allowed)), **ledger),
            "power": Metric(power, n=count, source="attested"),  # simulated: the last digit may differ elsewhere
        }

    def _mechanism(self, run: Run) -> Any:
        """The step that gives the gradients and keeps a ledger. Raises ConfigError where there is none."""
        found = run.stack.answering("gradients")
        if not run.private or not found or not hasattr(found[0].step, "delta"):
            place = f"{run.stack.placed(self).where}  privacy.{run.key(self)}.canaries"
            raise ConfigError(f"{place}: there is no private mechanism to audit; add dp-sgd, or set canaries: 0")
        return found[0].step

    def _attacked(self, run: Run) -> dict[str, list[int]]:
        from upright_privacy.attack import choose

        return choose(run, self.attack_rows, without=self._numbers(run) if self.canaries else {})

    def _ledger(self, run: Run) -> Path:
        return run.step_folder(self._mechanism(run)) / "accountant.jsonl"

    def _vector(self, run: Run) -> Any:
        return run.modules[f"{run.key(self)}/canaries"]

    def _scores(self, run: Run) -> Any:
        import torch

        return run.keep(self, "scores", lambda: torch.zeros(self.canaries, dtype=torch.float64))

    def _toss(self, path: Path) -> list[bool]:
        """The coins, tossed once: a resumed run keeps them."""
        import secrets

        if not path.is_file():
            _write(path, [bool(secrets.randbits(1)) for _ in range(self.canaries)])
        coins: list[bool] = _read(path)
        return coins

    def _lines(self, batch: Batch, run: Run) -> Any:
        """Each row's line of the vector, ``Long[R]``; 0 for a row that is no canary."""
        import torch

        if self._places is None or self._places[0] is not run.data["train"]:
            lines = torch.zeros(len(run.data["train"]), dtype=torch.long)
            for place, line in self._numbers(run).items():
                lines[place] = line
            self._places = (run.data["train"], lines.to(batch.rows.device))
        return torch.index_select(self._places[1], 0, batch.rows)

    def _numbers(self, run: Run) -> dict[int, int]:
        """The place in train of each included canary -> its line. Raises UprightError where a cleaner changed them."""
        rows = run.data["train"]
        name = next(name for name in ("text", "tokens", "prompt") if name in rows.column_names)
        places = [place for place, told in enumerate(rows[name][:]) if told == _told(name)]
        included = [line for line, coin in enumerate(_read(run.step_folder(self) / COINS), 1) if coin]
        if len(places) < len(included):
            raise UprightError(
                f"{run.stack.placed(self).where}  privacy.{run.key(self)}: a cleaner changed or dropped rows of the audit; "
                "place audit after it"
            )
        return dict(zip(places[len(places) - len(included) :], included, strict=True))


def _canary(number: int, rows: Any, run: Run) -> dict[str, Any]:
    """A row that derives from no record: fixed words, and the classes in turn, so that their shares stay."""
    values: dict[str, Any] = {}
    for name in rows.column_names:
        if name in ("row_id", "unit", *run.config.data.sensitive):
            continue
        if name in ("label", "labels"):
            told = rows[name][:]
            known = sorted({one for value in told for one in (value if name == "labels" else [value])} - {None})
            one = known[number % len(known)] if known else None
            values[name] = [one] if name == "labels" else one
        else:
            values[name] = _told(name)
    return values


def _told(name: str) -> Any:
    """What stands in a canary's column."""
    return ["canary"] if name == "tokens" else WORDS


def _last(path: Path) -> dict[str, Any]:
    """The newest entry of a ledger."""
    with path.open("rb") as lines:
        lines.seek(max(0, path.stat().st_size - 4096))
        entry: dict[str, Any] = json.loads(lines.read().splitlines()[-1])
    return entry


def _write(path: Path, content: Any) -> None:
    draft = path.with_name(f".{path.name}.part")
    with draft.open("w", encoding="utf-8") as out:
        json.dump(content, out)
        out.flush()
        os.fsync(out.fileno())
    draft.replace(path)


def _read(path: Path) -> Any:
    """Raises IntegrityError where the file is not what the audit wrote."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise IntegrityError(f"{path}: cannot be read ({error}); without it the audit shows nothing") from error
