"""What a pipeline returns, as files: PNG, JPEG or WebP for pictures, MP4 for clips, WAV for sound.

Touches numpy and encoders. Encoding is deterministic: the same array gives the same bytes.
"""

import hashlib
import io
import wave
from collections.abc import Iterator, Mapping
from fractions import Fraction
from typing import Any

import msgspec

from loaders.errors import InputError, ModelError
from loaders.protocol import OutputFile

PNG_LEVEL = 6
QUALITY = 95  # of JPEG and WebP
PICTURE_FORMATS: Mapping[str, tuple[str, dict[str, Any]]] = {  # caller's name → Pillow's, its settings
    "png": ("PNG", {"compress_level": PNG_LEVEL}),
    "jpeg": ("JPEG", {"quality": QUALITY, "subsampling": 0}),
    "jpg": ("JPEG", {"quality": QUALITY, "subsampling": 0}),
    "webp": ("WEBP", {"quality": QUALITY, "method": 4}),
}
MAX_RATE_DENOMINATOR = 1001  # of frames a second: 30000/1001
DEFAULT_SAMPLE_RATE = 44_100


class Encoded(msgspec.Struct, frozen=True):
    """An output's description and its bytes."""

    file: OutputFile
    data: bytes


class Style(msgspec.Struct, frozen=True, kw_only=True):
    """How outputs are to be written."""

    picture: str = "png"
    frame_rate: float = 16.0
    sample_rate: int = DEFAULT_SAMPLE_RATE


def style(output_format: str | None, frame_rate: float, sample_rate: int | None) -> Style:
    """Raises `InputError`. Clips and sounds have one format each, so theirs need not be asked for."""
    wanted = (output_format or "png").lower()
    if wanted in {"mp4", "wav"}:
        wanted = "png"
    if wanted not in PICTURE_FORMATS:
        raise InputError(f"no output format is called {output_format!r}", "output_format")
    return Style(picture=wanted, frame_rate=frame_rate, sample_rate=sample_rate or DEFAULT_SAMPLE_RATE)


def encode(result: Any, how: Style) -> tuple[Encoded, ...]:
    """Raises `ModelError` when the result holds nothing we know."""
    if (images := getattr(result, "images", None)) is not None:
        return tuple(_picture(index, image, how) for index, image in enumerate(_flat(images)))
    if (clips := getattr(result, "frames", None)) is not None:
        sounds = getattr(result, "audio", None)
        return tuple(
            _clip(index, clip, None if sounds is None else sounds[index], how)
            for index, clip in enumerate(clips)
        )
    if (audios := getattr(result, "audios", None)) is not None:
        return tuple(_wav(index, sound, how.sample_rate) for index, sound in enumerate(audios))
    raise ModelError(f"{type(result).__name__} holds neither images nor frames nor audios")


def _flat(images: Any) -> Iterator[Any]:
    """Layered pictures come as a list a prompt."""
    for image in images:
        if isinstance(image, list):
            yield from image
        else:
            yield image


def _picture(index: int, image: Any, how: Style) -> Encoded:
    from PIL import Image

    picture = image if isinstance(image, Image.Image) else Image.fromarray(_pixels(image))
    name, settings = PICTURE_FORMATS[how.picture]
    if name == "JPEG" and picture.mode not in {"RGB", "L"}:
        picture = picture.convert("RGB")
    out = io.BytesIO()
    picture.save(out, format=name, **settings)
    facts = {"width": picture.width, "height": picture.height}
    return _encoded(index, f"image/{name.lower()}", out.getvalue(), facts)


def _pixels(image: Any) -> Any:
    """From float [0, 1] or uint8, (height, width, channels) → uint8; the same rounding as diffusers' own."""
    import numpy as np

    array = np.asarray(image)
    if array.dtype != np.uint8:
        array = (np.nan_to_num(array) * 255).round().clip(0, 255).astype(np.uint8)
    return array[..., 0] if array.ndim == 3 and array.shape[-1] == 1 else array


def _clip(index: int, frames: Any, sound: Any, how: Style) -> Encoded:
    import numpy as np

    from loaders.pipelines import video

    rate = Fraction(how.frame_rate).limit_denominator(MAX_RATE_DENOMINATOR)
    pictures = np.stack([_coloured(_pixels(frame)) for frame in frames])
    track = None if sound is None else video.Track(_samples(sound), how.sample_rate)
    data = video.mp4(pictures, rate, track)
    count, height, width = pictures.shape[:3]
    facts = {
        "width": width + width % 2,
        "height": height + height % 2,
        "frames": count,
        "seconds": float(count / rate),
    }
    return _encoded(index, "video/mp4", data, facts)


def _coloured(picture: Any) -> Any:
    import numpy as np

    return np.repeat(picture[..., None], 3, axis=2) if picture.ndim == 2 else picture


def _wav(index: int, sound: Any, sample_rate: int) -> Encoded:
    """16 bit."""
    samples = (_samples(sound) * 32767).round().astype("<i2").T
    out = io.BytesIO()
    with wave.open(out, "wb") as file:
        file.setnchannels(samples.shape[1])
        file.setsampwidth(2)
        file.setframerate(sample_rate)
        file.writeframes(samples.tobytes())
    return _encoded(index, "audio/wav", out.getvalue(), {"seconds": samples.shape[0] / sample_rate})


def _samples(sound: Any) -> Any:
    """(samples,) or (channels, samples), tensor or array → float32 in [-1, 1], (channels, samples)."""
    import numpy as np

    if hasattr(sound, "detach"):
        sound = sound.detach().float().cpu().numpy()
    return np.nan_to_num(np.atleast_2d(np.asarray(sound, dtype=np.float32))).clip(-1, 1)


def _encoded(index: int, content_type: str, data: bytes, facts: Mapping[str, Any]) -> Encoded:
    file = OutputFile(
        index=index,
        content_type=content_type,
        size_bytes=len(data),
        sha256=hashlib.sha256(data).hexdigest(),
        **facts,
    )
    return Encoded(file, data)
