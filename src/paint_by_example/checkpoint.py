"""Models on disk: finding them, reading their parts whatever the layout.

Two layouts: a folder as diffusers saves it, where ``model_index.json`` lists the parts, each in a folder of its own;
and one LDM file, as the authors' code saves it (see `ldm`).
"""

from __future__ import annotations

import contextlib
import json
import textwrap
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

import torch
from diffusers import AutoencoderKL, DiffusionPipeline, ModelMixin, PNDMScheduler, UNet2DConditionModel
from torch import Tensor, nn
from transformers import CLIPVisionConfig
from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil

from . import ldm
from .autoencoder import PatchAutoencoder
from .conditioning import PaintByExampleImageEncoder, PooledImageEncoder
from .errors import ModelError, UserError
from .layout import LayoutUNet
from .network import Network, check_shapes, check_tensors, first, outline, quiet, seems, shapes_of
from .prior import vision_names
from .sampling import SCHEDULERS
from .source_encoder import SourceEncoder
from .thumbnail import EmbeddedImageEncoder
from .weights import read_metadata, read_tensors

EMBEDDED = Path(__file__).parent / "assets" / "embedded"
INDEX = "model_index.json"
NETWORKS = ("vae", "image_encoder", "unet")

KNOWN: dict[str, tuple[Any, ...]] = {
    "vae": (AutoencoderKL, PatchAutoencoder),
    "image_encoder": (PaintByExampleImageEncoder, EmbeddedImageEncoder, PooledImageEncoder),
    "unet": (UNet2DConditionModel, LayoutUNet),
    "source_encoder": (SourceEncoder,),
    "scheduler": tuple(SCHEDULERS.values()),
}


@dataclass(frozen=True)
class StoredModel:
    """A model on disk."""

    name: str
    """As it was asked for."""
    layout: str
    """diffusers or LDM."""
    networks: dict[str, Network]
    scheduler: Any = None
    feature_extractor: Any = None
    index: Mapping[str, Any] = field(default_factory=dict)
    """What ``model_index.json`` says, where there is one."""

    @property
    def dtypes(self) -> list[str]:
        """Types of the floating-point tensors on disk."""
        tensors = (tensor for network in self.networks.values() for tensor in network.tensors.values())
        return sorted({f"{tensor.dtype}".removeprefix("torch.") for tensor in tensors if tensor.is_floating_point()})

    def load(
        self, device: torch.device | str = "cpu", dtype: Callable[[str], torch.dtype | None] = lambda part: None
    ) -> dict[str, Any]:
        """All parts, the networks with their weights.

        Args:
            device: where to.
            dtype: gives the type for a part's name; None for as stored.
        """
        parts = {name: network.load(device, dtype(name)) for name, network in self.networks.items()}
        return parts | self._others()

    def outline(self) -> dict[str, Any]:
        """All parts, the networks without weights."""
        return {name: network.module for name, network in self.networks.items()} | self._others()

    def _others(self) -> dict[str, Any]:
        others = {"scheduler": self.scheduler, "feature_extractor": self.feature_extractor}
        return {name: part for name, part in others.items() if part is not None}


def check_fit(parts: Mapping[str, Any], model: str | Path) -> None:
    """Raise a `ModelError` where the parts are not of one model."""
    unet = parts["unet"].config
    latent, condition = int(parts["vae"].config.latent_channels), parts["image_encoder"].uncond_vector.shape[-1]
    found = unet.in_channels, unet.out_channels, unet.cross_attention_dim
    if found != (2 * latent + 1, latent, condition):
        raise ModelError(
            f"the parts of {model} do not fit together: with {latent} latent channels and conditions of {condition} its"
            f" U-Net needs {2 * latent + 1} channels in, {latent} out and attention to {condition}, and has"
            f" {', '.join(map(str, found))}"
        )


# --- finding ----------------------------------------------------------------------------------------------------------


