"""A variant's JSON Schema as a form: which controls to show, in which order, with which bounds. Pure.

It understands what model schemas use ($ref, nullable, enums, bounds, preset-or-size); whatever else it meets
becomes a JSON field, so no input is out of reach. Validation stays with the core: a form only helps.
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Literal

import msgspec

Schema = Mapping[str, Any]
Kind = Literal[
    "prompt",
    "text",
    "integer",
    "number",
    "seed",
    "choice",
    "toggle",
    "size",
    "address",
    "lines",
    "loras",
    "json",
]
PLAIN_NAMES = frozenset(
    {
        "prompt",
        "image_size",
        "aspect_ratio",
        "loras",
        "num_images",
        "num_inference_steps",
        "seed",
        "duration",
        "resolution",
    }
)
LABELS: Mapping[str, str] = {
    "num_inference_steps": "Steps",
    "num_images": "Images",
    "image_size": "Size",
    "loras": "LoRAs",
}
LONG_TEXTS = frozenset({"prompt", "negative_prompt", "text", "lyrics", "system_prompt", "script"})


class Choice(msgspec.Struct, frozen=True, kw_only=True):
    """One option; `value` is JSON text, so that numbers stay numbers."""

    value: str
    label: str


class Field(msgspec.Struct, frozen=True, kw_only=True):
    """One control. `value` is what it shows at first, as the control's own text."""

    name: str
    kind: Kind
    label: str
    help: str = ""
    value: str = ""
    width: int | None = None  # kind `size`: the initial custom size, pixels
    height: int | None = None
    required: bool = False
    advanced: bool = False
    minimum: float | None = None
    maximum: float | None = None
    step: str = "any"
    max_length: int | None = None
    choices: tuple[Choice, ...] = ()
    example: str = ""

    @property
    def has_range(self) -> bool:
        return self.minimum is not None and self.maximum is not None and self.maximum - self.minimum <= 1000


def fields(schema: Schema) -> tuple[Field, ...]:
    """The form of an input schema: plain controls first, then the advanced ones, each in the schema's order."""
    properties = schema.get("properties") or {}
    said = schema.get("x-fal-order-properties")
    first = (
        [name for name in said if isinstance(name, str) and name in properties]
        if isinstance(said, list)
        else []
    )
    order = list(dict.fromkeys([*first, *properties]))
    required = frozenset(schema.get("required", ()))
    found = [_control(schema, name, properties[name], name in required) for name in order]
    return tuple(sorted(found, key=lambda field: (field.advanced, field.kind != "prompt" or field.advanced)))


def _control(root: Schema, name: str, raw: Any, required: bool) -> Field:  # noqa: FBT001  a fact of the schema
    """A schema may be valid and yet like none that a model has: `true`, one that refers to itself, a default of another type."""
    try:
        return _field(root, name, raw if isinstance(raw, Mapping) else {}, required)
    except (AttributeError, LookupError, TypeError, ValueError, RecursionError):
        return Field(name=name, kind="json", label=name, required=required, advanced=not required)


def _field(root: Schema, name: str, raw: Schema, required: bool) -> Field:  # noqa: FBT001  a fact of the schema
    shape = resolved(root, raw)
    default = raw.get("default", shape.get("default"))
    kind = _kind(name, shape)
    whole = kind in {"integer", "seed"}
    low, high = _bounds(shape, 1 if whole else 0)
    choices = tuple(_choices(shape))
    size = default if kind == "size" and isinstance(default, Mapping) else {}
    return Field(
        name=name,
        kind=kind,
        label=str(LABELS.get(name) or raw.get("title") or name.replace("_", " ").capitalize()),
        help=" ".join(str(raw.get("description") or shape.get("description") or "").split()),
        value="custom" if size else _shown(kind, default),
        width=size.get("width"),
        height=size.get("height"),
        required=required,
        advanced=not required and name not in PLAIN_NAMES,
        minimum=low,
        maximum=high,
        step=str(shape.get("multipleOf", 1 if whole else "any")),
        max_length=shape.get("maxLength"),
        choices=choices,
        example=_example(root, name, raw, shape),
    )


