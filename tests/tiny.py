"""Models and data as small as they can be, with random weights: what they paint is noise, but how is the real thing."""

import json
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
from diffusers import AutoencoderKL, DDIMScheduler, PNDMScheduler, UNet2DConditionModel
from PIL import Image
from torch import Tensor
from transformers import CLIPVisionConfig
from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil

from paint_by_example import (
    PaintByExampleImageEncoder,
    PaintByExamplePipeline,
    PatchAutoencoder,
    PooledImageEncoder,
)
from paint_by_example.sampling import draw_noise, seeded_generators

IMAGE = 32  # side of the canvas, pixels, in both families
EXEMPLAR = 32  # side of the exemplar, pixels


def unet(latent_channels: int, sample_size: int, condition_size: int) -> UNet2DConditionModel:
    return UNet2DConditionModel(
        sample_size=sample_size,
        in_channels=2 * latent_channels + 1,
        out_channels=latent_channels,
        block_out_channels=(32, 32),
        norm_num_groups=8,
        layers_per_block=1,
        down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"),
        mid_block_type=None,
        cross_attention_dim=condition_size,
        attention_head_dim=2,
    )


def extractor() -> CLIPImageProcessorPil:
    return CLIPImageProcessorPil(size={"height": EXEMPLAR, "width": EXEMPLAR}, do_center_crop=False)