def find_model(model: str | Path, download: Callable[..., Any] = DiffusionPipeline.download, **options: Any) -> Path:
    """The folder or file of a model, downloaded if it has a name on the hub.

    Args:
        model: "embedded", a folder, a file, or owner/name.
        download: gets a folder from the hub.
        options: for it: revision, cache_dir, local_files_only, variant, ...

    Raises:
        ModelError: if there is none.
    """
    name = str(model)
    place = EMBEDDED if name == "embedded" else Path(name).expanduser()
    if place.exists():
        return place
    if name == "embedded" or place.is_absolute() or name.startswith((".", "~")) or name.count("/") != 1:
        raise ModelError(f"no model at {place}; give 'embedded', a folder, a file, or a name on the hub: owner/name")
    try:
        with quiet(bars=True):
            # without the safety checker, which is not used
            return Path(download(name, safety_checker=None, **options))
    except Exception as error:  # no network, no such name, no access: the hub's errors share no parent
        reason = textwrap.shorten(f"{error}", 200, placeholder=" ...") or type(error).__name__
        raise ModelError(f"no folder {name}, and it cannot be had from the hub: {reason}") from error


def read_model(
    model: str | Path,
    *,
    variant: str | None = None,
    use_safetensors: bool | None = None,
    without: Collection[str] = (),
    **options: Any,
) -> StoredModel:
    """Read what a model is, without its weights.

    Args:
        model: as for `find_model`.
        variant: of the files in a folder, such as fp16.
        use_safetensors: False for only ``.bin`` files, True for none of them.
        without: parts of a folder to leave alone.
        options: for the download, see `find_model`.

    Raises:
        ModelError: if there is none, or if it cannot be read.
    """
    hub = {"variant": variant, "use_safetensors": use_safetensors} | options
    place = find_model(model, **{name: value for name, value in hub.items() if value is not None})
    with readable(model):
        if place.is_file():
            return read_file(place, str(model))
        return _read_folder(place, str(model), variant, use_safetensors, without)


@contextlib.contextmanager
def readable(model: str | Path) -> Iterator[None]:
    """Turn what libraries raise over a broken file, each a kind of its own, into a `ModelError`; and silence them."""
    try:
        with quiet():
            yield
    except UserError:
        raise
    except Exception as error:
        reason = textwrap.shorten(f"{error}", 300, placeholder=" ...") or type(error).__name__
        raise ModelError(f"cannot load {model}: {reason}") from error


# --- reading a folder -------------------------------------------------------------------------------------------------


def read_index(folder: Path) -> dict[str, Any]:
    """What a folder's ``model_index.json`` says.

    Raises:
        ModelError: if there is none.
    """
    if not (folder / INDEX).is_file():
        files = sorted(file for file in folder.glob("*") if file.suffix in (".ckpt", ".safetensors"))
        hint = f"; give the file: {files[0]}" if files else ""
        raise ModelError(f"{folder} holds no {INDEX}: it is not a model in diffusers' layout{hint}")
    index: dict[str, Any] = json.loads((folder / INDEX).read_text(encoding="utf-8"))
    return index


def _read_folder(
    folder: Path, name: str, variant: str | None, use_safetensors: bool | None, without: Collection[str]
) -> StoredModel:
    """A folder whose index lists our parts; classes that are not known here are not loaded."""
    index = read_index(folder)
    if variant and not any(folder.glob(f"*/*.{variant}[.-]*")):
        raise ModelError(f"no part of {folder} has weights of the variant {variant!r}")
    if "image_encoder" not in without and listed_class(index, "image_encoder") is None and "text_encoder" in index:
        raise ModelError(f"{folder} is told by text what to paint; it seems to be {ldm.PRIOR}")
    networks = NETWORKS if listed_class(index, "source_encoder") is None else (*NETWORKS, "source_encoder")
    return StoredModel(
        name,
        "diffusers",
        {part: read_part(folder, part, index, variant, use_safetensors) for part in networks if part not in without},
        None
        if "scheduler" in without
        else _known_class(folder, "scheduler", index).from_pretrained(folder / "scheduler"),
        None if "feature_extractor" in without else _read_feature_extractor(folder),
        index,
    )


