"""Output perturbation of a convex head (Chaudhuri, Monteleoni and Sarwate, 2011, arXiv:0912.0071).

With feature vectors of length 1 (and a constant for the bias) the cross-entropy of a linear head is L-Lipschitz in its
weights, L = sqrt(2) * sqrt(2). With ``penalty`` = l2/2 |w|^2 the mean loss of n units is l2-strongly convex, so that one
unit more or less moves the minimum by at most 2 L / (n l2). Who stops at a gradient of length g is at most g / l2 from it.
Gaussian noise for twice that and the former (Dwork and Roth, 2014, theorem A.1) makes the weights private.
"""

import math
import secrets

from pydantic import Field

from upright import Capability, Metric, Step, hook
from upright.errors import UprightError

LIPSCHITZ = 2.0


class OutputPerturbation(Step):
    """Train a linear head on features of length 1 without noise, and add the noise to its weights at the end."""

    needs = frozenset({Capability.TRAINING, Capability.CLASS_SCORES, Capability.INDEPENDENT_RECORDS})
    breaks = frozenset({Capability.OPEN_TRAINING})
    tasks = frozenset({"text-classification"})

    epsilon: float = Field(1.0, gt=0, le=1, description="Privacy loss of the weights; the theorem holds up to 1.")
    delta: float = Field(1e-5, gt=0, lt=1, description="Probability with which more is lost.")
    l2: float = Field(0.1, gt=0, description="Strength of the penalty, which bounds what one unit can move.")
    max_gradient: float = Field(0.05, gt=0, description="Longest gradient at which training counts as ended.")

    @hook
    def prepare(self, run):
        tuning = [placed.use for placed in run.stack.answering("tune")]
        if tuning != ["head"]:
            raise UprightError(f"privacy.output-perturbation: holds for `tune: head` alone, not {', '.join(tuning)}")

    @hook(wrapper=True)
    def forward(self, run):
        import torch

        def unit(module, given):
            return (torch.nn.functional.normalize(given[0], dim=-1), *given[1:])

        handle = self._head(run.model).register_forward_pre_hook(unit)
        try:
            return (yield)
        finally:
            handle.remove()

    @hook
    def penalty(self, model):
        return self.l2 / 2 * sum(p.square().sum() for p in self._head(model).parameters())

    @hook
    def finalize(self, model, run):
        import torch

        count = len(set(run.data["train"]["unit"][:]))
        length = float(self._gradient(model, run))
        if length > self.max_gradient:
            raise UprightError(
                f"privacy.output-perturbation: training ended at a gradient of length {length:.3g}, over max_gradient "
                f"{self.max_gradient}, so the noise would not cover the weights; train longer"
            )
        reach = 2 * LIPSCHITZ / (count * self.l2) + 2 * self.max_gradient / self.l2
        sigma = reach * math.sqrt(2 * math.log(1.25 / self.delta)) / self.epsilon
        generator = torch.Generator().manual_seed(secrets.randbits(63))  # noise from the public seed is no noise
        with torch.no_grad():
            for parameter in self._head(model).parameters():
                parameter += sigma * torch.randn(parameter.shape, generator=generator).to(parameter)
        run.keep(self, "told", dict)["sigma"] = sigma
        return model

    @hook
    def measure(self, predictions, run):
        return {"noise": Metric(run.kept.get(f"{run.key(self)}/told", {}).get("sigma", 0.0), source="attested")}

    def _head(self, model):
        import torch

        return next(module for module in reversed(list(model.modules())) if isinstance(module, torch.nn.Linear))

    def _gradient(self, model, run):
        """Length of the gradient of what is minimised, at the end of training."""
        import torch

        own, rows = list(self._head(model).parameters()), range(len(run.data["train"]))
        model.eval()
        total = [torch.zeros_like(parameter) for parameter in own]
        for batch in run.batches(rows, augment=False):
            parts = torch.autograd.grad(run.losses(batch)[0].sum(), own)
            total = [one + part for one, part in zip(total, parts, strict=True)]
        pull = torch.autograd.grad(self.penalty(model), own)
        return sum((one / len(rows) + part).square().sum() for one, part in zip(total, pull, strict=True)).sqrt()