def resolved(root: Schema, shape: Schema) -> Schema:
    """Follows `$ref`, merges `allOf`, drops `null` alternatives; what stays is the shape that a control shows."""
    for _ in range(16):  # a schema that refers to itself must not hold us
        if "$ref" in shape:
            shape = {**_target(root, str(shape["$ref"])), **{k: v for k, v in shape.items() if k != "$ref"}}
        elif "allOf" in shape:
            parts = [resolved(root, part) for part in shape["allOf"]]
            shape = _merge([*parts, {k: v for k, v in shape.items() if k != "allOf"}])
        elif len(rest := _alternatives(root, shape)) == 1:
            outer = {k: v for k, v in shape.items() if k not in {"anyOf", "oneOf"}}
            shape = _merge([rest[0], outer])
        else:
            return shape
    return {}


def _alternatives(root: Schema, shape: Schema) -> Sequence[Schema]:
    options = [resolved(root, option) for option in shape.get("anyOf") or shape.get("oneOf") or ()]
    return [option for option in options if option.get("type") != "null"]


def _target(root: Schema, reference: str) -> Schema:
    place: Any = root
    for part in reference.removeprefix("#/").split("/"):
        place = place.get(part, {}) if isinstance(place, Mapping) else {}
    return place if isinstance(place, Mapping) else {}


def _merge(parts: Sequence[Schema]) -> Schema:
    return {key: value for part in parts for key, value in part.items()}


def _type(shape: Schema) -> str:
    kind = shape.get("type", "")
    if isinstance(kind, str):
        return kind
    return next((name for name in kind if name != "null"), "")


PLAIN_KINDS: Mapping[str, Kind] = {"boolean": "toggle", "integer": "integer", "number": "number"}


def _kind(name: str, shape: Schema) -> Kind:
    kind = _type(shape)
    if _is_size(shape):
        return "size"
    if "enum" in shape or "const" in shape:
        return "choice"
    if name == "seed" and kind in {"integer", "number"}:
        return "seed"
    if kind == "string":
        return _text_kind(name, shape)
    return _array_kind(name, shape) if kind == "array" else PLAIN_KINDS.get(kind, "json")


def _text_kind(name: str, shape: Schema) -> Kind:
    if name in LONG_TEXTS or name.endswith("_prompt"):
        return "prompt"
    return "address" if shape.get("format") == "uri" or name.endswith("_url") else "text"


def _array_kind(name: str, shape: Schema) -> Kind:
    items = shape.get("items", {})
    if name == "loras":
        return "loras"
    return "lines" if isinstance(items, Mapping) and items.get("type") == "string" else "json"


def _is_size(shape: Schema) -> bool:
    options = shape.get("anyOf") or shape.get("oneOf") or ()
    has_object = any("width" in option.get("properties", {}) or "$ref" in option for option in options)
    return has_object and any("enum" in option for option in options)


def _bounds(shape: Schema, unit: float) -> tuple[float | None, float | None]:
    low, high = shape.get("minimum"), shape.get("maximum")
    if low is None and "exclusiveMinimum" in shape:
        low = shape["exclusiveMinimum"] + unit
    if high is None and "exclusiveMaximum" in shape:
        high = shape["exclusiveMaximum"] - unit
    return low, high


def _choices(shape: Schema) -> Iterator[Choice]:
    options = shape.get("anyOf") or shape.get("oneOf") or ()
    values = shape.get("enum") or next((option["enum"] for option in options if "enum" in option), None)
    if values is None:
        values = [shape["const"]] if "const" in shape else []
    for value in values:
        text = "none" if value is None else str(value)
        yield Choice(value=json.dumps(value), label=text.replace("_", " "))


def _shown(kind: Kind, default: Any) -> str:
    if default is None:
        return ""
    if kind in {"choice", "size", "json", "loras", "toggle"}:
        return json.dumps(default)
    if kind == "lines":
        return "\n".join(str(line) for line in default)
    return str(default)


def _example(root: Schema, name: str, raw: Schema, shape: Schema) -> str:
    whole = [one[name] for one in root.get("examples", ()) if isinstance(one, Mapping) and name in one]
    examples = raw.get("examples") or shape.get("examples") or whole
    return examples[0] if examples and isinstance(examples[0], str) else ""
