"""The parts of a starter pipeline: architecture, assembly and saving without machine paths.

All variants share the autoencoder and the text encoders; only the transformer's weights differ.
"""

import json
from dataclasses import dataclass
from pathlib import Path

import torch
from diffusers import (
    AutoencoderKL,
    FlowMatchEulerDiscreteScheduler,
    SD3Transformer2DModel,
    StableDiffusion3Pipeline,
)
from transformers import CLIPTextConfig, CLIPTextModelWithProjection

from starter import tokens

WIDTH = 64  # of each text encoder
SCRUBBED = ("_name_or_path", "name_or_path", "tokenizer_file")


@dataclass(frozen=True, kw_only=True)
class Parts:
    vae: AutoencoderKL
    text_encoder: CLIPTextModelWithProjection
    text_encoder_2: CLIPTextModelWithProjection
    transformer: SD3Transformer2DModel


def text_encoder() -> CLIPTextModelWithProjection:
    vocabulary = tokens.vocabulary()
    config = CLIPTextConfig(
        vocab_size=len(vocabulary),
        hidden_size=WIDTH,
        intermediate_size=2 * WIDTH,
        projection_dim=WIDTH,
        num_hidden_layers=2,
        num_attention_heads=2,
        max_position_embeddings=tokens.MAX_TOKENS,
        hidden_act="gelu",
        bos_token_id=vocabulary[tokens.BOS],
        eos_token_id=vocabulary[tokens.EOS],
        pad_token_id=vocabulary[tokens.EOS],
    )
    return CLIPTextModelWithProjection(config)


def transformer() -> SD3Transformer2DModel:
    """Four joint blocks, 128 wide; gates and output start at zero, so each block starts as nothing."""
    model = SD3Transformer2DModel(
        sample_size=16,
        patch_size=4,
        in_channels=4,
        out_channels=4,
        num_layers=4,
        attention_head_dim=32,
        num_attention_heads=4,
        joint_attention_dim=2 * WIDTH,
        caption_projection_dim=128,
        pooled_projection_dim=2 * WIDTH,
        pos_embed_max_size=16,
        qk_norm="rms_norm",
    )
    for block in model.transformer_blocks:
        torch.nn.init.zeros_(block.norm1.linear.weight)
        torch.nn.init.zeros_(block.norm1_context.linear.weight)
    model.pos_embed.pos_embed += fine_positions()
    torch.nn.init.zeros_(model.proj_out.weight)
    torch.nn.init.zeros_(model.proj_out.bias)
    return model


def assemble(parts: Parts) -> StableDiffusion3Pipeline:
    pipeline = StableDiffusion3Pipeline(
        vae=parts.vae,
        text_encoder=parts.text_encoder,
        text_encoder_2=parts.text_encoder_2,
        text_encoder_3=None,
        tokenizer=tokens.build(),
        tokenizer_2=tokens.build(),
        tokenizer_3=None,
        transformer=parts.transformer,
        scheduler=FlowMatchEulerDiscreteScheduler(shift=1.0),
    )
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def save(parts: Parts, folder: Path) -> None:
    """Write the pipeline as safetensors; the same weights always give the same bytes."""
    assemble(parts).save_pretrained(folder, safe_serialization=True)
    for path in sorted(folder.rglob("*.json")):
        _scrub(path)
    for path in folder.rglob("*.safetensors"):
        path.chmod(0o644)


def load(folder: Path) -> StableDiffusion3Pipeline:
    """Load a saved pipeline; diffusers wants to be told that the third encoder is meant to be absent."""
    pipeline = StableDiffusion3Pipeline.from_pretrained(
        folder, text_encoder_3=None, tokenizer_3=None, local_files_only=True
    )
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def parts_of(pipeline: StableDiffusion3Pipeline) -> Parts:
    return Parts(
        vae=pipeline.vae,
        text_encoder=pipeline.text_encoder,
        text_encoder_2=pipeline.text_encoder_2,
        transformer=pipeline.transformer,
    )


def _scrub(path: Path) -> None:
    document = json.loads(path.read_text("utf-8"))
    kept = {key: value for key, value in document.items() if key not in SCRUBBED}
    if kept != document:
        path.write_text(json.dumps(kept, indent=2, ensure_ascii=False) + "\n", "utf-8")


def fine_positions(width: int = 128, places: int = 16) -> torch.Tensor:
    """Positions that differ sharply between neighbours, float32 [1, places², width].

    diffusers' own table is made for large grids: on eight by eight tokens most of it is constant.
    """
    waves = torch.arange(width // 4) % (places // 2) + 1
    phase = torch.arange(places)[:, None] * waves * (2 * torch.pi / places)
    axis = torch.cat([phase.sin(), phase.cos()], dim=1)
    rows = axis[:, None].expand(places, places, -1)
    columns = axis[None].expand(places, places, -1)
    return torch.cat([rows, columns], dim=-1).reshape(1, places * places, width)
