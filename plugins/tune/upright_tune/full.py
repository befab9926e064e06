"""Full fine-tuning: every parameter is trained (Devlin et al., 2019, arXiv:1810.04805)."""

from __future__ import annotations

from typing import Any

from upright import Step, hook


class Full(Step):
    """Train every parameter of the model."""

    @hook
    def tune(self, model: Any) -> Any:
        return model.requires_grad_(True)
