"""Frames as MP4 (H.264, and AAC where there is sound), by PyAV. Touches numpy, the encoder, and a temporary file.

Deterministic: one encoder thread, fixed settings, no timestamps of its own, so the same frames give the same bytes.
"""

import tempfile
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path
from typing import Any

import msgspec

CODEC = "libx264"
CONTAINER_OPTIONS = {"movflags": "faststart", "fflags": "+bitexact"}  # the index goes to the front
OPTIONS = {"crf": "18", "preset": "medium", "threads": "1"}
SOUND_BLOCK = 1024  # samples, as AAC wants them


class Track(msgspec.Struct, frozen=True):
    """samples: float32 array, (channels, length), -1 to 1."""

    samples: Any
    rate: int  # samples a second


def mp4(frames: Any, rate: Fraction, track: Track | None = None) -> bytes:
    """From uint8 (frames, height, width, 3). Odd sizes get their last row or column twice: H.264 has even ones."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "clip.mp4"
        _write(path, frames, rate, track)
        return path.read_bytes()


def _write(path: Path, frames: Any, rate: Fraction, track: Track | None) -> None:
    import av
    import numpy as np

    height, width = frames.shape[1:3]
    frames = np.pad(frames, ((0, 0), (0, height % 2), (0, width % 2), (0, 0)), mode="edge")
    with av.open(str(path), mode="w", options=CONTAINER_OPTIONS) as container:
        stream = container.add_stream(CODEC, rate=rate, options=OPTIONS)
        stream.height, stream.width = frames.shape[1:3]
        stream.pix_fmt = "yuv420p"
        stream.codec_context.thread_count = 1
        sound: Any = None if track is None else container.add_stream("aac", rate=track.rate, layout="stereo")
        for picture in frames:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
        container.mux(stream.encode())
        if track is not None:
            for block in _blocks(track):
                container.mux(sound.encode(block))
            container.mux(sound.encode())


def _blocks(track: Track) -> Iterator[Any]:
    import av
    import numpy as np

    samples = np.repeat(track.samples, 2, axis=0) if track.samples.shape[0] == 1 else track.samples[:2]
    for start in range(0, samples.shape[1], SOUND_BLOCK):
        block = np.ascontiguousarray(samples[:, start : start + SOUND_BLOCK])
        frame = av.AudioFrame.from_ndarray(block, format="fltp", layout="stereo")
        frame.sample_rate, frame.pts = track.rate, start
        yield frame
