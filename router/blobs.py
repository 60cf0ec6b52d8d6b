"""Which files of the catalogue lie in a folder here, by digest: hosts that cannot read it may ask the router. Pure."""

from collections.abc import Iterable, Iterator
from pathlib import Path

from registry import store
from registry.catalog import FileRef, Source


def lying_here(rows: store.CatalogRows) -> Iterator[tuple[str, Path]]:
    for manifest in [version.manifest for version in rows.versions]:
        files = [file for c in manifest.components for file in (c.config, *c.weights, c.index) if file]
        yield from _lying(manifest.source, (*files, *manifest.assets))
    for adapter in rows.adapters:
        yield from _lying(adapter.manifest.source, (adapter.manifest.weights,))


def _lying(source: Source, files: Iterable[FileRef]) -> Iterator[tuple[str, Path]]:
    if source.kind == "path":
        root = Path(source.location, source.subfolder or "")
        yield from ((file.sha256, root / file.path) for file in files)
