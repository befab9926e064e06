"""The JSON schema of a stack file with every installed step, for editors."""

from __future__ import annotations

from typing import Any

from upright import catalog
from upright.errors import PluginError
from upright.settings import Settings
from upright.stack import SECTIONS

LOCAL: dict[str, Any] = {
    "type": "object",
    "required": ["use"],
    "properties": {
        "use": {"type": "string", "pattern": r"\.py:\w+$", "description": "A class of a file: ./steps.py:MyStep."}
    },
}
"""An in-house step: its settings are known only when its file is run."""


def schema() -> dict[str, Any]:
    """JSON schema, draft 2020-12. Steps that cannot be imported are left out."""
    whole = Settings.model_json_schema(ref_template="#/$defs/{model}")
    definitions: dict[str, Any] = whole.pop("$defs", {})
    sections: dict[str, list[dict[str, str]]] = {section: [] for section in SECTIONS}
    for entry in catalog.steps():
        try:
            step = catalog.load(entry)
        except PluginError:
            continue
        described = step.model_json_schema(ref_template="#/$defs/{model}")
        definitions |= described.pop("$defs", {})
        described["properties"] = {
            "use": {"const": entry.name, "description": described.get("description", "")},
            "name": {"type": "string", "description": "Names the step's figures, state and folder."},
            **described.get("properties", {}),
        }
        described["required"] = ["use", *described.get("required", [])]
        described["additionalProperties"] = False
        key = f"{entry.section}.{entry.name}"
        definitions[key] = described
        sections.setdefault(entry.section, []).append({"$ref": f"#/$defs/{key}"})
    properties = whole["properties"]
    definitions["local step"] = LOCAL
    for steps in sections.values():
        steps.append({"$ref": "#/$defs/local step"})
    for section, steps in sections.items():
        if section in ("model", "train"):
            continue
        one: dict[str, Any] = {"anyOf": steps}
        properties[section] = {"anyOf": [one, {"type": "array", "items": one}]}
    own = {"$ref": "#/$defs/ModelSettings"}
    properties["model"] = {"anyOf": [own, *sections["model"]]}
    definitions["TrainSettings"]["properties"]["steps"]["items"] = {"anyOf": sections["train"]}
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "Upright stack",
        **{key: value for key, value in whole.items() if key != "title"},
        "additionalProperties": False,
        "$defs": definitions,
    }
