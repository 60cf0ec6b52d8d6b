"""Our input names, translated to whatever a pipeline's `__call__` takes.

Pure: signatures and values in, keyword arguments out. An argument that the pipeline has no use for is dropped when
it says nothing (none, empty) and refused by name when it says something.
"""

import re
from collections.abc import Callable, Mapping
from typing import Any

import msgspec

from loaders.errors import InputError
from loaders.pipelines import names, tuning
from loaders.protocol import PREVIEWS

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
        "dtype",
        "duration",
        "enable_safety_checker",
        "fps",
        "image_size",
        "loras",
        "num_images",
        "num_videos",
        "output_format",
        "quality",
        "seed",
        "storage",
        "sync_mode",
        PREVIEWS,
        *names.MEDIA,
        *tuning.FIELDS,
    }
)
OURS = frozenset(  # of a pipeline's own parameters, what the loader itself has to say
    {
        "callback",
        "callback_on_step_end",
        "callback_on_step_end_tensor_inputs",
        "callback_steps",
        "generator",
        "output_type",
        "return_dict",
    }
)
WHOLE = frozenset({"height", "num_frames", "num_inference_steps", "width"})
MAX_STEPS = 10_000
SEEDS = (-(2**63), 2**64 - 1)  # that torch takes
PRIOR_FRAME_RATE = 16.0  # frames a second, where neither caller nor class says
FRAME_RATES = (0.1, 1000.0)  # that a clip can be written with
MAX_SECONDS = 3600.0
MAX_COUNT = 256
MAX_NUMBER = 1e30  # no number is none, and infinity makes no picture
MAX_SIDE = 16_384  # pixels
SIDE = re.compile(r"[0-9]{1,6}")
SIZE_STEP = 16  # pixels; every family's autoencoder and patches divide it


class Call(msgspec.Struct, frozen=True, kw_only=True):
    """One call of a pipeline, ready but for the generator, and how its outputs are to be written."""

    arguments: Mapping[str, Any]
    seed: int
    count: int
    output_format: str | None = None
    frame_rate: float = PRIOR_FRAME_RATE


def prepare(
    call: Callable[..., Any],
    values: Mapping[str, Any],
    defaults: Mapping[str, Any] | None = None,
    media: Mapping[str, Any] | None = None,
    *,
    frame_step: int = 1,
) -> Call:
    """`media`: decoded images, clips and sounds by value name. `frame_step`: a clip has a multiple of it, and one.

    Raises `InputError` naming the field.
    """
    takes = names.taken(call)
    given = {**(defaults or {}), **{name: value for name, value in values.items() if value is not None}}
    arguments: dict[str, Any] = {}
    for name, parameter in names.place(takes, media or {}).items():
        if parameter is None:
            raise InputError(f"this model takes no {name.replace('_', ' ')}", _field(name, given))
        arguments[parameter] = (media or {})[name]
    for name, value in given.items():
        if name not in NOT_FOR_PIPELINES and value is not None:
            _check_number(call, name, value)
            _place(arguments, takes - OURS, name, value)
    _place_size(arguments, takes, given, (media or {}).get("image"))
    frame_rate = _place_time(arguments, takes, call, given, frame_step)
    count = _place_count(arguments, takes, given)
    if "output_type" in takes:
        arguments["output_type"] = "np"
    seed = _whole(given.get("seed", 0), "seed")
    _number(seed, *SEEDS, "seed")
    return Call(
        arguments=arguments,
        seed=seed,
        count=count,
        output_format=given.get("output_format"),
        frame_rate=frame_rate,
    )


def _check_number(call: Callable[..., Any], name: str, value: Any) -> None:
    """Where the class has a number by itself it takes no text; some take one for each of several control images."""
    if name in WHOLE:
        _number(_whole(value, name), 1, MAX_STEPS if name == "num_inference_steps" else MAX_SIDE, name)
    prior = names.default_of(call, name)
    if isinstance(prior, bool) or not isinstance(prior, int | float):
        return
    for one in value if isinstance(value, list | tuple) else (value,):
        _number(one, -MAX_NUMBER, MAX_NUMBER, name)


