"""Video families: from text, from a picture, and with sound."""

from typing import Any

import diffusers

from tests.architectures import parts


def _wan_vae() -> Any:
    return diffusers.AutoencoderKLWan(
        base_dim=3, z_dim=16, dim_mult=[1, 1, 1, 1], num_res_blocks=1, temperal_downsample=[False, True, True]
    )


def _wan_transformer(**more: Any) -> Any:
    return diffusers.WanTransformer3DModel(
        **{
            "patch_size": (1, 2, 2),
            "num_attention_heads": 2,
            "attention_head_dim": 12,
            "in_channels": 16,
            "out_channels": 16,
            "text_dim": 32,
            "freq_dim": 64,
            "ffn_dim": 32,
            "num_layers": 2,
            "rope_max_seq_len": 32,
            **more,
        }
    )


def wan() -> Any:
    return diffusers.WanPipeline(
        transformer=_wan_transformer(),
        vae=_wan_vae(),
        scheduler=parts.flow_scheduler(shift=7.0),
        text_encoder=parts.umt5_text(),
        tokenizer=parts.t5_tokenizer(512),
    )


def wan_two_experts() -> Any:
    """As Wan 2.2: one transformer for the noisy steps, one for the rest."""
    return diffusers.WanPipeline(
        transformer=_wan_transformer(),
        transformer_2=_wan_transformer(),
        boundary_ratio=0.9,
        vae=_wan_vae(),
        scheduler=parts.flow_scheduler(shift=7.0),
        text_encoder=parts.umt5_text(),
        tokenizer=parts.t5_tokenizer(512),
    )


def wan_image() -> Any:
    return diffusers.WanImageToVideoPipeline(
        transformer=_wan_transformer(in_channels=36, image_dim=32),
        vae=_wan_vae(),
        scheduler=parts.flow_scheduler(shift=7.0),
        text_encoder=parts.umt5_text(),
        tokenizer=parts.t5_tokenizer(512),
        image_encoder=parts.clip_vision(32),
        image_processor=parts.clip_processor(32),
    )


def ltx() -> Any:
    return diffusers.LTXPipeline(
        transformer=diffusers.LTXVideoTransformer3DModel(
            in_channels=8,
            out_channels=8,
            num_attention_heads=4,
            attention_head_dim=8,
            cross_attention_dim=32,
            num_layers=1,
            caption_channels=32,
        ),
        vae=diffusers.AutoencoderKLLTXVideo(
            latent_channels=8,
            block_out_channels=(8, 8, 8, 8),
            decoder_block_out_channels=(8, 8, 8, 8),
            layers_per_block=(1, 1, 1, 1, 1),
            decoder_layers_per_block=(1, 1, 1, 1, 1),
            spatio_temporal_scaling=(True, True, False, False),
            decoder_spatio_temporal_scaling=(True, True, False, False),
            decoder_inject_noise=(False,) * 5,
            upsample_residual=(False,) * 4,
            upsample_factor=(1,) * 4,
            timestep_conditioning=False,
            patch_size=1,
            patch_size_t=1,
            encoder_causal=True,
            decoder_causal=False,
        ),
        scheduler=parts.flow_scheduler(),
        text_encoder=parts.t5_text(),
        tokenizer=parts.t5_tokenizer(128),
    )


def cogvideox() -> Any:
    return diffusers.CogVideoXPipeline(
        transformer=diffusers.CogVideoXTransformer3DModel(
            num_attention_heads=4,
            attention_head_dim=8,
            in_channels=4,
            out_channels=4,
            time_embed_dim=2,
            text_embed_dim=32,
            num_layers=1,
            sample_width=2,
            sample_height=2,
            sample_frames=9,
            patch_size=2,
            max_text_seq_length=16,
        ),
        vae=diffusers.AutoencoderKLCogVideoX(
            down_block_types=("CogVideoXDownBlock3D",) * 4,
            up_block_types=("CogVideoXUpBlock3D",) * 4,
            block_out_channels=(8, 8, 8, 8),
            latent_channels=4,
            layers_per_block=1,
            norm_num_groups=2,
        ),
        scheduler=diffusers.CogVideoXDDIMScheduler(),
        text_encoder=parts.t5_text(),
        tokenizer=parts.t5_tokenizer(226),
    )


def hunyuan_video() -> Any:
    return diffusers.HunyuanVideoPipeline(
        transformer=diffusers.HunyuanVideoTransformer3DModel(
            in_channels=4,
            out_channels=4,
            num_attention_heads=2,
            attention_head_dim=10,
            num_layers=1,
            num_single_layers=1,
            num_refiner_layers=1,
            patch_size=1,
            guidance_embeds=True,
            text_embed_dim=16,
            pooled_projection_dim=32,
            rope_axes_dim=(2, 4, 4),
        ),
        vae=diffusers.AutoencoderKLHunyuanVideo(
            latent_channels=4,
            down_block_types=("HunyuanVideoDownBlock3D",) * 4,
            up_block_types=("HunyuanVideoUpBlock3D",) * 4,
            block_out_channels=(8, 8, 8, 8),
            layers_per_block=1,
            norm_num_groups=4,
        ),
        scheduler=parts.flow_scheduler(shift=7.0),
        text_encoder=parts.llama_text(),
        tokenizer=parts.llama_tokenizer(),
        text_encoder_2=parts.clip_text(),
        tokenizer_2=parts.clip_tokenizer(),
    )


def mochi() -> Any:
    return diffusers.MochiPipeline(
        transformer=diffusers.MochiTransformer3DModel(
            patch_size=2,
            num_attention_heads=2,
            attention_head_dim=8,
            num_layers=2,
            pooled_projection_dim=16,
            in_channels=12,
            text_embed_dim=32,
            time_embed_dim=4,
            max_sequence_length=16,
        ),
        vae=diffusers.AutoencoderKLMochi(
            latent_channels=12,
            encoder_block_out_channels=(32,) * 4,
            decoder_block_out_channels=(32,) * 4,
            layers_per_block=(1,) * 5,
        ),
        scheduler=parts.flow_scheduler(),
        text_encoder=parts.t5_text(),
        tokenizer=parts.t5_tokenizer(256),
    )


def stable_video() -> Any:
    return diffusers.StableVideoDiffusionPipeline(
        unet=diffusers.UNetSpatioTemporalConditionModel(
            block_out_channels=(32, 64),
            layers_per_block=1,
            sample_size=32,
            down_block_types=("CrossAttnDownBlockSpatioTemporal", "DownBlockSpatioTemporal"),
            up_block_types=("UpBlockSpatioTemporal", "CrossAttnUpBlockSpatioTemporal"),
            cross_attention_dim=32,
            num_attention_heads=(4, 8),
            projection_class_embeddings_input_dim=96,
            addition_time_embed_dim=32,
        ),
        scheduler=diffusers.EulerDiscreteScheduler(
            beta_start=0.00085,
            beta_end=0.012,
            beta_schedule="scaled_linear",
            prediction_type="v_prediction",
            sigma_max=700.0,
            sigma_min=0.002,
            timestep_type="continuous",
            use_karras_sigmas=True,
        ),
        vae=diffusers.AutoencoderKLTemporalDecoder(
            block_out_channels=(32, 64), down_block_types=("DownEncoderBlock2D",) * 2, latent_channels=4
        ),
        image_encoder=parts.clip_vision(224),
        feature_extractor=parts.clip_processor(224),
    )
