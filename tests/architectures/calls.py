"""A short call of each family, in our own input names, and the arguments its variant would fix."""

import base64
import io
import wave
from collections.abc import Mapping
from typing import Any

import msgspec
import numpy as np
from PIL import Image


class Example(msgspec.Struct, frozen=True):
    values: Mapping[str, Any]
    defaults: Mapping[str, Any] = {}


def picture_uri(seed: int = 0, width: int = 64, height: int = 64) -> str:
    """A picture of coarse noise."""
    blocks = np.random.default_rng(seed).integers(0, 255, (4, 4, 3), dtype=np.uint8)
    out = io.BytesIO()
    Image.fromarray(blocks).resize((width, height), Image.Resampling.NEAREST).save(out, "PNG")
    return "data:image/png;base64," + base64.b64encode(out.getvalue()).decode()


def mask_uri(width: int = 64, height: int = 64) -> str:
    """White on the right."""
    pixels = np.zeros((height, width), dtype=np.uint8)
    pixels[:, width // 2 :] = 255
    out = io.BytesIO()
    Image.fromarray(pixels).save(out, "PNG")
    return "data:image/png;base64," + base64.b64encode(out.getvalue()).decode()


def sound_uri(rate: int = 400, seconds: float = 0.5) -> str:
    samples = (np.sin(np.arange(int(rate * seconds)) / 5) * 20_000).astype("<i2")
    out = io.BytesIO()
    with wave.open(out, "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(rate)
        file.writeframes(samples.tobytes())
    return "data:audio/wav;base64," + base64.b64encode(out.getvalue()).decode()


def _picture(size: int = 64, **more: Any) -> Example:
    return Example(
        {
            "prompt": "a cat",
            "seed": 3,
            "num_inference_steps": 2,
            "image_size": {"width": size, "height": size},
            **more,
        }
    )


def _clip(size: int = 32, **more: Any) -> Example:
    return _picture(size, num_frames=9, **more)


def _with(example: Example, **defaults: Any) -> Example:
    return Example(example.values, defaults)


CALLS: Mapping[str, Example] = {
    "sd15": _picture(32),
    "sd15_inpaint": _picture(32, image_url=picture_uri(), mask_url=mask_uri()),
    "sd15_controlnet": _picture(32, control_image_url=picture_uri()),
    "sdxl": _picture(32),
    "sd3": _picture(32),
    "flux": _picture(32),
    "kontext": _with(_picture(32, image_url=picture_uri()), max_area=1024, _auto_resize=False),
    "flux2_klein": _with(_picture(32), text_encoder_out_layers=(1,), max_sequence_length=64),
    "chroma": _picture(32, negative_prompt="a dog"),
    "pixart": _with(_picture(32), use_resolution_binning=False),
    "sana": _with(_picture(32), use_resolution_binning=False, complex_human_instruction=None),
    "lumina2": _picture(32),
    "qwen_image": _picture(32, negative_prompt="a dog", true_cfg_scale=2.0),
    "z_image": _picture(32),
    "wan": _with(_clip(), max_sequence_length=32),
    "wan_two_experts": _with(_clip(), max_sequence_length=32),
    "wan_image": _with(_clip(image_url=picture_uri()), max_sequence_length=32),
    "ltx": _with(_clip(), max_sequence_length=32),
    "cogvideox": _with(_clip(16), max_sequence_length=16),
    "hunyuan_video": _with(
        _clip(16), max_sequence_length=16, prompt_template={"template": "{}", "crop_start": 0}
    ),
    "mochi": _with(_clip(16), max_sequence_length=16),
    "stable_video": Example(
        {
            "image_url": picture_uri(),
            "seed": 3,
            "num_inference_steps": 2,
            "image_size": {"width": 32, "height": 32},
            "num_frames": 2,
            "fps": 7,
        }
    ),
    "stable_audio": Example({"prompt": "rain", "seed": 3, "num_inference_steps": 2, "duration": 1.0}),
}
