"""What the checks of the explainers say in the report."""

from __future__ import annotations

from typing import Any

from upright import Metric, Section
from upright.objects import Table, Text

MEASURES = {
    "comprehensiveness": "comprehensiveness (more is better)",
    "comprehensiveness_gain": "… above random tokens",
    "sufficiency": "sufficiency (less is better)",
    "sufficiency_gain": "… below random tokens",
    "completeness_error": "completeness error",
    "infidelity": "infidelity (less is better)",
    "sensitivity": "sensitivity (less is better)",
    "correlation_none": "rank correlation, asked again of the same model",
    "correlation_head": "… of one with another head",
    "correlation_top_half": "… with another head and upper half",
    "correlation_all": "… with every layer drawn anew",
    "token_f1": "token F1 with human rationales",
    "token_f1_gain": "… above random words",
    "iou_f1": "IOU F1 with human rationales",
    "iou_f1_gain": "… above random words",
}
MEANING = (
    "Comprehensiveness is how far the probability of the decided class falls without the strongest tokens, sufficiency how "
    "far with them alone; means over the first 1, 5, 10, 20 and 50 % (DeYoung et al., 2020). Infidelity is how far the parts "
    "miss what texts without random tokens score, in squared logits, the parts scaled as fits best; sensitivity how far the "
    "explanation moves, in parts of itself, where the input embeddings move by 2 % (Yeh et al., 2019). An explanation of a "
    "decision must be another one for a model whose weights are drawn anew: its rank correlation with the first must fall "
    "(Adebayo et al., 2018). Intervals are Student's over rows, those of IOU F1 a bootstrap."
)


def section(found: dict[str, Any], figures: dict[str, Metric], rationales: str | None) -> Section:
    """A column an explainer, a line a measure."""
    explainers = list(found)
    rows = [
        (told, *(_cell(figures.get(f"{name}/{key}")) for key in explainers))
        for name, told in MEASURES.items()
        if any(f"{name}/{key}" in figures for key in explainers)
    ]
    rows.insert(0, ("rows checked", *(int(figures[f"rows/{key}"].value) for key in explainers)))
    blocks: list[Any] = [Text(MEANING), Table(["measure", *explainers], rows)]
    if rationales is not None:
        compared = ", ".join(f"{len(content['rationales'])} of {key}" for key, content in found.items())
        blocks.append(Text(f"Rows with marked words that were decided as people did: {compared}."))
    errors = {key: content["error"] for key, content in found.items() if content["error"]}
    blocks += [Text(f"{key} could not be asked again: {error}.") for key, error in errors.items()]
    return Section("Faithfulness", blocks)


def _cell(metric: Metric | None) -> str:
    if metric is None:
        return "–"
    interval = f" [{metric.low:.3f}, {metric.high:.3f}]" if metric.low is not None and metric.high is not None else ""
    return f"{metric.value:.3f}{interval}"
