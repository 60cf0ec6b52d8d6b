"""What tiny pipelines are put together from: tokenizers without files, text encoders of two layers, autoencoders."""

from typing import Any

import diffusers
import transformers

CLIP_VOCABULARY = 518
BYTE_VOCABULARY = 264
CHAT_TEMPLATE = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n{{ message['content'] }}<|im_end|>\n"
    "{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


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


def qwen_tokenizer() -> Any:
    """One token a byte, with Qwen's special tokens and a chat template."""
    special = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
    vocabulary = {token: index for index, token in enumerate(special + _bytes_to_unicode())}
    made = transformers.Qwen2Tokenizer(vocab=vocabulary, merges=[], additional_special_tokens=special[1:])
    made.chat_template = CHAT_TEMPLATE
    return made


def gemma_tokenizer() -> Any:
    return transformers.GemmaTokenizer(vocab=_sentence_pieces("<pad>", "<eos>", "<bos>", "<unk>", "<mask>"))


def llama_tokenizer() -> Any:
    made = transformers.LlamaTokenizer(vocab=_sentence_pieces("<unk>", "<s>", "</s>", "<pad>"))
    made.pad_token = "<pad>"
    return made


def _sentence_pieces(*special: str) -> dict[str, int]:
    pieces = [*special, *(f"<0x{byte:02X}>" for byte in range(256)), "\u2581"]
    return {piece: index for index, piece in enumerate(pieces)}


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


def clip_vision(size: int) -> Any:
    return transformers.CLIPVisionModelWithProjection(
        transformers.CLIPVisionConfig(
            hidden_size=32,
            projection_dim=32,
            num_hidden_layers=2,
            num_attention_heads=4,
            image_size=size,
            intermediate_size=37,
            patch_size=16,
        )
    )


def clip_processor(size: int) -> Any:
    from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil

    sides = {"height": size, "width": size}
    return CLIPImageProcessorPil(crop_size=sides, size={"shortest_edge": size})


def t5_text(width: int = 32) -> Any:
    return transformers.T5EncoderModel(transformers.T5Config(**_t5(width)))


def umt5_text(width: int = 32) -> Any:
    return transformers.UMT5EncoderModel(transformers.UMT5Config(**_t5(width)))


def _t5(width: int) -> dict[str, Any]:
    return {
        "vocab_size": 128,
        "d_model": width,
        "d_ff": 37,
        "d_kv": 8,
        "num_layers": 2,
        "num_heads": 4,
        "is_encoder_decoder": False,
    }


def _decoder(**more: Any) -> dict[str, Any]:
    """What Llama, Qwen and Gemma configs have in common."""
    return {
        "hidden_size": 16,
        "intermediate_size": 16,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "num_key_value_heads": 2,
        "vocab_size": BYTE_VOCABULARY,
        **more,
    }


def llama_text() -> Any:
    config = _decoder(num_hidden_layers=3, bos_token_id=1, eos_token_id=2, pad_token_id=3)
    return transformers.LlamaModel(transformers.LlamaConfig(**config))


def gemma_text() -> Any:
    config = _decoder(head_dim=16, pad_token_id=0, eos_token_id=1, bos_token_id=2)
    return transformers.Gemma2Model(transformers.Gemma2Config(**config))


def qwen_text(*, with_head: bool = False) -> Any:
    config = transformers.Qwen3Config(
        **_decoder(head_dim=8, max_position_embeddings=512, bos_token_id=0, eos_token_id=0)
    )
    return transformers.Qwen3ForCausalLM(config) if with_head else transformers.Qwen3Model(config)


def qwen_vision_text() -> Any:
    """Qwen 2.5 VL: a language model that could see."""
    special = {
        "bos_token_id": 0,
        "eos_token_id": 0,
        "vision_start_token_id": 1,
        "vision_end_token_id": 2,
    }
    rope = {"rope_type": "default", "mrope_section": [1, 1, 2], "rope_theta": 1_000_000.0}
    config = transformers.Qwen2_5_VLConfig(
        text_config={**_decoder(), "rope_parameters": rope, **special},
        vision_config={
            "depth": 1,
            "hidden_size": 16,
            "intermediate_size": 16,
            "num_heads": 2,
            "out_hidden_size": 16,
            "fullatt_block_indexes": [0],
        },
        image_token_id=2,
        video_token_id=2,
        **special,
    )
    return transformers.Qwen2_5_VLForConditionalGeneration(config)


def vae(latent_channels: int = 4, **options: Any) -> Any:
    return diffusers.AutoencoderKL(
        block_out_channels=(32, 64),
        latent_channels=latent_channels,
        down_block_types=("DownEncoderBlock2D",) * 2,
        up_block_types=("UpDecoderBlock2D",) * 2,
        **options,
    )


def flow_vae(latent_channels: int = 4) -> Any:
    """As the flow-matching families have it: shifted, without quantization convolutions."""
    return vae(
        latent_channels,
        shift_factor=0.1159,
        scaling_factor=0.3611,
        use_quant_conv=False,
        use_post_quant_conv=False,
    )


def stable_scheduler() -> Any:
    return diffusers.DDIMScheduler(
        beta_start=0.00085,
        beta_end=0.012,
        beta_schedule="scaled_linear",
        clip_sample=False,
        steps_offset=1,
        set_alpha_to_one=False,
    )


def euler_scheduler() -> Any:
    return diffusers.EulerDiscreteScheduler(
        beta_start=0.00085,
        beta_end=0.012,
        beta_schedule="scaled_linear",
        steps_offset=1,
        timestep_spacing="leading",
    )


def flow_scheduler(**options: Any) -> Any:
    return diffusers.FlowMatchEulerDiscreteScheduler(**options)