def _place(
    arguments: dict[str, Any], takes: frozenset[str], name: str, value: Any, field: str | None = None
) -> None:
    for candidate in names.SAME_THING.get(name, (name,)):
        if candidate in takes:
            arguments[candidate] = value
            return
    if value not in ("", [], {}, False):
        raise InputError(f"this model takes no {field or name}", field or name)


def _place_count(arguments: dict[str, Any], takes: frozenset[str], given: Mapping[str, Any]) -> int:
    field = "num_videos" if "num_videos" in given else "num_images"
    count = _whole(given.get(field, 1), field)
    _number(count, 1, MAX_COUNT, field)
    if count != 1:
        _place(arguments, takes, "num_images_per_prompt", count, field)
    return count


def _place_size(
    arguments: dict[str, Any], takes: frozenset[str], given: Mapping[str, Any], start: Any
) -> None:
    """A start image has the result's size: it is brought to the size asked for, or says the size itself."""
    width, height = _size(given)
    can_say = {"width", "height"} <= takes
    if width and can_say:
        arguments.update(width=width, height=height)
    elif width and hasattr(start, "resize"):
        arguments[next(name for name, value in arguments.items() if value is start)] = start.resize(
            (width, height)
        )
    elif width:
        raise InputError("this model takes no image_size", "image_size")
    elif can_say and "width" not in arguments and "strength" in takes and hasattr(start, "size"):
        arguments.update(
            width=max(1, start.size[0] // SIZE_STEP) * SIZE_STEP,
            height=max(1, start.size[1] // SIZE_STEP) * SIZE_STEP,
        )


def _place_time(
    arguments: dict[str, Any],
    takes: frozenset[str],
    call: Callable[..., Any],
    given: Mapping[str, Any],
    frame_step: int,
) -> float:
    """Seconds and frames a second, in whatever the class counts. Returns the frame rate of the result."""
    counts_frames = bool(takes.intersection(names.SAME_THING["num_frames"]))
    told = next((name for name in names.SAME_THING["fps"] if name in takes), None)
    rate = given.get("fps", given.get("frame_rate"))
    if rate is not None:
        _number(rate, *FRAME_RATES, "fps" if "fps" in given else "frame_rate")
        if told is not None:
            arguments[told] = rate
        elif not counts_frames and "video" not in takes:
            raise InputError("this model takes no fps", "fps")
    prior = names.default_of(call, told) if told else None
    frame_rate = float(rate or prior or PRIOR_FRAME_RATE)
    duration = given.get("duration")
    if duration is None:
        return frame_rate
    _number(duration, 0, MAX_SECONDS, "duration")
    if takes.intersection(names.SAME_THING["duration"]):
        _place(arguments, takes, "duration", duration)
    elif counts_frames:
        steps = max(0, round(float(duration) * frame_rate / frame_step))
        _place(arguments, takes, "num_frames", steps * frame_step + 1)
    else:
        raise InputError("this model takes no duration", "duration")
    return frame_rate


def _field(name: str, given: Mapping[str, Any]) -> str:
    """The input field that this value came in."""
    return next(
        (field for field, known in names.MEDIA.items() if known.name == name and field in given), name
    )


def _size(given: Mapping[str, Any]) -> tuple[int, int]:
    """(0, 0) where nobody asked for one."""
    width, height = _asked_size(given)
    if (width, height) != (0, 0):
        _number(width, 1, MAX_SIDE, "image_size", "width")
        _number(height, 1, MAX_SIDE, "image_size", "height")
    return width, height


def _asked_size(given: Mapping[str, Any]) -> tuple[int, int]:
    size = given.get("image_size")
    if size is None:
        return (0, 0)
    if isinstance(size, str):
        if size in IMAGE_SIZES:
            return IMAGE_SIZES[size]
        width, _, height = size.partition("x")
        if SIDE.fullmatch(width) and SIDE.fullmatch(height):
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


def _number(value: Any, least: float, most: float, *location: str) -> None:
    """Schemas say what a model takes; this is what would only be found out at the end of a run, or fill a host."""
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    if not is_number or not least <= value <= most:
        raise InputError(f"{location[-1]} has to be a number from {least:g} to {most:g}", *location)
