"""Our input fields and the names that pipelines have for the same things.

Pure tables, and the one question asked of them: which of its parameters would a `__call__` take these values in?
"""

import inspect
from collections.abc import Callable, Iterable, Mapping
from typing import Any, Literal

import msgspec

Kind = Literal["image", "mask", "video", "sound"]


class Field(msgspec.Struct, frozen=True):
    """What an input field with an address in it stands for."""

    name: str  # the value's name from here on
    kind: Kind


MEDIA: Mapping[str, Field] = {
    "image_url": Field("image", "image"),
    "image_urls": Field("image", "image"),
    "control_image_url": Field("control_image", "image"),
    "control_image_urls": Field("control_image", "image"),
    "mask_url": Field("mask_image", "mask"),
    "mask_image_url": Field("mask_image", "mask"),
    "control_mask_url": Field("control_mask", "mask"),
    "end_image_url": Field("last_image", "image"),
    "last_image_url": Field("last_image", "image"),
    "reference_image_url": Field("reference_image", "image"),
    "reference_image_urls": Field("reference_image", "image"),
    "video_url": Field("video", "video"),
    "control_video_url": Field("control_video", "video"),
    "pose_video_url": Field("pose_video", "video"),
    "face_video_url": Field("face_video", "video"),
    "audio_url": Field("audio", "sound"),
    "reference_audio_url": Field("reference_audio", "sound"),
}

SAME_THING: Mapping[str, tuple[str, ...]] = {  # what classes call it, best first
    "image": ("image", "images", "input_images", "example_image"),
    "control_image": ("control_image", "condtioning_image", "image"),
    "mask_image": ("mask_image", "mask"),
    "last_image": ("last_image",),
    "reference_image": ("image_reference", "reference_images", "reference_image", "ref_image"),
    "video": ("video",),
    "control_video": ("control_video", "conditioning_frames"),
    "audio": ("audio", "initial_audio_waveforms", "src_audio"),
    "num_images_per_prompt": ("num_images_per_prompt", "num_waveforms_per_prompt", "num_videos_per_prompt"),
    "frame_rate": ("frame_rate", "fps"),
    "fps": ("frame_rate", "fps"),
    "num_frames": ("num_frames", "frames", "video_length"),
    "duration": ("audio_end_in_s", "audio_length_in_s", "audio_duration", "audio_duration_s", "duration"),
}


def taken(call: Callable[..., Any]) -> frozenset[str]:
    """The names of its parameters."""
    return frozenset(inspect.signature(call).parameters) - {"self", "args", "kwargs"}


def default_of(call: Callable[..., Any], name: str) -> Any:
    parameter = inspect.signature(call).parameters.get(name)
    return None if parameter is None or parameter.default is inspect.Parameter.empty else parameter.default


def place(takes: Iterable[str], wanted: Iterable[str]) -> Mapping[str, str | None]:
    """Value name → parameter, each parameter once; None where the class has none left for it."""
    free = set(takes)
    placed: dict[str, str | None] = {}
    # The choosy ones first: a control image may go into `image` only if no image does.
    for name in sorted(wanted, key=lambda name: (name != "image", name)):
        chosen = next((one for one in SAME_THING.get(name, (name,)) if one in free), None)
        placed[name] = chosen
        if chosen is not None:
            free.discard(chosen)
    return placed
