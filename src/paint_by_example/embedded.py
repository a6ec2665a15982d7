"""Builds the embedded model's parts, before `pbe train` teaches it to paint: what is fitted rather than trained.

The embedded model is the paper's architecture in small: pictures of 128 pixels, latents of 24 channels at 16x16, a
U-Net that is given the noisy latent, the masked latent and the mask and attends to one token, and EfficientNet-Lite0 in
CLIP's place.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import cast

import numpy as np
import torch
import tyro
from diffusers import DDIMScheduler
from diffusers.models.autoencoders.vae import DecoderOutput
from torch import Tensor, nn
from tqdm import tqdm
from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil

from . import efficientnet
from .autoencoder import PatchAutoencoder
from .checkpoint import EMBEDDED
from .data.composites import Composites
from .data.packages import read_entries
from .efficientnet import EfficientNetLite
from .layout import LayoutUNet
from .pipeline import PaintByExamplePipeline, load_pipeline
from .sampling import Scheduler, make_scheduler
from .thumbnail import SEEN, EmbeddedImageEncoder

IMAGE_SIZE = 128  # side of the canvas, pixels
PATCH_SIZE = 8  # pixels to one place of the latents, per side
LATENT_CHANNELS = 24
HELD_OUT = "held_out.tsv"  # kind, package, group and name of every picture that is never trained on
SAMPLES = 4096  # scenes that principal components are fitted on
MATTES, MOVES = 99, 98  # random streams
MOVED = 3  # times that every exemplar is moved, so that more is known of objects than those exemplars show
LOOKED_AT = 8  # pictures of a batch by which the decoder learns what they look like, which takes long
SHORTEST = 40  # steps of a learning-rate cycle: in a shorter one its rise would take no step at all


def build(data: Path, out: Path, seed: int = 0, decoder_steps: int = 2400, matte_steps: int = 900) -> None:
    """Make latent space and exemplar encoder of composites, and write a model that cannot paint yet, and the features.

    Args:
        data: folder from ``pbe prepare composites``.
        out: folder to write: ``model/`` in diffusers' layout, ``features.npy`` with a row for every training exemplar.
        seed: of the network's initial weights and of the decoder's training.
        decoder_steps: batches of 32 that the decoder is trained on.
        matte_steps: batches of 32 exemplars from which the encoder learns which pixels are the object's.

    Raises:
        DataError: if the data are not there.
    """
    scenes = Composites(data, size=IMAGE_SIZE, seed=seed)
    vae = fit_autoencoder(scenes, seed, refiner_blocks=4)
    train_decoder(vae, scenes, seed, decoder_steps)
    torch.manual_seed(seed)
    encoder = EmbeddedImageEncoder()
    encoder.backbone = backbone().requires_grad_(False)
    encoder.take_latents_of(vae)
    train_matte(encoder, scenes, seed, matte_steps)
    thumbnails, moved = look_for_components(encoder.eval(), scenes, seed)
    unet = build_unet(encoder.feature_size)
    unet.take_latents_of(vae)
    unet.layout.load_state_dict(encoder.fit(torch.cat([thumbnails, moved])).state_dict())
    with torch.inference_mode():
        features = encoder.components(thumbnails.flatten(1)).half()
    out.mkdir(parents=True, exist_ok=True)
    np.save(out / "features.npy", features)
    PaintByExamplePipeline(
        vae=vae,
        image_encoder=encoder,
        unet=unet,
        scheduler=build_scheduler(),
        feature_extractor=build_feature_extractor(encoder.image_size),
    ).save_pretrained(out / "model")


def export(model: Path, data: Path, out: Path = EMBEDDED) -> None:
    """Put a trained model into the package, in half precision, with the list of the pictures it was never trained on.

    Args:
        model: folder of the trained model.
        data: folder from ``pbe prepare composites`` that it was trained on.
        out: folder to write.

    Raises:
        ModelError: if the model cannot be loaded.
        DataError: if the data are not there.
    """
    held_out = [entry for entry in read_entries(data) if entry.split == "held_out"]
    load_pipeline(model, device="cpu", dtype=torch.float16).save_pretrained(out)
    lines = sorted(f"{entry.kind}\t{entry.source}\t{entry.group}\t{entry.name}\n" for entry in held_out)
    (out / HELD_OUT).write_text("".join(lines), encoding="utf-8")


def build_unet(condition_size: int) -> LayoutUNet:
    """A fresh U-Net: [noisy latent, masked latent, mask] in, a prediction of the latent's shape out."""
    unet: LayoutUNet = LayoutUNet(
        sample_size=IMAGE_SIZE // PATCH_SIZE,
        in_channels=2 * LATENT_CHANNELS + 1,
        out_channels=LATENT_CHANNELS,
        block_out_channels=(64, 128, 192),
        layers_per_block=1,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
        cross_attention_dim=condition_size,
        attention_head_dim=4,  # diffusers' name for the number of heads
    )
    return unet