def listed_class(index: Mapping[str, Any], part: str) -> str | None:
    """The name of a part's class in an index; None where it has none, which the index may say or not."""
    name: str | None = (index.get(part) or (None, None))[1]
    return name


def _known_class(folder: Path, part: str, index: Mapping[str, Any]) -> Any:
    listed = listed_class(index, part)
    kind = next((kind for kind in KNOWN[part] if kind.__name__ == listed), None)
    if kind is None:
        expected = " or ".join(kind.__name__ for kind in KNOWN[part])
        raise ModelError(f"the {part} of {folder} is {listed or 'missing'}; {expected} is expected")
    return kind


def _read_feature_extractor(folder: Path) -> Any:
    # Without torchvision the class that the index names may be missing; it is needed for two triples of numbers only.
    if not (folder / "feature_extractor").is_dir():
        return None
    return CLIPImageProcessorPil.from_pretrained(folder / "feature_extractor")


def read_part(
    folder: Path, part: str, index: Mapping[str, Any], variant: str | None, use_safetensors: bool | None
) -> Network:
    """A network of a folder.

    Raises:
        ModelError: if its class is not known, or its weights are not those of its configuration.
    """
    kind = _known_class(folder, part, index)
    if issubclass(kind, ModelMixin):
        module = outline(kind, kind.load_config(folder / part))
    else:
        module = outline(kind, CLIPVisionConfig.from_pretrained(folder / part))
    tensors = read_weights(folder / part, variant, use_safetensors)
    if part == "vae":
        tensors = {_today(name): tensor for name, tensor in tensors.items()}
    elif kind is PaintByExampleImageEncoder:
        vision = vision_names(tensors)
        tensors = {
            f"model.vision_model.{vision[name]}" if name in vision else name: tensor
            for name, tensor in tensors.items()
            if not name.endswith(".position_ids")
        }
    check_tensors(tensors, shapes_of(module), folder / part)
    return Network(module, tensors)


def _today(name: str) -> str:
    """A tensor's name in an autoencoder of before diffusers 0.18 as it is called since."""
    if ".attentions." not in name:
        return name
    olds = {"query": "to_q", "key": "to_k", "value": "to_v", "proj_attn": "to_out.0"}
    return ".".join(olds.get(word, word) for word in name.split("."))


def read_weights(folder: Path, variant: str | None = None, use_safetensors: bool | None = None) -> dict[str, Tensor]:
    """The tensors of one network's folder, whatever diffusers and transformers have called its files.

    Args:
        folder: of the network.
        variant: taken where there is one. Without it, an only variant is taken where there is nothing else.
        use_safetensors: False for only ``.bin`` files, True for none of them.

    Raises:
        ModelError: if there are no weights, or they cannot be read.
    """
    suffixes = [
        suffix
        for suffix, wanted in ((".safetensors", use_safetensors is not False), (".bin", use_safetensors is not True))
        if wanted
    ]
    stems = ("diffusion_pytorch_model", "model", "pytorch_model")
    found = sorted(
        {file.name.split(".")[1] for stem in stems for file in folder.glob(f"{stem}.*.*")} - {"safetensors", "bin"}
    )
    variants = [variant, None] if variant else [None, *(found if len(found) == 1 else [])]
    for chosen in variants:
        for suffix in suffixes:
            for stem in stems:
                base = folder / (stem + (f".{chosen}" if chosen else "") + suffix)
                shards = folder / (f"{stem}{suffix}.index.{chosen}.json" if chosen else f"{stem}{suffix}.index.json")
                if base.is_file():
                    return read_tensors(base)
                if shards.is_file():
                    files = sorted(set(json.loads(shards.read_text(encoding="utf-8"))["weight_map"].values()))
                    if outside := [file for file in files if Path(file).name != file]:
                        raise ModelError(f"{shards} lists {outside[0]!r}, which is no file of this folder")
                    return {name: tensor for file in files for name, tensor in read_tensors(folder / file).items()}
    holds = ", ".join(sorted(file.name for file in folder.glob("*"))) or "nothing"
    raise ModelError(f"{folder} holds no weights ({stems[0]}.safetensors or the like), but {holds}")


