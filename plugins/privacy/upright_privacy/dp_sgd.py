"""Differentially private training by DP-SGD (Abadi et al., 2016, arXiv:1607.00133), for whatever the stack trains."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

from pydantic import Field, PrivateAttr, model_validator

from upright import Capability, Metric, Run, Section, Step, Stop, hook
from upright.errors import ConfigError, IntegrityError, UprightError

CHECKED = 3
"""Updates, drawn at random, before which the gradients of a few records are compared with the one-record loop's."""


DROWNS = 10.0
"""How often an update's noise may be as long as the longest mean gradient that it can carry; full tuning of a large model
by small batches is over it, LoRA by a few hundred units a tenth of it."""


class DpSgd(Step):
    """Bound what one unit can change: Poisson sampling, per-unit clipping, Gaussian noise, a ledger.

    A unit is a record, or all rows of one value of `data.unit`. Every draw of a sample is one entry, written to the disk
    before it is used. What the stack's `statistics` release is bounded to norm 1 a unit, noised, and charged in the same
    entry as the gradient.
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
    clipping: Literal["flat", "automatic", "adaptive"] = Field(
        "flat", description="flat; automatic: every unit scaled to the norm; adaptive: the norm follows a quantile."
    )
    target_unclipped_quantile: float = Field(
        0.5, gt=0, lt=1, description="adaptive: share of units whose gradient shall stay below the norm."
    )
    clipbound_learning_rate: float = Field(0.2, gt=0, description="adaptive: how fast the norm follows.")
    unclipped_num_std: float | None = Field(
        None, gt=0, description="adaptive: noise on the number of units below the norm; default: batch_size / 20."
    )
    grad_sample_mode: Literal["auto", "direct", "functorch", "loop"] = Field(
        "auto",
        description="direct: a rule for each function; functorch: vmap; loop: one unit at a time; auto: the first that is "
        "proven on this model.",
    )

    _units_of: tuple[Any, list[list[int]]] | None = PrivateAttr(None)

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
        import numpy as np

        from upright_privacy.accounting import combined
        from upright_privacy.noise import Source

        state = self._state(run)
        gradient, statistics, count = self._noise(run)
        self._ledger(run).charge(
            update=update,
            attempt=state["attempt"],
            sample_rate=state["sample_rate"],
            noise_multiplier=combined(gradient, statistics, count),
            gradient_noise_multiplier=gradient,
            statistics_noise_multiplier=statistics,
            count_noise_multiplier=count,
        )
        members = self._members(run)
        drawn = np.flatnonzero(Source().chosen(len(members), state["sample_rate"]))
        return [row for unit in drawn for row in members[unit]]

    @hook
    def gradients(self, rows: Sequence[int], run: Run) -> dict[str, dict[str, Any]]:
        import torch

        from upright_privacy import clipping
        from upright_privacy.noise import Source, gaussian
        from upright_privacy.per_unit.contributions import widened
        from upright_privacy.per_unit.methods import Losses, trainable

        self._check_again(run)
        losses, state = Losses(run), self._state(run)
        parameters = trainable(losses)
        sums = {name: widened(torch.zeros_like(p)) for name, p in parameters.items()}
        widths = [(step, name, width) for step, named in run.widths.items() for name, width in named.items()]
        released = torch.zeros(sum(width for _, _, width in widths), device=run.device)
        bound, below = float(state["max_grad_norm"]), 0.0
        for units in self._units(losses, rows, run):
            norms = units.norms()
            scale = clipping.factors(norms, bound, self.clipping)
            for name, part in units.weighted_sum(scale, parameters).items():
                sums[name] += part
            below += float((norms <= bound).sum()) - len(norms) / 2
            if widths:
                flat = torch.cat([units.statistics[step][name].float() for step, name, _ in widths], dim=1)
                own = clipping.factors(torch.linalg.vector_norm(flat, dim=1, dtype=torch.float64), 1.0)
                released += own.float() @ flat.masked_fill((own == 0).unsqueeze(1), 0)
        noise, statistics_noise, count_noise = self._noise(run)
        expected = run.config.train.batch_size
        sizes = [p.numel() for p in parameters.values()]
        drawn = gaussian(torch.Size([sum(sizes)]), noise * bound, run.device).split(sizes)
        for (name, p), part in zip(parameters.items(), drawn, strict=True):
            p.grad = ((sums[name] + part.view_as(p)) / expected).to(p.dtype)
        if widths and statistics_noise is not None:
            released += gaussian(released.shape, statistics_noise, run.device)
        if count_noise is not None:
            share = (below + count_noise / 2 * float(Source().gaussians(1))) / expected + 0.5
            state["max_grad_norm"] = clipping.followed(
                bound, share, self.target_unclipped_quantile, self.clipbound_learning_rate
            )
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
        from upright_privacy.dp_sgd_report import section

        return section(self, run, self._state(run), self._noise(run), len(self._ledger(run).entries))

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

    def _noise(self, run: Run) -> tuple[float, float | None, float | None]:
        """Noise multipliers of the gradient, of statistics and of adaptive clipping's count; None for no release."""
        gradient = self._state(run)["noise_multiplier"]
        return gradient, gradient * self.statistics_noise_ratio if run.widths else None, self._count_noise(run)

    def _count_noise(self, run: Run) -> float | None:
        """Each unit adds 1/2 or -1/2 to the count, so its multiplier is twice the standard deviation (Andrew et al.)."""
        if self.clipping != "adaptive":
            return None
        return 2 * (self.unclipped_num_std or run.config.train.batch_size / 20)

    def _members(self, run: Run) -> list[list[int]]:
        """Each unit's rows."""
        if self._units_of is None or self._units_of[0] is not run.data["train"]:
            members: dict[int, list[int]] = {}
            for row, unit in enumerate(run.data["train"]["unit"][:]):
                members.setdefault(unit, []).append(row)
            self._units_of = (run.data["train"], list(members.values()))
        return self._units_of[1]

    def _start(self, run: Run) -> None:
        where = f"{run.stack.placed(self).where}  privacy.{run.key(self)}"
        state, ledger = self._state(run), self._ledger(run)
        units = len(self._members(run))
        rate = run.config.train.batch_size / units
        if rate > 1:
            raise ConfigError(f"{where}: train.batch_size is over the {units} training units; lower it")
        if self.delta >= 1 / units:
            raise ConfigError(f"{where}.delta: {self.delta} is not below 1 / {units} training units; lower it")
        if "noise_multiplier" not in state:
            state["noise_multiplier"] = self.noise_multiplier or self._noise_for(run, rate, where)
            state["max_grad_norm"] = self.max_grad_norm
        state["sample_rate"] = rate
        state["attempt"] = 1 + max((entry["attempt"] for entry in ledger.entries), default=0)
        self._prove(run, where)
        self._warn_of_noise(run, where)
        run.emit(
            "privacy",
            step=run.key(self),
            noise_multiplier=state["noise_multiplier"],
            sample_rate=rate,
            attempt=state["attempt"],
            charged=len(ledger.entries),
            per_unit_gradients=state["rules"] or state["mode"],
        )

    def _warn_of_noise(self, run: Run, where: str) -> None:
        """Noise of P numbers has norm sigma C sqrt(P); the mean gradient of B units at most B C."""
        numbers = sum(p.numel() for p in _every(run) if p.requires_grad)
        size = run.config.train.batch_size
        times = self._state(run)["noise_multiplier"] * numbers**0.5 / size
        if times > DROWNS:
            run.emit(
                "warning",
                message=f"{where}: the noise of an update is {times:.0f} times as long as any gradient it could carry "
                f"({numbers:,} parameters, {size} units an update); raise train.batch_size or train fewer parameters",
            )

    def _noise_for(self, run: Run, rate: float, where: str) -> float:
        """The gradient's noise multiplier, so that all that is released stays within the budget."""
        from upright_privacy.accounting import noise_for

        assert self.epsilon is not None
        try:
            total = noise_for(self.epsilon, self.delta, rate, run.updates)
        except ValueError as error:
            raise ConfigError(
                f"{where}: no noise reaches epsilon {self.epsilon} in {run.updates} updates; raise epsilon or "
                "lower train.epochs"
            ) from error
        count = self._count_noise(run)
        left = total**-2 - (count**-2 if count else 0.0)
        if left <= 0:
            raise ConfigError(
                f"{where}.unclipped_num_std: the count of units below the norm alone uses up the budget; raise it over "
                f"{total / 2:.2g}"
            )
        return float(((1 + (self.statistics_noise_ratio**-2 if run.widths else 0.0)) / left) ** 0.5)

    def _prove(self, run: Run, where: str) -> None:
        """Choose how gradients are computed: by what gives those of the one-record loop on a perturbed model."""
        from upright_privacy.proof import prove

        proof = prove(run, self.grad_sample_mode)
        if proof.mode == "loop" and self.grad_sample_mode in ("direct", "functorch"):
            raise UprightError(f"{where}: {proof.refused[0]}; use grad_sample_mode: auto")
        if proof.mode == "loop" and proof.refused:
            why = "; ".join(proof.refused)
            run.emit(
                "warning", message=f"{where}: {why}, so one unit is taken at a time, which is several times slower"
            )
        state = self._state(run)
        state["mode"] = proof.mode
        rules: dict[str, int] = {}
        for served in proof.served.values():
            name = " and ".join(sorted(served))
            rules[name] = rules.get(name, 0) + 1
        state["rules"] = {name: f"{count} tensors" for name, count in sorted(rules.items())}

    def _check_again(self, run: Run) -> None:
        """At random updates, with the present weights: are they still the one-record loop's?"""
        import secrets

        from upright_privacy.proof import deviation, tolerance

        mode = self._state(run)["mode"]
        if mode == "loop" or secrets.randbelow(max(1, run.updates)) >= CHECKED:
            return
        error = deviation(run, mode, perturb=False)
        if not error <= tolerance(run):
            raise UprightError(
                f"{run.stack.placed(self).where}  privacy.{run.key(self)}: before update {run.update + 1} the per-record "
                "gradients are no longer those of single records; use grad_sample_mode: loop"
            )

    def _units(self, losses: Any, rows: Sequence[int], run: Run) -> Any:
        """The units of an update with their gradients, some at a time."""
        from upright_privacy.per_unit.tape import Unserved
        from upright_privacy.per_unit.units import units_of

        state = self._state(run)
        for batches in self._whole_units(rows, run):
            try:
                found = list(units_of(losses, batches, state["mode"]))
            except Unserved as unserved:  # a shape that the proof did not see
                if state["mode"] == "direct" and not state.get("looped"):
                    state["looped"] = True
                    run.emit("warning", message=f"{unserved}; such batches are taken one unit at a time")
                yield from units_of(losses, batches, "loop")
                continue
            yield from found

    def _whole_units(self, rows: Sequence[int], run: Run) -> Any:
        """Lists of micro-batches such that every unit's rows are in one list."""
        drawn = set(rows)
        several = [mine for mine in self._members(run) if len(mine) > 1 and mine[0] in drawn]
        shared = {row for mine in several for row in mine}
        single = [row for row in rows if row not in shared]
        if single:
            for batch in run.batches(single):
                yield [batch]
        size, together = run.config.train.micro_batch_size, list[int]()
        for mine in sorted(several, key=len):
            if together and len(together) + len(mine) > size:
                yield list(run.batches(together))
                together = []
            together += mine
        if together:
            yield list(run.batches(together))


def _every(run: Run) -> Any:
    """The parameters of the model and of its helpers."""
    for module in (run.model, *run.modules.values()):
        yield from module.parameters()
