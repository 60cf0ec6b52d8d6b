"""Inputs: checked against a variant's JSON Schema, completed with its defaults; LoRAs looked up and matched. Pure.

Fields that the schema does not know are dropped, unless it forbids them: customers' code outlives models.
"""

import json
from collections.abc import Mapping, Sequence
from typing import Any

import jsonschema_rs
import msgspec

from loaders.protocol import AdapterUse
from registry.catalog import Adapter, Slug, Version
from router.errors import InvalidInputError, Issue

BODY = "body"
ECHO_CHARACTERS = 200  # of an offending value that are said back
KINDS = {
    "required": "missing",
    "type": "type_error",
    "minimum": "greater_than_equal",
    "exclusiveMinimum": "greater_than",
    "maximum": "less_than_equal",
    "exclusiveMaximum": "less_than",
    "minLength": "string_too_short",
    "maxLength": "string_too_long",
    "minItems": "too_short",
    "maxItems": "too_long",
    "enum": "enum",
    "additionalProperties": "extra_forbidden",
}


class Checker:
    """One schema, compiled once."""

    def __init__(self, schema: Mapping[str, Any]) -> None:
        self._validator = jsonschema_rs.validator_for(json.dumps(msgspec.to_builtins(schema)))
        properties: Mapping[str, Any] = schema.get("properties", {})
        self._defaults = {name: p["default"] for name, p in properties.items() if _has_usable_default(p)}
        is_open = schema.get("additionalProperties") is not None or not properties
        self._known: frozenset[str] | None = None if is_open else frozenset(properties)
        self.takes_seed = "seed" in properties

    def complete(self, values: Mapping[str, Any], entropy: int | None) -> dict[str, Any]:
        """The whole input: defaults filled in, the seed set (not without `entropy`). Raises `InvalidInputError`."""
        if self._known is not None and not values.keys() <= self._known:
            values = {name: value for name, value in values.items() if name in self._known}
        whole: dict[str, Any] = {**self._defaults, **values}
        if entropy is not None and self.takes_seed and whole.get("seed") is None:
            whole["seed"] = entropy
        if not self._validator.is_valid(whole):
            raise InvalidInputError([_issue(error) for error in self._validator.iter_errors(whole)])
        _refuse_nul(whole)
        return whole


def _has_usable_default(schema: Mapping[str, Any]) -> bool:
    """Some partners document a default that their own choices lack: what was not said is not made wrong by us."""
    return "default" in schema and ("enum" not in schema or schema["default"] in schema["enum"])


def _refuse_nul(values: Mapping[str, Any]) -> None:
    """Postgres stores every character but NUL."""
    if b"\\u0000" in msgspec.json.encode(values):
        issue = Issue(location=(BODY,), message="NUL characters are not allowed", kind="value_error")
        raise InvalidInputError([issue])


def _issue(error: jsonschema_rs.ValidationError) -> Issue:
    location = (BODY, *error.instance_path)
    name = error.kind.name
    if isinstance(error.kind, jsonschema_rs.ValidationErrorKind.Required):
        field = str(error.kind.property)
        return Issue(location=(*location, field), message="Field required", kind="missing")
    echo = error.instance if isinstance(error.instance, bool | int | float | str) else None
    if isinstance(echo, str):
        echo = echo[:ECHO_CHARACTERS]
    message = error.message[: 5 * ECHO_CHARACTERS]
    return Issue(location=location, message=message, kind=KINDS.get(name, name), input=echo)


def adapters(
    values: Mapping[str, Any], version: Version, known: Mapping[Slug, Adapter]
) -> tuple[AdapterUse, ...]:
    """The LoRAs that `loras` names, by digest. Raises `InvalidInputError`."""
    uses: list[AdapterUse] = []
    issues: list[Issue] = []
    wanted: Sequence[Mapping[str, Any]] = values.get("loras") or ()
    for position, item in enumerate(wanted):
        location = (BODY, "loras", position, "path")
        path = str(item.get("path", ""))
        adapter = known.get(Slug(path))
        if adapter is None:
            issues.append(
                Issue(
                    location=location, message=f"no LoRA is called {path!r}", kind="value_error", input=path
                )
            )
        elif adapter.manifest.architecture != version.manifest.architecture:
            message = (
                f"{path} was made for {adapter.manifest.base}, which has another architecture"
                f" than {version.variant}"
            )
            issues.append(Issue(location=location, message=message, kind="wrong_architecture", input=path))
        else:
            scale = item.get("scale", adapter.manifest.recommended_scale)
            uses.append(AdapterUse(digest=adapter.manifest.digest, scale=float(scale)))
    if issues:
        raise InvalidInputError(issues)
    return tuple(uses)