def embedded_pipeline() -> PaintByExamplePipeline:
    """The embedded model's family: patches to principal components, EfficientNet, v-prediction, latent factor 4."""
    torch.manual_seed(0)
    vae = PatchAutoencoder(patch_size=4, latent_channels=6, decoder_channels=8, decoder_blocks=1)
    vae.fit(torch.rand(256, 3, 4, 4) * 2 - 1)
    encoder = PooledImageEncoder(image_size=EXEMPLAR, feature_size=16, width=16, depth=1, proj_size=16)
    return PaintByExamplePipeline(
        vae=vae.eval(),
        image_encoder=encoder.eval(),
        unet=unet(latent_channels=6, sample_size=IMAGE // 4, condition_size=16).eval(),
        scheduler=DDIMScheduler(
            beta_start=0.00085,
            beta_end=0.012,
            beta_schedule="scaled_linear",
            clip_sample=False,
            set_alpha_to_one=False,
            steps_offset=1,
            prediction_type="v_prediction",
        ),
        feature_extractor=extractor(),
    )


def clip_pipeline() -> PaintByExamplePipeline:
    """The released model's family: AutoencoderKL, CLIP, nine channels, PNDM, prediction of noise, latent factor 2."""
    torch.manual_seed(0)
    config = CLIPVisionConfig(
        hidden_size=16,
        intermediate_size=32,
        num_hidden_layers=5,
        num_attention_heads=2,
        image_size=EXEMPLAR,
        patch_size=16,
        projection_dim=16,
    )
    vae = AutoencoderKL(
        block_out_channels=(16, 16),
        norm_num_groups=8,
        down_block_types=("DownEncoderBlock2D", "DownEncoderBlock2D"),
        up_block_types=("UpDecoderBlock2D", "UpDecoderBlock2D"),
        latent_channels=4,
    )
    return PaintByExamplePipeline(
        vae=vae.eval(),
        image_encoder=PaintByExampleImageEncoder(config).eval(),
        unet=unet(latent_channels=4, sample_size=IMAGE // 2, condition_size=16).eval(),
        scheduler=PNDMScheduler(
            beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear", skip_prk_steps=True, steps_offset=1
        ),
        feature_extractor=extractor(),
    )


def sd_unet(in_channels: int = 9) -> UNet2DConditionModel:
    """Stable Diffusion 1.x as small as its 32 groups to a norm allow: four levels, eight heads."""
    return UNet2DConditionModel(
        sample_size=8,
        in_channels=in_channels,
        out_channels=4,
        block_out_channels=(32, 64, 64, 64),
        layers_per_block=1,
        cross_attention_dim=24,
        attention_head_dim=8,
    )


def sd_autoencoder() -> AutoencoderKL:
    return AutoencoderKL(
        block_out_channels=(32, 32, 64, 32),
        norm_num_groups=32,
        down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4,
        latent_channels=4,
        sample_size=64,
    )


def sd_pipeline() -> PaintByExamplePipeline:
    """The released model's own layers in small, which a file without a configuration can hold; latent factor 8."""
    torch.manual_seed(0)
    config = CLIPVisionConfig(
        hidden_size=64,
        intermediate_size=80,
        num_hidden_layers=9,  # two blocks in the mapper
        num_attention_heads=1,
        image_size=EXEMPLAR,
        patch_size=16,
        projection_dim=24,
    )
    pipeline = PaintByExamplePipeline(
        vae=sd_autoencoder().eval(),
        image_encoder=PaintByExampleImageEncoder(config).eval(),
        unet=sd_unet().eval(),
        scheduler=PNDMScheduler(
            beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear", skip_prk_steps=True, steps_offset=1
        ),
        feature_extractor=extractor(),
    )
    with torch.no_grad():  # some start as zeros and ones, which would hide that two were exchanged
        for part in (pipeline.vae, pipeline.image_encoder, pipeline.unet):
            for parameter in part.parameters():
                parameter.add_(torch.randn_like(parameter) * 0.02)
    return pipeline


PIPELINES = {"embedded": embedded_pipeline, "clip": clip_pipeline}


def picture(width: int, height: int, mode: str = "RGB", seed: int = 0) -> Image.Image:
    """Noise of any size and mode."""
    values = np.random.default_rng(seed).integers(0, 256, (height, width, 4), dtype=np.uint8)
    return Image.fromarray(values).convert(mode) if mode != "RGBA" else Image.fromarray(values)


def composites_folder(folder: Path) -> Path:
    """What `pbe prepare composites` makes: two objects and a background of each split."""
    for kind in ("objects", "backgrounds"):
        (folder / kind).mkdir(parents=True)
    entries = []
    for number, split in enumerate(("train", "train", "held_out", "held_out")):
        cutout = np.zeros((24, 20 + number, 4), np.uint8)
        cutout[4:20, 4:16] = (250 - 60 * number, 40 * number, 90, 255)
        Image.fromarray(cutout).save(folder / "objects" / f"object-{number}.png")
        entries.append((f"object-{number}", "object", split))
    for number, split in enumerate(("train", "held_out")):
        picture(80, 60, seed=number).save(folder / "backgrounds" / f"background-{number}.jpg")
        entries.append((f"background-{number}", "background", split))
    lines = [
        json.dumps({"name": name, "kind": kind, "source": "tiny", "group": name, "split": split}) + "\n"
        for name, kind, split in entries
    ]
    (folder / "composites.jsonl").write_text("".join(lines))
    return folder


def box_index(folder: Path) -> Path:
    """An index of pictures and boxes, with the pictures."""
    folder.mkdir(parents=True)
    lines = []
    for number in range(3):
        picture(60, 50, seed=number).save(folder / f"{number}.png")
        lines.append(json.dumps({"picture": f"{number}.png", "boxes": [[10, 10, 40, 35]]}) + "\n")
    (folder / "index.jsonl").write_text("".join(lines))
    return folder / "index.jsonl"


class RecordingUnet(torch.nn.Module):
    """Predicts nothing, and keeps what it was shown."""

    def __init__(self, like: Any) -> None:
        super().__init__()
        self.config, self.dtype, self.device = like.config, like.dtype, like.device
        self.seen: list[tuple[Tensor, Tensor, Tensor]] = []

    def forward(self, x: Tensor, t: Tensor, encoder_hidden_states: Tensor) -> SimpleNamespace:
        self.seen.append((x, t, encoder_hidden_states))
        return SimpleNamespace(sample=torch.zeros_like(x[:, : self.config.out_channels]))


def record_unet(pipeline: PaintByExamplePipeline) -> RecordingUnet:
    """Put one in the place of a pipeline's U-Net."""
    unet = RecordingUnet(pipeline.unet)
    pipeline.register_modules(unet=unet)
    return unet


def seeded_noise(shape: Sequence[int], seeds: Sequence[int], dtype: torch.dtype = torch.float32) -> Tensor:
    """A draw for each seed, (B, *shape)."""
    return draw_noise(shape, seeded_generators(seeds), dtype=dtype)
