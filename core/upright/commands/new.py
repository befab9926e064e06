"""``upright new``: a distribution to begin a method of one's own with."""

from __future__ import annotations

import json
import keyword
import re
from importlib.util import find_spec
from pathlib import Path
from typing import Annotated, Literal

import typer

from upright.commands.init import first_ready
from upright.errors import ConfigError

Kind = Literal["clean", "prompt", "tune", "fairness", "privacy", "explain"]


def new(
    name: Annotated[str, typer.Argument(help="The method's name: small letters, digits and hyphens.")],
    kind: Annotated[Kind, typer.Option("--kind", help="What kind of step it is: its section of a stack file.")],
    folder: Annotated[Path | None, typer.Option("--folder", help="Where to write; default: ./NAME.")] = None,
) -> None:
    """Write a distribution with one method: pyproject, module, test, README, and a stack that uses it.

    It passes its tests as it stands. Nothing that is there is overwritten.
    """
    folder = folder or Path(name)
    module = _module(name)
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise ConfigError(f"{folder}: is there already; name another folder with --folder")
    files = rendered(name, module, kind)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for file, content in files.items():
            with (folder / file).open("x", encoding="utf-8") as out:
                out.write(content)
    except OSError as error:
        raise ConfigError(f"{folder}: cannot be written ({error.strerror}); name another folder") from error
    typer.echo(f"{folder / module}.py: written; go on with `pip install -e {folder}`, then `pytest {folder}`")


def rendered(name: str, module: str, kind: Kind) -> dict[str, str]:
    """File name -> content."""
    import jinja2

    from upright.testing.toys import toy_rows

    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("upright", "templates"),
        keep_trailing_newline=True,
        trim_blocks=True,
        undefined=jinja2.StrictUndefined,
        autoescape=False,  # Python and YAML, no HTML
    )
    tuner = first_ready("tune")
    facts = {
        "name": name,
        "module": module,
        "kind": kind,
        "step": "".join(part.capitalize() for part in name.split("-")),
        "tuner": f"{{use: {tuner.name}}}" if tuner else "# name a tuning method; none is installed",
    }
    templates = {
        "pyproject.toml": "pyproject.toml.j2",
        f"{module}.py": f"{kind}.py.j2",
        f"test_{module}.py": "test.py.j2",
        "README.md": "README.md.j2",
        "stack.yaml": "stack.yaml.j2",
    }
    files = {file: environment.get_template(template).render(facts) for file, template in templates.items()}
    files["rows.jsonl"] = "".join(json.dumps(row) + "\n" for row in toy_rows("text-classification", 40, 0))
    return files


def _module(name: str) -> str:
    """The module's name. Raises ConfigError for a name that cannot be one, or that another module has."""
    if not re.fullmatch(r"[a-z][a-z0-9]*(-[a-z0-9]+)*", name):
        raise ConfigError(f"{name!r}: cannot name a method; use small letters, digits and hyphens, such as my-method")
    module = name.replace("-", "_")
    found = find_spec(module)
    # A folder of this name is a module without an origin; whether it is in the way is asked for elsewhere.
    if keyword.iskeyword(module) or (found is not None and found.origin is not None):
        raise ConfigError(f"{name!r}: Python has a module or a word of this name already; choose another")
    return module
