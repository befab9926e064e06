"""Erasure of the group from what the head reads (LEACE: Belrose et al., 2023, arXiv:2306.03819), folded into the head."""

from __future__ import annotations

from typing import Any

from pydantic import Field

from upright import Batch, Capability, Output, Run, Section, Step, hook
from upright.errors import ConfigError
from upright_fairness import groups
from upright_fairness.groups import Groups


class Erase(Step):
    """After training, take from the features all that a linear predictor could tell of the group, by the smallest edit.

    The edit is affine, so it becomes part of the linear head: the model keeps its tensors' names and shapes and reads no
    group. It is fitted on training features without noise, so that private training refuses it.
    """

    needs = frozenset({Capability.TRAINING, Capability.CLASS_SCORES, Capability.OPEN_TRAINING})
    tasks = frozenset({"text-classification"})

    groups: list[Groups] = Field(
        min_length=1, description="Sensitive columns, or group specs (see Groups); all are erased."
    )

    @hook
    def prepare(self, run: Run) -> None:
        groups.check(self, self.groups, "train", run)

    @hook
    def watch(self, moment: str, run: Run) -> None:
        if moment == "started":  # sooner there are no tokens, later an hour may be lost
            import torch

            training = run.model.training
            run.model.eval()
            with torch.no_grad():
                self._read(next(iter(run.batches([0], augment=False))), run)
            run.model.train(training)

    @hook
    def finalize(self, model: Any, run: Run) -> Any:
        import torch

        from upright_fairness.leace import Moments

        run.model = model.eval()  # the steps before this one may have made another; `forward` asks the run's
        moments, head = Moments(), None
        with torch.no_grad():
            for batch in run.batches(range(len(run.data["train"])), augment=False):
                head, features = self._read(batch, run)
                concept, known = self._concept(batch, run)
                if bool(known.any()):
                    moments.add(features[known].cpu(), concept[known].cpu())
            if head is not None and moments.rows:
                projection, mean = moments.eraser()
                weight = head.weight.double().cpu()
                head.bias += (weight @ (projection @ mean)).to(head.bias)
                head.weight -= (weight @ projection).to(head.weight)
                rank = int(torch.linalg.matrix_rank(projection, rtol=1e-6))
                run.keep(self, "erased", dict).update(directions=rank, width=len(mean), rows=moments.rows)
        return model

    @hook
    def report(self, run: Run) -> Section:
        from upright.objects import Text

        told = run.keep(self, "erased", dict)
        if not told:
            return Section("Erased group", [Text("No training row has a group, so nothing was erased.")])
        return Section(
            "Erased group",
            [
                Text(
                    f"{told['directions']} of {told['width']} directions of the features were taken out of what the head "
                    f"reads, fitted on the {told['rows']} training rows whose groups are known. On these the scores' logits "
                    "have no covariance with the group. The features themselves still hold it, and what is not linear in "
                    "them is left."
                )
            ],
        )

    def _concept(self, batch: Batch, run: Run) -> tuple[Any, Any]:
        """One-hot groups of every spec side by side, ``[R, G]``, and which rows have them all."""
        import torch

        parts, known = [], torch.ones_like(batch.rows, dtype=torch.bool)
        for spec in self.groups:
            codes = groups.batch_codes(spec, batch, run)
            known &= codes >= 0
            parts.append(codes.unsqueeze(1) == torch.arange(len(groups.values(spec, run)), device=codes.device))
        return torch.cat(parts, dim=1), known

    def _read(self, batch: Batch, run: Run) -> tuple[Any, Any]:
        """The linear layer whose output the logits are, and the features ``[R, D]`` that it read. Raises ConfigError."""
        from torch.nn import Linear

        seen: list[tuple[Any, Any, Any]] = []
        handles = [
            module.register_forward_hook(lambda module, given, made: seen.append((module, given[0], made)))
            for module in run.model.modules()
            if isinstance(module, Linear)
        ]
        try:
            output: Output = run.forward(batch)
        finally:
            for handle in handles:
                handle.remove()
        where = f"{run.stack.placed(self).where}  fairness.{run.key(self)}"
        found = next(((module, given) for module, given, made in seen if made is output.logits), None)
        if found is None or found[1].dim() != 2:
            raise ConfigError(
                f"{where}: the logits of this model are not those of a linear layer on one feature vector a row, so an "
                f"edit cannot be folded into it; remove {run.key(self)} or take an encoder as model.base"
            )
        if found[0].bias is None:
            raise ConfigError(
                f"{where}: the head of this model has no bias, which a folded edit needs; remove {run.key(self)} or take a "
                "model.base whose head has one"
            )
        return found
