"""Writes docs/reference.md: every module's purpose, every command, every setting, read from the code itself.

`python -m tools.reference` writes it; a test holds the file against the code.
"""

import ast
import os
from collections.abc import Iterator
from pathlib import Path

import click
import msgspec

from registry.settings import PREFIX, Settings
from router.cli import marquee

ROOT = Path(__file__).resolve().parent.parent
FILE = ROOT / "docs" / "reference.md"
PACKAGES = ("registry", "loaders", "router")


def text() -> str:
    parts = [
        "# Reference",
        "Written by `make reference` from the code; a test holds it against the code.",
        "## Commands",
        *commands(),
        "## Settings",
        "Environment variables, read once at start; an empty default means decided at start.",
        *settings(),
        "## Modules",
        *(line for package in PACKAGES for line in modules(package)),
    ]
    return "\n".join(parts) + "\n"


def commands() -> Iterator[str]:
    yield "| command | what it does |\n|---|---|"
    for path, command in walk(marquee, ()):
        yield f"| `{' '.join(('marquee', *path))}` | {command.get_short_help_str(200)} |"


def walk(group: click.Group, path: tuple[str, ...]) -> Iterator[tuple[tuple[str, ...], click.Command]]:
    context = click.Context(group)
    for name in group.list_commands(context):
        command = group.get_command(context, name)
        assert command is not None, name
        if isinstance(command, click.Group):
            yield from walk(command, (*path, name))
        else:
            yield (*path, name), command


def settings() -> Iterator[str]:
    yield "| variable | default |\n|---|---|"
    for field in msgspec.structs.fields(Settings):
        default = "" if field.default is None else f"`{field.default}`"
        yield f"| `{PREFIX}{field.name.upper()}` | {default} |"


def modules(package: str) -> Iterator[str]:
    yield f"### {package}\n| module | what it owns |\n|---|---|"
    for path in sorted((ROOT / package).rglob("*.py")):
        if path.name != "__init__.py" and "__pycache__" not in path.parts:
            yield f"| `{path.relative_to(ROOT / package).as_posix()}` | {purpose(path)} |"


def purpose(path: Path) -> str:
    """The first sentence of the module's docstring."""
    docstring = ast.get_docstring(ast.parse(path.read_text())) or ""
    first = " ".join(docstring.split("\n\n")[0].split())
    return first.split(". ")[0].rstrip(".").replace("|", "\\|")


if __name__ == "__main__":
    os.environ.setdefault("COLUMNS", "200")
    FILE.write_text(text())
