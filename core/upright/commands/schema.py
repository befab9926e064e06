"""``upright schema``: the JSON schema of a stack file, for editors."""

from __future__ import annotations

from upright.commands.options import print_json


def schema() -> None:
    """Print the JSON schema of a stack file with every installed step; an editor completes and checks with it."""
    from upright.schema import schema as make

    print_json(make())
