"""Tiny random diffusers pipelines, made offline: every architecture small enough to load and run in a second.

`write(folder, "sd3", seed=1)` saves one with `save_pretrained`; two seeds of one family are two variants of one
architecture. `write_lora` saves a random LoRA for one. Nothing is downloaded, tokenizers included.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import diffusers
import torch
import transformers
from safetensors.torch import save_file

from tests.architectures import clips, loras, pictures, sounds, unets

FAMILIES: dict[str, Callable[[], Any]] = {
    maker.__name__: maker
    for maker in (
        unets.sd15,
        unets.sd15_inpaint,
        unets.sd15_controlnet,
        unets.sdxl,
        pictures.sd3,
        pictures.flux,
        pictures.kontext,
        pictures.flux2_klein,
        pictures.chroma,
        pictures.pixart,
        pictures.sana,
        pictures.lumina2,
        pictures.qwen_image,
        pictures.z_image,
        clips.wan,
        clips.wan_two_experts,
        clips.wan_image,
        clips.ltx,
        clips.cogvideox,
        clips.hunyuan_video,
        clips.mochi,
        clips.stable_video,
        sounds.stable_audio,
    )
}


def write(folder: Path, family: str, *, seed: int = 0, dtype: torch.dtype = torch.float32) -> Path:
    with _quietly():
        torch.manual_seed(seed)
        pipeline = FAMILIES[family]()
        _liven(pipeline, seed)
    if dtype != torch.float32:
        pipeline.to(dtype=dtype)
    pipeline.save_pretrained(folder, safe_serialization=True)
    return folder


@contextmanager
def _quietly() -> Iterator[None]:
    """On one core: filling many small tensors with several threads is mostly waiting."""
    diffusers.utils.logging.disable_progress_bar()
    transformers.utils.logging.disable_progress_bar()
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


def write_lora(
    file: Path,
    pipeline_folder: Path,
    *,
    seed: int = 0,
    rank: int = 4,
    alpha: float | None = None,
    layout: loras.Layout = "diffusers",
    encoders: bool = False,
) -> Path:
    pipeline = diffusers.DiffusionPipeline.from_pretrained(pipeline_folder, local_files_only=True)
    file.parent.mkdir(parents=True, exist_ok=True)
    save_file(
        loras.tensors(pipeline, seed=seed, rank=rank, alpha=alpha, layout=layout, encoders=encoders), file
    )
    return file


def _liven(pipeline: Any, seed: int) -> None:
    """Zero-initialized layers would make outputs that ignore the weights; uninitialized ones would be noise."""
    generator = torch.Generator().manual_seed(seed + 1)
    for part in pipeline.components.values():
        if isinstance(part, torch.nn.Module):
            for parameter in part.parameters():
                odd = not torch.isfinite(parameter).all() or (
                    parameter.ndim >= 2 and parameter.abs().max() == 0
                )
                if odd or parameter.abs().max() > 1e4:
                    parameter.data.copy_(torch.randn(parameter.shape, generator=generator) * 0.02)
