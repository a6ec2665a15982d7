"""The layout of the authors' code (LDM, one file): names of tensors, and what their shapes say of the networks.

Everything goes by our names, which are diffusers': for each tensor of ours there is one of theirs, or a third of one.
Such a file holds no configuration. Widths and depths are read off; the rest is Stable Diffusion 1.x, as in the released
model: 8 heads, 32 groups to a norm, CLIP heads of 64, quick-GELU in CLIP, exact GELU in the mapper, scale 0.18215.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor

from .errors import ModelError

Shapes = Mapping[str, tuple[int, ...]]

PREFIXES = {"unet": "model.diffusion_model.", "vae": "first_stage_model.", "image_encoder": "cond_stage_model."}
VISION = "cond_stage_model.transformer.vision_model."
TEXT = "cond_stage_model.transformer.text_model."
PRIOR = (
    "Stable Diffusion 1.x, a start for training: `pbe convert IN OUT --image-encoder openai/clip-vit-large-patch14`"
    " makes a model of it"
)
SAMPLE_SIZE = "sample_size"  # the one note in our files' header: the side of the latent, which no tensor tells

# scheduler/scheduler_config.json of the released model. PNDM itself has no clip_sample, but it must be there when
# another solver is made from this one: DDIM would clip latents to [-1, 1] otherwise.
SCHEDULER = {
    "beta_start": 0.00085,
    "beta_end": 0.012,
    "beta_schedule": "scaled_linear",
    "num_train_timesteps": 1000,
    "clip_sample": False,
    "prediction_type": "epsilon",
    "set_alpha_to_one": False,
    "skip_prk_steps": True,
    "steps_offset": 1,
    "trained_betas": None,
}


class Origin(NamedTuple):
    """Where a tensor of ours is in an LDM file."""

    name: str
    third: int | None = None
    """0, 1 or 2 for queries, keys and values, which are stacked in one tensor in the mapper."""


# --- names ------------------------------------------------------------------------------------------------------------

_TAILS = {
    "unet": {
        "norm1": "in_layers.0",
        "conv1": "in_layers.2",
        "time_emb_proj": "emb_layers.1",
        "norm2": "out_layers.0",
        "conv2": "out_layers.3",
        "conv_shortcut": "skip_connection",
    },
    "vae": {
        "conv_shortcut": "nin_shortcut",
        "group_norm": "norm",
        "to_q": "q",
        "to_k": "k",
        "to_v": "v",
        "to_out.0": "proj_out",
    },
    "image_encoder": {
        "norm1": "ln_1",
        "attn1.to_q": "attn.c_qkv",
        "attn1.to_k": "attn.c_qkv",
        "attn1.to_v": "attn.c_qkv",
        "attn1.to_out.0": "attn.c_proj",
        "norm3": "ln_2",
        "ff.net.0.proj": "mlp.c_fc",
        "ff.net.2": "mlp.c_proj",
    },
}


def origins(part: str, names: Iterable[str]) -> dict[str, Origin]:
    """Where each tensor of a network is in an LDM file.

    Args:
        part: unet, vae or image_encoder.
        names: all names of the network's tensors: they tell how many blocks and layers there are.

    Returns:
        Origins by our names.
    """
    names = list(names)
    heads = {"unet": _unet_heads, "vae": _vae_heads, "image_encoder": _image_encoder_heads}[part](names)
    return {name: _origin(part, name, heads) for name in names}


def _origin(part: str, name: str, heads: Mapping[str, str]) -> Origin:
    words = name.split(".")
    for cut in range(len(words), 0, -1):  # the longest head counts
        head = ".".join(words[:cut])
        if head in heads:
            tail = ".".join(words[cut:-1])
            tail = _TAILS[part].get(tail, tail)
            renamed = ".".join(filter(None, (heads[head], tail, *words[cut:][-1:])))
            break
    else:
        renamed = PREFIXES[part] + name
    third = re.search(r"\.attn1\.to_([qkv])\.", name) if part == "image_encoder" else None
    return Origin(renamed, "qkv".index(third[1]) if third else None)


def _count(names: Iterable[str], pattern: str) -> int:
    """How many numbers, from 0 on, stand in the place of the pattern's group."""
    found = {int(match[1]) for name in names if (match := re.match(pattern, name))}
    return max(found, default=-1) + 1


