"""Models from one layout to another, tensor by tensor; and from Stable Diffusion 1.x a start for training (`prior`)."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, cast

import diffusers
import torch
from diffusers import AutoencoderKL, ModelMixin, UNet2DConditionModel
from torch import Tensor
from transformers import CLIPVisionConfig

from . import ldm
from .checkpoint import (
    INDEX,
    KNOWN,
    StoredModel,
    check_fit,
    find_model,
    ldm_networks,
    listed_class,
    read_file,
    read_index,
    read_model,
    read_part,
    read_weights,
    readable,
    released_feature_extractor,
    released_scheduler,
)
from .conditioning import PaintByExampleImageEncoder
from .errors import ModelError
from .network import Network, check_tensors, first, outline, quiet, seems, shapes_of
from .pipeline import PaintByExamplePipeline
from .prior import fresh_layers, nine_channels, vision_names
from .settings import TrainConfig
from .weights import read_tensors, stored_size, write_tensors, written_beside


def convert(
    model: str | Path,
    out: Path,
    *,
    dtype: torch.dtype | None = None,
    variant: str | None = None,
    image_encoder: str | None = None,
    seed: int = 0,
    ema: bool = False,
    overwrite: bool = False,
    on_start: Callable[[int], None] | None = None,
    on_bytes: Callable[[int], None] | None = None,
) -> None:
    """Write a model in another layout, tensor by tensor.

    Args:
        model: as for `find_model`.
        out: a ``.safetensors`` file, which is written as LDM, or a folder.
        dtype: of the weights; as they are if not given.
        variant: of the files in a folder, such as fp16.
        image_encoder: CLIP, which makes a start for training of Stable Diffusion 1.x, see `read_prior`.
        seed: of what then starts at random.
        ema: take the averages that training kept of the weights, from an LDM file.
        overwrite: replace what is at ``out``.
        on_start: called with the number of bytes to be written.
        on_bytes: called with the number of bytes written each time.

    Raises:
        ModelError: if the model cannot be read, or not be written so.
    """
    if out.suffix in (".ckpt", ".pt", ".pth", ".bin"):
        raise ModelError(f"{out}: pickles are read here but not written; give a .safetensors file or a folder")
    is_file = out.suffix == ".safetensors"
    if overwrite and out.exists() and (out.is_dir() == is_file or (not is_file and not (out / INDEX).is_file())):
        raise ModelError(f"{out} is not a model of this layout and is left alone; give another place")
    with written_beside(out, overwrite) as place:
        if image_encoder is not None:
            stored = read_prior(model, image_encoder, seed=seed, ema=ema, variant=variant)
        elif ema:
            file = Path(model).expanduser()
            if not file.is_file():
                raise ModelError(
                    f"{model} is not an LDM file, and only those hold averages of the weights; leave out --ema"
                )
            with readable(model):
                stored = read_file(file, str(model), ema)
        else:
            stored = read_model(model, variant=variant, download=PaintByExamplePipeline.download)
        check_fit(stored.outline(), model)
        if on_start is not None:
            tables = ldm.schedule(ldm.SCHEDULER) if is_file else {}
            networks = (stored_size(network.tensors, dtype) for network in stored.networks.values())
            on_start(sum(networks) + stored_size(tables))
        with quiet():
            if is_file:
                if "source_encoder" in stored.networks:
                    raise ModelError(f"{model} has learned structure or context, which one file has no place for")
                write_ldm(stored, place, dtype, on_bytes)
            else:
                write_folder(stored, place, dtype, on_bytes)


def write_folder(
    stored: StoredModel, folder: Path, dtype: torch.dtype | None, on_bytes: Callable[[int], None] | None
) -> None:
    """Write a model in diffusers' layout, as `save_pretrained` would."""
    index: dict[str, Any] = {
        "_class_name": "PaintByExamplePipeline",
        "_diffusers_version": diffusers.__version__,
        "requires_safety_checker": False,
        "safety_checker": [None, None],
        "source_encoder": [None, None],
    }
    for name, part in stored.outline().items():
        # the released checkpoint names the package, not the module, and so do we
        index[name] = [type(part).__module__.partition(".")[0], type(part).__name__]
        (folder / name).mkdir(parents=True)
        if name not in stored.networks:
            part.save_pretrained(folder / name)
            continue
        if isinstance(part, ModelMixin):
            part.save_config(folder / name)
        else:
            part.config.architectures = [type(part).__name__]
            part.config.save_pretrained(folder / name)
        file = "diffusion_pytorch_model" if isinstance(part, ModelMixin) else "model"
        write_tensors(folder / name / f"{file}.safetensors", stored.networks[name].tensors, dtype, on_bytes=on_bytes)
    text = json.dumps(dict(sorted(index.items())), indent=2)
    (folder / INDEX).write_text(text + "\n", encoding="utf-8")