def build_scheduler() -> Scheduler:
    """Stable Diffusion's noise schedule; the network predicts v (Salimans and Ho, arXiv 2202.00512)."""
    schedule = DDIMScheduler(
        beta_start=0.00085,
        beta_end=0.012,
        beta_schedule="scaled_linear",
        set_alpha_to_one=False,
        steps_offset=1,
        prediction_type="v_prediction",
    )
    return make_scheduler("dpm++", schedule)


def build_feature_extractor(image_size: int) -> CLIPImageProcessorPil:
    """How an exemplar becomes the encoder's input: squashed to a square, normalised."""
    return CLIPImageProcessorPil(
        size={"height": image_size, "width": image_size},
        do_center_crop=False,
        image_mean=list(efficientnet.MEAN),
        image_std=list(efficientnet.STD),
    )


def normalise(exemplars: np.ndarray) -> Tensor:
    """(B, E, E, 3) uint8 to (B, 3, E, E) float32 as EfficientNet-Lite wants it."""
    x = torch.from_numpy(exemplars).permute(0, 3, 1, 2).float() / 255
    return (x - torch.tensor(efficientnet.MEAN)[:, None, None]) / torch.tensor(efficientnet.STD)[:, None, None]


def look_for_components(encoder: EmbeddedImageEncoder, scenes: Composites, seed: int) -> tuple[Tensor, Tensor]:
    """Thumbnails that principal components are fitted on.

    Args:
        encoder: its matte has learned.
        scenes: whose exemplars.
        seed: of how they are moved.

    Returns:
        Those of all exemplars, (N, C + 4, n, n), and of the same moved, `MOVED` times as many.
    """
    rng = np.random.default_rng((seed, MOVES))

    def look(exemplars: Tensor) -> Tensor:
        alpha = encoder.alpha(exemplars)
        moves = [None, *(draw_moves(rng, len(exemplars)) for _ in range(MOVED))]
        return torch.stack([encoder.thumbnail(exemplars, one, alpha) for one in moves], dim=1)

    seen = look_at_exemplars(look, scenes)
    return seen[:, 0], seen[:, 1:].flatten(0, 1)


def draw_moves(rng: np.random.Generator, count: int) -> Tensor:
    """Half of the time mirrored, turned by up to 11 degrees, up to a sixth smaller, shifted and stretched.

    Args:
        rng: source of randomness.
        count: n.

    Returns:
        (n, 2, 3), see `EmbeddedImageEncoder.thumbnail`.
    """
    angle, size, stretch = rng.uniform(-0.2, 0.2, count), rng.uniform(1, 1.2, count), rng.uniform(-0.15, 0.15, count)
    width = size * np.exp(stretch) * np.where(rng.random(count) < 0.5, 1, -1)
    rows = [[np.cos(angle) * width, -np.sin(angle) * size], [np.sin(angle) * width, np.cos(angle) * size]]
    shift = rng.uniform(-0.08, 0.08, (count, 2, 1))
    return torch.from_numpy(np.concatenate([np.moveaxis(np.array(rows), -1, 0), shift], axis=2)).float()