def _unet_heads(names: list[str]) -> dict[str, str]:
    levels = _count(names, r"down_blocks\.(\d+)\.")
    layers = _count(names, r"down_blocks\.0\.resnets\.(\d+)\.")
    heads = {
        "time_embedding.linear_1": "time_embed.0",
        "time_embedding.linear_2": "time_embed.2",
        "conv_in": "input_blocks.0.0",
        "mid_block.resnets.0": "middle_block.0",
        "mid_block.attentions.0": "middle_block.1",
        "mid_block.resnets.1": "middle_block.2",
        "conv_norm_out": "out.0",
        "conv_out": "out.2",
    }
    for level in range(levels):
        down, up = f"down_blocks.{level}", f"up_blocks.{level}"
        first_in, first_out = 1 + level * (layers + 1), level * (layers + 1)
        for layer in range(layers):
            heads[f"{down}.resnets.{layer}"] = f"input_blocks.{first_in + layer}.0"
            heads[f"{down}.attentions.{layer}"] = f"input_blocks.{first_in + layer}.1"
        heads[f"{down}.downsamplers.0.conv"] = f"input_blocks.{first_in + layers}.0.op"
        for layer in range(layers + 1):
            heads[f"{up}.resnets.{layer}"] = f"output_blocks.{first_out + layer}.0"
            heads[f"{up}.attentions.{layer}"] = f"output_blocks.{first_out + layer}.1"
        place = 2 if any(name.startswith(f"{up}.attentions.") for name in names) else 1
        heads[f"{up}.upsamplers.0.conv"] = f"output_blocks.{first_out + layers}.{place}.conv"
    return {ours: PREFIXES["unet"] + theirs for ours, theirs in heads.items()}


def _vae_heads(names: list[str]) -> dict[str, str]:
    levels = _count(names, r"encoder\.down_blocks\.(\d+)\.")
    heads: dict[str, str] = {}
    for coder in ("encoder", "decoder"):
        heads[f"{coder}.mid_block.resnets.0"] = f"{coder}.mid.block_1"
        heads[f"{coder}.mid_block.attentions.0"] = f"{coder}.mid.attn_1"
        heads[f"{coder}.mid_block.resnets.1"] = f"{coder}.mid.block_2"
        heads[f"{coder}.conv_norm_out"] = f"{coder}.norm_out"
    for level in range(levels):
        down, up = f"encoder.down_blocks.{level}", f"decoder.up_blocks.{level}"
        mirrored = levels - 1 - level  # they count the decoder's levels by width, we in the order they are passed
        for layer in range(_count(names, rf"{re.escape(up)}\.resnets\.(\d+)\.")):
            heads[f"{down}.resnets.{layer}"] = f"encoder.down.{level}.block.{layer}"
            heads[f"{up}.resnets.{layer}"] = f"decoder.up.{mirrored}.block.{layer}"
        heads[f"{down}.downsamplers.0.conv"] = f"encoder.down.{level}.downsample.conv"
        heads[f"{up}.upsamplers.0.conv"] = f"decoder.up.{mirrored}.upsample.conv"
    return {ours: PREFIXES["vae"] + theirs for ours, theirs in heads.items()}


