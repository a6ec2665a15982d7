"""What the two environments of the oracle do alike: weights, pictures, edits, and what is kept of them.

It runs with our dependencies and with the ancestor's, so it imports nothing that differs between the two. Weights and
pictures come from numpy's `RandomState`, whose numbers are the same on every machine and in every version, and from a
list of names and shapes, so no library's own initialisation enters.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from diffusers import DDIMScheduler
from PIL import Image
from safetensors.torch import save_file
from torch import Tensor

DATA = Path(__file__).parents[1] / "data"
DIFFUSERS = DATA / "oracle_diffusers"  # .tsv: names and shapes; .npz: what diffusers 0.37.1 made of them
ORIGINAL = DATA / "oracle_original"  # likewise, of the authors' code

Results = dict[str, np.ndarray]


# --- weights ----------------------------------------------------------------------------------------------------------


def weights(names: Path) -> dict[str, Tensor]:
    """Random weights for a list of names and shapes, the same everywhere.

    Matrices and kernels are uniform with a deviation of 1 / √inputs, so that activations keep their size from layer to
    layer; norms are about 1, biases about 0. The picture's last convolution is weaker: what it paints should not need
    to be clipped, which would hide differences.
    """
    tensors = {}
    for line in names.read_text(encoding="utf-8").splitlines():
        name, sizes = line.split("\t")
        shape = tuple(int(size) for size in sizes.split(","))
        uniform = np.random.RandomState(zlib.crc32(name.encode())).random_sample(shape) - 0.5
        if len(shape) > 1:
            values = uniform * np.sqrt(12 / np.prod(shape[1:]))
            if "decoder.conv_out" in name:
                values *= 0.2
        elif name.endswith("weight"):
            values = 1 + 0.4 * uniform
        else:
            values = 0.4 * uniform
        tensors[name] = torch.from_numpy(values.astype(np.float32))
    return tensors


RELEASED: dict[str, dict[str, Any]] = {
    "scheduler/scheduler_config.json": {
        "_class_name": "PNDMScheduler",
        "_diffusers_version": "0.11.0.dev0",
        "beta_end": 0.012,
        "beta_schedule": "scaled_linear",
        "beta_start": 0.00085,
        "clip_sample": False,
        "num_train_timesteps": 1000,
        "prediction_type": "epsilon",
        "set_alpha_to_one": False,
        "skip_prk_steps": True,
        "steps_offset": 1,
        "trained_betas": None,
    },
    "feature_extractor/preprocessor_config.json": {
        "crop_size": {"height": 32, "width": 32},
        "do_center_crop": True,
        "do_convert_rgb": True,
        "do_normalize": True,
        "do_rescale": True,
        "do_resize": True,
        "feature_extractor_type": "CLIPFeatureExtractor",
        "image_mean": [0.48145466, 0.4578275, 0.40821073],
        "image_processor_type": "CLIPImageProcessor",
        "image_std": [0.26862954, 0.26130258, 0.27577711],
        "resample": 3,
        "rescale_factor": 0.00392156862745098,
        "size": {"shortest_edge": 32},
    },
    "image_encoder/config.json": {  # complete, since transformers 4 reads it as one of text and vision together
        "architectures": ["PaintByExampleImageEncoder"],
        "attention_dropout": 0.0,
        "dropout": 0.0,
        "hidden_act": "quick_gelu",
        "hidden_size": 16,
        "image_size": 32,
        "initializer_factor": 1.0,
        "initializer_range": 0.02,
        "intermediate_size": 32,
        "layer_norm_eps": 1e-05,
        "model_type": "clip_vision_model",
        "num_attention_heads": 2,
        "num_channels": 3,
        "num_hidden_layers": 9,
        "patch_size": 8,
        "projection_dim": 24,
        "torch_dtype": "float32",
        "transformers_version": "4.25.0.dev0",
    },
    "unet/config.json": {
        "_class_name": "UNet2DConditionModel",
        "attention_head_dim": 4,
        "block_out_channels": [16, 32],
        "cross_attention_dim": 24,
        "down_block_types": ["CrossAttnDownBlock2D", "DownBlock2D"],
        "in_channels": 9,
        "layers_per_block": 1,
        "norm_num_groups": 8,
        "out_channels": 4,
        "sample_size": 8,
        "up_block_types": ["UpBlock2D", "CrossAttnUpBlock2D"],
    },
    "vae/config.json": {
        "_class_name": "AutoencoderKL",
        "block_out_channels": [8, 8, 16, 16],
        "down_block_types": ["DownEncoderBlock2D"] * 4,
        "latent_channels": 4,
        "layers_per_block": 1,
        "norm_num_groups": 4,
        "scaling_factor": 0.18215,
        "up_block_types": ["UpDecoderBlock2D"] * 4,
    },
    "model_index.json": {
        "_class_name": "PaintByExamplePipeline",
        "_diffusers_version": "0.11.0.dev0",
        "feature_extractor": ["transformers", "CLIPImageProcessor"],
        "image_encoder": ["paint_by_example", "PaintByExampleImageEncoder"],
        "requires_safety_checker": False,
        "safety_checker": [None, None],
        "scheduler": ["diffusers", "PNDMScheduler"],
        "unet": ["diffusers", "UNet2DConditionModel"],
        "vae": ["diffusers", "AutoencoderKL"],
    },
}
"""The files of the released checkpoint with its settings, but for the sizes, which are tiny."""

FILES = {
    "image_encoder": "model.safetensors",
    "unet": "diffusion_pytorch_model.safetensors",
    "vae": "diffusion_pytorch_model.safetensors",
}


def write_released(folder: Path) -> Path:
    """Write the tiny model in the layout of the released one."""
    for name, settings in RELEASED.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(json.dumps(settings, indent=2), encoding="utf-8")
    tensors = weights(DIFFUSERS.with_suffix(".tsv"))
    for part, file in FILES.items():
        own = {name.removeprefix(f"{part}/"): value for name, value in tensors.items() if name.startswith(f"{part}/")}
        save_file(own, folder / part / file, {"format": "pt"})
    return folder


# --- pictures ---------------------------------------------------------------------------------------------------------


def picture(size: tuple[int, int], seed: int) -> Image.Image:
    """Noise over a gradient: no two places alike, and not the same turned round."""
    width, height = size
    rows, columns = np.mgrid[:height, :width]
    ramp = np.stack([rows / height, columns / width, 1 - rows / height], -1)
    noise = np.random.RandomState(seed).random_sample((height, width, 3))
    return Image.fromarray((255 * (0.6 * ramp + 0.4 * noise)).astype(np.uint8))


def soft_mask(size: tuple[int, int]) -> Image.Image:
    """A filled block, a ramp through all greys, whose middle is the threshold, and a stroke three pixels wide."""
    width, height = size
    mask = np.zeros((height, width), np.uint8)
    mask[height // 2 :, : width // 2] = 255
    mask[: height // 3, :] = np.linspace(0, 255, width).astype(np.uint8)
    mask[0, :4] = 126, 127, 128, 129
    mask[height // 3 :, -6:-3] = 255
    return Image.fromarray(mask)


def noise(shape: tuple[int, ...], seed: int) -> Tensor:
    """Normal deviates for inputs of networks."""
    return torch.from_numpy(np.random.RandomState(seed).standard_normal(shape).astype(np.float32))


# --- edits ------------------------------------------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class Edit:
    """One call of the pipeline."""

    scheduler: str = "pndm"
    steps: int = 10
    guidance_scale: float = 5.0
    eta: float = 0.0
    size: tuple[int, int] = (32, 32)
    """Of the source: width, height."""
    exemplar: tuple[int, int] = (70, 30)
    noise: str = "generator"
    """Where it comes from: a generator, a list of generators, a generator after latents to start from, or none."""
    results: int = 1
    """How many for each source."""
    sources: int = 1
    """Each with a mask and an exemplar."""
    tensors: bool = False
    """Source, mask and exemplar are tensors; the mask holds exact halves."""
    output_type: str = "np"
    kept: bool = False
    """Whether its picture is stored. Of the other edits the latents say as much in less room."""


EDITS = {
    "pndm": Edit(),
    "pndm 50": Edit(steps=50),
    "pndm 7, no guidance": Edit(steps=7, guidance_scale=1.0),
    "pndm, scale below 1": Edit(steps=5, guidance_scale=0.5),
    "pndm, 64x40, latents": Edit(size=(64, 40), noise="latents", kept=True),
    "pndm, 40x64, tall exemplar": Edit(size=(40, 64), exemplar=(33, 90), steps=5, guidance_scale=3.0),
    "pndm, three sources": Edit(sources=3, steps=5),
    "pndm, tensors": Edit(sources=2, steps=5, tensors=True),
    "ddim": Edit("ddim"),
    "ddim 50": Edit("ddim", steps=50, kept=True),
    "ddim 9, 64x40": Edit("ddim", steps=9, size=(64, 40), exemplar=(32, 32)),
    "ddim, no guidance, latents": Edit("ddim", guidance_scale=1.0, noise="latents"),
    "ddim, noise in each step": Edit("ddim", steps=5, eta=0.7),
    "ddim, two results": Edit("ddim", steps=5, results=2, eta=0.7),
    "ddim, two generators": Edit("ddim", steps=5, results=2, noise="generators"),
    "ddim, torch's own generator": Edit("ddim", steps=5, noise="none"),
    "ddim, latents out": Edit("ddim", steps=5, output_type="latent"),
}

ORIGINAL_EDITS = {
    "pndm": Edit(size=(32, 48), exemplar=(100, 60)),
    "pndm 5, no guidance": Edit(size=(32, 32), steps=5, guidance_scale=1.0, exemplar=(60, 100)),
    "pndm 25, 48x32, latents": Edit(size=(48, 32), steps=25, noise="latents", kept=True),
    "pndm 50": Edit(steps=50, kept=True),
    "pndm, scale below 1": Edit(steps=5, guidance_scale=0.5),
    "ddim": Edit("ddim", size=(48, 32)),
    "ddim 5, no guidance": Edit("ddim", steps=5, guidance_scale=1.0),
    "ddim 25, latents": Edit("ddim", steps=25, noise="latents"),
    "ddim 50": Edit("ddim", steps=50, exemplar=(224, 224)),
    "ddim, noise in each step": Edit("ddim", steps=10, eta=0.7),
}
"""At numbers of steps for which the authors' timesteps are right."""