# --- reading a file ---------------------------------------------------------------------------------------------------


def read_file(file: Path, name: str, ema: bool = False) -> StoredModel:
    """An LDM file with all of a model.

    Args:
        file: its path.
        name: what the user calls it.
        ema: take the averages of the weights.

    Raises:
        ModelError: if it is anything else.
    """
    tensors = read_tensors(file)
    networks = ldm_networks(tensors, file, ("unet", "vae", "image_encoder"), ema)
    size = cast(Any, networks["image_encoder"].module).config.image_size
    return StoredModel(name, "LDM", networks, released_scheduler(), released_feature_extractor(size))


def ldm_networks(
    tensors: Mapping[str, Tensor], file: Path, parts: Collection[str], ema: bool = False
) -> dict[str, Network]:
    """Networks of an LDM file.

    Args:
        tensors: of the file.
        file: its path, for errors and the notes in its header.
        parts: which of unet, vae and image_encoder; tensors of others than these are an error, but for a text model's.
        ema: take the averages of the weights.

    Raises:
        ModelError: if there are tensors missing or too many.
    """
    if ema:
        tensors = ldm.with_averages(tensors, str(file))
    shapes = {tensor: tuple(value.shape) for tensor, value in tensors.items() if not ldm.is_left_out(tensor)}
    sample_size = int(read_metadata(file).get(ldm.SAMPLE_SIZE, 64))
    # in the file only where it was measured in training instead of set
    scale = float(tensors["scale_factor"]) if "scale_factor" in tensors else 0.18215
    modules: dict[str, nn.Module] = {}
    try:
        if "unet" in parts:
            modules["unet"] = outline(UNet2DConditionModel, ldm.unet_config(shapes, sample_size))
        if "vae" in parts:
            modules["vae"] = outline(AutoencoderKL, ldm.vae_config(shapes, sample_size, scale))
        if "image_encoder" in parts:
            modules["image_encoder"] = outline(
                PaintByExampleImageEncoder, CLIPVisionConfig(**ldm.image_encoder_config(shapes))
            )
    except (KeyError, IndexError) as error:
        fault = f"it lacks {error.args[0]}" if isinstance(error, KeyError) else "its tensors have other shapes"
        message = f"{file} is not a Paint by Example model: {fault}; it holds {first(shapes)}"
        raise ModelError(message + seems(shapes)) from error
    except ModelError as error:
        raise ModelError(f"{file} is not a Paint by Example model: {error}{seems(shapes)}") from error
    expected = {
        tensor: shape
        for part, module in modules.items()
        for tensor, shape in ldm.expected_shapes(part, shapes_of(module)).items()
    }
    if "image_encoder" not in parts:
        shapes = {tensor: shape for tensor, shape in shapes.items() if not tensor.startswith("cond_stage_model.")}
    flat = {  # some tools save the autoencoder's attention as what it is, fully connected layers
        tensor: (*shape, 1, 1) if len(shape) == 2 and expected.get(tensor) == (*shape, 1, 1) else shape
        for tensor, shape in shapes.items()
    }
    check_shapes(flat, expected, file, shapes)
    return {part: Network(module, ldm.from_ldm(part, shapes_of(module), tensors)) for part, module in modules.items()}


def released_scheduler() -> PNDMScheduler:
    """The scheduler of the released model, for files that do not say."""
    return PNDMScheduler.from_config(ldm.SCHEDULER)


def released_feature_extractor(image_size: int = 224) -> CLIPImageProcessorPil:
    """The released model's description of an exemplar, for files without one."""
    return CLIPImageProcessorPil(
        size={"shortest_edge": image_size}, crop_size={"height": image_size, "width": image_size}, resample=3
    )
