"""Picture families over a transformer, each with its own text encoders."""

from typing import Any

import diffusers

from tests.architectures import parts


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
        scheduler=parts.flow_scheduler(shift=3.0),
        vae=parts.flow_vae(),
        text_encoder=parts.clip_text(projected=True),
        tokenizer=parts.clip_tokenizer(),
        text_encoder_2=parts.clip_text(projected=True),
        tokenizer_2=parts.clip_tokenizer(),
        text_encoder_3=parts.t5_text(64),
        tokenizer_3=parts.t5_tokenizer(256),
    )


def _flux(kind: Any) -> Any:
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
    return kind(
        transformer=transformer,
        scheduler=parts.flow_scheduler(use_dynamic_shifting=True),
        vae=parts.flow_vae(),
        text_encoder=parts.clip_text(),
        tokenizer=parts.clip_tokenizer(),
        text_encoder_2=parts.t5_text(),
        tokenizer_2=parts.t5_tokenizer(512),
    )


def flux() -> Any:
    return _flux(diffusers.FluxPipeline)


def kontext() -> Any:
    return _flux(diffusers.FluxKontextPipeline)


def flux2_klein() -> Any:
    return diffusers.Flux2KleinPipeline(
        transformer=diffusers.Flux2Transformer2DModel(
            patch_size=1,
            in_channels=16,
            num_layers=1,
            num_single_layers=1,
            attention_head_dim=16,
            num_attention_heads=2,
            joint_attention_dim=16,
            axes_dims_rope=(4, 4, 4, 4),
            guidance_embeds=False,
        ),
        vae=diffusers.AutoencoderKLFlux2(
            down_block_types=("DownEncoderBlock2D",) * 2,
            up_block_types=("UpDecoderBlock2D",) * 2,
            block_out_channels=(32, 32),
            layers_per_block=1,
            latent_channels=4,
            use_quant_conv=False,
            use_post_quant_conv=False,
        ),
        text_encoder=parts.qwen_text(with_head=True),
        tokenizer=parts.qwen_tokenizer(),
        scheduler=parts.flow_scheduler(),
    )


def chroma() -> Any:
    return diffusers.ChromaPipeline(
        transformer=diffusers.ChromaTransformer2DModel(
            patch_size=1,
            in_channels=16,
            num_layers=1,
            num_single_layers=1,
            attention_head_dim=16,
            num_attention_heads=2,
            joint_attention_dim=32,
            axes_dims_rope=(4, 4, 8),
            approximator_hidden_dim=32,
            approximator_layers=1,
            approximator_num_channels=16,
        ),
        vae=parts.flow_vae(),
        text_encoder=parts.t5_text(),
        tokenizer=parts.t5_tokenizer(512),
        scheduler=parts.flow_scheduler(),
    )


def pixart() -> Any:
    return diffusers.PixArtSigmaPipeline(
        transformer=diffusers.PixArtTransformer2DModel(
            sample_size=8,
            num_layers=2,
            patch_size=2,
            attention_head_dim=8,
            num_attention_heads=3,
            caption_channels=32,
            in_channels=4,
            cross_attention_dim=24,
            out_channels=8,
        ),
        vae=parts.vae(),
        text_encoder=parts.t5_text(),
        tokenizer=parts.t5_tokenizer(300),
        scheduler=parts.stable_scheduler(),
    )


def sana() -> Any:
    blocks = ("ResBlock", "EfficientViTBlock")
    return diffusers.SanaPipeline(
        transformer=diffusers.SanaTransformer2DModel(
            patch_size=1,
            in_channels=4,
            out_channels=4,
            num_layers=1,
            num_attention_heads=2,
            attention_head_dim=8,
            num_cross_attention_heads=2,
            cross_attention_head_dim=8,
            cross_attention_dim=16,
            caption_channels=16,
            sample_size=32,
        ),
        vae=diffusers.AutoencoderDC(
            latent_channels=4,
            attention_head_dim=4,
            encoder_block_types=blocks,
            decoder_block_types=blocks,
            encoder_block_out_channels=(8, 8),
            decoder_block_out_channels=(8, 8),
            encoder_qkv_multiscales=((), (5,)),
            decoder_qkv_multiscales=((), (5,)),
            encoder_layers_per_block=(1, 1),
            decoder_layers_per_block=(1, 1),
            downsample_block_type="conv",
            upsample_block_type="interpolate",
        ),
        text_encoder=parts.gemma_text(),
        tokenizer=parts.gemma_tokenizer(),
        scheduler=parts.flow_scheduler(shift=3.0),
    )


def lumina2() -> Any:
    return diffusers.Lumina2Pipeline(
        transformer=diffusers.Lumina2Transformer2DModel(
            sample_size=4,
            patch_size=2,
            in_channels=4,
            hidden_size=24,
            num_layers=2,
            num_attention_heads=3,
            num_kv_heads=1,
            multiple_of=16,
            axes_dim_rope=(4, 2, 2),
            cap_feat_dim=16,
        ),
        vae=parts.flow_vae(),
        text_encoder=parts.gemma_text(),
        tokenizer=parts.gemma_tokenizer(),
        scheduler=parts.flow_scheduler(),
    )


def qwen_image() -> Any:
    return diffusers.QwenImagePipeline(
        transformer=diffusers.QwenImageTransformer2DModel(
            patch_size=2,
            in_channels=16,
            out_channels=4,
            num_layers=2,
            attention_head_dim=16,
            num_attention_heads=2,
            joint_attention_dim=16,
            axes_dims_rope=(8, 4, 4),
        ),
        vae=diffusers.AutoencoderKLQwenImage(
            base_dim=16,
            z_dim=4,
            dim_mult=[1, 2, 2],
            num_res_blocks=1,
            temperal_downsample=[False, True],
            latents_mean=[0.0] * 4,
            latents_std=[1.0] * 4,
        ),
        text_encoder=parts.qwen_vision_text(),
        tokenizer=parts.qwen_tokenizer(),
        scheduler=parts.flow_scheduler(),
    )


def z_image() -> Any:
    return diffusers.ZImagePipeline(
        transformer=diffusers.ZImageTransformer2DModel(
            in_channels=16,
            dim=32,
            n_layers=1,
            n_refiner_layers=1,
            n_heads=2,
            n_kv_heads=2,
            cap_feat_dim=16,
            axes_dims=[8, 4, 4],
            axes_lens=[512, 64, 64],
        ),
        vae=parts.flow_vae(16),
        text_encoder=parts.qwen_text(),
        tokenizer=parts.qwen_tokenizer(),
        scheduler=parts.flow_scheduler(),
    )
