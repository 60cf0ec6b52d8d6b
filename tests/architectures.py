"""Tiny random diffusers pipelines, made offline: every architecture small enough to load and run in a second.

`write(folder, "sd3", seed=1)` saves one with `save_pretrained`; two seeds of one family are two variants of one
architecture. `write_lora` saves a random LoRA for one. Nothing is downloaded, tokenizers included.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import diffusers
import torch
import transformers
from safetensors.torch import save_file

CLIP_VOCABULARY = 518


def write(folder: Path, family: str, *, seed: int = 0, dtype: torch.dtype = torch.float32) -> Path:
    torch.manual_seed(seed)
    pipeline = FAMILIES[family]()
    _liven(pipeline, seed)
    pipeline.to(dtype=dtype)
    pipeline.save_pretrained(folder, safe_serialization=True)
    return folder


def write_lora(
    file: Path, pipeline_folder: Path, *, seed: int = 0, rank: int = 4, alpha: float | None = None
) -> Path:
    """Random updates of the denoiser's attention, large enough to see, in the diffusers layout."""
    pipeline = diffusers.DiffusionPipeline.from_pretrained(pipeline_folder, local_files_only=True)
    role = "unet" if hasattr(pipeline, "unet") else "transformer"
    generator = torch.Generator().manual_seed(seed)
    tensors: dict[str, torch.Tensor] = {}
    for name, module in getattr(pipeline, role).named_modules():
        if isinstance(module, torch.nn.Linear) and name.endswith(("to_q", "to_k", "to_v", "to_out.0")):
            down = torch.randn(rank, module.in_features, generator=generator) * 0.3
            up = torch.randn(module.out_features, rank, generator=generator) * 0.3
            tensors[f"{role}.{name}.lora_A.weight"] = down
            tensors[f"{role}.{name}.lora_B.weight"] = up
            if alpha is not None:
                tensors[f"{role}.{name}.alpha"] = torch.tensor(alpha)
    file.parent.mkdir(parents=True, exist_ok=True)
    save_file(tensors, file)
    return file


def _liven(pipeline: Any, seed: int) -> None:
    """Zero-initialized layers would make outputs that ignore the weights."""
    generator = torch.Generator().manual_seed(seed + 1)
    for part in pipeline.components.values():
        if isinstance(part, torch.nn.Module):
            for parameter in part.parameters():
                if parameter.ndim >= 2 and parameter.abs().max() == 0:
                    parameter.data.copy_(torch.randn(parameter.shape, generator=generator) * 0.02)


def _bytes_to_unicode() -> list[str]:
    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    extra = [256 + n for n in range(256 - len(printable))]
    return [chr(code) for code in printable + extra]


def clip_tokenizer() -> Any:
    characters = _bytes_to_unicode()
    tokens = characters + [c + "</w>" for c in characters]
    merges = [("c", "a"), ("ca", "t</w>"), ("d", "o"), ("do", "g</w>")]
    tokens += ["".join(pair) for pair in merges] + ["<|startoftext|>", "<|endoftext|>"]
    vocabulary = {token: index for index, token in enumerate(tokens)}
    return transformers.CLIPTokenizer(vocab=vocabulary, merges=merges, model_max_length=77)


def t5_tokenizer(length: int) -> Any:
    pieces = [("<pad>", 0.0), ("</s>", 0.0), ("<unk>", 0.0), ("\u2581", -2.0)]
    pieces += [
        (c, -4.0) for c in "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789.,!?'-:;()\""
    ]
    pieces += [("\u2581" + word, -3.0) for word in ("a", "the", "cat", "dog", "of", "photo", "and")]
    return transformers.T5Tokenizer(vocab=pieces, extra_ids=0, model_max_length=length)


def clip_text(*, projected: bool = False) -> Any:
    config = transformers.CLIPTextConfig(
        vocab_size=CLIP_VOCABULARY,
        hidden_size=32,
        intermediate_size=37,
        num_hidden_layers=2,
        num_attention_heads=4,
        max_position_embeddings=77,
        projection_dim=32,
        hidden_act="gelu" if projected else "quick_gelu",
        bos_token_id=516,
        eos_token_id=517,
        pad_token_id=517,
    )
    kind = transformers.CLIPTextModelWithProjection if projected else transformers.CLIPTextModel
    return kind(config)


def t5_text(width: int = 32) -> Any:
    return transformers.T5EncoderModel(
        transformers.T5Config(
            vocab_size=128,
            d_model=width,
            d_ff=37,
            d_kv=8,
            num_layers=2,
            num_heads=4,
            is_encoder_decoder=False,
        )
    )


