"""Cheap training with the zero tokens that stand for the absent third text encoder.

`StableDiffusion3Pipeline` appends `max_sequence_length` (256 unless told) zero tokens to the
text. They are all alike and stay alike in every layer, so attention to N of them equals
attention to one whose score is raised by log N. Training keeps one and raises its score by the
logarithm of a random N: exact, four times cheaper, and it makes the model indifferent to N.
"""

import torch
from diffusers import SD3Transformer2DModel
from diffusers.models.attention_processor import Attention, JointAttnProcessor2_0
from torch.nn import functional

FEWEST, MOST = 8, 512


def draw_bias(count: int, tokens: int, generator: torch.Generator) -> torch.Tensor:
    """Score offsets [count, 1, 1, tokens]; half the rows stand for the pipeline's default of 256."""
    low, high = torch.log(torch.tensor([FEWEST, MOST], dtype=torch.float32))
    drawn = low + (high - low) * torch.rand(count, generator=generator)
    usual = torch.rand(count, generator=generator) < 0.5
    bias = torch.zeros(count, 1, 1, tokens)
    bias[:, 0, 0, -1] = torch.where(usual, torch.log(torch.tensor(256.0)), drawn)
    return bias


class WeightedAttention:
    """Joint attention like diffusers' own, plus a score offset per key."""

    def __init__(self) -> None:
        self.bias: torch.Tensor | None = None

    def __call__(
        self,
        attn: Attention,
        hidden_states: torch.Tensor,
        encoder_hidden_states: torch.Tensor,
        attention_mask: None = None,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        heads = attn.heads
        query = _join(
            attn.to_q(hidden_states),
            attn.add_q_proj(encoder_hidden_states),
            heads,
            attn.norm_q,
            attn.norm_added_q,
        )
        key = _join(
            attn.to_k(hidden_states),
            attn.add_k_proj(encoder_hidden_states),
            heads,
            attn.norm_k,
            attn.norm_added_k,
        )
        value = _join(attn.to_v(hidden_states), attn.add_v_proj(encoder_hidden_states), heads, None, None)
        mixed = functional.scaled_dot_product_attention(query, key, value, attn_mask=self.bias)
        mixed = mixed.transpose(1, 2).flatten(2)
        picture, text = mixed.tensor_split([hidden_states.shape[1]], dim=1)
        if not attn.context_pre_only:
            text = attn.to_add_out(text)
        return attn.to_out[0](picture), text


def _join(
    picture: torch.Tensor,
    text: torch.Tensor,
    heads: int,
    norm: torch.nn.Module | None,
    text_norm: torch.nn.Module | None,
) -> torch.Tensor:
    first = picture.unflatten(2, (heads, -1)).transpose(1, 2)
    second = text.unflatten(2, (heads, -1)).transpose(1, 2)
    if norm is not None and text_norm is not None:
        first, second = norm(first), text_norm(second)
    return torch.cat([first, second], dim=2)


def install(transformer: SD3Transformer2DModel) -> WeightedAttention:
    attention = WeightedAttention()
    transformer.set_attn_processor(attention)
    return attention


def remove(transformer: SD3Transformer2DModel) -> None:
    transformer.set_attn_processor(JointAttnProcessor2_0())