def write_ldm(
    stored: StoredModel, file: Path, dtype: torch.dtype | None, on_bytes: Callable[[int], None] | None
) -> None:
    """Write a model as one LDM safetensors file, complete with the tables of the noise schedule.

    Raises:
        ModelError: if the file would be understood as another model, since it holds no configuration.
    """
    tensors: dict[str, Tensor] = {}
    for part, network in stored.networks.items():
        if not isinstance(network.module, UNet2DConditionModel | AutoencoderKL | PaintByExampleImageEncoder):
            raise ModelError(f"{stored.name} cannot be written as LDM, which has no {type(network.module).__name__}")
        tensors |= ldm.to_ldm(part, network.tensors)
    sample_size = cast(Any, stored.networks["unet"].module).config.sample_size
    metadata = {ldm.SAMPLE_SIZE: f"{sample_size}"}
    try:
        settings = list(_as_read(stored, tensors, sample_size))
    except KeyError as error:
        raise ModelError(f"{stored.name} cannot be written as LDM: it has no {error.args[0]}") from error
    for part, ours, read in settings:
        if changed := [key for key in read if key in ours and _plain(ours[key]) != _plain(read[key])]:
            key = changed[0]
            raise ModelError(
                f"{stored.name} cannot be written as LDM: that layout has no settings, and the {part}'s {key} of"
                f" {ours[key]} would be taken for {read[key]}"
            )
    tables = ldm.schedule(stored.scheduler.config)  # float32 in every file of the authors' layout
    write_tensors(file, tensors | tables, dtype, metadata, tables, on_bytes)


def _as_read(
    stored: StoredModel, tensors: Mapping[str, Tensor], sample_size: int
) -> Iterator[tuple[str, Mapping[str, Any], Mapping[str, Any]]]:
    """Part, its settings, and what would be taken for them in an LDM file."""
    shapes = {name: tuple(tensor.shape) for name, tensor in tensors.items()}
    left_out = ("sample_size", "force_upcast", "dropout")  # they change no result, or are written
    kinds = (
        ("unet", UNet2DConditionModel, ldm.unet_config(shapes, sample_size)),
        ("vae", AutoencoderKL, ldm.vae_config(shapes, sample_size)),
    )
    for part, kind, config in kinds:
        read = cast(Any, outline(kind, config)).config
        keys = {key: value for key, value in read.items() if not key.startswith("_") and key not in left_out}
        yield part, cast(Any, stored.networks[part].module).config, keys
    encoder = cast(Any, stored.networks["image_encoder"].module).config.to_dict()
    yield "image encoder", encoder, ldm.image_encoder_config(shapes)
    schedule = ("beta_start", "beta_end", "beta_schedule", "num_train_timesteps", "prediction_type", "trained_betas")
    yield "scheduler", stored.scheduler.config, {key: ldm.SCHEDULER[key] for key in schedule}


def _plain(value: Any) -> Any:
    return list(value) if isinstance(value, tuple) else value


# --- the image prior --------------------------------------------------------------------------------------------------


def read_start(config: TrainConfig) -> StoredModel:
    """What a run starts from, without its weights.

    Raises:
        ModelError: if it cannot be found or read, or its parts do not fit together.
    """
    if config.image_encoder is None:
        stored = read_model(config.init, download=PaintByExamplePipeline.download)
    else:
        stored = read_prior(config.init, config.image_encoder, seed=config.seed)
    check_fit(stored.outline(), config.init)
    return stored


