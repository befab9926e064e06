"""NEFTune: noise on the embeddings of training rows (Jain et al., 2023, arXiv:2310.05914)."""

from pydantic import Field

from upright import Capability, Step, hook


class Neftune(Step):
    """Add uniform noise to the input embeddings while training; the noise of a row follows from its own length."""

    needs = frozenset({Capability.TRAINING})

    noise_alpha: float = Field(5.0, gt=0, description="Scale of the noise, as in transformers' neftune_noise_alpha.")

    @hook(wrapper=True)
    def forward(self, batch, run):
        import torch

        lengths = batch.inputs["attention_mask"].sum(-1)

        def noisy(module, given, embeds):
            if not module.training:
                return embeds
            scale = self.noise_alpha / (lengths * embeds.shape[-1]).sqrt()
            return embeds + (2 * torch.rand_like(embeds) - 1) * scale[..., None, None]

        handle = run.model.get_input_embeddings().register_forward_hook(noisy)
        try:
            return (yield)
        finally:
            handle.remove()
