"""The loaders without a router: `with Loader() as loader: loader.run("path/or/repo", prompt="…")`.

IO: an engine of its own, described from a folder, a Hub repository, or a catalogue file's entry. Blocking, for
programs and the command line; a host process uses the engine itself.
"""

import difflib
import queue
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self
from urllib.parse import unquote, urlsplit

import msgspec

from loaders import adapters, host, protocol
from loaders.artefacts import Artefacts
from loaders.compiling import Compiler
from loaders.device import Device
from loaders.engine import Engine, Event
from loaders.errors import InputError, LoaderError, WeightsGatedError, WeightsMissingError
from loaders.fetch import Remote
from loaders.protocol import AdapterUse, AttemptKey
from loaders.retrieval import Retrieval
from loaders.running import Finished
from loaders.store import Store
from registry import adapter_files, defaults, folders, hub, manifest, site
from registry.catalog import AdapterManifest, Catalog, Manifest, Slug, Source, Variant
from registry.errors import AddressError, FolderError, GatedError, HubError
from registry.settings import Settings

SUFFIXES = {
    "image/png": "png", "image/jpeg": "jpg", "image/webp": "webp", "video/mp4": "mp4", "audio/wav": "wav",
}  # fmt: skip


class Output(msgspec.Struct, frozen=True, kw_only=True):
    """One picture, clip or sound."""

    content_type: str
    sha256: str
    data: bytes

    @property
    def size_bytes(self) -> int:
        return len(self.data)

    @property
    def suffix(self) -> str:
        return SUFFIXES.get(self.content_type, "bin")


class Result(msgspec.Struct, frozen=True, kw_only=True):
    """What a run gave, and where its seconds went."""

    outputs: tuple[Output, ...]
    answers: dict[str, Any]
    how: dict[str, str]  # which way was chosen where there was a choice, and why
    load_seconds: float
    run_seconds: float


class FailedRunError(LoaderError):
    """A run failed; `failure` is the report a router would have got."""

    def __init__(self, failure: protocol.Failed) -> None:
        super().__init__(failure.message)
        self.failure = failure
        self.location = failure.location