def inputs(edit: Edit) -> dict[str, Any]:
    """Sources, masks and exemplars."""
    if not edit.tensors:
        return {
            "image": [picture(edit.size, 20 + i) for i in range(edit.sources)],
            "mask_image": [soft_mask(edit.size).rotate(180 * i) for i in range(edit.sources)],
            "example_image": [picture(edit.exemplar, 40 + i) for i in range(edit.sources)],
        }
    width, height = edit.size
    return {
        "image": noise((edit.sources, 3, height, width), 8).clamp(-1, 1),
        "mask_image": torch.arange(edit.sources * height * width).view(-1, 1, height, width) // 4 % 5 / 4,
        "example_image": noise((edit.sources, 3, 32, 32), 9),
    }


def run(pipeline: Any, edit: Edit, latents: Tensor | None = None) -> Results:
    """Call the pipeline, ours or the ancestor's, and keep what goes into the U-Net first, and what comes out.

    Args:
        pipeline: of either kind.
        edit: what to call it with.
        latents: to start from, where the edit says so; some of our own by default.
    """
    count = edit.sources * edit.results
    seeds = range(11, 11 + count)
    settings: dict[str, Any] = {"generator": torch.Generator().manual_seed(seeds[0])}
    if edit.noise == "generators":
        settings["generator"] = [torch.Generator().manual_seed(seed) for seed in seeds]
    elif edit.noise == "latents":
        shape = (count, 4, edit.size[1] // 8, edit.size[0] // 8)
        settings["latents"] = noise(shape, 3) if latents is None else latents
    elif edit.noise == "none":
        del settings["generator"]
        torch.manual_seed(seeds[0])
    pndm = pipeline.scheduler
    if edit.scheduler == "ddim":
        pipeline.scheduler = DDIMScheduler.from_config(pndm.config)
    try:
        with watch(pipeline) as seen:
            output = pipeline(
                **inputs(edit),
                num_inference_steps=edit.steps,
                guidance_scale=edit.guidance_scale,
                num_images_per_prompt=edit.results,
                eta=edit.eta,
                output_type=edit.output_type,
                **settings,
            )
    finally:
        pipeline.scheduler = pndm
    if edit.output_type == "latent":
        return {**seen, "z_0": output.images.numpy()}
    return {**seen, "picture": output.images}


@contextlib.contextmanager
def watch(pipeline: Any) -> Iterator[Results]:
    """Note what the U-Net is given at its first call of each edit, and the latents that are decoded at last."""
    seen: Results = {}

    def before_unet(_: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        x = (args[0] if args else kwargs["sample"]).numpy()
        if "noise" not in seen:
            seen["noise"], seen["masked source"], seen["mask"] = x[:, :4], x[:, 4:8], x[:, 8:]
            seen["condition"] = kwargs["encoder_hidden_states"].numpy()

    def before_decoder(_: Any, args: tuple[Tensor, ...]) -> None:
        seen["z_0"] = args[0].numpy() * pipeline.vae.config.scaling_factor

    hooks = [
        pipeline.unet.register_forward_pre_hook(before_unet, with_kwargs=True),
        pipeline.vae.post_quant_conv.register_forward_pre_hook(before_decoder),
    ]
    try:
        yield seen
    finally:
        for hook in hooks:
            hook.remove()


@torch.no_grad()
def run_parts(pipeline: Any) -> Results:
    """Each network by itself, on the same numbers, which are two of each where that is how it is called."""
    side = pipeline.image_encoder.config.image_size
    condition = noise((2, 1, pipeline.unet.config.cross_attention_dim), 1)
    unet = pipeline.unet(noise((2, 9, 8, 4), 2), torch.tensor([981, 20]), encoder_hidden_states=condition)
    posterior = pipeline.vae.encode(noise((1, 3, 32, 40), 5).clamp(-1, 1)).latent_dist
    return {
        "image encoder": pipeline.image_encoder(noise((2, 3, side, side), 4)).numpy(),
        "u-net": unet.sample.numpy(),
        "vae encoder": posterior.parameters.numpy(),
        "vae decoder": pipeline.vae.decode(noise((1, 4, 3, 4), 6)).sample.numpy(),
    }


def predict(z_t: Tensor, t: Tensor) -> Tensor:
    """Stands for a model where the solvers are compared alone: nothing one could get right by chance."""
    return torch.sin(3 * z_t) + 0.5 * torch.cos(z_t + t / 100)


SOLVER_STEPS = (1, 2, 3, 7, 50)
SOLVER_START = (2, 4, 3, 2)


# --- differences ------------------------------------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class Difference:
    """How far ours is from the ancestor's."""

    largest: float
    rms: float
    deviation: float
    """Standard deviation of the ancestor's own, for scale."""

    @property
    def relative(self) -> float:
        """The largest difference, where 1 is the deviation."""
        return self.largest / self.deviation if self.deviation else float(self.largest > 0)


def difference(ours: np.ndarray, theirs: np.ndarray) -> Difference:
    """Compare two arrays of one shape; where a shape or a number is missing, all is different."""
    if ours.shape != theirs.shape or not np.isfinite(ours).all():
        return Difference(np.inf, np.inf, float(theirs.std()))
    gap = ours.astype(np.float64) - theirs
    return Difference(float(abs(gap).max()), float(np.sqrt((gap**2).mean())), float(theirs.std()))
