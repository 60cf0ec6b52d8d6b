"""The picture autoencoder: architecture, training and latent statistics.

Encoder and decoder train together first. Then the encoder stands still, so that latents are
final, and the decoder alone learns crisp edges from slightly noisy latents. Sharpening goes on
with that when the models are done: more lines and stripes, and as much noise as what the
transformers draw is off by.
"""

import time
from collections.abc import Callable, Iterator

import numpy as np
import torch
from diffusers import AutoencoderKL
from torch.nn import functional

from starter import head_start, pictures
from starter.ledger import Ledger, cosine

LEARNING_RATE = 8e-4
BATCH = 8
POOL = 8000  # pictures, rendered once
STEPS = 1500
TOGETHER = 600  # steps with the encoder, the rest without
KL_WEIGHT = 2e-4
LATENT_NOISE = 0.05  # deviation, in normalised latents, while the decoder learns alone
SHARPENING_STEPS = 6000
SHARPENING_RATE = 6e-4  # learning rate
SHARPENING_NOISE = 0.2  # largest deviation; each picture has its own
SHARPENING_POOL = 12000  # pictures


def build() -> AutoencoderKL:
    return AutoencoderKL(
        in_channels=3,
        out_channels=3,
        down_block_types=("DownEncoderBlock2D",) * 3,
        up_block_types=("UpDecoderBlock2D",) * 3,
        block_out_channels=(16, 32, 64),
        layers_per_block=1,
        latent_channels=4,
        norm_num_groups=1,
        sample_size=64,
        use_quant_conv=False,
        use_post_quant_conv=False,
        mid_block_add_attention=False,
        force_upcast=False,
    )


def render_pool(seed: int) -> torch.Tensor:
    """uint8 [POOL, 3, 64, 64] of every palette and style, training combinations only."""
    return pictures.to_bytes(pictures.draw(POOL, pictures.VAE_MIXTURE, np.random.default_rng(seed)))


def train(vae: AutoencoderKL, pool: torch.Tensor, seed: int) -> None:
    torch.manual_seed(seed)
    rng = np.random.default_rng(seed)
    head_start.apply(vae, pictures.to_unit(pool[:64]))
    vae.to(memory_format=torch.channels_last)
    _descend(vae, range(TOGETHER), _batches(pool, rng), joint_loss)
    vae.encoder.requires_grad_(requires_grad=False)
    fit_latent_statistics(vae, pictures.to_unit(pool[:1024]))
    _descend(vae, range(TOGETHER, STEPS), _batches(pool, rng), decoder_loss)
    vae.requires_grad_(requires_grad=True).eval()


def sharpen(vae: AutoencoderKL, seed: int) -> None:
    """Trains the decoder in place; latents keep their meaning, so that nothing else need be trained again."""
    torch.manual_seed(seed)
    rng = np.random.default_rng(seed)
    vae.encoder.requires_grad_(requires_grad=False)
    pool = pictures.to_bytes(pictures.draw(SHARPENING_POOL, pictures.SHARPENING_MIXTURE, rng))
    vae.to(memory_format=torch.channels_last)
    _descend(
        vae, range(SHARPENING_STEPS), _batches(pool, rng), sharpening_loss, SHARPENING_STEPS, SHARPENING_RATE
    )
    vae.requires_grad_(requires_grad=True).eval()


def _batches(pool: torch.Tensor, rng: np.random.Generator) -> Iterator[torch.Tensor]:
    while True:
        rows = torch.from_numpy(rng.integers(len(pool), size=BATCH))
        yield pictures.to_unit(pool[rows]).contiguous(memory_format=torch.channels_last)


def _descend(
    vae: AutoencoderKL,
    steps: range,
    batches: Iterator[torch.Tensor],
    loss_of: Callable[[AutoencoderKL, torch.Tensor], torch.Tensor],
    horizon: int = STEPS,
    learning_rate: float = LEARNING_RATE,
) -> None:
    """One phase with an optimizer of its own; the learning rate falls over the whole run's `horizon`."""
    trained = [parameter for parameter in vae.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=learning_rate, betas=(0.9, 0.99), weight_decay=1e-3)
    ledger = Ledger("vae", horizon)
    for step in steps:
        for group in optimizer.param_groups:
            group["lr"] = learning_rate * cosine(step, horizon)
        loss = loss_of(vae, next(batches))
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(trained, 1.0)
        optimizer.step()
        ledger.note(step, loss.item(), time.monotonic())


def joint_loss(vae: AutoencoderKL, images: torch.Tensor) -> torch.Tensor:
    """Error of the picture plus a little divergence, so that latents stay smooth."""
    posterior = vae.encode(images).latent_dist
    divergence = posterior.kl().mean() / posterior.mean[0].numel()
    return picture_error(vae.decode(posterior.sample()).sample, images) + KL_WEIGHT * divergence


def decoder_loss(vae: AutoencoderKL, images: torch.Tensor) -> torch.Tensor:
    return _noisy_loss(vae, images, LATENT_NOISE)


def sharpening_loss(vae: AutoencoderKL, images: torch.Tensor) -> torch.Tensor:
    return _noisy_loss(vae, images, SHARPENING_NOISE * torch.rand(len(images), 1, 1, 1))


def _noisy_loss(vae: AutoencoderKL, images: torch.Tensor, deviation: torch.Tensor | float) -> torch.Tensor:
    """`deviation` in normalised latents: one for all, or float32 [n, 1, 1, 1]."""
    with torch.no_grad():
        latents = vae.encode(images).latent_dist.mean
    noise = torch.randn_like(latents) * deviation / vae.config.scaling_factor
    return picture_error(vae.decode(latents + noise).sample, images)


def picture_error(decoded: torch.Tensor, images: torch.Tensor) -> torch.Tensor:
    return functional.l1_loss(decoded, images) + functional.mse_loss(decoded, images)


def means_of(vae: AutoencoderKL, pixels: torch.Tensor) -> torch.Tensor:
    """Latent means before normalisation, of float pictures in -1..1."""
    with torch.no_grad():
        return torch.cat([vae.encode(part).latent_dist.mean for part in pixels.split(64)])


def fit_latent_statistics(vae: AutoencoderKL, pixels: torch.Tensor) -> None:
    """Store the shift and scale that bring latents to mean 0 and deviation 1."""
    means = means_of(vae, pixels)
    shift, scale = means.mean().item(), 1 / means.std().item()
    vae.register_to_config(shift_factor=round(shift, 4), scaling_factor=round(scale, 4))


def encode(vae: AutoencoderKL, pixels: torch.Tensor) -> torch.Tensor:
    """Normalised latent means, float32 [count, 4, 16, 16], of uint8 pictures."""
    means = means_of(vae, pictures.to_unit(pixels))
    normal: torch.Tensor = (means - vae.config.shift_factor) * vae.config.scaling_factor
    return normal
