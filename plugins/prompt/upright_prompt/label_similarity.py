"""Zero-shot classification by similarity of a text to the descriptions of its labels.

Chang et al. (2008), "Importance of semantic representation: dataless classification"; with sentence embeddings, Reimers
and Gurevych (2019, arXiv:1908.10084).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from pydantic import Field, field_validator

from upright import Output, Step, hook
from upright.errors import ConfigError

if TYPE_CHECKING:
    import torch

    from upright import Batch, Run


class LabelSimilarity(Step):
    """Score each label by the cosine of a text's embedding and the embedding of the label's description.

    Needs a base that was trained with mean pooling (`minilm`), and no training.
    """

    tasks: ClassVar[frozenset[str] | None] = frozenset({"text-classification"})

    descriptions: dict[str, str] = Field(
        default_factory=dict, description="Label: what a text of it is about; default: the label's own name."
    )
    hypothesis_template: str = Field("{}", description="Sentence around a description, as in transformers' pipeline.")
    temperature: float = Field(0.05, gt=0, description="Cosines are divided by it before the softmax.")

    @field_validator("hypothesis_template")
    @classmethod
    def _one_place(cls, template: str) -> str:
        if template.count("{}") != 1:
            raise ValueError("needs exactly one `{}`, where the description goes")
        return template

    @hook
    def prepare(self, run: Run) -> None:
        unknown = sorted(set(self.descriptions) - set(run.labels))
        if unknown:
            told = run.stack.where(run.stack.placed(self).section)
            raise ConfigError(
                f"{told}  label-similarity: {unknown[0]!r} is no label of the data; there are {', '.join(run.labels[:9])}"
            )
        self._labels(run)

    @hook
    def forward(self, batch: Batch, run: Run) -> Output:
        import torch

        features = getattr(run.model(**batch.inputs), "features", None)
        if features is None:
            where = run.stack.where("model", "base")
            raise ConfigError(
                f"{where}  model.base: label-similarity needs a base that was trained with mean pooling; choose `minilm`"
            )
        features = torch.nn.functional.normalize(features, dim=-1)
        return Output(features @ self._labels(run).to(features).T / self.temperature, features)

    def _labels(self, run: Run) -> torch.Tensor:
        """Embeddings of the descriptions, ``[K, D]``, unit norm, by the untuned base; made once."""
        import torch

        def make() -> torch.Tensor:
            texts = [
                self.hypothesis_template.format(self.descriptions.get(label, label.replace("_", " ")))
                for label in run.labels
            ]
            return torch.from_numpy(run.embed(texts))

        return run.keep(self, "labels", make)
