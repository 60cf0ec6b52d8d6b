"""From a request's input to a call of a pipeline: fetches and decodes media, chooses the class, maps the arguments.

IO through `retrieval`, in `gather` alone. Called before any weight moves, so that a bad input costs no load.
"""

from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import msgspec

from loaders import decoding
from loaders.errors import InputError
from loaders.headroom import pixels
from loaders.interest import Interest
from loaders.pipelines import arguments, attention, names, outputs, siblings, tuned, tuning
from loaders.pipelines.built import Built
from loaders.retrieval import Retrieval

RATE_NAMES = ("output_sampling_rate", "sampling_rate", "sample_rate", "audio_sample_rate")
RATE_PARTS = ("vocoder", "vae", "audio_vae")  # which parts know the sampling rate, the last stage first
MAX_PIXELS = 4 * decoding.MAX_PIXELS  # of one field's pictures together
STEPS = "num_inference_steps"
FRAME_STEPS = ("vae_scale_factor_temporal", "vae_temporal_compression_ratio")


class Intake(msgspec.Struct, frozen=True, kw_only=True):
    """What to call with what."""

    pipeline: Any
    call: arguments.Call
    style: outputs.Style
    tuning: tuning.Tuning
    is_attention_ours: bool = False  # chosen here, not asked for by name

    def with_torchs_attention(self) -> "Intake":
        """The same call where the kernel that was chosen refuses it."""
        plain = msgspec.structs.replace(self.tuning, attention=None, refused=self.tuning.attention)
        return msgspec.structs.replace(self, tuning=plain, is_attention_ours=False)

    @property
    def steps(self) -> int:
        """As asked for, or as the class does it by itself; 1 where a class counts none."""
        given = self.call.arguments.get(STEPS)
        return int(given or names.default_of(type(self.pipeline).__call__, STEPS) or 1)


def chosen(built: Built, assets: Path, values: Mapping[str, Any]) -> Any:
    """The pipeline, of the class that takes such an input. `assets` is the version's folder of what has no weights.

    Raises `InputError` naming the field, and `ArchitectureError`.
    """
    wanted = {names.MEDIA[field].name for field in _present(values)}
    kind = built.pipeline_class
    if wanted:
        kind = siblings.choose(kind, wanted, _parts(built.pipeline(assets)))
    return built.pipeline(assets, kind)


def has_media(values: Mapping[str, Any]) -> bool:
    return bool(_present(values))


def take_in(
    built: Built,
    own: Any,
    media: Mapping[str, Any],
    values: Mapping[str, Any],
    defaults: Mapping[str, Any],
    *,
    computed: str | None = None,
) -> Intake:
    """`own` is what was `chosen`, `media` what was gathered for it; `computed` is the denoiser's dtype.

    Raises `InputError` naming the field.
    """
    kind, rate = type(own), sample_rate(own)
    call = arguments.prepare(
        kind.__call__, values, defaults, _for_class(media, kind), frame_step=_frame_step(own)
    )
    given = {**defaults, **values}
    is_ours = given.get("attention") == attention.AUTO
    if is_ours:
        given["attention"] = attention.choose(attention.kit(built.device), computed)
    return Intake(
        pipeline=own,
        call=call,
        style=outputs.style(call.output_format, call.frame_rate, rate),
        is_attention_ours=is_ours and given["attention"] is not None,
        tuning=tuning.plan(
            given,
            tuned.decoder(own.components, given.get("dtype")),
            pixels=pixels(call.arguments, call.count),
            count=call.count,
        ),
    )


def gather(
    values: Mapping[str, Any],
    retrieval: Retrieval,
    *,
    rate: int | None = None,
    interest: Interest | None = None,
) -> Mapping[str, Any]:
    """Value name → decoded: an image or a list of them, frames, a `Sound`. Raises `InputError`, `AbandonedError`."""
    interest = interest or Interest()

    def brought(address: str, field: str) -> Any:
        interest.check()
        found = _decode(retrieval.get(address, field), names.MEDIA[field].kind, field, rate)
        interest.moved()
        return found

    media: dict[str, Any] = {}
    for field, addresses in _present(values).items():
        known = names.MEDIA[field]
        found = list(_bounded((brought(address, field) for address in addresses), field))
        media[known.name] = found if len(found) > 1 else found[0]
    return media


def _bounded(pictures: Iterable[Any], field: str) -> Iterator[Any]:
    """One field's, as they come: each has its own bound, and many of them would fill a host's memory as well."""
    left = MAX_PIXELS
    for picture in pictures:
        left -= picture.width * picture.height if hasattr(picture, "width") else 0
        if left < 0:
            raise InputError(
                f"the pictures have more than {MAX_PIXELS // 1_000_000} megapixels together", field
            )
        yield picture


def sample_rate(pipeline: Any) -> int | None:
    """Samples a second of the sound that a pipeline takes and makes."""
    for part in RATE_PARTS:
        config = getattr(getattr(pipeline, part, None), "config", None)
        for name in RATE_NAMES:
            if isinstance(found := getattr(config, name, None), int):
                return found
    return None


def _present(values: Mapping[str, Any]) -> dict[str, list[str]]:
    """The media fields that are filled in, each as a list of addresses."""
    found: dict[str, list[str]] = {}
    for field in names.MEDIA.keys() & values.keys():
        given = values[field]
        addresses = given if isinstance(given, list | tuple) else [given] if given else []
        if not all(isinstance(address, str) for address in addresses):
            raise InputError("an address has to be text", field)
        if addresses:
            found[field] = list(addresses)
    return dict(sorted(found.items()))


def _decode(data: bytes, kind: names.Kind, field: str, rate: int | None) -> Any:
    if kind == "image":
        return decoding.picture(data, field)
    if kind == "mask":
        return decoding.mask(data, field)
    if kind == "video":
        return decoding.clip(data, field)
    return decoding.sound(data, field, rate=rate)


def _for_class(media: Mapping[str, Any], kind: Any) -> Mapping[str, Any]:
    """Sounds as tensors: with their rate where the class asks for it."""
    import torch

    takes = names.taken(kind.__call__)
    ready: dict[str, Any] = {}
    for name, value in media.items():
        if not isinstance(value, decoding.Sound):
            ready[name] = value
            continue
        ready[name] = torch.from_numpy(value.samples)[None]
        ready |= {asked: value.rate for asked in ("initial_audio_sampling_rate",) if asked in takes}
    return ready


def _parts(pipeline: Any) -> set[str]:
    return {name for name, part in pipeline.components.items() if part is not None}


def _frame_step(pipeline: Any) -> int:
    found = (getattr(pipeline, name, None) for name in FRAME_STEPS)
    return next((step for step in found if isinstance(step, int) and step > 0), 1)
