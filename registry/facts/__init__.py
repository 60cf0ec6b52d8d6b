"""The documented facts that catalog.yaml rests on, and the input schemas that follow from them. IO: package data.

`endpoints.jsonl` are public endpoints with their input fields (type declarations of the npm package
@fal-ai/client 1.10.1); `open_weights.tsv` and `open_loras.tsv` are repositories that the documentation of diffusers
(commit 58eb52c) loads, with class, precision or base where it says so; `pipelines.json` are the call signatures of
diffusers 0.42.1. What they do not say, the schemas do not say either.
"""

import csv
import functools
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import msgspec

FOLDER = Path(__file__).parent
SIMPLE_TYPES: Mapping[str, Mapping[str, Any]] = {
    "number": {"type": "number"},
    "string": {"type": "string"},
    "boolean": {"type": "boolean"},
    "string | Blob | File": {"type": "string", "description": "A URL, or a data URI."},
    "string | number": {"type": ["string", "number"]},
}
LORAS: Mapping[str, Any] = {
    "type": "array",
    "items": {
        "type": "object",
        "required": ["path"],
        "properties": {"path": {"type": "string"}, "scale": {"type": "number"}},
    },
}
LITERALS = re.compile(r'Array<((?:"[^"]*"(?: \| )?)+)>')
Kind = Literal["endpoint", "pipeline"]


class Field(msgspec.Struct, frozen=True, kw_only=True):
    """One input field of an endpoint, as declared."""

    name: str
    type: str
    enum: tuple[Any, ...] | None = None
    default: Any = None
    required: bool = False


class Endpoint(msgspec.Struct, frozen=True, kw_only=True):
    slug: str
    task: str
    inputs: tuple[Field, ...]
    outputs: tuple[str, ...]


class Parameter(msgspec.Struct, frozen=True, kw_only=True):
    """One parameter of a pipeline's call that JSON can carry."""

    type: str
    default: Any = None
    required: bool = False


@functools.cache
def endpoints() -> Mapping[str, Endpoint]:
    lines = (FOLDER / "endpoints.jsonl").read_bytes().splitlines()
    decode = msgspec.json.Decoder(Endpoint).decode
    return {endpoint.slug: endpoint for endpoint in map(decode, lines)}


@functools.cache
def pipelines() -> Mapping[str, Mapping[str, Parameter]]:
    return msgspec.json.decode((FOLDER / "pipelines.json").read_bytes(), type=dict[str, dict[str, Parameter]])


def table(name: str) -> list[dict[str, str]]:
    """The rows of `open_weights.tsv` or `open_loras.tsv`."""
    with (FOLDER / name).open(newline="") as file:
        return list(csv.DictReader(file, delimiter="\t"))


def schema(kind: Kind, name: str) -> Mapping[str, Any] | None:
    """The JSON Schema of an endpoint's or a pipeline's input; None when nothing is documented."""
    if kind == "endpoint":
        endpoint = endpoints().get(name)
        return None if endpoint is None else _schema({field.name: field for field in endpoint.inputs})
    parameters = pipelines().get(name)
    return None if parameters is None else _schema(parameters)


def _schema(fields: Mapping[str, Field | Parameter]) -> Mapping[str, Any]:
    properties = {name: _property(field) for name, field in fields.items()}
    required = [name for name, field in fields.items() if field.required]
    example = {name: _example(properties[name]) for name in required}
    return {"type": "object", "required": required, "properties": properties, "examples": [example]}


def _property(field: Field | Parameter) -> dict[str, Any]:
    found = dict(_shape(field.type))
    if isinstance(field, Field) and field.enum:
        found = {"enum": list(field.enum)}
    if field.default is not None:
        found["default"] = field.default
    return found


def _shape(kind: str) -> Mapping[str, Any]:
    """A declared type as a schema. Names of structures whose fields are not documented allow anything."""
    if kind in SIMPLE_TYPES:
        return SIMPLE_TYPES[kind]
    if kind == "integer":
        return {"type": "integer"}
    if kind == "loras" or re.fullmatch(r"Array<\w*LoRA\w*>", kind, re.IGNORECASE):
        return LORAS
    if found := LITERALS.fullmatch(kind):
        return {"type": "array", "items": {"enum": re.findall(r'"([^"]*)"', found[1])}}
    if found := re.fullmatch(r"Array<(.+)>", kind):
        return {"type": "array", "items": _shape(found[1])}
    return {}


def _example(shape: Mapping[str, Any]) -> Any:
    """Some value that the shape allows: its default, its first choice, or the plainest of its type."""
    if "default" in shape:
        return shape["default"]
    if "enum" in shape:
        return shape["enum"][0]
    plain: Mapping[str, Any] = {"number": 1, "integer": 1, "boolean": False, "array": [], "string": "text"}
    kind = shape.get("type", "object")
    return plain.get(kind if isinstance(kind, str) else kind[0], {})
