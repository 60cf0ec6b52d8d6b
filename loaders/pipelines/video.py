"""Frames as MP4 (H.264), by PyAV. Touches numpy, the encoder, and a temporary file (the index goes to the front).

Deterministic: one encoder thread, fixed settings, no timestamps of its own, so the same frames give the same bytes.
"""

import tempfile
from fractions import Fraction
from pathlib import Path
from typing import Any

CODEC = "libx264"
CONTAINER_OPTIONS = {"movflags": "faststart", "fflags": "+bitexact"}
OPTIONS = {"crf": "18", "preset": "medium", "threads": "1"}


def mp4(frames: Any, fps: int) -> bytes:
    """From uint8 (frames, height, width, 3). Odd sizes lose their last row or column: the format has even ones."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "clip.mp4"
        _write(path, frames, fps)
        return path.read_bytes()


def _write(path: Path, frames: Any, fps: int) -> None:
    import av

    height, width = (extent - extent % 2 for extent in frames.shape[1:3])
    with av.open(str(path), mode="w", options=CONTAINER_OPTIONS) as container:
        stream = container.add_stream(CODEC, rate=Fraction(fps), options=OPTIONS)
        stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
        stream.codec_context.thread_count = 1
        for picture in frames:
            frame = av.VideoFrame.from_ndarray(picture[:height, :width].copy(), format="rgb24")
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