class Loader:
    """One device, many models. Models are folders, Hub repositories or slugs of the catalogue file."""

    def __init__(
        self,
        settings: Settings | None = None,
        *,
        catalog: Path | None = None,
        on_step: Callable[[int, int], None] | None = None,
    ) -> None:
        self._settings = settings or Settings()
        self._catalog_file = catalog
        self._on_step = on_step
        self._events: queue.SimpleQueue[Event] = queue.SimpleQueue()
        home = self._settings.home / "loader"
        home.mkdir(parents=True, exist_ok=True)
        device = Device(self._settings.device)
        remote = Remote(
            hub_endpoint=self._settings.hub_endpoint,
            hub_token=self._settings.hub_token,
            allow_private=True,  # whoever calls this runs it
        )
        store = Store(home, remote=remote)
        budgets = host.budgets_for(device, home, self._settings, stored_bytes=store.used_bytes())
        host.limit(store, self._settings, budgets)
        self.engine = Engine(
            home,
            device=device,
            store=store,
            budgets=budgets,
            retrieval=Retrieval(allow_private=True),
            compiler=Compiler(self._settings.compile, Artefacts(home / "compiled", device)),
            order=self._settings.eviction_order,
        )
        self.engine.listen(self._events.put)
        self.engine.warm_up()
        self._manifests: dict[str, Manifest] = {}
        self._read: Catalog | None = None
        self._count = 0

    def run(
        self, model: str | Path, *, loras: Sequence[tuple[str | Path, float]] = (), **values: Any
    ) -> Result:
        """Raises `FailedRunError`, and `LoaderError` when the model or a LoRA is nowhere to be found."""
        found = self.manifest(model)
        described = protocol.DescribeVersion(
            digest=found.digest, manifest=found, defaults=self._defaults(str(model))
        )
        self.engine.describe(described)
        uses = []
        for lora, scale in loras:
            adapter = self.adapter(lora, found)
            self.engine.describe(protocol.DescribeAdapter(digest=adapter.digest, manifest=adapter))
            uses.append(AdapterUse(adapter.digest, scale))
        self._count += 1
        attempt = AttemptKey(f"local-{self._count}", 1)
        given = {name: value for name, value in values.items() if value is not None}
        self.engine.submit(
            protocol.Assign(attempt=attempt, version=found.digest, adapters=tuple(uses), input=given)
        )
        return self._await(attempt)

    def manifest(self, model: str | Path) -> Manifest:
        """Of a folder, a slug of the catalogue file, or a repository."""
        name = str(model)
        if name not in self._manifests:
            self._manifests[name] = self._resolve(name)
        return self._manifests[name]

    def adapter(self, lora: str | Path, base: Manifest) -> AdapterManifest:
        path = Path(lora)
        if path.is_dir():
            path = path / folders.ADAPTER_FILE
        if path.is_file():
            return adapters.describe(path, architecture=base.architecture)
        entry = next((a for a in self._catalog().adapters if a.slug == Slug(str(lora))), None)
        if entry is not None:
            tree, source = self._tree(entry.source)
            name = _file_of(tree, source, entry.weight_name)
            return adapter_files.adapter_of(tree, source, name, entry.base, base.architecture)
        meant = _meant(str(lora), [adapter.slug for adapter in self._catalog().adapters])
        raise InputError(
            f"there is no LoRA {lora}, neither a file nor a slug of the catalogue{meant}", "loras"
        )

    def close(self) -> None:
        self.engine.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _await(self, attempt: AttemptKey) -> Result:
        while True:
            event = self._events.get()
            if isinstance(event, protocol.Progress) and self._on_step is not None:
                self._on_step(event.step, event.steps)
            if isinstance(event, protocol.Failed) and event.attempt == attempt:
                raise FailedRunError(event)
            if isinstance(event, Finished) and event.attempt == attempt:
                return _result(event)

    def _resolve(self, name: str) -> Manifest:
        try:
            tree, source = self._tree(self._source(name))
            return folders.read_tree(tree, source)
        except (FolderError, AddressError) as error:
            raise WeightsMissingError(f"{name}: {error}") from error

    def _source(self, name: str) -> Source:
        """A folder before a slug before a repository."""
        if Path(name).is_dir():
            return Source(kind="path", location=str(Path(name).resolve()))
        variant = self._variant(name)
        return variant.source if variant and variant.source else Source(kind="hub", location=name)

    def _variant(self, name: str) -> Variant | None:
        return next((v for v in self._catalog().variants if v.slug == Slug(name)), None)

    def _defaults(self, name: str) -> Mapping[str, Any]:
        """What the catalogue says of a slug's runs: dtype, steps…"""
        variant = None if Path(name).is_dir() else self._variant(name)
        return {} if variant is None else defaults.for_hosts(variant)

    def _catalog(self) -> Catalog:
        if self._read is None:
            self._read = Catalog()
            if self._catalog_file is not None and self._catalog_file.is_file():
                text = self._catalog_file.read_text()
                self._read = manifest.parse(text, lambda kind, name: {})  # schemas are a gateway's business
        return self._read

    def _tree(self, source: Source) -> tuple[folders.Tree, Source]:
        """Its files, read from where they are, and the source as the store will find it. Weights stay there."""
        if source.kind == "url":
            return site.Site(source, allow_private=True), source
        if source.kind == "hub":
            return self._repository(source)
        folder = Path(source.location, source.subfolder or "")
        if self._catalog_file is not None:
            folder = self._catalog_file.resolve().parent / folder
        return folders.Folder(folder), Source(kind="path", location=str(folder.resolve()))

    def _repository(self, source: Source) -> tuple[hub.Repository, Source]:
        from huggingface_hub import get_token

        token = self._settings.hub_token or get_token()
        try:
            found = hub.Repository(hub.Endpoint(url=self._settings.hub_endpoint, token=token), source)
        except GatedError as error:
            raise WeightsGatedError(str(error)) from error
        except HubError as error:
            meant = _meant(source.location, [variant.slug for variant in self._catalog().variants])
            raise WeightsMissingError(
                f"{source.location} is no folder, no slug of the catalogue{meant}, and no repository that the Hub gives us: {error}"
            ) from error
        return found, hub.pinned(source, found)


def _meant(wrong: str, names: Sequence[str]) -> str:
    """What of our own was probably misspelt, as words behind the error."""
    near = difflib.get_close_matches(wrong, names, n=1, cutoff=0.8)
    return f" (did you mean {near[0]}?)" if near else ""


def _file_of(tree: folders.Tree, source: Source, given: str | None) -> str:
    """Which file of its source an adapter is."""
    if given is not None or source.kind == "path":
        return given or folders.ADAPTER_FILE
    if source.kind == "url":
        return unquote(urlsplit(source.location).path.rpartition("/")[2])
    return adapter_files.adapter_file(tree, None)


def _result(finished: Finished) -> Result:
    outputs = tuple(
        Output(content_type=file.content_type, sha256=file.sha256, data=data)
        for file, data in zip(finished.done.outputs, finished.outputs, strict=True)
    )
    timings = finished.done.timings
    return Result(
        outputs=outputs,
        answers=dict(finished.done.result),
        how=dict(finished.done.how),
        load_seconds=timings.load,
        run_seconds=timings.run,
    )