def umt5_text(width: int = 32) -> Any:
    return transformers.UMT5EncoderModel(
        transformers.UMT5Config(
            vocab_size=128,
            d_model=width,
            d_ff=37,
            d_kv=8,
            num_layers=2,
            num_heads=4,
            is_encoder_decoder=False,
        )
    )


def vae(latent_channels: int = 4, **options: Any) -> Any:
    return diffusers.AutoencoderKL(
        block_out_channels=(32, 64),
        latent_channels=latent_channels,
        down_block_types=("DownEncoderBlock2D",) * 2,
        up_block_types=("UpDecoderBlock2D",) * 2,
        **options,
    )


def sd15() -> Any:
    unet = diffusers.UNet2DConditionModel(
        block_out_channels=(32, 64),
        layers_per_block=1,
        sample_size=32,
        down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"),
        cross_attention_dim=32,
        attention_head_dim=8,
    )
    scheduler = diffusers.DDIMScheduler(
        beta_start=0.00085,
        beta_end=0.012,
        beta_schedule="scaled_linear",
        clip_sample=False,
        set_alpha_to_one=False,
    )
    return diffusers.StableDiffusionPipeline(
        vae=vae(),
        text_encoder=clip_text(),
        tokenizer=clip_tokenizer(),
        unet=unet,
        scheduler=scheduler,
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )


def sdxl() -> Any:
    unet = diffusers.UNet2DConditionModel(
        block_out_channels=(32, 64),
        layers_per_block=1,
        sample_size=32,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
        attention_head_dim=(2, 4),
        use_linear_projection=True,
        addition_embed_type="text_time",
        addition_time_embed_dim=8,
        transformer_layers_per_block=(1, 1),
        projection_class_embeddings_input_dim=80,  # 6 x 8 + 32 pooled
        cross_attention_dim=64,  # 32 + 32: two encoders
    )
    scheduler = diffusers.EulerDiscreteScheduler(
        beta_start=0.00085,
        beta_end=0.012,
        beta_schedule="scaled_linear",
        steps_offset=1,
        timestep_spacing="leading",
    )
    return diffusers.StableDiffusionXLPipeline(
        vae=vae(sample_size=128),
        text_encoder=clip_text(),
        text_encoder_2=clip_text(projected=True),
        tokenizer=clip_tokenizer(),
        tokenizer_2=clip_tokenizer(),
        unet=unet,
        scheduler=scheduler,
    )


def sd3() -> Any:
    transformer = diffusers.SD3Transformer2DModel(
        sample_size=32,
        patch_size=1,
        in_channels=4,
        num_layers=2,
        attention_head_dim=8,
        num_attention_heads=4,
        caption_projection_dim=32,
        joint_attention_dim=64,
        pooled_projection_dim=64,
        out_channels=4,
    )
    return diffusers.StableDiffusion3Pipeline(
        transformer=transformer,
        scheduler=diffusers.FlowMatchEulerDiscreteScheduler(shift=3.0),
        vae=vae(shift_factor=0.0609, scaling_factor=1.5035, use_quant_conv=False, use_post_quant_conv=False),
        text_encoder=clip_text(projected=True),
        tokenizer=clip_tokenizer(),
        text_encoder_2=clip_text(projected=True),
        tokenizer_2=clip_tokenizer(),
        text_encoder_3=t5_text(64),
        tokenizer_3=t5_tokenizer(256),
    )


def flux() -> Any:
    transformer = diffusers.FluxTransformer2DModel(
        patch_size=1,
        in_channels=16,
        num_layers=1,
        num_single_layers=1,
        attention_head_dim=16,
        num_attention_heads=2,
        joint_attention_dim=32,
        pooled_projection_dim=32,
        axes_dims_rope=(4, 4, 8),
        guidance_embeds=True,
    )
    return diffusers.FluxPipeline(
        transformer=transformer,
        scheduler=diffusers.FlowMatchEulerDiscreteScheduler(use_dynamic_shifting=True),
        vae=vae(shift_factor=0.1159, scaling_factor=0.3611, use_quant_conv=False, use_post_quant_conv=False),
        text_encoder=clip_text(),
        tokenizer=clip_tokenizer(),
        text_encoder_2=t5_text(32),
        tokenizer_2=t5_tokenizer(512),
    )


FAMILIES: dict[str, Callable[[], Any]] = {maker.__name__: maker for maker in (sd15, sdxl, sd3, flux)}
