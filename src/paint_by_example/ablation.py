"""The paper's ablation in small: five models, each with one part of the method more than the one before.

(Paint by Example, arXiv 2211.13227, table 3: "baseline" is the naive way, all of the exemplar's tokens and
no pretrained network.) `runs/ablation.sh` builds and trains them, `pbe ablate` scores them.

All five are one U-Net of pictures of 32 pixels, trained for the same number of steps on the same composites. The
paper's prior is a text-to-image model that was trained on far more pictures than its own; ours is the same U-Net
trained for as many steps to fill holes without any exemplar, so the models with it have had twice the training.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import tyro
from diffusers import UNet2DConditionModel

from . import efficientnet
from .conditioning import PooledImageEncoder
from .data.composites import Composites
from .embedded import build_feature_extractor, build_scheduler, fit_autoencoder, look_at_exemplars
from .evaluation.features import FeatureCache, load_extractor
from .evaluation.quality import fit_quality, save_quality
from .pipeline import PaintByExamplePipeline, load_pipeline

IMAGE_SIZE = 32  # side of the canvas, pixels
PATCH_SIZE = 4  # pixels to one place of the latents, per side
LATENT_CHANNELS = 16  # of 48: what they leave out is 1% of the patches' variance at most
EXEMPLAR_SIZE = 64
GRID = 4  # a side of the tokens of the models without bottleneck
FEATURE_SIZE = 256
CONDITION_SIZE = 256
SPACE = "efficientnet-lite2"  # what the models are scored in: it conditions none of them
QUALITY = "quality.safetensors"
PICTURES = 4096  # that the mixture of the quality score is fitted to
GUIDANCE_SCALE = 5.0  # the paper's


@dataclass(frozen=True)
class Variant:
    """One of the models, and what the paper found of its like."""

    name: str
    """Of its folder."""
    prior: bool
    """Starts from the U-Net that has learned to fill holes."""
    augment: bool
    """Exemplars are augmented, and masks have arbitrary shapes."""
    bottleneck: bool
    """The exemplar is one vector, not one for each of its places."""
    guidance: bool
    """The exemplar is dropped for 1 in 5 examples, and the result is guided with λ = 5."""
    paper: tuple[float, float, float]
    """FID, quality score and CLIP score on COCOEE."""

    @property
    def start(self) -> str:
        """Name of the model it is trained from, in ``start/``."""
        return ("vector" if self.bottleneck else "grid") + ("-prior" if self.prior else "")


VARIANTS = (
    Variant("baseline", False, False, False, False, (3.61, 76.71, 85.90)),
    Variant("prior", True, False, False, False, (3.40, 77.63, 88.79)),
    Variant("augmentation", True, True, False, False, (3.44, 76.86, 81.68)),
    Variant("bottleneck", True, True, True, False, (3.26, 76.62, 81.41)),
    Variant("guidance", True, True, True, True, (3.18, 77.80, 84.97)),
)


def build(data: Path, out: Path, seed: int = 0) -> None:
    """Write the models that have learned nothing yet, and the mixture of the quality score.

    Args:
        data: folder from ``pbe prepare composites``.
        out: folder of the ablation; the models come into ``start/``.
        seed: of their weights.

    Raises:
        DataError: if the data are not there.
    """
    scenes = Composites(data, size=IMAGE_SIZE, exemplar_size=EXEMPLAR_SIZE, seed=seed)
    vae = fit_autoencoder(scenes, seed, PATCH_SIZE, LATENT_CHANNELS, decoder_blocks=0)
    for name, grid in (("grid", GRID), ("vector", 0)):
        torch.manual_seed(seed)
        encoder = PooledImageEncoder(EXEMPLAR_SIZE, FEATURE_SIZE, 512, 2, CONDITION_SIZE, grid)
        encoder.backbone.load_state_dict(efficientnet.load_pretrained(0).state_dict())
        encoder.fit(look_at_exemplars(encoder.eval().pool, scenes, limit=PICTURES))
        torch.manual_seed(seed)
        PaintByExamplePipeline(
            vae=vae,
            image_encoder=encoder,
            unet=build_unet(),
            scheduler=build_scheduler(),
            feature_extractor=build_feature_extractor(EXEMPLAR_SIZE),
        ).save_pretrained(out / "start" / name)
    features = FeatureCache(out / "features").features(load_extractor(SPACE), pictures(scenes), "crop")
    save_quality(fit_quality(features, SPACE, seed=seed), out / QUALITY)


def graft(out: Path) -> None:
    """Put the U-Net that has learned to fill holes, and its null vector, into the models that start from it.

    Args:
        out: folder of the ablation, with the trained model in ``prior-training/model``.

    Raises:
        ModelError: if it cannot be loaded.
    """
    trained = load_pipeline(out / "prior-training" / "model", device="cpu")
    for name in ("grid", "vector"):
        pipeline = load_pipeline(out / "start" / name, device="cpu")
        pipeline.unet.load_state_dict(trained.unet.state_dict())
        with torch.no_grad():
            pipeline.image_encoder.uncond_vector.copy_(trained.image_encoder.uncond_vector)
        pipeline.save_pretrained(out / "start" / f"{name}-prior")


def build_unet() -> UNet2DConditionModel:
    """A fresh U-Net for latents of 8x8, which attends to the exemplar's tokens at 4x4."""
    return UNet2DConditionModel(
        sample_size=IMAGE_SIZE // PATCH_SIZE,
        in_channels=2 * LATENT_CHANNELS + 1,
        out_channels=LATENT_CHANNELS,
        block_out_channels=(64, 128),
        layers_per_block=1,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
        cross_attention_dim=CONDITION_SIZE,
        attention_head_dim=4,  # diffusers' name for the number of heads
    )


def pictures(scenes: Composites) -> Iterator[np.ndarray]:
    """Training scenes for the quality score: (S, S, 3) uint8."""
    for index in range(PICTURES):
        yield np.rint((scenes.picture(index).transpose(1, 2, 0) + 1) * 127.5).astype(np.uint8)


if __name__ == "__main__":
    tyro.extras.subcommand_cli_from_dict({"build": build, "graft": graft})
