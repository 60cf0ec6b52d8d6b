"""catalog.yaml's text → a `Catalog`; what is wrong is named with its YAML path and line. Pure: reads no folder.

Families carry defaults that their variants may override. Paths stay as written; `apply` resolves them.
"""

import re
from collections.abc import Callable, Mapping
from typing import Any, Literal, NamedTuple, TypeVar

import msgspec

from registry import choices, prices, strict_yaml
from registry.catalog import (
    AdapterEntry,
    Catalog,
    Model,
    Organization,
    OrganizationName,
    Partner,
    Price,
    Slug,
    Source,
    Variant,
)
from registry.errors import CatalogFileError

SLUG = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*(/[A-Za-z0-9][A-Za-z0-9._-]*)+")
SLUG_CHARACTERS = 200
MAX_SCALE = 10.0  # of an adapter; what is no number is beyond it
ORGANIZATION = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
RESERVED_OWNERS = frozenset({"workflows", "comfy"})  # fal's clients read a namespace there
RESERVED_SEGMENTS = frozenset({"requests"})  # the queue's addresses are cut there
Path = tuple[str, ...]
Documented = Callable[[Literal["endpoint", "pipeline"], str], Mapping[str, Any] | None]
Spec = TypeVar("Spec", bound="Entry")


class Entry(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Base of the file's shapes: unknown fields are errors, so that a typo cannot pass."""


class OrganizationSpec(Entry, frozen=True, kw_only=True):
    title: str | None = None


class Common(Entry, frozen=True, kw_only=True):
    """What a family may say once for all its variants."""

    description: str | None = None
    task: str | None = None
    tags: tuple[str, ...] | None = None
    licence: str | None = None
    input: str | Mapping[str, Any] | None = None  # a name from `schemas`, the schema itself, or `documented`
    hub: str | None = None  # `owner/repo` or `owner/repo@revision`
    partner: str | Partner | None = None  # a provider that knows it by our slug, or by the name given too
    price: Price | None = None
    pipeline: str | None = None
    defaults: Mapping[str, Any] | None = None
    provenance: str | None = None


class VariantSpec(Common, frozen=True, kw_only=True):
    name: str | None = None
    path: str | None = None
    subfolder: str | None = None


class ModelSpec(Common, frozen=True, kw_only=True):
    title: str | None = None
    variants: Mapping[str, Any] = {}


class AdapterSpec(Entry, frozen=True, kw_only=True):
    base: str
    path: str | None = None
    hub: str | None = None
    url: str | None = None  # the file's own address
    weights: str | None = None
    trigger_words: tuple[str, ...] = ()
    recommended_scale: float = 1.0
    name: str | None = None
    description: str | None = None
    licence: str | None = None
    provenance: str | None = None


class FileSpec(Entry, frozen=True, kw_only=True):
    templates: Any = None  # a place for YAML anchors
    organizations: Mapping[str, Any] = {}
    schemas: Mapping[str, Mapping[str, Any]] = {}
    models: Mapping[str, Any] = {}
    adapters: Mapping[str, Any] = {}


class _Refusal(Exception):  # noqa: N818  never leaves this module
    def __init__(self, reason: str, path: Path) -> None:
        super().__init__(reason)
        self.reason = reason
        self.path = path


def _nothing(kind: str, name: str) -> None:
    """Documents nothing."""


def parse(text: str, documented: Documented = _nothing) -> Catalog:
    """Raises `CatalogFileError`. `documented` answers for entries that say `input: documented`."""
    data = strict_yaml.load(text)
    if data is None:
        raise CatalogFileError("it is empty; a catalogue without entries says `models: {}`")
    try:
        return _catalog(data, documented)
    except _Refusal as refusal:
        raise CatalogFileError(
            refusal.reason, path=refusal.path, line=strict_yaml.line(text, refusal.path)
        ) from refusal


def _catalog(data: Any, documented: Documented) -> Catalog:
    file = _convert(data, FileSpec, ())
    organizations = [
        Organization(
            name=OrganizationName(name),
            title=_convert(value or {}, OrganizationSpec, ("organizations", name)).title,
        )
        for name, value in file.organizations.items()
    ]
    for organization in organizations:
        if not ORGANIZATION.fullmatch(organization.name):
            raise _Refusal("letters, digits, . _ and -, at most 64", ("organizations", organization.name))
    models: list[Model] = []
    variants: dict[Slug, Variant] = {}
    schemas = _Schemas(file.schemas, documented)
    for name, value in file.models.items():
        path: Path = ("models", name)
        _check_slug(name, path)
        spec = _convert(value or {}, ModelSpec, path)
        models.append(Model(name=name, title=spec.title, description=spec.description, licence=spec.licence))
        for slug, entry in spec.variants.items():
            place = (*path, "variants", slug)
            if slug in variants:
                raise _Refusal("this slug stands twice", place)
            own = _inherit(_convert(entry or {}, VariantSpec, place), spec)
            variants[Slug(slug)] = _variant(slug, own, name, schemas, place)
    adapters = tuple(
        _adapter(slug, _convert(value, AdapterSpec, ("adapters", slug)), variants, ("adapters", slug))
        for slug, value in file.adapters.items()
    )
    known = {organization.name for organization in organizations}
    owners = dict.fromkeys(entry.owner for group in (models, variants.values(), adapters) for entry in group)
    organizations += [Organization(name=owner) for owner in owners if owner not in known]
    return Catalog(
        organizations=tuple(organizations),
        models=tuple(models),
        variants=tuple(variants.values()),
        adapters=adapters,
    )


def _inherit(spec: VariantSpec, family: ModelSpec) -> VariantSpec:
    """What the variant leaves out, its family says; a source of its own replaces the family's of any kind."""
    handed = {name: getattr(family, name) for name in Common.__struct_fields__ if getattr(spec, name) is None}
    if spec.path is not None or spec.hub is not None or spec.partner is not None:
        handed |= {"hub": spec.hub, "partner": spec.partner}
    if spec.partner is not None:
        handed["pipeline"] = spec.pipeline
    handed["description"] = spec.description  # a family's is about the family
    handed["defaults"] = {**(family.defaults or {}), **(spec.defaults or {})}
    return msgspec.structs.replace(spec, **handed)


def _variant(slug: str, spec: VariantSpec, model: str, schemas: "_Schemas", path: Path) -> Variant:
    _check_slug(slug, path)
    if spec.task is None:
        raise _Refusal("neither the variant nor its family names a task", path)
    given = [name for name in ("path", "hub", "partner") if getattr(spec, name) is not None]
    if len(given) > 1:
        raise _Refusal(f"one of path, hub and partner, not {' and '.join(given)}", path)
    if (reason := prices.problem(spec.price, spec.defaults or {})) is not None:
        raise _Refusal(reason, (*path, "price"))
    partner = Partner(provider=spec.partner, endpoint=slug) if isinstance(spec.partner, str) else spec.partner
    return Variant(
        slug=Slug(slug),
        model=model,
        task=spec.task,
        input_schema=schemas.find(spec, partner, path),
        name=spec.name,
        description=spec.description,
        tags=spec.tags or (),
        licence=spec.licence,
        price=spec.price,
        partner=partner,
        source=_source(spec),
        pipeline_class=spec.pipeline,
        provenance=spec.provenance,
        defaults=spec.defaults or {},
    )


class _Schemas(NamedTuple):
    """Where input schemas come from: the file's own by name, documented ones by what the variant is."""

    named: Mapping[str, Mapping[str, Any]]
    documented: "Documented"

    def find(self, spec: VariantSpec, partner: Partner | None, path: Path) -> Mapping[str, Any]:
        match spec.input:
            case None:
                raise _Refusal("neither the variant nor its family says what input it takes", path)
            case "documented":
                found = self.documented("endpoint", partner.endpoint) if partner else None
                if partner is None and spec.pipeline is not None:
                    found = self.documented("pipeline", spec.pipeline)
                if found is None:
                    raise _Refusal("no documented input is known for it", (*path, "input"))
                return found
            case str() as name:
                if name not in self.named:
                    raise _Refusal(f"no schema named {name!r} under schemas", (*path, "input"))
                return self.named[name]
            case schema:
                return schema


def _adapter(slug: str, spec: AdapterSpec, variants: Mapping[Slug, Variant], path: Path) -> AdapterEntry:
    _check_slug(slug, path)
    if spec.base not in variants:
        raise _Refusal(f"no variant {spec.base}", (*path, "base"))
    source = _source(spec)
    if not -MAX_SCALE <= spec.recommended_scale <= MAX_SCALE:
        raise _Refusal(f"from {-MAX_SCALE:g} to {MAX_SCALE:g}", (*path, "recommended_scale"))
    if source is None:
        raise _Refusal("an adapter needs a path, a hub repository or a url", path)
    return AdapterEntry(
        slug=Slug(slug),
        base=Slug(spec.base),
        source=source,
        weight_name=spec.weights,
        trigger_words=spec.trigger_words,
        recommended_scale=spec.recommended_scale,
        name=spec.name,
        description=spec.description,
        licence=spec.licence,
        provenance=spec.provenance,
    )


def _source(spec: VariantSpec | AdapterSpec) -> Source | None:
    subfolder = spec.subfolder if isinstance(spec, VariantSpec) else None
    if spec.path is not None:
        return Source(kind="path", location=spec.path, subfolder=subfolder)
    if spec.hub is not None:
        repo, _, revision = spec.hub.partition("@")
        return Source(kind="hub", location=repo, revision=revision or None, subfolder=subfolder)
    if isinstance(spec, AdapterSpec) and spec.url is not None:
        return Source(kind="url", location=spec.url)
    return None


def _check_slug(slug: str, path: Path) -> None:
    segments = slug.split("/")
    if not SLUG.fullmatch(slug) or len(slug) > SLUG_CHARACTERS:
        raise _Refusal(f"{slug!r} is not owner/name (letters, digits, . _ - and /)", path)
    if segments[0] in RESERVED_OWNERS or RESERVED_SEGMENTS & set(segments):
        raise _Refusal(f"{slug!r} uses a reserved word", path)


def _convert(value: Any, kind: type[Spec], path: Path) -> Spec:
    try:
        return msgspec.convert(value, kind)
    except msgspec.ValidationError as error:
        below, reason = choices.told(error, kind)
        raise _Refusal(reason, (*path, *below, *choices.UNKNOWN.findall(reason))) from error
