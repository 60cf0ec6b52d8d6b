"""Our input names, translated to whatever a pipeline's `__call__` takes.

Pure: signatures and values in, keyword arguments out. An argument that the pipeline has no use for is dropped when
it says nothing (none, empty) and refused by name when it says something.
"""

import inspect
from collections.abc import Callable, Mapping
from typing import Any

import msgspec

from loaders.errors import InputError

IMAGE_SIZES: Mapping[str, tuple[int, int]] = {  # width, height
    "square_hd": (1024, 1024),
    "square": (512, 512),
    "portrait_4_3": (768, 1024),
    "portrait_16_9": (576, 1024),
    "landscape_4_3": (1024, 768),
    "landscape_16_9": (1024, 576),
}
NOT_FOR_PIPELINES = frozenset(
    {
        "loras",
        "seed",
        "sync_mode",
        "output_format",
        "enable_safety_checker",
        "num_images",
        "image_size",
        "quality",
    }
)
SAME_THING: Mapping[str, tuple[str, ...]] = {  # what other classes call it
    "num_images_per_prompt": ("num_images_per_prompt", "num_waveforms_per_prompt", "num_videos_per_prompt"),
    "frame_rate": ("frame_rate", "fps"),
    "fps": ("fps", "frame_rate"),
    "num_frames": ("num_frames", "video_length"),
}
FRAME_RATES = ("fps", "frame_rate")


class Call(msgspec.Struct, frozen=True, kw_only=True):
    """One call of a pipeline, ready but for the generator."""

    arguments: Mapping[str, Any]
    seed: int
    count: int
    fps: int | None = None  # of the video that is made of the frames, where the caller chose


def prepare(
    call: Callable[..., Any], values: Mapping[str, Any], defaults: Mapping[str, Any] | None = None
) -> Call:
    """Raises `InputError` naming the field."""
    takes = _names(call)
    given = {**(defaults or {}), **{name: value for name, value in values.items() if value is not None}}
    arguments: dict[str, Any] = {}
    for name, value in given.items():
        if name in NOT_FOR_PIPELINES or value is None:
            continue
        if name in FRAME_RATES and not takes.intersection(SAME_THING["frame_rate"]):
            continue
        _place(arguments, takes, name, value)
    width, height = _size(given)
    if width and height:
        _place(arguments, takes, "width", width)
        _place(arguments, takes, "height", height)
    count = _whole(given.get("num_images", 1), "num_images")
    if count != 1:
        _place(arguments, takes, "num_images_per_prompt", count)
    if "output_type" in takes:
        arguments["output_type"] = "np"
    fps = next((given[name] for name in FRAME_RATES if given.get(name)), None)
    return Call(
        arguments=arguments,
        seed=_whole(given.get("seed", 0), "seed"),
        count=count,
        fps=None if fps is None else round(fps),
    )


def _names(call: Callable[..., Any]) -> frozenset[str]:
    return frozenset(inspect.signature(call).parameters) - {"self"}


def _place(arguments: dict[str, Any], takes: frozenset[str], name: str, value: Any) -> None:
    for candidate in SAME_THING.get(name, (name,)):
        if candidate in takes:
            arguments[candidate] = value
            return
    if value not in ("", [], {}, False):
        raise InputError(f"this model takes no {name}", name)


def _size(given: Mapping[str, Any]) -> tuple[int, int]:
    size = given.get("image_size")
    if size is None:
        return (0, 0)
    if isinstance(size, str):
        if size in IMAGE_SIZES:
            return IMAGE_SIZES[size]
        width, _, height = size.partition("x")
        if width.isdecimal() and height.isdecimal():
            return int(width), int(height)
        raise InputError(f"no image size is called {size!r}", "image_size")
    if not isinstance(size, Mapping):
        raise InputError("an image size is a name or an object with width and height", "image_size")
    return (
        _whole(size.get("width"), "image_size", "width"),
        _whole(size.get("height"), "image_size", "height"),
    )


def _whole(value: Any, *location: str) -> int:
    if isinstance(value, bool) or not isinstance(value, int):
        raise InputError(f"{location[-1]} has to be a whole number", *location)
    return value
