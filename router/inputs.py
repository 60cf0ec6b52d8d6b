"""Inputs: checked against a variant's JSON Schema, completed with its defaults; LoRAs looked up and matched. Pure.

Fields that the schema does not know are dropped, unless it forbids them: customers' code outlives models. Only LoRAs
are never dropped: without them it would be another picture.
"""

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import jsonschema_rs
import msgspec

from loaders.protocol import AdapterUse
from registry.catalog import AdapterManifest, Slug, Variant, Version
from router.errors import InvalidInputError, Issue

BODY = "body"
LORAS = "loras"
NUL = re.compile(rb"(?<!\\)(?:\\\\)*\\u0000")  # in JSON, where a backslash that was said is two
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
        self._validator = jsonschema_rs.validator_for(json.dumps(msgspec.to_builtins(schema)), offline=True)
        properties: Mapping[str, Any] = schema.get("properties", {})
        self._defaults = {name: p["default"] for name, p in properties.items() if _has_usable_default(p)}
        is_open = schema.get("additionalProperties") is not None or not properties
        self._known: frozenset[str] | None = None if is_open else frozenset(properties)
        self._names = tuple(properties)
        self.takes_seed = "seed" in properties

    def complete(self, values: Mapping[str, Any], entropy: int | None) -> dict[str, Any]:
        """The whole input: defaults filled in, the seed set (not without `entropy`). Raises `InvalidInputError`."""
        if self._known is not None and not values.keys() <= self._known:
            _refuse_loras(values, self._known)
            values = {name: value for name, value in values.items() if name in self._known}
        whole: dict[str, Any] = {**self._defaults, **values}
        if entropy is not None and self.takes_seed and whole.get("seed") is None:
            whole["seed"] = entropy
        if not self._validator.is_valid(whole):
            errors = self._validator.iter_errors(whole)
            raise InvalidInputError([issue for error in errors for issue in self._issues(error)])
        _refuse_what_cannot_travel(whole)
        return whole

    def _issues(self, error: jsonschema_rs.ValidationError) -> Iterator[Issue]:
        """Where one of several shapes is allowed, what the nearest of them says, and not that none of them fits."""
        branches: Sequence[Sequence[jsonschema_rs.ValidationError]] = getattr(error.kind, "context", ())
        nearest = max(branches, key=_depth, default=())
        if nearest and _depth(nearest) > len(error.instance_path):
            yield from (issue for inner in nearest for issue in self._issues(inner))
        elif nearest:
            said = "; ".join(inner.message for branch in branches for inner in branch)
            yield msgspec.structs.replace(_issue(error), message=said[: 5 * ECHO_CHARACTERS])
        elif error.kind.name == "additionalProperties" and not error.instance_path:
            issue = _issue(error)
            said = f"{issue.message}; there are {', '.join(self._names)}"
            yield msgspec.structs.replace(issue, message=said)
        else:
            yield _issue(error)


def _depth(errors: Sequence[jsonschema_rs.ValidationError]) -> int:
    """How far into the value a shape agrees with it."""
    return max((len(error.instance_path) for error in errors), default=0)


def _has_usable_default(schema: Mapping[str, Any]) -> bool:
    """Some partners document a default that their own choices lack: what was not said is not made wrong by us."""
    return "default" in schema and ("enum" not in schema or schema["default"] in schema["enum"])


class Checkers(dict[Slug, Checker]):
    """A catalogue's checkers, each compiled when its slug is first called: 100,000 would take seconds and gigabytes.

    What `before` compiled stays, where the schema is the same.
    """

    def __init__(self, variants: Mapping[Slug, Variant], before: "Checkers | None" = None) -> None:
        super().__init__()
        self._variants = variants
        if before is None:
            return
        for slug, checker in list(before.items()):  # it is called meanwhile, and grows
            if slug in variants and variants[slug].input_schema == before.schema_of(slug):
                self[slug] = checker

    def schema_of(self, slug: Slug) -> Mapping[str, Any]:
        return self._variants[slug].input_schema

    def __missing__(self, slug: Slug) -> Checker:
        checker = self[slug] = Checker(self._variants[slug].input_schema)
        return checker


def _refuse_loras(values: Mapping[str, Any], known: frozenset[str]) -> None:
    if LORAS not in known and values.get(LORAS):
        said = f"this model takes no LoRAs; there are {', '.join(sorted(known))}"
        raise InvalidInputError([Issue(location=(BODY, LORAS), message=said, kind="extra_forbidden")])


def _refuse_what_cannot_travel(values: Mapping[str, Any]) -> None:
    """Postgres stores every character but NUL; integers on the link to a host have 64 bits."""
    encoded = msgspec.json.encode(values)
    if b"\\u0000" in encoded and NUL.search(encoded):
        issue = Issue(location=(BODY,), message="NUL characters are not allowed", kind="value_error")
        raise InvalidInputError([issue])
    if not _fits_the_link(values):
        names = [name for name, value in values.items() if not _fits_the_link(value)]
        message = "integers have at most 64 bits"
        raise InvalidInputError(
            [Issue(location=(BODY, name), message=message, kind="value_error") for name in names]
        )


def _fits_the_link(value: Any) -> bool:
    try:
        msgspec.msgpack.encode(value)
    except OverflowError:
        return False
    return True


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


def wanted_loras(values: Mapping[str, Any]) -> Sequence[Mapping[str, Any]]:
    """Raises `InvalidInputError`: not every schema says what an entry looks like."""
    wanted = values.get(LORAS) or ()
    if isinstance(wanted, list | tuple) and all(isinstance(item, Mapping) for item in wanted):
        return wanted
    issue = Issue(location=(BODY, LORAS), message="a list of objects with a path", kind="type_error")
    raise InvalidInputError([issue])


def adapters(
    wanted: Sequence[Mapping[str, Any]], found: Sequence[AdapterManifest | str], version: Version
) -> tuple[AdapterUse, ...]:
    """The LoRAs that a call names, by digest. `found`: each one's manifest, or why there is none.

    Raises `InvalidInputError`.
    """
    uses: list[AdapterUse] = []
    issues: list[Issue] = []
    for position, (item, manifest) in enumerate(zip(wanted, found, strict=True)):
        location = (BODY, LORAS, position, "path")
        path = str(item.get("path", ""))[:ECHO_CHARACTERS]
        if isinstance(manifest, str):
            issues.append(Issue(location=location, message=manifest, kind="value_error", input=path))
        elif manifest.architecture != version.manifest.architecture:
            message = (
                f"{path} was made for {manifest.base}, which has another architecture than {version.variant}"
            )
            issues.append(Issue(location=location, message=message, kind="wrong_architecture", input=path))
        else:
            scale = item.get("scale", manifest.recommended_scale)
            uses.append(AdapterUse(digest=manifest.digest, scale=float(scale)))
    if issues:
        raise InvalidInputError(issues)
    return tuple(uses)
