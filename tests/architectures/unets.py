"""Picture families over a UNet: Stable Diffusion 1.5 and XL, inpainting and ControlNet."""

from typing import Any

import diffusers

from tests.architectures import parts


def _unet(**options: Any) -> Any:
    settings: dict[str, Any] = {
        "block_out_channels": (32, 64),
        "layers_per_block": 1,
        "sample_size": 32,
        "down_block_types": ("CrossAttnDownBlock2D", "DownBlock2D"),
        "up_block_types": ("UpBlock2D", "CrossAttnUpBlock2D"),
        "cross_attention_dim": 32,
        "attention_head_dim": 8,
    }
    return diffusers.UNet2DConditionModel(**{**settings, **options})


def _sd15(kind: Any, **more: Any) -> Any:
    return kind(
        **{
            "vae": parts.vae(),
            "text_encoder": parts.clip_text(),
            "tokenizer": parts.clip_tokenizer(),
            "unet": _unet(),
            "scheduler": parts.stable_scheduler(),
            "safety_checker": None,
            "feature_extractor": None,
            "requires_safety_checker": False,
            **more,
        }
    )


def sd15() -> Any:
    return _sd15(diffusers.StableDiffusionPipeline)


def sd15_inpaint() -> Any:
    """The kind with nine input channels, made for nothing else."""
    return _sd15(diffusers.StableDiffusionInpaintPipeline, unet=_unet(in_channels=9))


def sd15_controlnet() -> Any:
    unet = _unet()
    net = diffusers.ControlNetModel.from_unet(unet, conditioning_embedding_out_channels=(16, 32))
    return _sd15(diffusers.StableDiffusionControlNetPipeline, unet=unet, controlnet=net)


def sdxl() -> Any:
    unet = _unet(
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
    return diffusers.StableDiffusionXLPipeline(
        vae=parts.vae(sample_size=128),
        text_encoder=parts.clip_text(),
        text_encoder_2=parts.clip_text(projected=True),
        tokenizer=parts.clip_tokenizer(),
        tokenizer_2=parts.clip_tokenizer(),
        unet=unet,
        scheduler=parts.euler_scheduler(),
    )
