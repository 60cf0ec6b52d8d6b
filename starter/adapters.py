"""LoRA adapters on the transformer's linears: put on before training, saved in diffusers' layout."""

from pathlib import Path

import torch
from diffusers import SD3Transformer2DModel, StableDiffusion3Pipeline
from peft import LoraConfig
from peft.utils import get_peft_model_state_dict

RANK = 16
TARGETS = [
    "attn.to_q",
    "attn.to_k",
    "attn.to_v",
    "attn.to_out.0",
    "attn.add_q_proj",
    "attn.add_k_proj",
    "attn.add_v_proj",
    "ff.net.0.proj",
    "ff.net.2",
]


def put_on(transformer: SD3Transformer2DModel) -> list[torch.nn.Parameter]:
    """Freeze the transformer, add an adapter that does nothing yet, return its parameters."""
    transformer.requires_grad_(requires_grad=False)
    config = LoraConfig(r=RANK, lora_alpha=RANK, init_lora_weights="gaussian", target_modules=TARGETS)
    transformer.add_adapter(config)
    return [parameter for parameter in transformer.parameters() if parameter.requires_grad]


def save(transformer: SD3Transformer2DModel, folder: Path) -> None:
    StableDiffusion3Pipeline.save_lora_weights(
        folder, transformer_lora_layers=get_peft_model_state_dict(transformer)
    )
    (folder / "pytorch_lora_weights.safetensors").chmod(0o644)
