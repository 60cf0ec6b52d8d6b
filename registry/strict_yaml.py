"""YAML as the catalogue file may be written: safe, no name twice, and each error with its line. Pure."""

from collections.abc import Sequence
from typing import Any

import yaml

from registry.errors import CatalogFileError

Loader: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
DEEPEST = (
    100  # levels; the C library that reads values calls itself for each, until the stack ends the process
)
BEGINS = (yaml.MappingStartEvent, yaml.SequenceStartEvent)
ENDS = (yaml.MappingEndEvent, yaml.SequenceEndEvent)


class _StrictLoader(Loader):  # type: ignore[misc]
    """YAML itself lets the last of two equal keys win, silently."""

    def construct_mapping(self, node: Any, deep: bool = False) -> Any:  # noqa: FBT001, FBT002  the base's signature
        seen = set()
        for key, _ in node.value:
            if not isinstance(key, yaml.ScalarNode):
                raise CatalogFileError("a name has to be text", line=key.start_mark.line + 1)
            if key.value in seen and key.tag != "tag:yaml.org,2002:merge":
                raise CatalogFileError(f"{key.value!r} stands twice", line=key.start_mark.line + 1)
            seen.add(key.value)
        return super().construct_mapping(node, deep)


def load(text: str) -> Any:
    """What the text says. Raises `CatalogFileError`."""
    try:
        _check_depth(text)
        return yaml.load(text, _StrictLoader)  # noqa: S506  derived from the safe loader
    except yaml.MarkedYAMLError as error:
        line = error.problem_mark.line + 1 if error.problem_mark else None
        raise CatalogFileError(f"not YAML: {error.problem}", line=line) from error
    except (yaml.YAMLError, RecursionError, ValueError) as error:
        raise CatalogFileError(f"not YAML: {str(error).splitlines()[0]}") from error


def _check_depth(text: str) -> None:
    """By events, which are read one by one. Costs a fifth of what reading the values does."""
    depth = 0
    for event in yaml.parse(text, Loader):
        depth += isinstance(event, BEGINS) - isinstance(event, ENDS)
        if depth > DEEPEST:
            line = event.start_mark.line + 1 if event.start_mark else None
            raise CatalogFileError(f"nested deeper than {DEEPEST} levels", line=line)


def line(text: str, path: Sequence[str]) -> int | None:
    """The line where a YAML path stands, or as much of it as exists."""
    node = yaml.compose(text, Loader)
    found_line = None
    for part in path:
        if isinstance(node, yaml.MappingNode):
            found = next(((key, value) for key, value in node.value if key.value == part), None)
            if found is None:
                break
            found_line, node = found[0].start_mark.line + 1, found[1]
        elif isinstance(node, yaml.SequenceNode) and part.isdigit() and int(part) < len(node.value):
            node = node.value[int(part)]
            found_line = node.start_mark.line + 1
        else:
            break
    return found_line