@torch.inference_mode()
def look_at_exemplars(
    look: Callable[[Tensor], Tensor], scenes: Composites, limit: int | None = None, batch_size: int = 64
) -> Tensor:
    """What a part of an encoder makes of training exemplars.

    Args:
        look: that part, of exemplars (B, 3, E, E).
        scenes: whose exemplars.
        limit: how many, spread over all of them; all by default.
        batch_size: exemplars at once.

    Returns:
        All of it, along the first dimension.
    """
    seen = []
    chosen = range(0, scenes.exemplars, max(1, scenes.exemplars // (limit or scenes.exemplars)))
    for start in tqdm(range(0, len(chosen), batch_size), desc="exemplars", unit="batch", mininterval=5):
        numbers = chosen[start : start + batch_size]
        seen.append(look(normalise(np.stack([scenes.exemplar(number) for number in numbers]))))
    return torch.cat(seen)


def source_batches(scenes: Composites, batch_size: int, first: int = 0) -> Iterator[Tensor]:
    """Scenes without end: (B, 3, S, S) in [-1, 1]."""
    index = first
    while True:
        yield torch.from_numpy(np.stack([scenes.picture(index + i) for i in range(batch_size)]))
        index += batch_size


def fit_autoencoder(
    scenes: Composites,
    seed: int,
    patch_size: int = PATCH_SIZE,
    latent_channels: int = LATENT_CHANNELS,
    decoder_blocks: int = 3,
    refiner_blocks: int = 0,
) -> PatchAutoencoder:
    """Fit the principal components of patches; the decoder is still their linear inverse.

    Args:
        scenes: what it is fitted on.
        seed: of the decoder's initial weights.
        patch_size: see `PatchAutoencoder`.
        latent_channels: see there.
        decoder_blocks: see there.
        refiner_blocks: see there.
    """
    torch.manual_seed(seed)
    vae = PatchAutoencoder(patch_size, latent_channels, decoder_blocks=decoder_blocks, refiner_blocks=refiner_blocks)
    side = vae.config.patch_size
    sample = next(source_batches(scenes, SAMPLES // 8))
    vae.fit(sample.unfold(2, side, side).unfold(3, side, side).permute(0, 2, 3, 1, 4, 5).reshape(-1, 3, side, side))
    return cast(PatchAutoencoder, vae.eval())


def train_decoder(vae: PatchAutoencoder, scenes: Composites, seed: int, steps: int) -> None:
    """Train the decoder's networks, which join neighbouring patches. The latents stay what they are.

    The loss is L1 of pixels and of their differences, and for a part of each batch `perceptual_error`.

    Args:
        vae: its components are fitted.
        scenes: what it is trained on.
        seed: of the noise on the latents.
        steps: batches of 32.
    """
    torch.manual_seed(seed)
    vae.to(memory_format=torch.channels_last)
    eye = backbone().eval().requires_grad_(False)
    learning = [*vae.detail.parameters(), *vae.refiner.parameters()]
    optimizer = torch.optim.AdamW(learning, lr=1e-3, weight_decay=0.0)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 1e-3, total_steps=max(steps, SHORTEST), pct_start=0.05)
    batches = source_batches(scenes, 32, first=SAMPLES)
    with tqdm(range(steps), desc="decoder", unit="batch", mininterval=5) as progress:
        for _ in progress:
            x = next(batches)
            z = vae.components(x)
            # latents that the U-Net paints are never quite clean: the decoder learns to live with that
            noise = torch.rand(len(z), 1, 1, 1) * 0.15
            noise[:LOOKED_AT] *= torch.rand(LOOKED_AT, 1, 1, 1)
            y = cast(DecoderOutput, vae.decode(z + torch.randn_like(z) * noise)).sample
            error = y - x
            loss = error.abs().mean() + 0.5 * (error.diff(dim=2).abs().mean() + error.diff(dim=3).abs().mean())
            loss = loss + 0.03 * perceptual_error(eye, y[:LOOKED_AT], x[:LOOKED_AT])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
            progress.set_postfix(loss=f"{loss.item():.4f}", refresh=False)


def perceptual_error(eye: EfficientNetLite, picture: Tensor, truth: Tensor) -> Tensor:
    """How differently a network sees two pictures, after Johnson et al. (arXiv 1603.08155).

    Args:
        eye: that network.
        picture: (B, 3, H, W) in [-1, 1].
        truth: the same.

    Returns:
        Mean absolute difference of the maps of its stages, each channel in deviations of the true ones; ().
    """
    mean, std = (torch.tensor(x)[:, None, None] for x in (efficientnet.MEAN, efficientnet.STD))
    with torch.no_grad():
        wanted = eye(((truth + 1) / 2 - mean) / std)
    found = eye(((picture + 1) / 2 - mean) / std)
    errors = [
        ((f - w) / (w.std((0, 2, 3), keepdim=True) + 1e-3)).abs().mean() for f, w in zip(found, wanted, strict=True)
    ]
    return torch.stack(errors).mean()


def backbone() -> EfficientNetLite:
    """The first stages of EfficientNet-Lite0, pretrained."""
    network = EfficientNetLite(0, stages=max(SEEN) + 1)
    network.load_state_dict(efficientnet.load_pretrained(0).state_dict(), strict=False)
    return network


def train_matte(encoder: EmbeddedImageEncoder, scenes: Composites, seed: int, steps: int, batch_size: int = 32) -> None:
    """Teach the encoder which pixels of an exemplar are the object's, on features that stay what they are.

    Args:
        encoder: its backbone is pretrained, its matte learns.
        scenes: whose objects.
        seed: of what is drawn.
        steps: batches; the loss is the binary cross entropy.
        batch_size: exemplars in each.
    """
    encoder.matte.requires_grad_(True)
    optimizer = torch.optim.AdamW(encoder.matte.parameters(), lr=2e-3, weight_decay=0.01)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 2e-3, total_steps=max(steps, SHORTEST), pct_start=0.1)
    rng = np.random.default_rng((seed, MATTES))
    with tqdm(range(steps), desc="matte", unit="batch", mininterval=5) as progress:
        for _ in progress:
            pictures, mattes = zip(*(scenes.matte(rng) for _ in range(batch_size)), strict=True)
            target = torch.from_numpy(np.stack(mattes))[:, None].float() / 255
            with torch.no_grad():
                maps = encoder.backbone(normalise(np.stack(pictures)))
            logits = encoder.matte(maps)
            target = nn.functional.interpolate(target, logits.shape[-2:], mode="area")
            loss = nn.functional.binary_cross_entropy_with_logits(logits, target)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
            progress.set_postfix(loss=f"{loss.item():.4f}", refresh=False)
    encoder.matte.requires_grad_(False)


if __name__ == "__main__":
    tyro.extras.subcommand_cli_from_dict({"build": build, "export": export})
