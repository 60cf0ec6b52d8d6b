"""Random LoRAs in the layouts that trainers write: PEFT's names, and kohya's flat ones, which differ by family."""

from collections.abc import Iterator
from typing import Any, Literal

import torch

Layout = Literal["diffusers", "kohya"]
Shape = tuple[str, int, int]  # layer, in, out

ATTENTION = ("to_q", "to_k", "to_v", "to_out.0")
ENCODERS = ("q_proj", "v_proj", "fc1")
WAN = {"attn1": "self_attn", "attn2": "cross_attn", "ffn.net.0.proj": "ffn_0", "ffn.net.2": "ffn_2"}


def tensors(
    pipeline: Any, *, seed: int, rank: int, alpha: float | None, layout: Layout, encoders: bool
) -> dict[str, torch.Tensor]:
    """Updates of the denoiser's attention, large enough to see; with `encoders`, the text encoders' too.

    The PEFT layout says its alpha elsewhere; here it is in the numbers, so that both layouts mean the same.
    """
    generator = torch.Generator().manual_seed(seed)
    found: dict[str, torch.Tensor] = {}
    for name, width_in, width_out in _layers(pipeline, layout, encoders=encoders):
        down = torch.randn(rank, width_in, generator=generator) * 0.3
        up = torch.randn(width_out, rank, generator=generator) * 0.3
        if layout == "diffusers":
            found[f"{name}.lora_A.weight"] = down
            found[f"{name}.lora_B.weight"] = up * ((alpha or rank) / rank)
        else:
            found[f"{name}.lora_down.weight"] = down
            found[f"{name}.lora_up.weight"] = up
            found[f"{name}.alpha"] = torch.tensor(float(alpha or rank))
    return found


def _layers(pipeline: Any, layout: Layout, *, encoders: bool) -> Iterator[Shape]:
    role = "unet" if hasattr(pipeline, "unet") else "transformer"
    denoiser = getattr(pipeline, role)
    if layout == "diffusers":
        yield from ((f"{role}.{name}", *shape) for name, *shape in _linears(denoiser, ATTENTION))
    elif type(denoiser).__name__.startswith("Flux"):
        yield from _fused(denoiser)
    elif type(denoiser).__name__.startswith("Wan"):
        for name, *shape in _linears(denoiser, (*ATTENTION, "ffn.net.0.proj", "ffn.net.2")):
            yield f"lora_unet_{_musubi(name)}", *shape
    else:
        yield from (
            (f"lora_unet_{name.replace('.', '_')}", *shape) for name, *shape in _linears(denoiser, ATTENTION)
        )
    for number, encoder in enumerate(("text_encoder", "text_encoder_2") if encoders else (), 1):
        if (module := getattr(pipeline, encoder, None)) is not None:
            for name, *shape in _linears(module, ENCODERS):
                whole = name if name.startswith("text_model.") else f"text_model.{name}"
                flat = f"lora_te{number if hasattr(pipeline, 'text_encoder_2') else ''}_{whole.replace('.', '_')}"
                yield (f"{encoder}.{name}" if layout == "diffusers" else flat), *shape


def _linears(module: Any, ends: tuple[str, ...]) -> Iterator[Shape]:
    for name, layer in module.named_modules():
        if isinstance(layer, torch.nn.Linear) and name.endswith(ends):
            yield name, layer.in_features, layer.out_features


def _musubi(name: str) -> str:
    """Wan's layers in its own code: `blocks.0.attn1.to_q` is `blocks_0_self_attn_q` there."""
    for ours, theirs in WAN.items():
        name = name.replace(ours, theirs)
    return name.replace("to_out.0", "o").replace("to_", "").replace(".", "_")


def _fused(denoiser: Any) -> Iterator[Shape]:
    """FLUX in its own code: one matrix for query, key and value."""
    for number, block in enumerate(denoiser.transformer_blocks):
        query, out = block.attn.to_q, block.attn.to_out[0]
        yield f"lora_unet_double_blocks_{number}_img_attn_qkv", query.in_features, 3 * query.out_features
        yield f"lora_unet_double_blocks_{number}_img_attn_proj", out.in_features, out.out_features
