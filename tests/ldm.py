"""A Stable Diffusion pipeline as its trainers would have saved it: one file, in the CompVis layout. The inverse of
what `from_single_file` does, for the tiny ones of the tests.
"""

import re
import shutil
from pathlib import Path
from typing import Any

import diffusers
import torch
from safetensors.torch import save_file

NAME = "checkpoint.safetensors"
UNET = (
    ("time_embedding.linear_1.", "time_embed.0."),
    ("time_embedding.linear_2.", "time_embed.2."),
    ("conv_in.", "input_blocks.0.0."),
    ("conv_norm_out.", "out.0."),
    ("conv_out.", "out.2."),
    ("mid_block.resnets.0.", "middle_block.0."),
    ("mid_block.attentions.0.", "middle_block.1."),
    ("mid_block.resnets.1.", "middle_block.2."),
)
UNET_BLOCK = (
    ("norm1.", "in_layers.0."),
    ("conv1.", "in_layers.2."),
    ("time_emb_proj.", "emb_layers.1."),
    ("norm2.", "out_layers.0."),
    ("conv2.", "out_layers.3."),
    ("conv_shortcut.", "skip_connection."),
)
VAE = (
    ("mid_block.resnets.0.", "mid.block_1."),
    ("mid_block.resnets.1.", "mid.block_2."),
    ("mid_block.attentions.0.", "mid.attn_1."),
    ("attn_1.group_norm.", "attn_1.norm."),
    ("attn_1.to_q.", "attn_1.q."),
    ("attn_1.to_k.", "attn_1.k."),
    ("attn_1.to_v.", "attn_1.v."),
    ("attn_1.to_out.0.", "attn_1.proj_out."),
    ("conv_norm_out.", "norm_out."),
    ("conv_shortcut.", "nin_shortcut."),
    ("downsamplers.0.", "downsample."),
    ("upsamplers.0.", "upsample."),
)


def repack(folder: Path, target: Path) -> Path:
    """The same pipeline: configs and side files as they are, all weights in one file beside them."""
    pipeline = diffusers.DiffusionPipeline.from_pretrained(folder, local_files_only=True)
    tensors = {f"model.diffusion_model.{name}": t for name, t in unet(pipeline.unet).items()}
    tensors |= {f"first_stage_model.{name}": t for name, t in vae(pipeline.vae).items()}
    for name, tensor in pipeline.text_encoder.state_dict().items():
        short = name.removeprefix("text_model.")
        tensors[f"cond_stage_model.transformer.text_model.{short}"] = tensor
    shutil.copytree(folder, target, ignore=shutil.ignore_patterns("*.safetensors"))
    save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, target / NAME)
    return target


def unet(module: Any) -> dict[str, torch.Tensor]:
    per_block = module.config.layers_per_block + 1
    return {_unet_name(name, per_block): tensor for name, tensor in module.state_dict().items()}


def _unet_name(name: str, per_block: int) -> str:
    if found := re.match(r"(down|up)_blocks\.(\d+)\.(\w+)\.(\d+)\.(.+)", name):
        way, block, kind, layer, rest = found[1], int(found[2]), found[3], int(found[4]), found[5]
        side = "input" if way == "down" else "output"
        number = block * per_block + layer + (1 if way == "down" else 0)
        if kind == "downsamplers":
            return f"input_blocks.{(block + 1) * per_block}.0.{rest.replace('conv.', 'op.')}"
        if kind == "upsamplers":  # behind the attention, where the block has one
            return f"output_blocks.{block * per_block + per_block - 1}.1.{rest}"
        place = "1" if kind == "attentions" else "0"
        return f"{side}_blocks.{number}.{place}.{_replaced(rest, UNET_BLOCK) if place == '0' else rest}"
    for ours, theirs in UNET:
        if name.startswith(ours):
            rest = name.removeprefix(ours)
            return theirs + (_replaced(rest, UNET_BLOCK) if "resnets" in ours else rest)
    raise AssertionError(name)


def vae(module: Any) -> dict[str, torch.Tensor]:
    blocks = len(module.config.block_out_channels)
    found: dict[str, torch.Tensor] = {}
    for name, tensor in module.state_dict().items():
        short = re.sub(r"down_blocks\.(\d+)\.resnets\.", r"down.\1.block.", name)
        short = re.sub(r"down_blocks\.(\d+)\.", r"down.\1.", short)
        short = re.sub(r"up_blocks\.(\d+)\.", lambda m: f"up.{blocks - 1 - int(m[1])}.", short)
        short = _replaced(re.sub(r"(up\.\d+)\.resnets\.", r"\1.block.", short), VAE)
        is_attention = re.search(r"attn_1\.(q|k|v|proj_out)\.weight", short) is not None
        found[short] = tensor[:, :, None, None] if is_attention else tensor
    return found


def _replaced(name: str, table: tuple[tuple[str, str], ...]) -> str:
    for ours, theirs in table:
        name = name.replace(ours, theirs)
    return name
