"""Values that would only be found out at the end of a run, or fill a host: refused at once, by field."""

import errno
from typing import Any

import pytest

from loaders import protocol, running
from loaders.errors import InputError
from loaders.pipelines import arguments
from loaders.protocol import AttemptKey
from registry.catalog import Digest


def video(prompt: str, width: int, height: int, num_frames: int, num_videos_per_prompt: int) -> None:
    """What a video pipeline's `__call__` takes."""


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("fps", -5),
        ("fps", 1e-9),
        ("fps", float("nan")),
        ("fps", "fast"),
        ("fps", True),
        ("duration", -1),
        ("duration", float("inf")),
        ("duration", 1e12),
        ("num_images", 0),
        ("num_videos", -1),
        ("num_images", 10**6),
        ("image_size", "99999999x64"),
        ("image_size", f"{'9' * 5000}x64"),
        ("image_size", "0x64"),
        ("image_size", {"width": -64, "height": 64}),
        ("image_size", {"width": 64, "height": 10**6}),
    ],
)
def test_a_number_out_of_all_bounds_names_its_field(field: str, value: Any) -> None:
    with pytest.raises(InputError) as raised:
        arguments.prepare(video, {"prompt": "a", field: value})
    assert raised.value.location[0] == field


def picture(
    prompt: str,
    num_inference_steps: int = 50,
    guidance_scale: float = 5,
    control_scale: float | list[float] = 1.0,
    generator: Any = None,
    output_type: str = "pil",
    return_dict: bool = True,  # noqa: FBT001, FBT002  as pipelines have it
    callback_on_step_end: Any = None,
) -> None:
    """What a picture pipeline's `__call__` takes."""


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("num_inference_steps", 0),
        ("num_inference_steps", -3),
        ("num_inference_steps", 2.5),
        ("num_inference_steps", "4"),
        ("num_inference_steps", 10**6),
        ("guidance_scale", "high"),
        ("guidance_scale", float("nan")),
        ("guidance_scale", float("inf")),
        ("guidance_scale", True),
        ("control_scale", [0.5, "a"]),
        ("seed", 2**70),
        ("seed", -(2**70)),
        ("generator", 3),
        ("output_type", "latent"),
        ("return_dict", True),
        ("callback_on_step_end", "x"),
    ],
)
def test_what_would_fail_inside_a_pipeline_names_its_field(field: str, value: Any) -> None:
    """Such a run failed as the model's fault, in a library's words."""
    with pytest.raises(InputError) as raised:
        arguments.prepare(picture, {"prompt": "a", field: value})
    assert raised.value.location[0] == field


def test_ordinary_numbers_pass() -> None:
    given = {"prompt": "a", "num_inference_steps": 4, "guidance_scale": 4.5, "control_scale": [0.5, 1]}
    assert arguments.prepare(picture, given | {"seed": 2**64 - 1}).arguments == given | {"output_type": "np"}
    values = {"prompt": "a", "fps": 23.976, "duration": 2, "num_videos": 2, "image_size": "64x32"}
    call = arguments.prepare(video, values)
    assert dict(call.arguments) == {
        "prompt": "a", "width": 64, "height": 32, "num_frames": 49, "num_videos_per_prompt": 2,
    }  # fmt: skip


@pytest.mark.parametrize("scale", [float("nan"), float("inf"), float("-inf")])
def test_a_scale_that_is_no_number_is_refused(scale: float) -> None:
    """Digests of merged copies would be the same for all of these."""
    with pytest.raises(InputError) as raised:
        running.applied([protocol.AdapterUse(Digest("sha256:a"), scale)])
    assert raised.value.location == ("loras",)


def test_what_changes_nothing_is_left_out() -> None:
    uses = [protocol.AdapterUse(Digest("sha256:a"), scale) for scale in (0.0, -1.5)]
    assert running.applied(uses) == uses[1:]


def test_whatever_an_error_says_can_be_told() -> None:
    """A report that cannot be encoded would never arrive, and end the host when it is said again on a new link."""
    assign = protocol.Assign(attempt=AttemptKey("a", 1), version=Digest("v"), adapters=(), input={})
    job = running.Job(assign=assign, submitted_at=0.0)
    for error in (OSError("no file \udc80" + "x" * 10**6), InputError("no layer \ud800", "loras")):
        failed = running.failure(job, error, idle_since=0.0)
        assert protocol.decode_from_host(protocol.encode(failed)) == failed
        assert len(failed.message) < 5000


@pytest.mark.parametrize(
    ("error", "told"),
    [
        (OSError(errno.ENOSPC, "No space left on device"), ("host", "disk_full")),  # a clip's temporary file
        (MemoryError(), ("host", "out_of_memory")),  # a picture to decode
        (OSError(errno.EIO, "Input/output error"), ("host", "pipeline_failed")),
        (KeyError("sample"), ("model", "pipeline_failed")),
    ],
)
def test_a_host_that_is_full_says_so_whatever_library_ran_into_it(
    error: Exception, told: tuple[str, str]
) -> None:
    assign = protocol.Assign(attempt=AttemptKey("a", 1), version=Digest("v"), adapters=(), input={})
    failed = running.failure(running.Job(assign=assign, submitted_at=0.0), error, idle_since=0.0)
    assert (failed.kind, failed.error) == told