def load_start(config: TrainConfig, device: torch.device | str) -> PaintByExamplePipeline:
    """What a run starts from, in float32; see `read_start`."""
    stored = read_start(config)
    with readable(config.init):
        pipeline = PaintByExamplePipeline(**stored.load(device, lambda part: torch.float32))
    if config.added:
        pipeline.add_source_encoder(config.added, config.seed)
    pipeline.model_name = config.init
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def read_prior(
    model: str | Path, image_encoder: str, *, seed: int = 0, ema: bool = False, variant: str | None = None
) -> StoredModel:
    """Stable Diffusion 1.x or its inpainting model as a start for training, see `prior`.

    Args:
        model: a folder in diffusers' layout, an LDM file, or a name on the hub.
        image_encoder: a folder with CLIP's vision model, alone or with its text model, or a name on the hub.
        seed: of what starts at random.
        ema: take the averages of the weights, from an LDM file.
        variant: of the files in a folder.

    Raises:
        ModelError: if it is another model, or CLIP cannot be had.
    """
    options: dict[str, Any] = {"text_encoder": None, "tokenizer": None, "image_encoder": None}  # not to be downloaded
    place = find_model(model, **options | ({"variant": variant} if variant else {}))
    with readable(model):
        if place.is_file():
            networks = ldm_networks(read_tensors(place), place, ("unet", "vae"), ema)
        else:
            index = read_index(place)
            if listed_class(index, "image_encoder") in {kind.__name__ for kind in KNOWN["image_encoder"]}:
                raise ModelError(f"{model} is a Paint by Example model already; leave out --image-encoder")
            check_predicts_noise(place)
            networks = {part: read_part(place, part, index, variant, None) for part in ("unet", "vae")}
    unet = networks["unet"]
    config = dict(cast(Any, unet.module).config)
    if config["use_linear_projection"] or config["cross_attention_dim"] == 1024:
        raise ModelError(f"{model} is built as Stable Diffusion 2 is; 1.x is expected")
    weight, bias = nine_channels(*(unet.tensors[f"conv_in.{name}"] for name in ("weight", "bias")))
    networks["unet"] = Network(
        outline(UNet2DConditionModel, config | {"in_channels": 9}),
        {**unet.tensors, "conv_in.weight": weight, "conv_in.bias": bias},
    )
    with readable(image_encoder):
        networks["image_encoder"] = _encoder_on(image_encoder, config["cross_attention_dim"], seed)
    size = cast(Any, networks["image_encoder"].module).config.image_size
    return StoredModel(str(model), "prior", networks, released_scheduler(), released_feature_extractor(size))


def check_predicts_noise(folder: Path) -> None:
    """Raise a `ModelError` where a folder's scheduler says that its U-Net predicts something else: a start keeps that.

    A folder without a scheduler is taken for Stable Diffusion 1.x, which predicts noise.
    """
    file = folder / "scheduler" / "scheduler_config.json"
    if not file.is_file():
        return
    found = json.loads(file.read_text(encoding="utf-8")).get("prediction_type", "epsilon")
    if found != "epsilon":
        raise ModelError(f"{folder} predicts {found!r}; a start for training is made of a model that predicts noise")


def _encoder_on(name: str, proj_size: int, seed: int) -> Network:
    """An exemplar encoder on a CLIP that is trained, the rest of it fresh."""
    folder = Path(name).expanduser()
    if not folder.is_dir():
        if folder.is_absolute() or name.startswith((".", "~")) or name.count("/") != 1:
            raise ModelError(f"no folder {folder} with CLIP's vision model; give one, or openai/clip-vit-large-patch14")
        from huggingface_hub import snapshot_download

        with quiet(bars=True):
            for file in ("model.safetensors", "pytorch_model.bin"):
                folder = Path(snapshot_download(name, allow_patterns=["config.json", file]))
                if (folder / file).is_file():
                    break
    tensors = read_weights(folder)
    names = vision_names(tensors)
    if not names:
        raise ModelError(f"{folder} holds no vision model of CLIP{seems(tensors)}: its tensors are {first(tensors)}")
    vision = {names[name]: tensors[name] for name in names}
    if (folder / "config.json").is_file():
        settings = json.loads((folder / "config.json").read_text(encoding="utf-8"))
        config = CLIPVisionConfig(**settings.get("vision_config", settings))
    else:
        config = CLIPVisionConfig(**ldm.vision_config({name: tuple(tensor.shape) for name, tensor in vision.items()}))
    config.projection_dim = proj_size
    module = outline(PaintByExampleImageEncoder, config)
    weights = {f"model.vision_model.{name}": tensor for name, tensor in vision.items()} | fresh_layers(config, seed)
    check_tensors(weights, shapes_of(module), folder)
    return Network(module, weights)
