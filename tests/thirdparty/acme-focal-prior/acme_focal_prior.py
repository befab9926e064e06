"""Focal loss (Lin et al., 2017, arXiv:1708.02002) on logits adjusted by class priors (Menon et al., 2021, arXiv:2007.07314)."""

from pydantic import Field

from upright import Capability, Step, hook


class FocalPrior(Step):
    """Count hard rows more, and ask more of frequent classes while training, so that rare ones are decided as well."""

    needs = frozenset({Capability.TRAINING, Capability.CLASS_SCORES})
    tasks = frozenset({"text-classification"})
    reads_private = True  # the classes' shares are counts that no noise covers

    gamma: float = Field(2.0, ge=0, description="Exponent of the focal factor; 0 is cross-entropy.")
    tau: float = Field(1.0, ge=0, description="Factor on the logarithm of each class's share; 0 leaves logits alone.")

    @hook
    def objective(self, batch, output, run):
        import torch

        prior = run.keep(self, "prior", lambda: self._prior(run))
        logs = torch.log_softmax(output.logits.float() + self.tau * prior, dim=-1)
        own = logs.gather(-1, batch.labels.unsqueeze(-1)).squeeze(-1)
        return -((1 - own.exp()) ** self.gamma) * own

    def _prior(self, run):
        """Logarithm of each class's share of the training rows, ``[K]``; a class without rows counts as one row."""
        import torch

        labels = run.data["train"]["label"][:]
        counts = torch.tensor([max(labels.count(label), 1) for label in run.labels], dtype=torch.float32)
        return (counts / counts.sum()).log().to(run.device)
