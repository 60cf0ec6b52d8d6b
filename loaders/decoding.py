"""Bytes of a caller's choosing → pictures, clips and sounds. Touches the decoders, no disk and no network.

What a file is, its first bytes say, never its name or content type; only formats listed here reach a decoder, and
none that could lead it to another file. Sizes are checked before anything is unpacked.
"""

import contextlib
import io
from collections.abc import Iterator, Mapping
from typing import Any

import msgspec

from loaders.errors import InputError

MAX_PIXELS = 64_000_000  # of a picture
MAX_CLIP_PIXELS = 1 << 31  # of all frames together
MAX_FRAMES = 2_000
MAX_SOUND_SECONDS = 900
PICTURES = ("PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF", "AVIF")  # Pillow's names
CONTAINERS: Mapping[str, tuple[tuple[int, bytes], ...]] = {  # demuxer → where which bytes stand
    "mov": ((4, b"ftyp"),),
    "matroska": ((0, b"\x1a\x45\xdf\xa3"),),
    "avi": ((0, b"RIFF"), (8, b"AVI ")),
    "gif": ((0, b"GIF8"),),
    "wav": ((0, b"RIFF"), (8, b"WAVE")),
    "flac": ((0, b"fLaC"),),
    "ogg": ((0, b"OggS"),),
}
MP3_STARTS = (b"ID3", b"\xff\xfb", b"\xff\xf3", b"\xff\xf2")


class Sound(msgspec.Struct, frozen=True):
    """samples: float32 array, (channels, length), -1 to 1."""

    samples: Any
    rate: int  # samples a second


def picture(data: bytes, field: str) -> Any:
    """A Pillow image, RGB, upright. Raises `InputError` at `field`."""
    from PIL import Image, ImageOps, UnidentifiedImageError

    try:
        with Image.open(io.BytesIO(data), formats=PICTURES) as image:
            _check_pixels(image, field)
            return ImageOps.exif_transpose(image).convert("RGB")
    except UnidentifiedImageError as error:
        raise InputError("the file is no picture of a known format", field) from error
    except (InputError, MemoryError):
        raise
    except Exception as error:
        # Decoders raise all kinds for strangers' bytes; none of them is the model's fault.
        raise InputError(f"the picture is damaged: {error}", field) from error


def _check_pixels(image: Any, field: str) -> None:
    if image.width * image.height > MAX_PIXELS:
        raise InputError(f"the picture has more than {MAX_PIXELS // 1_000_000} megapixels", field)


def mask(data: bytes, field: str) -> Any:
    """A Pillow image, grey: white where something is to be painted. Raises `InputError` at `field`."""
    return picture(data, field).convert("L")


def clip(data: bytes, field: str) -> list[Any]:
    """All frames as Pillow images, RGB. Raises `InputError` at `field`."""
    frames: list[Any] = []
    with _opened(data, field) as container:
        if not container.streams.video:
            raise InputError("the file holds no video", field)
        for frame in container.decode(video=0):
            if len(frames) == MAX_FRAMES or len(frames) * frame.width * frame.height > MAX_CLIP_PIXELS:
                raise InputError("the video is too long", field)
            frames.append(frame.to_image())
    if not frames:
        raise InputError("the video has no frames", field)
    return frames


def sound(data: bytes, field: str, *, rate: int | None = None) -> Sound:
    """Stereo, at `rate` or its own. Raises `InputError` at `field`."""
    import av
    import numpy as np

    blocks: list[Any] = []
    with _opened(data, field) as container:
        if not container.streams.audio:
            raise InputError("the file holds no sound", field)
        kept = rate or container.streams.audio[0].rate
        resampler = av.AudioResampler(format="fltp", layout="stereo", rate=kept)
        length = 0
        for frame in container.decode(audio=0):
            blocks += [block.to_ndarray() for block in resampler.resample(frame)]
            length += blocks[-1].shape[1] if blocks else 0
            if length > MAX_SOUND_SECONDS * kept:
                raise InputError(f"the sound is longer than {MAX_SOUND_SECONDS} seconds", field)
        blocks += [block.to_ndarray() for block in resampler.resample(None)]
    if not blocks:
        raise InputError("the sound is empty", field)
    return Sound(np.concatenate(blocks, axis=1).astype(np.float32), kept)


@contextlib.contextmanager
def _opened(data: bytes, field: str) -> Iterator[Any]:
    import av

    name = _container(data)
    if name is None:
        raise InputError("the file is no video or sound of a known format", field)
    try:
        with av.open(io.BytesIO(data), mode="r", format=name) as container:
            yield container
    except (InputError, MemoryError):
        raise
    except Exception as error:
        # As above; the stream of an unknown codec even lacks attributes.
        raise InputError(f"the file is damaged: {error}", field) from error


def _container(data: bytes) -> str | None:
    for name, marks in CONTAINERS.items():
        if all(data[at : at + len(mark)] == mark for at, mark in marks):
            return name
    return "mp3" if data.startswith(MP3_STARTS) else None
