"""Start the autoencoder as a plain shrink and enlarge of the picture, so that training has only
the detail to learn.

Left to itself a small autoencoder learns colours last: its group norms hide a flat area's level.
So a few channels carry red, green and blue, once plus and once minus, straight through every
layer, beside two large constants that keep the norms' divisor still; silu(x) - silu(-x) = x
makes the last activation harmless. Residual branches start at zero, other channels at random.
"""

import torch
from diffusers import AutoencoderKL
from torch import nn

CARRIED = 8  # channels: +r +g +b -r -g -b +constant -constant
CONSTANT = 4.0


def apply(vae: AutoencoderKL, images: torch.Tensor) -> None:
    """Set the weights; `images`, float32 [n, 3, 64, 64] in -1..1, calibrate the output's gain."""
    with torch.no_grad():
        _set_weights(vae)
        decoded = vae.decode(vae.encode(images).latent_dist.mean).sample
        vae.decoder.conv_out.weight *= (decoded * images).mean() / decoded.square().mean()


def _set_weights(vae: AutoencoderKL) -> None:
    for name, module in vae.named_modules():
        if name.endswith("conv2"):
            nn.init.zeros_(module.weight)
            nn.init.zeros_(module.bias)
        elif name.endswith(("conv_shortcut", "upsamplers.0.conv")):
            _carry(module, 1.0, slice(None) if module.kernel_size == (1, 1) else slice(1, 2))
        elif name.endswith("downsamplers.0.conv"):
            _carry(module, 0.25, slice(0, 2))
    for coder in (vae.encoder, vae.decoder):
        _enter(coder.conv_in)
        _leave(coder.conv_out)
    vae.encoder.conv_out.weight[4:] = 0.0
    vae.encoder.conv_out.bias[4:] = -6.0  # log variance of the latents


def _carry(conv: nn.Conv2d, tap: float, window: slice) -> None:
    """Let the carried channels pass; `tap` is the weight of each place in the window."""
    conv.weight[:CARRIED] = 0.0
    conv.bias[:CARRIED] = 0.0
    for channel in range(CARRIED):
        conv.weight[channel, channel, window, window] = tap


def _enter(conv: nn.Conv2d) -> None:
    conv.weight[:CARRIED] = 0.0
    conv.bias[:CARRIED] = 0.0
    for part in range(3):
        conv.weight[part, part, 1, 1] = 1.0
        conv.weight[part + 3, part, 1, 1] = -1.0
    conv.bias[6], conv.bias[7] = CONSTANT, -CONSTANT


def _leave(conv: nn.Conv2d) -> None:
    conv.weight[:3] = 0.0
    conv.bias[:3] = 0.0
    for part in range(3):
        conv.weight[part, part, 1, 1] = 1.0
        conv.weight[part, part + 3, 1, 1] = -1.0
