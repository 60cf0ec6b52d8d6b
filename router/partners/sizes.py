"""How large a partner's pictures are and how long its films last, for the ledger: prices are multiples of these. IO.

The file is measured; where it cannot be (or its library is not installed), what the partner says beside it counts.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import structlog
from PIL import Image

from router.requests import Record

log = structlog.get_logger("marquee.partners")


class Size(Record, frozen=True, kw_only=True):
    width: int | None = None
    height: int | None = None
    frames: int | None = None
    seconds: float | None = None


def told(beside: Mapping[str, Any]) -> Size:
    """From the keys beside a file's address."""
    return Size(
        width=_whole(beside.get("width")),
        height=_whole(beside.get("height")),
        seconds=_seconds(beside.get("duration")),
    )


def measure(path: Path, kind: str) -> Size:
    """Blocking. Empty for what is neither picture nor film nor sound, or is damaged: it is the partner's output still."""
    try:
        match kind.partition("/")[0]:
            case "image":
                with Image.open(path) as picture:
                    return Size(width=picture.width, height=picture.height)
            case "video" | "audio":
                return _play(path)
    except Exception as error:  # noqa: BLE001  the libraries raise what they like at foreign bytes
        log.info("a partner's output cannot be measured", kind=kind, error=repr(error)[:200])
    return Size()


def _play(path: Path) -> Size:
    import av

    with av.open(str(path)) as film:
        seconds = None if film.duration is None else film.duration / av.time_base
        if not film.streams.video:
            return Size(seconds=seconds)
        video = film.streams.video[0]
        return Size(width=video.width, height=video.height, frames=video.frames or None, seconds=seconds)


def _whole(value: Any) -> int | None:
    return value if isinstance(value, int) and not isinstance(value, bool) and 0 < value < 1 << 20 else None


def _seconds(value: Any) -> float | None:
    usable = isinstance(value, int | float) and not isinstance(value, bool) and 0 < value < 1e7
    return float(value) if usable else None
