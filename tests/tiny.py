"""Tiny pipelines with random weights, made on the spot and saved as diffusers saves them: an SD3 text-to-image one
of about 200 kB, variants of its architecture with other weights, and LoRAs for it. Nothing is downloaded.
"""

import string
from pathlib import Path
from typing import Any

RANK = 4
MARKS = [*string.ascii_lowercase, *string.digits, ",", "."]


def tokenizer() -> Any:
    """Letters with and without the end-of-word mark; CLIP's two special tokens last."""
    from transformers import CLIPTokenizer

    tokens = MARKS + [f"{mark}</w>" for mark in MARKS] + ["re", "red</w>", "<|startoftext|>", "<|endoftext|>"]
    vocab = {token: number for number, token in enumerate(tokens)}
    return CLIPTokenizer(vocab=vocab, merges=[("r", "e"), ("re", "d</w>")], model_max_length=16)


def text_encoder(vocab_size: int, width: int = 32) -> Any:
    from transformers import CLIPTextConfig, CLIPTextModelWithProjection

    config = CLIPTextConfig(
        vocab_size=vocab_size,
        hidden_size=width,
        intermediate_size=width,
        num_hidden_layers=2,
        num_attention_heads=2,
        max_position_embeddings=16,
        projection_dim=width,
        bos_token_id=vocab_size - 2,
        eos_token_id=vocab_size - 1,
        pad_token_id=vocab_size - 1,
    )
    return CLIPTextModelWithProjection(config)


def pipeline(seed: int = 0) -> Any:
    """A StableDiffusion3Pipeline with two text encoders and no T5; live weights everywhere."""
    import diffusers
    import torch

    torch.manual_seed(seed)
    words = tokenizer()
    transformer = diffusers.SD3Transformer2DModel(
        sample_size=16, patch_size=1, in_channels=4, out_channels=4, num_layers=2, attention_head_dim=8,
        num_attention_heads=4, caption_projection_dim=32, joint_attention_dim=64, pooled_projection_dim=64,
        pos_embed_max_size=32,
    )  # fmt: skip
    vae = diffusers.AutoencoderKL(
        block_out_channels=(16, 16), latent_channels=4, norm_num_groups=8, sample_size=64,
        down_block_types=("DownEncoderBlock2D",) * 2, up_block_types=("UpDecoderBlock2D",) * 2,
        use_quant_conv=False, use_post_quant_conv=False, shift_factor=0.0, scaling_factor=1.0,
    )  # fmt: skip
    made = diffusers.StableDiffusion3Pipeline(
        transformer=transformer,
        scheduler=diffusers.FlowMatchEulerDiscreteScheduler(shift=3.0),
        vae=vae,
        text_encoder=text_encoder(len(words)),
        tokenizer=words,
        text_encoder_2=text_encoder(len(words)),
        tokenizer_2=words,
        text_encoder_3=None,
        tokenizer_3=None,
    )
    _enliven(made, seed)
    return made


def _enliven(made: Any, seed: int) -> None:
    """Default initialization leaves zeros (adaLN, output projections), so that outputs would ignore the weights."""
    import torch

    generator = torch.Generator().manual_seed(seed + 1)
    for part in made.components.values():
        for parameter in part.parameters() if isinstance(part, torch.nn.Module) else ():
            if parameter.ndim >= 2 and not parameter.abs().max():
                parameter.data.copy_(torch.randn(parameter.shape, generator=generator) * 0.02)


def save_pipeline(folder: Path, seed: int = 0, base: Path | None = None) -> Path:
    """A pipeline folder. With `base`, everything but the transformer's weights is that of the base."""
    pipeline(seed).save_pretrained(folder, safe_serialization=True)
    if base is not None:
        import shutil

        for name in ("vae", "text_encoder", "text_encoder_2"):
            shutil.copytree(base / name, folder / name, dirs_exist_ok=True)
    return folder


def save_lora(folder: Path, seed: int = 0, rank: int = RANK, width: int = 32) -> Path:
    """A LoRA folder in the diffusers layout for the transformer's attention; another `width` fits no tiny pipeline."""
    import safetensors.torch
    import torch

    generator = torch.Generator().manual_seed(seed)
    tensors = {}
    for block in range(2):
        for target in ("to_q", "to_k", "to_v", "to_out.0"):
            name = f"transformer.transformer_blocks.{block}.attn.{target}"
            tensors[f"{name}.lora_A.weight"] = torch.randn(rank, width, generator=generator)
            tensors[f"{name}.lora_B.weight"] = torch.randn(width, rank, generator=generator)
    folder.mkdir(parents=True, exist_ok=True)
    safetensors.torch.save_file(tensors, folder / "pytorch_lora_weights.safetensors")
    return folder
