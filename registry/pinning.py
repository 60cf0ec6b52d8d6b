"""`catalog pin`: asks the Hub what each listed repository holds, and keeps the answers in a file beside catalog.yaml.

The file (`catalog.pins.json`) maps a repository and its class to a manifest; `apply` makes versions of what it
knows. Answers are written as they come, so an interrupted run goes on where it stopped. IO.
"""

import asyncio
from collections.abc import Callable, Mapping
from pathlib import Path

import msgspec

from registry import hub
from registry.catalog import AdapterEntry, AdapterManifest, Catalog, Manifest, Record, Slug, Variant
from registry.errors import CatalogError, CatalogFileError, RegistryError

FILE_SUFFIX = ".pins.json"
CONCURRENCY = 8
SAVE_EVERY = 10  # answers


class Pins(Record, frozen=True, kw_only=True):
    """What the Hub said, by what was asked."""

    variants: Mapping[str, Manifest] = {}
    adapters: Mapping[str, AdapterManifest] = {}


class Outcome(Record, frozen=True, kw_only=True):
    pinned: int
    known: int  # pinned by an earlier run
    failed: Mapping[Slug, str]  # why, by slug


def file_of(catalog_file: Path) -> Path:
    return catalog_file.with_name(catalog_file.stem + FILE_SUFFIX)


def read(catalog_file: Path) -> Pins:
    """Raises `CatalogFileError` for a file that is not ours."""
    file = file_of(catalog_file)
    if not file.exists():
        return Pins()
    try:
        return msgspec.json.decode(file.read_bytes(), type=Pins)
    except msgspec.MsgspecError as error:
        raise CatalogFileError(f"{file}: {error}") from error


def write(catalog_file: Path, pins: Pins) -> None:
    """Whole or not at all."""
    file = file_of(catalog_file)
    fresh = file.with_suffix(".new")
    fresh.write_bytes(msgspec.json.format(msgspec.json.encode(pins, order="sorted"), indent=1) + b"\n")
    fresh.rename(file)


def question_of(entry: Variant | AdapterEntry) -> str:
    """What an answer is kept under: the source as written, so that a changed revision asks anew."""
    source = entry.source
    assert source is not None
    place = f"{source.location}@{source.revision or 'main'}/{source.subfolder or ''}"
    detail = entry.pipeline_class if isinstance(entry, Variant) else entry.weight_name
    return f"{place}#{detail or ''}"


def with_contents(declared: Catalog, pins: Pins) -> Catalog:
    """The declared catalogue with the contents that are pinned. Pure."""
    variants = {variant.slug: variant for variant in declared.variants if _on_hub(variant)}
    found = {
        slug: pins.variants[question_of(variant)]
        for slug, variant in variants.items()
        if question_of(variant) in pins.variants
    }
    adapters = {
        entry.slug: pins.adapters[question_of(entry)]
        for entry in declared.adapters
        if _on_hub(entry) and question_of(entry) in pins.adapters
    }
    return msgspec.structs.replace(
        declared,
        contents={**declared.contents, **found},
        adapter_contents={**declared.adapter_contents, **adapters},
    )


def _on_hub(entry: Variant | AdapterEntry) -> bool:
    return entry.source is not None and entry.source.kind == "hub"


async def pin(
    declared: Catalog,
    pins: Pins,
    endpoint: hub.Endpoint,
    keep: Callable[[Pins], None],
    tell: Callable[[str], None],
) -> tuple[Pins, Outcome]:
    """Asks for all that is not known, some at a time. `keep` is called now and then with all answers so far.

    What the Hub does not give is an outcome, not an exception: the others go on.
    """
    run = _Run(pins, endpoint, keep, tell)
    variants = [variant for variant in declared.variants if _on_hub(variant)]
    await asyncio.gather(*(run.ask(variant) for variant in variants))
    await asyncio.gather(*(run.ask_adapter(entry, declared) for entry in declared.adapters if _on_hub(entry)))
    found = run.pins()
    keep(found)
    return found, Outcome(pinned=run.asked - len(run.failed), known=run.known, failed=run.failed)


class _Run:
    """One run's answers so far."""

    def __init__(
        self, pins: Pins, endpoint: hub.Endpoint, keep: Callable[[Pins], None], tell: Callable[[str], None]
    ) -> None:
        self._variants, self._adapters = dict(pins.variants), dict(pins.adapters)
        self._endpoint, self._keep, self._tell = endpoint, keep, tell
        self._slots = asyncio.Semaphore(CONCURRENCY)
        self.asked = 0
        self.known = 0
        self.failed: dict[Slug, str] = {}

    def pins(self) -> Pins:
        return Pins(variants=dict(self._variants), adapters=dict(self._adapters))

    async def ask(self, variant: Variant) -> None:
        question = question_of(variant)
        if question in self._variants:
            self.known += 1
            return
        assert variant.source is not None
        source = variant.source
        async with self._slots:
            try:
                manifest = await asyncio.to_thread(hub.read_pipeline, self._endpoint, source)
                self._variants[question] = msgspec.structs.replace(
                    manifest, pipeline_class=variant.pipeline_class or manifest.pipeline_class
                )
            except RegistryError as error:
                self.failed[variant.slug] = str(error)
            self._answered(variant.slug)

    async def ask_adapter(self, entry: AdapterEntry, declared: Catalog) -> None:
        question = question_of(entry)
        if question in self._adapters:
            self.known += 1
            return
        async with self._slots:
            try:
                base = self._base(entry, declared)
                self._adapters[question] = await asyncio.to_thread(
                    hub.read_adapter,
                    self._endpoint,
                    entry.source,
                    entry.weight_name,
                    entry.base,
                    base.architecture,
                )
            except RegistryError as error:
                self.failed[entry.slug] = str(error)
            self._answered(entry.slug)

    def _base(self, entry: AdapterEntry, declared: Catalog) -> Manifest:
        base = next(variant for variant in declared.variants if variant.slug == entry.base)
        if base.slug in declared.contents:
            return declared.contents[base.slug]
        if not _on_hub(base) or question_of(base) not in self._variants:
            raise CatalogError(f"its base {entry.base} is not pinned")
        return self._variants[question_of(base)]

    def _answered(self, slug: Slug) -> None:
        self.asked += 1
        self._tell(slug)
        if self.asked % SAVE_EVERY == 0:
            self._keep(self.pins())