def _image_encoder_heads(names: list[str]) -> dict[str, str]:
    heads = {
        "model": "cond_stage_model.transformer",
        "final_layer_norm": "cond_stage_model.final_ln",
        "proj_out": "proj_out",  # these two belong to the whole model in the authors' code, not to its encoder
        "uncond_vector": "learnable_vector",
    }
    for block in range(_count(names, r"mapper\.blocks\.(\d+)\.")):
        heads[f"mapper.blocks.{block}"] = f"cond_stage_model.mapper.resblocks.{block}"
    return heads


# --- tensors ----------------------------------------------------------------------------------------------------------


def expected_shapes(part: str, shapes: Shapes) -> dict[str, tuple[int, ...]]:
    """Names and shapes in an LDM file, from those of a network."""
    expected: dict[str, tuple[int, ...]] = {}
    for name, origin in origins(part, shapes).items():
        first, *rest = shapes[name]
        if origin.third is not None:
            first *= 3
        if _is_convolution_there(part, name):
            rest += [1, 1]
        expected[origin.name] = (first, *rest)
    return expected


def _is_convolution_there(part: str, name: str) -> bool:
    """Whether a fully connected layer of ours is a convolution of 1 x 1 in an LDM file."""
    return part == "vae" and re.search(r"attentions\.\d+\.to_.*weight$", name) is not None


