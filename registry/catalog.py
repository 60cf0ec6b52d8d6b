"""The catalogue's vocabulary: frozen records that every package speaks, and the digests that name them.

Pure. It refuses to know where rows, files or clocks are: rows live in `store`, bytes in `loaders.store`.
"""

import functools
import hashlib
from collections.abc import Mapping
from datetime import datetime
from typing import Any, Literal, NewType

import msgspec

Slug = NewType("Slug", str)  # what a customer calls: `fal-ai/flux/dev`
Digest = NewType("Digest", str)  # `sha256:` and 64 hexadecimal digits
OrganizationName = NewType("OrganizationName", str)

VersionState = Literal[
    "draft", "validating", "validated", "scheduled", "live", "sunset", "retired", "rejected"
]
Scope = Literal["models:publish", "models:read", "run", "usage:read", "operate", "host"]


class Record(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Base of every vocabulary record: immutable, keyword-only, compared by value."""


def digest_of(value: Any) -> Digest:
    """The digest of a value's canonical JSON (sorted keys, no spaces)."""
    return Digest("sha256:" + hashlib.sha256(msgspec.json.encode(value, order="sorted")).hexdigest())


class FileRef(Record, frozen=True, kw_only=True):
    """One file of a version. `path` is relative to the version's source and uses forward slashes."""

    path: str
    size_bytes: int
    sha256: str  # 64 hexadecimal digits


class Source(Record, frozen=True, kw_only=True):
    """Where a version's files come from. Bytes are believed for their digest, never for their source."""

    kind: Literal["hub", "path", "url", "upload"]
    location: str  # hub: `owner/repo`; path: a folder; url: the base address; upload: the upload's id
    revision: str | None = None  # hub only: a commit; None means main until pinned
    subfolder: str | None = None


class Component(Record, frozen=True, kw_only=True):
    """One set of weights with its class and config, shared by every version that names the same bytes."""

    name: str  # its role in the pipeline: transformer, unet, vae, text_encoder…
    library: str  # `diffusers` or `transformers`
    class_name: str
    config: FileRef  # the component's config.json
    weights: tuple[FileRef, ...]  # safetensors shards in index order, or one packed file
    index: FileRef | None = None  # the shard index, where there are shards
    dtype: str | None = None  # torch's name of the dtype most bytes have: `bfloat16`

    @property
    def size_bytes(self) -> int:
        return sum(file.size_bytes for file in self.weights)

    @property
    def digest(self) -> Digest:
        """Names the bytes, not the role: two versions that hold the same T5 share one digest."""
        return digest_of(
            {
                "class": f"{self.library}.{self.class_name}",
                "config": self.config.sha256,
                "weights": [file.sha256 for file in self.weights],
            }
        )


class Manifest(Record, frozen=True, kw_only=True):
    """A version's immutable contents."""

    pipeline_class: str  # a diffusers class: `StableDiffusion3Pipeline`
    source: Source
    components: tuple[Component, ...]
    assets: tuple[
        FileRef, ...
    ]  # model_index.json, scheduler, tokenizers: everything that is not weights or their config

    @property
    def size_bytes(self) -> int:
        return sum(component.size_bytes for component in self.components)

    @property
    def architecture(self) -> Digest:
        """Versions of one architecture can take turns in one built pipeline."""
        return digest_of(
            {
                "pipeline": self.pipeline_class,
                "components": {
                    c.name: [f"{c.library}.{c.class_name}", c.config.sha256] for c in self.components
                },
            }
        )

    @property
    def digest(self) -> Digest:
        """Names the contents whatever the source: the same bytes from the Hub or a folder are one version."""
        return digest_of(
            {
                "pipeline": self.pipeline_class,
                "components": {c.name: c.digest for c in self.components},
                "assets": {a.path: a.sha256 for a in self.assets},
            }
        )

    def component(self, name: str) -> Component | None:
        return next((c for c in self.components if c.name == name), None)


class AdapterManifest(Record, frozen=True, kw_only=True):
    """A LoRA version's immutable contents. `architecture` is that of the base it was made for."""

    source: Source
    weights: FileRef
    base: Slug  # the variant it was trained on
    architecture: Digest
    rank: int | None = None
    layout: Literal["diffusers", "kohya"] | None = None
    target_modules: tuple[str, ...] = ()  # names of the layers it changes, within their blocks: `to_q`
    trigger_words: tuple[str, ...] = ()
    recommended_scale: float = 1.0

    @property
    def size_bytes(self) -> int:
        return self.weights.size_bytes

    @property
    def digest(self) -> Digest:
        return digest_of({"lora": self.weights.sha256})


class Price(Record, frozen=True, kw_only=True):
    """What one unit costs. Amounts are decimal strings, so no cent is lost in a float."""

    unit: Literal["image", "megapixel", "second", "video", "request", "gpu_second"]
    amount: str
    currency: str = "USD"


class Partner(Record, frozen=True, kw_only=True):
    """A model that somebody else's API serves behind our slug."""

    provider: str  # `fal`, `replicate`, `openai`…
    endpoint: str  # the provider's own name of it

    @property
    def digest(self) -> Digest:
        """Stands for a version's in requests and usage: what is behind the endpoint, only the provider knows."""
        return _partner_digest(self.provider, self.endpoint)


@functools.lru_cache(maxsize=1 << 17)
def _partner_digest(provider: str, endpoint: str) -> Digest:
    return digest_of({"partner": provider, "endpoint": endpoint})


class Version(Record, frozen=True, kw_only=True):
    """One numbered, immutable version of a variant."""

    variant: Slug
    number: int
    manifest: Manifest
    state: VersionState = "live"

    @property
    def digest(self) -> Digest:
        return self.manifest.digest


class Window(Record, frozen=True, kw_only=True):
    """When and for whom a release can be called; `windows` reads it. Empty means never: an embargo without end.

    A phase lasts from its own time until the next phase's; times are aware.
    """

    preview_from: datetime | None = None
    preview_organizations: tuple[OrganizationName, ...] = ()
    exclusive_from: datetime | None = None
    exclusive_organizations: tuple[OrganizationName, ...] = ()
    public_from: datetime | None = None
    sunset_from: datetime | None = None
    retired_from: datetime | None = None
    successor: Slug | None = None
    prewarm_from: datetime | None = None
    prewarm_replicas: int = 0


class Share(Record, frozen=True, kw_only=True):
    """A version's part of a release's traffic."""

    version: int
    percent: int


class Release(Record, frozen=True, kw_only=True):
    """Which versions answer a slug, for whom and when. Never edited: whatever changes is a newer release."""

    id: int
    variant: Slug
    shares: tuple[Share, ...]  # percents add up to 100
    window: Window


class Model(Record, frozen=True, kw_only=True):
    """A family of variants with one owner."""

    name: str  # `marquee/shapes`
    title: str | None = None
    description: str | None = None
    licence: str | None = None

    @property
    def owner(self) -> OrganizationName:
        return OrganizationName(self.name.split("/", 1)[0])


class Named(Record, frozen=True, kw_only=True):
    """What callers name by a slug, which begins with its owner."""

    slug: Slug

    @property
    def owner(self) -> OrganizationName:
        return OrganizationName(self.slug.split("/", 1)[0])


class Variant(Named, frozen=True, kw_only=True):
    """What a customer calls. Its contents are versions (open weights) or a partner, never both."""

    model: str  # the family it belongs to: `marquee/shapes`
    task: str  # `text-to-image`, `image-to-video`…
    input_schema: Mapping[str, Any]  # JSON Schema 2020-12 of the input object, defaults included
    name: str | None = None
    description: str | None = None
    tags: tuple[str, ...] = ()
    licence: str | None = None
    price: Price | None = None
    partner: Partner | None = None
    source: Source | None = None  # where its weights are said to be; believed once a version pins the bytes
    pipeline_class: str | None = None
    provenance: str | None = None  # the documented fact that this entry rests on
    defaults: Mapping[str, Any] = {}  # arguments that the caller cannot set: dtype, max_sequence_length…


class Adapter(Named, frozen=True, kw_only=True):
    """A LoRA that the marketplace lists; callers name it by slug in `loras[].path`."""

    manifest: AdapterManifest
    name: str | None = None
    description: str | None = None
    licence: str | None = None
    version: int = 1


class AdapterEntry(Named, frozen=True, kw_only=True):
    """What a catalogue file says of an adapter. It can be called once its bytes are pinned in a manifest."""

    base: Slug
    source: Source
    weight_name: str | None = None  # which file of the source, where it holds several
    trigger_words: tuple[str, ...] = ()
    recommended_scale: float = 1.0
    name: str | None = None
    description: str | None = None
    licence: str | None = None
    provenance: str | None = None


class Organization(Record, frozen=True, kw_only=True):
    """A lab, a customer, or both."""

    name: OrganizationName
    title: str | None = None


class Caller(Record, frozen=True, kw_only=True):
    """Whoever holds a valid key: on whose account and with which scopes."""

    organization: OrganizationName
    key_id: str
    scopes: frozenset[Scope] = frozenset()


class Catalog(Record, frozen=True, kw_only=True):
    """A whole catalogue as one value: what a file declares, or what the tables hold of it."""

    organizations: tuple[Organization, ...] = ()
    models: tuple[Model, ...] = ()
    variants: tuple[Variant, ...] = ()
    contents: Mapping[Slug, Manifest] = {}  # of each variant's newest version, where that is known
    adapters: tuple[AdapterEntry, ...] = ()
    adapter_contents: Mapping[Slug, AdapterManifest] = {}
