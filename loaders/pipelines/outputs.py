"""What a pipeline returns, as files: PNG for pictures, MP4 for videos, WAV for sound.

Touches numpy and encoders, no disk. Encoding is deterministic: the same array gives the same bytes.
"""

import hashlib
import io
import wave
from collections.abc import Mapping
from typing import Any

import msgspec

from loaders.errors import ModelError
from loaders.protocol import OutputFile

PNG_LEVEL = 6
DEFAULT_FPS = 16
DEFAULT_SAMPLE_RATE = 44_100


class Encoded(msgspec.Struct, frozen=True):
    """An output's description and its bytes."""

    file: OutputFile
    data: bytes


def encode(result: Any, *, sample_rate: int | None = None, fps: int | None = None) -> tuple[Encoded, ...]:
    """Raises `ModelError` when the result holds nothing we know."""
    if (images := getattr(result, "images", None)) is not None:
        return tuple(_png(index, image) for index, image in enumerate(images))
    if (frames := getattr(result, "frames", None)) is not None:
        return tuple(_video(index, clip, fps or DEFAULT_FPS) for index, clip in enumerate(frames))
    if (audios := getattr(result, "audios", None)) is not None:
        return tuple(
            _wav(index, sound, sample_rate or DEFAULT_SAMPLE_RATE) for index, sound in enumerate(audios)
        )
    raise ModelError(f"{type(result).__name__} holds neither images nor frames nor audios")


def _png(index: int, image: Any) -> Encoded:
    from PIL import Image

    picture = image if isinstance(image, Image.Image) else Image.fromarray(_pixels(image))
    out = io.BytesIO()
    picture.save(out, format="PNG", compress_level=PNG_LEVEL)
    return _encoded(index, "image/png", out.getvalue(), {"width": picture.width, "height": picture.height})


def _pixels(image: Any) -> Any:
    """From float [0, 1] or uint8, (height, width, channels) → uint8; the same rounding as diffusers' own."""
    import numpy as np

    array = np.asarray(image)
    if array.dtype != np.uint8:
        array = (np.nan_to_num(array) * 255).round().clip(0, 255).astype(np.uint8)
    return array[..., 0] if array.ndim == 3 and array.shape[-1] == 1 else array


def _video(index: int, clip: Any, fps: int) -> Encoded:
    import numpy as np

    from loaders.pipelines.video import mp4

    frames = np.stack([_pixels(frame) for frame in clip])
    count, height, width = frames.shape[:3]
    facts = {"width": width, "height": height, "frames": count, "seconds": count / fps}
    return _encoded(index, "video/mp4", mp4(frames, fps), facts)


def _wav(index: int, sound: Any, sample_rate: int) -> Encoded:
    """From float [-1, 1], (samples,) or (channels, samples) → 16 bit."""
    import numpy as np

    array = np.atleast_2d(np.asarray(sound, dtype=np.float32))
    samples = (np.nan_to_num(array).clip(-1, 1) * 32767).round().astype("<i2").T
    out = io.BytesIO()
    with wave.open(out, "wb") as file:
        file.setnchannels(samples.shape[1])
        file.setsampwidth(2)
        file.setframerate(sample_rate)
        file.writeframes(samples.tobytes())
    return _encoded(index, "audio/wav", out.getvalue(), {"seconds": samples.shape[0] / sample_rate})


def _encoded(index: int, content_type: str, data: bytes, facts: Mapping[str, Any]) -> Encoded:
    file = OutputFile(
        index=index,
        content_type=content_type,
        size_bytes=len(data),
        sha256=hashlib.sha256(data).hexdigest(),
        **facts,
    )
    return Encoded(file, data)
