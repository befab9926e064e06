"""SmoothGrad: gradients averaged over noisy inputs (Smilkov et al., 2017, arXiv:1706.03825)."""

from pydantic import Field

from upright import Attribution, Capability, Step, hook


class SmoothGrad(Step):
    """Score each token by the length of the mean gradient of the decided class, over noisy copies of its embedding."""

    needs = frozenset({Capability.CLASS_SCORES, Capability.INPUT_GRADIENTS})
    tasks = frozenset({"text-classification", "token-classification"})

    samples: int = Field(20, ge=1, description="Rows that are explained, drawn with the seed.")
    nt_samples: int = Field(16, ge=1, description="Noisy copies of a row, as in captum's NoiseTunnel.")
    noise_level: float = Field(
        0.15, ge=0, description="Standard deviation of the noise, as a share of the embeddings' range."
    )

    @hook
    def explain(self, target, rows, run):
        import torch

        generator = run.generator(self)
        chosen = torch.randperm(len(rows), generator=generator)[: self.samples].tolist()
        found = {}
        for batch in target.batches(chosen):
            decided, embeds = target.decisions(batch), target.embed(batch)
            spread = self.noise_level * (embeds.amax((1, 2), keepdim=True) - embeds.amin((1, 2), keepdim=True))
            total = torch.zeros_like(embeds)
            for _ in range(self.nt_samples):
                noise = torch.randn(embeds.shape, generator=generator).to(embeds)
                noisy = (embeds + spread * noise).requires_grad_()
                total += torch.autograd.grad(target.scores(noisy, batch, decided).sum(), noisy)[0]
            lengths = (total / self.nt_samples).norm(dim=-1).double().cpu().numpy()
            for row, code, own, tokens in zip(batch.rows.tolist(), decided, lengths, target.tokens(batch), strict=True):
                words, offsets = [token for token, *_ in tokens], [(start, end) for _, start, end in tokens]
                label = target.labels[int(code)]
                found[row] = Attribution(rows[row]["row_id"], label, words, offsets, own[: len(words)])
        return [found[row] for row in sorted(found)]
