"""Differentially private training by DP-SGD (Abadi et al., 2016, arXiv:1607.00133), for whatever the stack trains."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

from pydantic import Field, model_validator

from upright import Capability, Metric, Run, Section, Step, Stop, hook
from upright.errors import ConfigError, IntegrityError, UprightError

AGREES = 1e-3
"""Relative difference of a record's gradient, over its norm, that float32 sums in another order explain."""


class DpSgd(Step):
    """Bound what one unit (a record) can change: Poisson sampling, per-unit clipping, Gaussian noise, a ledger.

    Every draw of a sample is one entry, written to the disk before it is used. What the stack's `statistics` release is
    bounded to norm 1 a unit, noised, and charged in the same entry as the gradient.
    """

    needs = frozenset({Capability.TRAINING, Capability.INDEPENDENT_RECORDS})
    breaks = frozenset({Capability.OPEN_TRAINING})

    epsilon: float | None = Field(None, gt=0, description="Budget; the noise that keeps it is found.")
    delta: float = Field(gt=0, lt=1, description="Chance that the bound fails; below 1 / number of units.")
    max_grad_norm: float = Field(1.0, gt=0, description="Norm to which each unit's gradient is clipped.")
    noise_multiplier: float | None = Field(
        None, gt=0, description="Noise on the gradient over max_grad_norm; instead of epsilon."
    )
    statistics_noise_ratio: float = Field(
        4.0, gt=0, description="Noise multiplier of released statistics over that of the gradient."
    )
    grad_sample_mode: Literal["auto", "functorch", "loop"] = Field(
        "auto", description="functorch: vmap; loop: one record at a time; auto: vmap where it agrees with the loop."
    )

    @model_validator(mode="after")
    def _one_of_two(self) -> DpSgd:
        if (self.epsilon is None) == (self.noise_multiplier is None):
            raise ValueError("give either epsilon or noise_multiplier")
        return self

    # --- what the run asks ------------------------------------------------------------------------------------------

    @hook
    def watch(self, moment: str, run: Run) -> Stop | None:
        if moment == "started":
            self._start(run)
        elif moment == "evaluated":
            run.emit("privacy", step=run.key(self), epsilon=self._epsilon(run), delta=self.delta)
        spent = self.epsilon is not None and len(self._ledger(run).entries) >= run.updates
        if spent and run.update < run.updates and moment in ("started", "updated"):
            return Stop("the privacy budget is spent")  # a resumed run repeats updates, and each was charged
        return None

    @hook
    def sample(self, update: int, run: Run) -> Sequence[int]:
        """Every unit with the same chance, whatever was drawn before; from the operating system, never the seed."""
        import secrets

        import numpy as np

        rate = self._state(run)["sample_rate"]
        ledger = self._ledger(run)
        gradient, statistics = self._noise(run)
        from upright_privacy.accounting import combined

        ledger.charge(
            update=update,
            attempt=self._state(run)["attempt"],
            sample_rate=rate,
            noise_multiplier=combined(gradient, statistics),
            gradient_noise_multiplier=gradient,
            statistics_noise_multiplier=statistics,
        )
        members = self._members(run)
        drawn = np.random.Generator(np.random.PCG64(secrets.randbits(128))).random(len(members)) < rate
        return [row for unit in np.flatnonzero(drawn) for row in members[unit]]

    @hook
    def gradients(self, rows: Sequence[int], run: Run) -> dict[str, dict[str, Any]]:
        import torch

        from upright_privacy import clipping
        from upright_privacy.per_unit import Losses, per_unit, trainable

        losses = Losses(run)
        parameters = trainable(losses)
        sums = {name: torch.zeros_like(p, dtype=torch.float32) for name, p in parameters.items()}
        widths = [(step, name, width) for step, named in run.widths.items() for name, width in named.items()]
        released = torch.zeros(sum(width for _, _, width in widths), device=run.device)
        mode = self._state(run)["mode"]
        for parts in self._whole_units(rows, run):
            found = [per_unit(losses, batch, mode) for batch in parts]
            gradients, statistics = _joined(found) if len(found) > 1 else found[0][1:]
            scale = clipping.factors(gradients.values(), self.max_grad_norm)
            for name, gradient in gradients.items():
                sums[name] += clipping.clipped_sum(gradient, scale)
            if widths:
                flat = torch.cat([statistics[step][name].float() for step, name, _ in widths], dim=1)
                released += clipping.clipped_sum(flat, clipping.factors([flat], 1.0))
        noise, statistics_noise = self._noise(run)
        expected = run.config.train.batch_size
        for name, p in parameters.items():
            drawn = clipping.gaussian(p.shape, noise * self.max_grad_norm, run.device)
            p.grad = ((sums[name] + drawn) / expected).to(p.dtype)
        if widths and statistics_noise is not None:
            released += clipping.gaussian(released.shape, statistics_noise, run.device)
        groups: dict[str, dict[str, Any]] = {}
        for (step, name, _), part in zip(widths, released.split([width for *_, width in widths]), strict=True):
            groups.setdefault(step, {})[name] = part
        return groups

    @hook
    def account(self, folder: Any, run: Run) -> dict[str, Metric]:
        from upright_privacy.accounting import epsilon
        from upright_privacy.ledger import draws, read_ledger

        path = folder / "accountant.jsonl"
        if not path.is_file():
            raise IntegrityError(f"{path}: is missing; without the ledger no epsilon can be stated")
        charged = draws(read_ledger(path))
        return {
            "epsilon": Metric(epsilon(charged, self.delta, "prv"), source="ledger"),
            "epsilon_rdp": Metric(epsilon(charged, self.delta, "rdp"), source="ledger"),
            "delta": Metric(self.delta, source="ledger"),
            "draws": Metric(float(len(charged)), source="ledger"),
        }

    @hook
    def report(self, run: Run) -> Section:
        from upright.objects import Table, Text

        state = self._state(run)
        gradient, statistics = self._noise(run)
        home = run.home(self)
        facts = [
            ("epsilon (PRV accountant, from the ledger)", run.metrics[f"run/{home}/epsilon"].value),
            ("epsilon (RDP accountant)", run.metrics[f"run/{home}/epsilon_rdp"].value),
            ("delta", self.delta),
            ("unit of privacy", "one record"),
            ("sampling rate (Poisson)", state["sample_rate"]),
            ("draws charged", len(self._ledger(run).entries)),
            ("noise multiplier of the gradient", gradient),
            ("noise multiplier of statistics", statistics if statistics is not None else "none released"),
            ("clipping norm", self.max_grad_norm),
            ("per-record gradients", state["mode"]),
            ("attempts (a resume draws fresh noise and is charged)", state["attempt"]),
        ]
        outside = [str(placed) for placed in run.stack.steps if placed.step.reads_private]
        outside += [
            "the set of labels",
            "choices made on the validation split",
            "the number of training rows",
            "how long the run took",
        ]
        return Section(
            "Differential privacy",
            [
                Text(
                    "Whoever sees the model, every released figure of the training and all intermediate weights learns "
                    "little about whether one training record was there. The bound holds for the training rows as they "
                    "were after cleaning."
                ),
                Table(["what", "value"], facts),
                Text("Not covered by epsilon: " + "; ".join(outside) + "."),
            ],
        )

    # --- state ------------------------------------------------------------------------------------------------------

    def _state(self, run: Run) -> dict[str, Any]:
        return run.keep(self, "state", dict)

    def _ledger(self, run: Run) -> Any:
        """The open ledger; a checkpoint holds its length, and restoring it refuses a shorter one."""
        from upright_privacy.ledger import Ledger

        return run.keep(self, "ledger", lambda: Ledger(run.step_folder(self) / "accountant.jsonl"))

    def _epsilon(self, run: Run) -> float:
        from upright_privacy.accounting import epsilon
        from upright_privacy.ledger import draws

        return epsilon(draws(self._ledger(run).entries), self.delta)

    def _noise(self, run: Run) -> tuple[float, float | None]:
        """Noise multipliers of the gradient and of the statistics (None where none are released)."""
        gradient = self._state(run)["noise_multiplier"]
        return gradient, gradient * self.statistics_noise_ratio if run.widths else None

    def _members(self, run: Run) -> list[list[int]]:
        """Each unit's rows."""
        members: dict[int, list[int]] = {}
        for row, unit in enumerate(run.data["train"]["unit"][:]):
            members.setdefault(unit, []).append(row)
        return list(members.values())

    def _start(self, run: Run) -> None:
        from upright_privacy.accounting import noise_for

        where = f"{run.stack.placed(self).where}  privacy.{run.key(self)}"
        state, ledger = self._state(run), self._ledger(run)
        units = len(self._members(run))
        rate = run.config.train.batch_size / units
        if rate > 1:
            raise ConfigError(f"{where}: train.batch_size is over the {units} training units; lower it")
        if self.delta >= 1 / units:
            raise ConfigError(f"{where}.delta: {self.delta} is not below 1 / {units} training units; lower it")
        if "noise_multiplier" not in state:
            state["noise_multiplier"] = self.noise_multiplier
            if self.epsilon is not None:
                try:
                    total = noise_for(self.epsilon, self.delta, rate, run.updates)
                except ValueError as error:
                    raise ConfigError(
                        f"{where}: no noise reaches epsilon {self.epsilon} in {run.updates} updates; raise epsilon or "
                        "lower train.epochs"
                    ) from error
                statistics = self.statistics_noise_ratio**-2 if run.widths else 0.0
                state["noise_multiplier"] = total * (1 + statistics) ** 0.5
        state["sample_rate"] = rate
        state["attempt"] = 1 + max((entry["attempt"] for entry in ledger.entries), default=0)
        state["mode"] = self._mode(run, where)
        run.emit(
            "privacy",
            step=run.key(self),
            noise_multiplier=state["noise_multiplier"],
            sample_rate=rate,
            attempt=state["attempt"],
            charged=len(ledger.entries),
        )

    def _mode(self, run: Run, where: str) -> str:
        """How gradients are computed: by vmap, where it gives what the one-record loop does on a perturbed model."""
        from upright_privacy.proof import deviation

        if self.grad_sample_mode == "loop":
            return "loop"
        cause: Exception | None = None
        try:
            error = deviation(run)
            why = f"vmap's per-record gradients differ from the one-record loop's by {error:.1e}"
        except (RuntimeError, ValueError, NotImplementedError) as raised:
            error, cause = float("inf"), raised
            why = f"vmap cannot run this model ({str(raised).strip().splitlines()[0]})"
        if error <= AGREES:
            return "functorch"
        if self.grad_sample_mode == "functorch":
            raise UprightError(f"{where}: {why}; use grad_sample_mode: loop") from cause
        run.emit("warning", message=f"{where}: {why}, so one record is taken at a time, which is several times slower")
        return "loop"

    def _whole_units(self, rows: Sequence[int], run: Run) -> Any:
        """Lists of batches such that every unit's rows are in one list."""
        members = [rows_of for rows_of in self._members(run) if len(rows_of) > 1]
        shared = {row for rows_of in members for row in rows_of}
        single = [row for row in rows if row not in shared]
        if single:
            for batch in run.batches(single):
                yield [batch]
        drawn = set(rows)
        for rows_of in members:
            if rows_of[0] in drawn:
                yield list(run.batches(rows_of))


def _joined(found: list[Any]) -> tuple[dict[str, Any], dict[str, dict[str, Any]]]:
    """One unit's rows were in several batches: their sum."""
    gradients = {name: sum(part[1][name].sum(0, keepdim=True) for part in found) for name in found[0][1]}
    statistics = {
        step: {name: sum(part[2][step][name].sum(0, keepdim=True) for part in found) for name in named}
        for step, named in found[0][2].items()
    }
    return gradients, statistics
