"""The tables as a catalogue file: what `apply` of the printed text would leave unchanged. IO."""

from typing import Any

import msgspec
import yaml

from registry import store
from registry.catalog import AdapterEntry, Source, Variant
from registry.database import Database


async def export(db: Database) -> str:
    """Weights that nobody pinned are named by their source; paths are absolute."""
    rows = await store.load_catalog(db)
    models: dict[str, Any] = {}
    for model in rows.models:
        plain = msgspec.to_builtins(model)
        plain.pop("name")
        models[model.name] = plain | {"variants": {}}
    for variant in rows.variants:
        models[variant.model]["variants"][variant.slug] = _variant(variant)
    file = {
        "organizations": {one.name: {"title": one.title} if one.title else {} for one in rows.organizations},
        "models": models,
        "adapters": {entry.slug: _adapter(entry) for entry in rows.listed_adapters},
    }
    return yaml.safe_dump(file, sort_keys=False, allow_unicode=True, width=110)


def _variant(variant: Variant) -> dict[str, Any]:
    plain: dict[str, Any] = msgspec.to_builtins(variant)
    for name in ("slug", "model", "source"):
        plain.pop(name, None)
    plain["input"] = plain.pop("input_schema")
    if "pipeline_class" in plain:
        plain["pipeline"] = plain.pop("pipeline_class")
    if variant.source is not None:
        plain |= _source(variant.source)
    return plain


def _source(source: Source) -> dict[str, Any]:
    if source.kind == "path":
        return {"path": source.location}
    if source.kind == "url":
        return {"url": source.location}
    place = {"hub": source.location + (f"@{source.revision}" if source.revision else "")}
    return place | ({"subfolder": source.subfolder} if source.subfolder else {})


def _adapter(entry: AdapterEntry) -> dict[str, Any]:
    plain: dict[str, Any] = msgspec.to_builtins(entry)
    plain.pop("slug")
    plain.pop("source")
    if "weight_name" in plain:
        plain["weights"] = plain.pop("weight_name")
    return plain | _source(entry.source)
