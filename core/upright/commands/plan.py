"""``upright plan``: what would a run do?"""

from __future__ import annotations

import typer

from upright.commands.options import STACK, Json, Overrides, Stack, print_json


def plan(stack: Stack = STACK, overrides: Overrides = None, as_json: Json = False) -> None:
    """Show what a run would do: rows, parameters, updates, privacy, memory, time, network. Trains nothing."""
    from upright.progress import quiet_libraries
    from upright.report.page import number
    from upright.stack import Stack as Loaded

    loaded = Loaded.load(stack, overrides or [])
    loaded.require()
    quiet_libraries()
    described = loaded.plan()
    if as_json:
        print_json(described)
        return
    typer.secho(f"{described['name']}: {described['task']} on {described['device']}", bold=True)
    for step in described["steps"]:
        typer.echo(f"  {step['section']}.{step['key']} {step['version'] or step.get('file') or ''}")
    typer.echo("rows: " + ", ".join(f"{split} {number(rows)}" for split, rows in described["rows"].items()))
    for column, splits in described["groups"].items():
        told = ", ".join(f"{split} {group['smallest']} {group['rows']}" for split, group in splits.items())
        typer.echo(f"smallest group by {column}: {told}")
    if "parameters" in described:
        counts = described["parameters"]
        typer.echo(f"parameters: {number(counts['trainable'])} trained of {number(counts['total'])}")
    if "updates" in described:
        typer.echo(f"updates: {number(described['updates'])} of {described['batch_size']} rows")
    for event in described.get("announced", []):
        facts = ", ".join(f"{key} {number(value)}" for key, value in event.items() if key not in ("event", "step"))
        typer.echo(f"{event['event']} {event.get('step', '')}: {facts}")
    if "estimate" in described:
        guess = described["estimate"]
        typer.echo(
            f"training: about {number(guess['training_seconds'])} s, weights "
            f"{guess['weights_bytes'] / 2**20:.0f} MiB, gradients and optimizer {guess['optimizer_bytes'] / 2**20:.0f} MiB"
        )
    typer.echo("network: " + (", ".join(described["network"]) or "nothing"))
    for warning in described["warnings"]:
        typer.secho(f"warning: {warning}", fg="yellow")