def from_ldm(part: str, shapes: Shapes, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """A network's tensors out of an LDM file's.

    Args:
        part: unet, vae or image_encoder.
        shapes: of the network's tensors, by our names.
        tensors: by their names; all that are expected must be there.
    """
    result = {}
    for name, origin in origins(part, shapes).items():
        tensor = tensors[origin.name]
        if origin.third is not None:
            tensor = tensor.chunk(3)[origin.third]
        result[name] = tensor.reshape(shapes[name])
    return result


def to_ldm(part: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """An LDM file's tensors from a network's; the inverse of `from_ldm`."""
    thirds: dict[str, dict[int, Tensor]] = {}
    for name, origin in origins(part, tensors).items():
        tensor = tensors[name]
        if _is_convolution_there(part, name):
            tensor = tensor[..., None, None]
        thirds.setdefault(origin.name, {})[origin.third or 0] = tensor
    return {
        name: torch.cat([found[third] for third in sorted(found)]) if len(found) > 1 else found[0]
        for name, found in thirds.items()
    }


def schedule(config: Mapping[str, Any]) -> dict[str, Tensor]:
    """The twelve (T,) tables of the noise schedule that the authors' code keeps in its files (arXiv 2006.11239).

    Args:
        config: of a scheduler with betas as in Stable Diffusion: equally spaced roots.
    """
    roots = torch.linspace(
        config["beta_start"] ** 0.5, config["beta_end"] ** 0.5, config["num_train_timesteps"], dtype=torch.float64
    )
    betas = roots**2
    alphas = 1 - betas
    products = alphas.cumprod(0)
    previous = torch.cat([products.new_ones(1), products[:-1]])
    variance = betas * (1 - previous) / (1 - products)  # equation 7
    tables = {
        "betas": betas,
        "alphas_cumprod": products,
        "alphas_cumprod_prev": previous,
        "sqrt_alphas_cumprod": products.sqrt(),
        "sqrt_one_minus_alphas_cumprod": (1 - products).sqrt(),
        "log_one_minus_alphas_cumprod": (1 - products).log(),
        "sqrt_recip_alphas_cumprod": (1 / products).sqrt(),
        "sqrt_recipm1_alphas_cumprod": (1 / products - 1).sqrt(),
        "posterior_variance": variance,
        "posterior_log_variance_clipped": variance.clamp_min(1e-20).log(),  # the first variance is 0
        "posterior_mean_coef1": betas * previous.sqrt() / (1 - products),
        "posterior_mean_coef2": (1 - previous) * alphas.sqrt() / (1 - products),
    }
    return {name: table.float() for name, table in tables.items()}


SCHEDULE_TABLES = frozenset(schedule(SCHEDULER))


def is_left_out(name: str) -> bool:
    """Whether a tensor of an LDM file is of no use here: averages, tables of the schedule, training's losses."""
    return (
        name in SCHEDULE_TABLES
        or name in ("logvar", "scale_factor", "model_ema.decay", "model_ema.num_updates")
        or name.startswith(("model_ema.", "first_stage_model.loss.", "first_stage_model.model_ema."))
        or name.endswith(".position_ids")
    )


def with_averages(tensors: Mapping[str, Tensor], name: str) -> dict[str, Tensor]:
    """A file's tensors with the averages that training kept of the U-Net's weights in their place.

    Raises:
        ModelError: if it has none.
    """
    averages = {
        weight: tensors[average]
        for weight in tensors
        if weight.startswith("model.")
        and (average := "model_ema." + weight.removeprefix("model.").replace(".", "")) in tensors
    }
    if not averages:
        raise ModelError(f"{name} holds no averaged weights (model_ema.*); leave out --ema")
    return {**tensors, **averages}


# --- configurations ---------------------------------------------------------------------------------------------------


def unet_config(shapes: Shapes, sample_size: int = 64) -> dict[str, Any]:
    """Settings of diffusers' U-Net, from an LDM file.

    Raises:
        KeyError: if a tensor is missing without which this cannot be told.
        ModelError: if the network is built otherwise.
    """
    prefix = PREFIXES["unet"]
    in_channels = shapes[f"{prefix}input_blocks.0.0.weight"][1]
    widths: list[int] = []
    layers: list[int] = []
    attends: list[bool] = []
    is_new_level = True
    for block in range(1, _count(shapes, re.escape(prefix) + r"input_blocks\.(\d+)\.")):
        head = f"{prefix}input_blocks.{block}"
        if f"{head}.0.op.weight" in shapes:
            is_new_level = True
            continue
        if is_new_level:
            widths.append(shapes[f"{head}.0.out_layers.3.weight"][0])
            layers.append(0)
            attends.append(False)
            is_new_level = False
        layers[-1] += 1
        attends[-1] |= f"{head}.1.proj_in.weight" in shapes
    if len(shapes[f"{prefix}middle_block.1.proj_in.weight"]) != 4:
        raise ModelError(
            "the U-Net's attention starts with fully connected layers, as in Stable Diffusion 2; 1.x expected"
        )
    if len(set(layers)) != 1:
        raise ModelError(f"the U-Net has {layers} layers on its levels; as many on each are expected")
    return {
        "sample_size": sample_size,
        "in_channels": in_channels,
        "out_channels": shapes[f"{prefix}out.2.weight"][0],
        "block_out_channels": widths,
        "layers_per_block": layers[0],
        "down_block_types": ["CrossAttnDownBlock2D" if attend else "DownBlock2D" for attend in attends],
        "up_block_types": ["CrossAttnUpBlock2D" if attend else "UpBlock2D" for attend in reversed(attends)],
        "cross_attention_dim": shapes[f"{prefix}middle_block.1.transformer_blocks.0.attn2.to_k.weight"][1],
        "attention_head_dim": 8,  # diffusers' name for the number of heads
        "norm_num_groups": 32,
    }


def vae_config(shapes: Shapes, sample_size: int = 64, scale: float = 0.18215) -> dict[str, Any]:
    """Settings of diffusers' autoencoder, from an LDM file.

    Raises:
        KeyError: if a tensor is missing without which this cannot be told.
    """
    prefix = PREFIXES["vae"]
    levels = _count(shapes, re.escape(prefix) + r"encoder\.down\.(\d+)\.")
    layers = _count(shapes, re.escape(prefix) + r"encoder\.down\.0\.block\.(\d+)\.")
    return {
        "sample_size": sample_size * 2 ** (levels - 1),
        "in_channels": shapes[f"{prefix}encoder.conv_in.weight"][1],
        "out_channels": shapes[f"{prefix}decoder.conv_out.weight"][0],
        "block_out_channels": [
            shapes[f"{prefix}encoder.down.{level}.block.0.conv1.weight"][0] for level in range(levels)
        ],
        "layers_per_block": layers,
        "down_block_types": ["DownEncoderBlock2D"] * levels,
        "up_block_types": ["UpDecoderBlock2D"] * levels,
        "latent_channels": shapes[f"{prefix}post_quant_conv.weight"][0],
        "norm_num_groups": 32,
        "scaling_factor": scale,
    }


def image_encoder_config(shapes: Shapes) -> dict[str, Any]:
    """Settings of CLIP's vision model and of what stands on it, from an LDM file.

    Raises:
        KeyError: if a tensor is missing without which this cannot be told.
    """
    if (anchor := VISION + "embeddings.patch_embedding.weight") not in shapes:
        raise KeyError(anchor)
    blocks = _count(shapes, r"cond_stage_model\.mapper\.resblocks\.(\d+)\.")
    config = vision_config({name.removeprefix(VISION): shape for name, shape in shapes.items()})
    config["projection_dim"] = shapes["proj_out.weight"][0]
    if blocks != (config["num_hidden_layers"] + 1) // 5:  # otherwise that follows, as in the released configuration
        config["mapper_layers"] = blocks
    return config


def vision_config(shapes: Shapes) -> dict[str, Any]:
    """Settings of CLIP's vision model, from its tensors without prefix.

    Raises:
        KeyError: if a tensor is missing without which this cannot be told.
    """
    width, _, patch, _ = shapes["embeddings.patch_embedding.weight"]
    positions = shapes["embeddings.position_embedding.weight"][0]
    return {
        "hidden_size": width,
        "intermediate_size": shapes["encoder.layers.0.mlp.fc1.weight"][0],
        "num_hidden_layers": _count(shapes, r"encoder\.layers\.(\d+)\."),
        "num_attention_heads": max(1, width // 64),
        "patch_size": patch,
        "image_size": patch * math.isqrt(positions - 1),  # one position is the class token's
        "hidden_act": "quick_gelu",
    }


# --- files that are something else ------------------------------------------------------------------------------------


def likely_kind(names: Iterable[str]) -> str:
    """What a file that is no model of ours seems to be, from its names; empty where nothing comes to mind."""
    names = list(names)

    def some(*words: str) -> bool:
        return any(word in name for name in names for word in words)

    def every(*starts: str) -> bool:
        return all(name.startswith(starts) for name in names)

    if some("lora_", ".lora", "lokr_", "hada_"):
        return "a LoRA, which goes on top of a model: use load_lora_weights"
    if some("conditioner.embedders.", "label_emb.", "add_embedding."):
        return "Stable Diffusion XL, which has another U-Net"
    if some("double_blocks.", "joint_blocks.", "transformer_blocks.0.ff_context"):
        return "a diffusion transformer (Flux, Stable Diffusion 3), which has no U-Net"
    if some("control_model.", "controlnet_"):
        return "a ControlNet"
    if some("cond_stage_model.model."):
        return "Stable Diffusion 2, which has another text model and U-Net; 1.x is expected"
    if some(TEXT) and some(PREFIXES["unet"]):
        return PRIOR
    if some("embeddings.token_embedding.") and not some(PREFIXES["unet"], "vision_model."):
        return "a text model"
    if every("text_model.", TEXT, "text_projection", "logit_scale", "shared.", "encoder.block."):
        return "a text model"
    if every("first_stage_model.", "encoder.", "decoder.", "quant_conv.", "post_quant_conv.", "loss."):
        return "an autoencoder (VAE) alone"
    if every("model.diffusion_model.", "conv_in.", "conv_out.", "time_embedding.", "down_blocks.", "up_blocks."):
        return "a U-Net alone"
    if some("vision_model.embeddings.") and not some(PREFIXES["unet"]):
        return "CLIP alone, which goes with --image-encoder"
    return ""
