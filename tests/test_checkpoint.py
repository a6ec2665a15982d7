"""Models on disk: every layout in, two out, the same tensors; and what is said of files that are no models."""

import json
import pickle
import shutil
import struct
import sys
from collections import OrderedDict
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import AutoencoderKL, DDIMScheduler, DiffusionPipeline, UNet2DConditionModel
from diffusers.loaders.single_file_utils import convert_ldm_unet_checkpoint, convert_ldm_vae_checkpoint
from safetensors.torch import load_file, save_file
from torch import Tensor
from torch.nn import functional as F
from transformers import CLIPConfig, CLIPModel, CLIPTextConfig, CLIPTextModel, CLIPVisionConfig, CLIPVisionModel

from paint_by_example import PaintByExampleImageEncoder, PaintByExamplePipeline, ldm, load_pipeline
from paint_by_example.cli import main
from paint_by_example.conversion import convert
from paint_by_example.errors import ModelError
from paint_by_example.network import outline, shapes_of
from paint_by_example.pipeline import describe
from paint_by_example.prior import nine_channels
from paint_by_example.sampling import make_scheduler
from paint_by_example.weights import read_tensors, write_tensors, written_beside
from tests import released, tiny

PARTS = ("vae", "image_encoder", "unet")
State = dict[str, dict[str, Tensor]]


def state_of(pipeline: PaintByExamplePipeline) -> State:
    return {part: getattr(pipeline, part).state_dict() for part in PARTS}


def same(first: dict[str, Tensor], second: dict[str, Tensor]) -> bool:
    return first.keys() == second.keys() and all(
        value.dtype == second[name].dtype and torch.equal(value, second[name]) for name, value in first.items()
    )


def same_model(first: State, second: State) -> bool:
    return all(same(first[part], second[part]) for part in PARTS)


def one_line(error: pytest.ExceptionInfo[ModelError]) -> str:
    text = str(error.value)
    assert "\n" not in text
    assert len(text) < 900
    return text


@pytest.fixture(scope="module")
def pipeline() -> PaintByExamplePipeline:
    return tiny.sd_pipeline()


@pytest.fixture(scope="module")
def state(pipeline: PaintByExamplePipeline) -> State:
    return state_of(pipeline)


@pytest.fixture(scope="module")
def tensors(state: State) -> dict[str, Tensor]:
    """Of the model in one file, as the authors' code writes it. Not to be changed: copy it first."""
    found = {name: tensor for part in PARTS for name, tensor in ldm.to_ldm(part, state[part]).items()}
    return found | ldm.schedule(ldm.SCHEDULER)


@pytest.fixture(scope="module")
def saved(pipeline: PaintByExamplePipeline, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The model as a folder. Not to be changed: copy it first."""
    folder = tmp_path_factory.mktemp("sd") / "model"
    pipeline.save_pretrained(folder)
    return folder


@pytest.fixture
def folder(saved: Path, tmp_path: Path) -> Path:
    """The model as a folder, to be changed."""
    return Path(shutil.copytree(saved, tmp_path / "model"))


def save_ldm(file: Path, tensors: dict[str, Tensor]) -> Path:
    if file.suffix == ".safetensors":
        save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, file)
    else:
        torch.save({"state_dict": tensors}, file)
    return file


# The released checkpoint's names and shapes


def released_networks() -> dict[str, Any]:
    """The released model's configurations, written out."""
    unet = {
        "in_channels": 9,
        "block_out_channels": (320, 640, 1280, 1280),
        "layers_per_block": 2,
        "cross_attention_dim": 768,
        "attention_head_dim": 8,
    }
    vae = {
        "block_out_channels": (128, 256, 512, 512),
        "layers_per_block": 2,
        "down_block_types": ("DownEncoderBlock2D",) * 4,
        "up_block_types": ("UpDecoderBlock2D",) * 4,
    }
    return {
        "unet": outline(UNet2DConditionModel, unet),
        "vae": outline(AutoencoderKL, vae),
        "image_encoder": outline(PaintByExampleImageEncoder, CLIPVisionConfig(**released.IMAGE_ENCODER)),
    }


@pytest.fixture(scope="module")
def full_size() -> dict[str, Any]:
    return released_networks()


def test_every_tensor_of_the_released_folder_has_its_place(full_size: dict[str, Any]) -> None:
    expected = released.tensors("diffusers")
    assert len(expected) == 1410
    found = {f"{part}/{name}": shape for part, module in full_size.items() for name, shape in shapes_of(module).items()}
    assert found == expected


def test_every_tensor_of_the_released_file_has_its_place(full_size: dict[str, Any]) -> None:
    expected = released.tensors("ldm")
    assert len(expected) == 1402
    found = {
        name: shape
        for part, module in full_size.items()
        for name, shape in ldm.expected_shapes(part, shapes_of(module)).items()
    }
    found |= {name: tuple(table.shape) for name, table in ldm.schedule(ldm.SCHEDULER).items()}
    assert found == expected


def test_the_released_configurations_are_read_off_its_shapes(full_size: dict[str, Any]) -> None:
    shapes = released.tensors("ldm")
    read: dict[str, Any] = {
        "unet": outline(UNet2DConditionModel, ldm.unet_config(shapes)),
        "vae": outline(AutoencoderKL, ldm.vae_config(shapes)),
        "image_encoder": outline(PaintByExampleImageEncoder, CLIPVisionConfig(**ldm.image_encoder_config(shapes))),
    }
    for part, module in read.items():
        assert shapes_of(module) == shapes_of(full_size[part])
    assert read["unet"].config.sample_size == 64
    assert read["unet"].config.attention_head_dim == 8
    assert read["vae"].config.sample_size == 512
    assert read["vae"].config.scaling_factor == 0.18215
    config = read["image_encoder"].config
    assert (config.image_size, config.patch_size, config.num_attention_heads) == (224, 14, 16)
    assert config.hidden_act == "quick_gelu"
    assert not hasattr(config, "mapper_layers")  # it follows from CLIP's depth, as in the released configuration
    mapper = read["image_encoder"].mapper
    assert mapper.blocks[0].ff.net[0].approximate == "none"  # the exact GELU


# Names mean what they mean elsewhere. Only the mapper's have no other implementation to compare with


def test_unet_and_autoencoder_are_named_as_diffusers_converter_names_them(
    pipeline: PaintByExamplePipeline, tensors: dict[str, Tensor], state: State
) -> None:
    assert same(convert_ldm_unet_checkpoint(dict(tensors), dict(pipeline.unet.config)), state["unet"])
    found = convert_ldm_vae_checkpoint(dict(tensors), dict(pipeline.vae.config))
    assert same({name: value.reshape(state["vae"][name].shape) for name, value in found.items()}, state["vae"])


def test_the_mapper_is_the_authors_network(pipeline: PaintByExamplePipeline, tensors: dict[str, Tensor]) -> None:
    def linear(x: Tensor, name: str) -> Tensor:
        return F.linear(x, tensors[f"{name}.weight"], tensors[f"{name}.bias"])

    def norm(x: Tensor, name: str) -> Tensor:
        return F.layer_norm(x, x.shape[-1:], tensors[f"{name}.weight"], tensors[f"{name}.bias"])

    features = torch.randn(3, 64)
    x = features
    for block in range(2):
        head = f"cond_stage_model.mapper.resblocks.{block}"
        _, _, v = linear(norm(x, f"{head}.ln_1"), f"{head}.attn.c_qkv").chunk(3, dim=-1)
        x = x + linear(v, f"{head}.attn.c_proj")  # attention to the only token there is
        x = x + linear(F.gelu(linear(norm(x, f"{head}.ln_2"), f"{head}.mlp.c_fc")), f"{head}.mlp.c_proj")
    expected = linear(norm(x, "cond_stage_model.final_ln"), "proj_out")
    assert torch.allclose(pipeline.image_encoder.decode(features)[:, 0], expected, atol=1e-5)
    assert torch.equal(tensors["learnable_vector"], pipeline.image_encoder.uncond_vector)


def test_queries_keys_and_values_are_stacked_in_this_order(tensors: dict[str, Tensor], state: State) -> None:
    """With one token, queries and keys change no result: only here would it show that they were exchanged."""
    for kind in ("weight", "bias"):
        stacked = tensors[f"cond_stage_model.mapper.resblocks.1.attn.c_qkv.{kind}"]
        parts = [state["image_encoder"][f"mapper.blocks.1.attn1.to_{letter}.{kind}"] for letter in "qkv"]
        assert torch.equal(stacked, torch.cat(parts))


def test_tables_of_the_schedule_are_those_of_the_scheduler() -> None:
    tables = ldm.schedule(ldm.SCHEDULER)
    scheduler = DDIMScheduler.from_config(ldm.SCHEDULER)
    assert torch.allclose(tables["betas"], scheduler.betas, rtol=1e-5)
    assert torch.allclose(tables["alphas_cumprod"], scheduler.alphas_cumprod, rtol=1e-4)
    assert tables["alphas_cumprod_prev"][0] == 1
    assert torch.equal(tables["alphas_cumprod_prev"][1:], tables["alphas_cumprod"][:-1])
    variance = torch.tensor([float(scheduler._get_variance(t, t - 1)) for t in range(1, 1000)])
    assert torch.allclose(tables["posterior_variance"][1:], variance, rtol=1e-2)
    # the posterior's mean lies between what is seen and what it came from: of equal pictures it is about the same
    t = 500
    clean = tables["alphas_cumprod"][t].sqrt()
    mean = tables["posterior_mean_coef1"][t] + tables["posterior_mean_coef2"][t] * clean
    assert mean == pytest.approx(float(tables["alphas_cumprod_prev"][t].sqrt()), rel=1e-4)
    for name, function in {
        "sqrt_alphas_cumprod": lambda x: x.sqrt(),
        "sqrt_one_minus_alphas_cumprod": lambda x: (1 - x).sqrt(),
        "log_one_minus_alphas_cumprod": lambda x: (1 - x).log(),
        "sqrt_recip_alphas_cumprod": lambda x: x.rsqrt(),
        "sqrt_recipm1_alphas_cumprod": lambda x: (1 / x - 1).sqrt(),
    }.items():
        assert torch.allclose(tables[name], function(tables["alphas_cumprod"]), rtol=1e-3, atol=1e-4), name
    clipped = tables["posterior_log_variance_clipped"]
    assert torch.allclose(clipped[1:], tables["posterior_variance"][1:].log(), rtol=1e-4)
    assert torch.isfinite(clipped).all()


# One file


def with_optimizer(tensors: dict[str, Tensor]) -> dict[str, Any]:
    """What a trainer of 2022 leaves, with classes that this machine does not have."""
    averages = {
        f"model_ema.{name.removeprefix('model.').replace('.', '')}": value + 1 for name, value in tensors.items()
    }
    averages = {name: value for name, value in averages.items() if "diffusion_model" in name}
    extra = {
        "model_ema.decay": torch.tensor(0.9999),
        "model_ema.num_updates": torch.tensor(7),
        "cond_stage_model.transformer.vision_model.embeddings.position_ids": torch.arange(5)[None],
        "logvar": torch.zeros(1000),
    }
    return {
        "epoch": 3,
        "global_step": np.float64(4.5),
        "state_dict": OrderedDict({**tensors, **averages, **extra}),
        "optimizer_states": [{"state": {0: {"step": 3, "exp_avg": torch.ones(4)}}, "param_groups": [{"lr": 1e-5}]}],
        "lr_schedulers": [],
    }


@pytest.fixture
def lightning(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """A module as a trainer's, there while a file is saved."""
    name = "pytorch_lightning.callbacks.model_checkpoint"
    module = ModuleType(name)
    for kind in ("ModelCheckpoint", "AttributeDict"):
        bases = (dict,) if kind == "AttributeDict" else ()
        setattr(module, kind, type(kind, bases, {"__module__": name}))
    with pytest.MonkeyPatch.context() as patch:
        for part in ("pytorch_lightning", "pytorch_lightning.callbacks", name):
            patch.setitem(sys.modules, part, module)
        yield module


@pytest.mark.parametrize("suffix", [".ckpt", ".safetensors"])
def test_a_file_is_the_model(suffix: str, tensors: dict[str, Tensor], state: State, tmp_path: Path) -> None:
    file = save_ldm(tmp_path / f"model{suffix}", tensors)
    for load in (load_pipeline, PaintByExamplePipeline.from_pretrained):
        loaded = load(file)
        assert same_model(state_of(loaded), state)
        assert not any(part.training for part in (loaded.vae, loaded.image_encoder, loaded.unet))
    assert loaded.vae.config.scaling_factor == 0.18215
    assert loaded.image_size == 512  # what no tensor tells is Stable Diffusion's
    assert loaded.image_encoder.image_size == tiny.EXEMPLAR


def test_a_trainers_file_is_the_model(
    tensors: dict[str, Tensor], state: State, tmp_path: Path, lightning: ModuleType
) -> None:
    content = with_optimizer(tensors)
    content["callbacks"] = {lightning.ModelCheckpoint: {"best": lightning.ModelCheckpoint()}}
    content["hyper_parameters"] = lightning.AttributeDict(lr=1)
    torch.save(content, tmp_path / "last.ckpt")
    for name in [name for name in sys.modules if name.startswith("pytorch_lightning")]:
        del sys.modules[name]  # not there any more, and not asked for
    assert same_model(state_of(load_pipeline(tmp_path / "last.ckpt")), state)


@pytest.mark.parametrize("zip_format", [True, False])
def test_a_bare_file_is_the_model(zip_format: bool, tensors: dict[str, Tensor], state: State, tmp_path: Path) -> None:
    torch.save(tensors, tmp_path / "model.pt", _use_new_zipfile_serialization=zip_format)
    assert same_model(state_of(load_pipeline(tmp_path / "model.pt")), state)


def test_attention_of_the_autoencoder_may_be_saved_as_fully_connected_layers(
    tensors: dict[str, Tensor], state: State, tmp_path: Path
) -> None:
    flat = {
        name: value.flatten(1) if ".attn_1." in name and value.ndim == 4 else value for name, value in tensors.items()
    }
    assert same_model(state_of(load_pipeline(save_ldm(tmp_path / "model.safetensors", flat))), state)


def test_a_scale_that_was_measured_counts(tensors: dict[str, Tensor], tmp_path: Path) -> None:
    file = save_ldm(tmp_path / "model.ckpt", tensors | {"scale_factor": torch.tensor(0.25)})
    assert load_pipeline(file).vae.config.scaling_factor == 0.25


def test_a_model_from_a_file_edits_and_its_scheduler_survives_a_swap(
    saved: Path, tensors: dict[str, Tensor], tmp_path: Path
) -> None:
    loaded = load_pipeline(save_ldm(tmp_path / "model.ckpt", tensors), device="cpu")
    assert type(loaded.scheduler).__name__ == "PNDMScheduler"
    config = dict(loaded.scheduler.config)
    assert {name: config[name] for name in ldm.SCHEDULER} == ldm.SCHEDULER
    assert DDIMScheduler.from_config(loaded.scheduler.config).config.clip_sample is False
    assert make_scheduler("ddim", loaded.scheduler).config.clip_sample is False
    loaded.unet.register_to_config(sample_size=8)
    given: dict[str, Any] = {"exemplar": tiny.picture(30, 20), "box": (10, 10, 40, 40), "steps": 2, "seed": 3}
    (picture,) = loaded.edit(tiny.picture(64, 64), **given).images
    (expected,) = load_pipeline(saved, device="cpu").edit(tiny.picture(64, 64), **given).images
    assert np.array_equal(np.asarray(picture), np.asarray(expected))


def test_depths_are_read_off_also_where_they_do_not_follow_from_each_other(
    pipeline: PaintByExamplePipeline, tensors: dict[str, Tensor], tmp_path: Path
) -> None:
    first = "cond_stage_model.mapper.resblocks.0."
    third = {name.replace(".0.", ".2.", 1): value + 1 for name, value in tensors.items() if name.startswith(first)}
    loaded = load_pipeline(save_ldm(tmp_path / "model.ckpt", tensors | third))
    assert len(loaded.image_encoder.mapper.blocks) == 3
    loaded.save_pretrained(tmp_path / "folder")
    again = load_pipeline(tmp_path / "folder")
    assert same_model(state_of(again), state_of(loaded))


@pytest.mark.parametrize("layers", [1, 2])
@pytest.mark.parametrize("widths", [(32, 64), (32, 32, 96, 64)])
def test_networks_of_other_sizes_are_read_off(layers: int, widths: tuple[int, ...]) -> None:
    attend, no = "CrossAttnDownBlock2D", "DownBlock2D"
    unet: Any = outline(
        UNet2DConditionModel,
        {
            "block_out_channels": widths,
            "layers_per_block": layers,
            "in_channels": 9,
            "down_block_types": (*[attend] * (len(widths) - 1), no),
            "up_block_types": ("UpBlock2D", *["CrossAttnUpBlock2D"] * (len(widths) - 1)),
            "cross_attention_dim": 40,
        },
    )
    expected = shapes_of(unet)
    again: Any = outline(UNet2DConditionModel, ldm.unet_config(ldm.expected_shapes("unet", expected)))
    assert shapes_of(again) == expected
    assert again.config.down_block_types == list(unet.config.down_block_types)
    assert again.config.layers_per_block == layers


# Files that are something else


class Evil:
    """Leaves a file where it was executed."""

    def __init__(self, trace: Path) -> None:
        self.trace = trace

    def __reduce__(self) -> tuple[Any, ...]:
        return (exec, (f"open({str(self.trace)!r}, 'w').close()",))


@pytest.mark.parametrize("zip_format", [True, False])
def test_nothing_is_executed_from_a_file(zip_format: bool, tensors: dict[str, Tensor], tmp_path: Path) -> None:
    content = {"state_dict": tensors, "callbacks": Evil(tmp_path / "trace")}
    torch.save(content, tmp_path / "evil.ckpt", _use_new_zipfile_serialization=zip_format)
    with pytest.raises(ModelError, match="refused, because reading it would execute code: it asks for .*exec") as error:
        load_pipeline(tmp_path / "evil.ckpt")
    one_line(error)
    assert not (tmp_path / "trace").exists()
    with (tmp_path / "evil.ckpt").open("rb") as file:  # the test can fail: whoever trusts the file executes it
        torch.load(file, weights_only=False)
    assert (tmp_path / "trace").exists()


def test_nothing_is_executed_from_a_folder(folder: Path, tmp_path: Path) -> None:
    (folder / "unet" / "diffusion_pytorch_model.safetensors").unlink()
    torch.save({"x": Evil(tmp_path / "trace")}, folder / "unet" / "diffusion_pytorch_model.bin")
    with pytest.raises(ModelError, match="refused.*exec") as error:
        load_pipeline(folder)
    one_line(error)
    assert not (tmp_path / "trace").exists()


def write(content: bytes) -> Callable[[Path], object]:
    return lambda file: file.write_bytes(content)


def truncated(save: Callable[[dict[str, Tensor], Path], None]) -> Callable[[Path], None]:
    def change(file: Path) -> None:
        save({"a": torch.ones(1000)}, file)
        file.write_bytes(file.read_bytes()[:2000])

    return change


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (write(b""), "no file of weights"),
        (write(b"<!doctype html>" * 20), "no file of weights"),
        (write(b"version https://git-lfs.github.com/spec/v1\noid sha256:1\nsize 5\n"), "git lfs pull"),
        (truncated(lambda tensors, file: save_file(tensors, file)), "is damaged"),
        (truncated(lambda tensors, file: torch.save(tensors, file)), "is damaged"),
        (
            truncated(lambda tensors, file: torch.save(tensors, file, _use_new_zipfile_serialization=False)),
            "is damaged",
        ),
        (lambda file: torch.save({"epoch": 3}, file), "holds no tensors"),
        (lambda file: torch.save([1, 2], file), "holds a list"),
        (write(pickle.dumps({"a": 1})), "holds no tensors|is damaged"),
    ],
)
def test_a_file_without_weights_is_one_line(make: Callable[[Path], object], words: str, tmp_path: Path) -> None:
    file = tmp_path / "model.ckpt"
    make(file)
    with pytest.raises(ModelError, match=words) as error:
        load_pipeline(file)
    assert str(file) in one_line(error)


def names(*found: str) -> dict[str, Tensor]:
    return {name: torch.zeros(2) for name in found}


@pytest.mark.parametrize(
    ("made", "kind"),
    [
        (names("lora_unet_down_blocks_0.lora_up.weight", "lora_unet_down_blocks_0.alpha"), "a LoRA"),
        (names("unet.down_blocks.0.attn.to_q.lora_A.weight"), "a LoRA"),
        (names("model.diffusion_model.label_emb.0.0.weight", "conditioner.embedders.0.x"), "Stable Diffusion XL"),
        (names("text_model.embeddings.token_embedding.weight", "text_model.final_layer_norm.bias"), "a text model"),
        (names("first_stage_model.encoder.conv_in.weight"), "an autoencoder"),
        (names("encoder.conv_in.weight", "decoder.conv_in.weight", "quant_conv.bias"), "an autoencoder"),
        (names("model.diffusion_model.input_blocks.0.0.weight"), "a U-Net alone"),
        (names("model.diffusion_model.x", "cond_stage_model.model.x"), "Stable Diffusion 2"),
        (names("model.diffusion_model.double_blocks.0.x"), "a diffusion transformer"),
        (names("control_model.input_blocks.0.0.weight"), "a ControlNet"),
        (names("vision_model.embeddings.class_embedding"), "CLIP alone"),
        (names("something", "else"), None),
    ],
)
def test_a_model_of_another_kind_is_named(made: dict[str, Tensor], kind: str | None, tmp_path: Path) -> None:
    file = save_ldm(tmp_path / "other.safetensors", made)
    with pytest.raises(ModelError, match="not a Paint by Example model") as error:
        load_pipeline(file)
    text = one_line(error)
    assert next(iter(made)) in text
    assert (f"it seems to be {kind}" in text) if kind else ("seems" not in text)


def test_missing_unknown_and_misshapen_tensors_are_named(tensors: dict[str, Tensor], tmp_path: Path) -> None:
    changed = {name: value for name, value in tensors.items() if ".ln_1." not in name}
    changed |= {f"extra.{number}": torch.ones(1) for number in range(7)}
    changed["proj_out.bias"] = torch.ones(9)
    with pytest.raises(ModelError) as error:
        load_pipeline(save_ldm(tmp_path / "model.ckpt", changed))
    text = one_line(error)
    assert "lack 4 tensors, among them cond_stage_model.mapper.resblocks.0.ln_1.weight" in text
    assert "have no place for 7 tensors, among them extra.0, extra.1, extra.2, extra.3, extra.4, ..." in text
    assert "in other shapes 1 tensors, among them proj_out.bias (9,) instead of (24,)" in text


# Folders


def rename(file: Path, change: Callable[[dict[str, Tensor]], dict[str, Tensor]], to: str | None = None) -> None:
    tensors = change(load_file(file))
    file.unlink()
    target = file.with_name(to or file.name)
    if target.suffix == ".bin":
        torch.save({name: value.clone() for name, value in tensors.items()}, target)
    else:
        save_file(tensors, target)


def old_names(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """Those of an autoencoder of 2022."""
    olds = {"to_q": "query", "to_k": "key", "to_v": "value", "to_out.0": "proj_attn"}

    def old(name: str) -> str:
        for new, word in olds.items():
            name = name.replace(f"attentions.0.{new}.", f"attentions.0.{word}.")
        return name

    return {old(name): value for name, value in tensors.items()}


def with_position_ids(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    return tensors | {"model.vision_model.embeddings.position_ids": torch.arange(5)[None]}


def as_released(folder: Path) -> Path:
    """A folder as the released checkpoint's: pickles, the names of 2022, a class that is gone."""
    rename(folder / "vae" / "diffusion_pytorch_model.safetensors", old_names, "diffusion_pytorch_model.bin")
    rename(folder / "unet" / "diffusion_pytorch_model.safetensors", dict, "diffusion_pytorch_model.bin")
    rename(folder / "image_encoder" / "model.safetensors", with_position_ids, "pytorch_model.bin")
    index = json.loads((folder / "model_index.json").read_text())
    index |= {
        "image_encoder": ["paint_by_example", "PaintByExampleImageEncoder"],
        "feature_extractor": ["transformers", "CLIPFeatureExtractor"],
        "_diffusers_version": "0.11.0.dev0",
    }
    (folder / "model_index.json").write_text(json.dumps(index))
    assert any("proj_attn" in name for name in read_tensors(folder / "vae" / "diffusion_pytorch_model.bin"))
    return folder


def as_diffusers_saves_it(folder: Path) -> Path:
    index = json.loads((folder / "model_index.json").read_text())
    index["image_encoder"] = ["diffusers", "PaintByExampleImageEncoder"]
    (folder / "model_index.json").write_text(json.dumps(index))
    return folder


def with_todays_prefix(folder: Path) -> Path:
    """What transformers 5 makes of diffusers' class: CLIP without its vision_model."""
    rename(
        folder / "image_encoder" / "model.safetensors",
        lambda tensors: {name.replace("model.vision_model.", "model."): value for name, value in tensors.items()},
    )
    return folder


def in_shards(folder: Path) -> Path:
    unet = UNet2DConditionModel.from_pretrained(folder / "unet", low_cpu_mem_usage=False)
    shutil.rmtree(folder / "unet")
    unet.save_pretrained(folder / "unet", max_shard_size="3MB")
    assert len(list((folder / "unet").glob("*.safetensors"))) > 1
    return folder


def in_shards_of_pickles(folder: Path) -> Path:
    in_shards(folder)
    for file in (folder / "unet").glob("*.safetensors"):
        rename(file, dict, file.with_suffix(".bin").name)
    index = folder / "unet" / "diffusion_pytorch_model.safetensors.index.json"
    text = index.read_text().replace(".safetensors", ".bin")
    index.rename(folder / "unet" / "diffusion_pytorch_model.bin.index.json").write_text(text)
    return folder


@pytest.mark.parametrize(
    "change", [as_released, as_diffusers_saves_it, with_todays_prefix, in_shards, in_shards_of_pickles]
)
@pytest.mark.parametrize("load", [load_pipeline, PaintByExamplePipeline.from_pretrained])
def test_folders_of_every_age_are_the_model(
    change: Callable[[Path], Path], load: Callable[[Path], PaintByExamplePipeline], folder: Path, state: State
) -> None:
    assert same_model(state_of(load(change(folder))), state)


def add_variant(folder: Path) -> Path:
    """Half precision beside the whole, as on the hub, for all but the autoencoder."""
    for file in ("unet/diffusion_pytorch_model.safetensors", "image_encoder/model.safetensors"):
        halves = {name: value.half() for name, value in load_file(folder / file).items()}
        save_file(halves, (folder / file).with_suffix(".fp16.safetensors"))
    return folder


def test_a_variant_is_taken_where_there_is_one(folder: Path, state: State) -> None:
    add_variant(folder)
    loaded = PaintByExamplePipeline.from_pretrained(folder, variant="fp16", torch_dtype="auto")
    dtypes = {part: getattr(loaded, part).dtype for part in PARTS}
    assert dtypes == {"vae": torch.float32, "image_encoder": torch.float16, "unet": torch.float16}
    assert same_model(state_of(PaintByExamplePipeline.from_pretrained(folder)), state)
    with pytest.raises(ModelError, match="no part .* variant 'int4'"):
        PaintByExamplePipeline.from_pretrained(folder, variant="int4")
    for file in ("unet/diffusion_pytorch_model.safetensors", "image_encoder/model.safetensors"):
        (folder / file).unlink()
    only = load_pipeline(folder, dtype=torch.float32)  # where there is no other, it need not be named
    assert torch.equal(only.unet.conv_in.weight, state["unet"]["conv_in.weight"].half().float())


def test_use_safetensors_says_which_files_count(folder: Path) -> None:
    rename(folder / "unet" / "diffusion_pytorch_model.safetensors", dict, "diffusion_pytorch_model.bin")
    with pytest.raises(ModelError, match="unet holds no weights .*diffusion_pytorch_model.bin"):
        PaintByExamplePipeline.from_pretrained(folder, use_safetensors=True)
    PaintByExamplePipeline.from_pretrained(folder)


@pytest.mark.parametrize("name", ["dtype", "torch_dtype"])
def test_types_may_be_given_as_in_diffusers(name: str, saved: Path) -> None:
    options: dict[str, Any] = {name: torch.float16}
    half = PaintByExamplePipeline.from_pretrained(saved, **options)
    assert {getattr(half, part).dtype for part in PARTS} == {torch.float16}
    options = {name: {"vae": torch.float32, "default": torch.bfloat16}}
    mixed = PaintByExamplePipeline.from_pretrained(saved, **options)
    assert [getattr(mixed, part).dtype for part in PARTS] == [torch.float32, torch.bfloat16, torch.bfloat16]


def test_parts_may_be_given_as_in_diffusers(folder: Path) -> None:
    shutil.rmtree(folder / "unet")
    unet, scheduler = tiny.sd_unet(), DDIMScheduler()
    loaded = PaintByExamplePipeline.from_pretrained(folder, unet=unet, scheduler=scheduler, safety_checker=None)
    assert loaded.unet is unet
    assert loaded.scheduler is scheduler


def test_a_device_is_a_device_map_and_balancing_is_left_to_accelerate(saved: Path) -> None:
    assert PaintByExamplePipeline.from_pretrained(saved, device_map="cpu").device.type == "cpu"
    if "accelerate" not in sys.modules:
        with pytest.raises(ModelError, match="accelerate") as error:
            PaintByExamplePipeline.from_pretrained(saved, device_map="balanced")
        one_line(error)


def test_options_for_the_hub_reach_it(saved: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    asked: list[dict[str, Any]] = []

    def download(name: str, **options: Any) -> str:
        asked.append({"name": name, **options})
        return str(saved)

    monkeypatch.setattr(PaintByExamplePipeline, "download", download)
    given: dict[str, Any] = {"revision": "main", "cache_dir": str(tmp_path), "local_files_only": True}
    expected = {"name": "owner/name", "safety_checker": None, **given}
    PaintByExamplePipeline.from_pretrained("owner/name", **given)
    load_pipeline("owner/name", **given)
    assert asked == [expected, expected]
    assert describe("owner/name")["layout"] == "diffusers"
    assert asked[2] == {"name": "owner/name", "safety_checker": None}


def in_cache(folder: Path, cache: Path, name: str) -> None:
    """Put a folder where one that was downloaded would be."""
    place = cache / f"models--{name.replace('/', '--')}"
    shutil.copytree(folder, place / "snapshots" / ("0" * 40))
    (place / "refs").mkdir()
    (place / "refs" / "main").write_text("0" * 40)


def test_a_model_that_was_downloaded_is_found_without_a_network(folder: Path, state: State, tmp_path: Path) -> None:
    cache = tmp_path / "cache"
    in_cache(as_released(folder), cache, "owner/name")
    for load in (load_pipeline, PaintByExamplePipeline.from_pretrained):
        loaded = load("owner/name", cache_dir=cache, local_files_only=True)
        assert same_model(state_of(loaded), state)
    with pytest.raises(ModelError, match="cannot be had from the hub") as error:
        load_pipeline("owner/other", cache_dir=cache, local_files_only=True)
    one_line(error)


def test_compat_goes_with_any_layout(saved: Path, tensors: dict[str, Tensor], tmp_path: Path) -> None:
    file = save_ldm(tmp_path / "model.ckpt", tensors)
    assert load_pipeline(file, compat="original").compat == "original"
    assert PaintByExamplePipeline.from_pretrained(saved, compat="diffusers").compat == "diffusers"
    assert load_pipeline(saved).compat is None


def test_a_model_may_be_saved_over_itself(folder: Path, state: State) -> None:
    loaded = load_pipeline(folder)
    loaded.save_pretrained(folder)
    assert same_model(state_of(loaded), state)
    assert same_model(state_of(load_pipeline(folder)), state)


@pytest.mark.parametrize("suffix", [".ckpt", ".safetensors"])
def test_what_becomes_of_the_file_is_nothing_to_a_loaded_model(
    suffix: str, tensors: dict[str, Tensor], state: State, tmp_path: Path
) -> None:
    file = save_ldm(tmp_path / f"model{suffix}", tensors)
    loaded = load_pipeline(file, device="cpu")
    with file.open("r+b") as stream:
        stream.write(bytes(file.stat().st_size))
    assert same_model(state_of(loaded), state)


def test_only_weights_that_learn_ask_for_gradients(models: dict[str, Path]) -> None:
    frozen = {
        name
        for name, value in load_pipeline(models["embedded"]).image_encoder.named_parameters()
        if not value.requires_grad
    }
    built = tiny.embedded_pipeline().image_encoder
    assert frozen == {name for name, value in built.named_parameters() if not value.requires_grad} != set()


# Converting


@pytest.mark.parametrize("start", ["model", "model.ckpt", "model.safetensors"])
def test_out_and_in_again_is_the_same(
    start: str, folder: Path, tensors: dict[str, Tensor], state: State, tmp_path: Path
) -> None:
    source = folder if start == "model" else save_ldm(tmp_path / start, tensors)
    convert(source, tmp_path / "a")
    convert(tmp_path / "a", tmp_path / "b.safetensors")
    convert(tmp_path / "b.safetensors", tmp_path / "c")
    assert same(load_file(tmp_path / "b.safetensors"), tensors)
    for place in ("a", "b.safetensors", "c"):
        assert same_model(state_of(load_pipeline(tmp_path / place)), state)
    assert sorted(path.name for path in tmp_path.iterdir() if path.name.startswith(".")) == []


def test_the_latents_side_survives_a_file(saved: Path, tmp_path: Path) -> None:
    convert(saved, tmp_path / "a.safetensors")
    assert load_pipeline(tmp_path / "a.safetensors").image_size == 64


def test_a_converted_folder_is_what_save_pretrained_writes(saved: Path, tmp_path: Path) -> None:
    convert(saved, tmp_path / "out")
    files = {str(path.relative_to(saved)) for path in saved.rglob("*")}
    assert {str(path.relative_to(tmp_path / "out")) for path in (tmp_path / "out").rglob("*")} == files
    index, expected = (json.loads((place / "model_index.json").read_text()) for place in (tmp_path / "out", saved))
    assert index == {name: value for name, value in expected.items() if name != "_name_or_path"}
    for part in PARTS:
        config, wanted = (json.loads((place / part / "config.json").read_text()) for place in (tmp_path / "out", saved))
        ignored = ("_name_or_path", "dtype", "transformers_version")
        assert {k: v for k, v in config.items() if k not in ignored} == {
            k: v for k, v in wanted.items() if k not in ignored
        }


def test_diffusers_own_loader_reads_a_converted_folder(
    tensors: dict[str, Tensor], state: State, tmp_path: Path
) -> None:
    convert(save_ldm(tmp_path / "model.ckpt", tensors), tmp_path / "out")
    load = DiffusionPipeline.from_pretrained.__func__
    loaded = load(PaintByExamplePipeline, tmp_path / "out", low_cpu_mem_usage=False)
    assert same_model(state_of(loaded), state)


@pytest.mark.parametrize("out", ["out", "out.safetensors"])
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_weights_are_converted_and_tables_are_not(
    out: str, dtype: torch.dtype, saved: Path, state: State, tmp_path: Path
) -> None:
    convert(saved, tmp_path / out, dtype=dtype)
    loaded = PaintByExamplePipeline.from_pretrained(tmp_path / out, torch_dtype="auto")
    expected = {part: {name: value.to(dtype) for name, value in state[part].items()} for part in PARTS}
    assert same_model(state_of(loaded), expected)
    assert describe(tmp_path / out)["dtype"] == str(dtype).removeprefix("torch.")
    if out.endswith(".safetensors"):
        assert load_file(tmp_path / out)["betas"].dtype == torch.float32


def test_a_number_too_large_for_half_precision_is_one_line(tensors: dict[str, Tensor], tmp_path: Path) -> None:
    large = tensors | {"proj_out.bias": torch.full((24,), 1e6)}
    file = save_ldm(tmp_path / "model.ckpt", large)
    with pytest.raises(ModelError, match=r"proj_out.bias has numbers up to 1e\+06.*bfloat16"):
        convert(file, tmp_path / "out", dtype=torch.float16)
    assert not (tmp_path / "out").exists()
    convert(file, tmp_path / "out", dtype=torch.bfloat16)


def test_averages_on_request(tensors: dict[str, Tensor], state: State, tmp_path: Path) -> None:
    torch.save(with_optimizer(tensors), tmp_path / "last.ckpt")
    convert(tmp_path / "last.ckpt", tmp_path / "out", ema=True)
    loaded = state_of(load_pipeline(tmp_path / "out"))
    assert same(loaded["unet"], {name: value + 1 for name, value in state["unet"].items()})
    assert same(loaded["vae"], state["vae"])
    with pytest.raises(ModelError, match="no averaged weights"):
        convert(save_ldm(tmp_path / "plain.ckpt", tensors), tmp_path / "out2", ema=True)
    with pytest.raises(ModelError, match="leave out --ema"):
        convert(tmp_path / "out", tmp_path / "out2", ema=True)


def with_config(part: str, **settings: Any) -> Callable[[Path], None]:
    def change(folder: Path) -> None:
        file = folder / part / ("scheduler_config.json" if part == "scheduler" else "config.json")
        file.write_text(json.dumps(json.loads(file.read_text()) | settings))

    return change


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (with_config("scheduler", prediction_type="v_prediction"), "prediction_type of v_prediction .* for epsilon"),
        (with_config("scheduler", beta_schedule="linear"), "beta_schedule of linear"),
        (with_config("unet", attention_head_dim=4), "the unet's attention_head_dim of 4 would be taken for 8"),
        (with_config("unet", norm_num_groups=16), "norm_num_groups of 16"),
        (with_config("vae", scaling_factor=0.5), "the vae's scaling_factor of 0.5"),
        (with_config("image_encoder", hidden_act="gelu"), "the image encoder's hidden_act of gelu"),
    ],
)
def test_what_a_file_could_not_tell_is_not_written(
    change: Callable[[Path], None], words: str, folder: Path, tmp_path: Path
) -> None:
    change(folder)
    with pytest.raises(ModelError, match=words) as error:
        convert(folder, tmp_path / "out.safetensors")
    one_line(error)
    assert not (tmp_path / "out.safetensors").exists()
    convert(folder, tmp_path / "out")  # a folder has a configuration


def test_the_embedded_family_has_no_other_layout(models: dict[str, Path], tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="no PatchAutoencoder"):
        convert(models["embedded"], tmp_path / "out.safetensors")
    with pytest.raises(ModelError, match="it has no .*middle_block"):
        convert(models["clip"], tmp_path / "out.safetensors")
    convert(models["embedded"], tmp_path / "out")
    assert same_model(state_of(load_pipeline(tmp_path / "out")), state_of(load_pipeline(models["embedded"])))


def test_what_is_there_stays_unless_told_otherwise(saved: Path, tmp_path: Path) -> None:
    for out in (tmp_path / "out", tmp_path / "out.safetensors"):
        convert(saved, out)
        with pytest.raises(ModelError, match="is there already.*--overwrite"):
            convert(saved, out)
        convert(saved, out, dtype=torch.float16, overwrite=True)
        assert describe(out)["dtype"] == "float16"
    (tmp_path / "photographs").mkdir()
    with pytest.raises(ModelError, match="left alone"):
        convert(saved, tmp_path / "photographs", overwrite=True)
    (tmp_path / "folder.safetensors").mkdir()
    with pytest.raises(ModelError, match="left alone"):
        convert(saved, tmp_path / "folder.safetensors", overwrite=True)
    with pytest.raises(ModelError, match="pickles are read here but not written"):
        convert(saved, tmp_path / "out.ckpt")
    with pytest.raises(ModelError, match="no folder .*nowhere"):
        convert(saved, tmp_path / "nowhere" / "out")


def test_a_failure_leaves_nothing_behind_and_what_was_there(tmp_path: Path) -> None:
    (tmp_path / "out").write_text("before")

    def fail() -> None:
        with written_beside(tmp_path / "out", overwrite=True) as place:
            place.write_text("half")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fail()
    assert [path.name for path in tmp_path.iterdir()] == ["out"]
    assert (tmp_path / "out").read_text() == "before"


def test_written_files_are_safetensors(tmp_path: Path) -> None:
    """Of every type, of no size, of no dimension; and what is not laid out in a row."""
    made = {
        "odd": torch.arange(3, dtype=torch.uint8),
        "double": torch.randn(2, 3, dtype=torch.float64),
        "half": torch.randn(5).half(),
        "brain": torch.randn(5).bfloat16(),
        "whole": torch.tensor(7),
        "truth": torch.tensor([True, False]),
        "empty": torch.zeros(0, 4),
        "turned": torch.randn(4, 3).T,
    }
    counts: list[int] = []
    write_tensors(tmp_path / "x.safetensors", made, metadata={"a": "b"}, on_bytes=counts.append)
    found = load_file(tmp_path / "x.safetensors")
    assert found.keys() == made.keys()
    for name, value in made.items():
        assert torch.equal(found[name], value)
        assert found[name].dtype == value.dtype
    with (tmp_path / "x.safetensors").open("rb") as file:
        (length,) = struct.unpack("<Q", file.read(8))
        header = json.loads(file.read(length))
    assert length % 8 == 0
    assert header["__metadata__"] == {"format": "pt", "a": "b"}
    assert sum(counts) == (tmp_path / "x.safetensors").stat().st_size - 8 - length


# The image prior


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """CLIP with and without its text model."""
    torch.manual_seed(1)
    vision = {
        "hidden_size": 64,
        "intermediate_size": 80,
        "num_hidden_layers": 9,
        "num_attention_heads": 1,
        "image_size": tiny.EXEMPLAR,
        "patch_size": 16,
    }
    text = {
        "hidden_size": 16,
        "intermediate_size": 16,
        "num_hidden_layers": 1,
        "num_attention_heads": 1,
        "vocab_size": 9,
    }
    model = CLIPModel(CLIPConfig(text_config=text, vision_config=vision, projection_dim=8))
    place = tmp_path_factory.mktemp("clip")
    model.save_pretrained(place / "whole")
    alone = CLIPVisionModel(CLIPVisionConfig(**vision))
    alone.load_state_dict(
        {
            name.removeprefix("vision_model."): v
            for name, v in model.state_dict().items()
            if name.startswith("vision_model.")
        }
    )
    alone.save_pretrained(place / "vision")
    shutil.copytree(place / "vision", place / "bare")
    (place / "bare" / "config.json").unlink()
    CLIPTextModel(CLIPTextConfig(**text)).save_pretrained(place / "text")
    return {"whole": place / "whole", "vision": place / "vision", "bare": place / "bare", "text": place / "text"}


def sd_folder(folder: Path, in_channels: int) -> Path:
    """Stable Diffusion as a folder, without what is not read."""
    torch.manual_seed(2)
    tiny.sd_unet(in_channels).save_pretrained(folder / "unet")
    tiny.sd_autoencoder().save_pretrained(folder / "vae")
    index = {
        "_class_name": "StableDiffusionPipeline",
        "unet": ["diffusers", "UNet2DConditionModel"],
        "vae": ["diffusers", "AutoencoderKL"],
        "text_encoder": ["transformers", "CLIPTextModel"],
        "image_encoder": [None, None],
    }
    (folder / "model_index.json").write_text(json.dumps(index))
    return folder


def sd_file(folder: Path, in_channels: int) -> Path:
    place = sd_folder(folder, in_channels)
    made = {
        name: value
        for part in ("unet", "vae")
        for name, value in ldm.to_ldm(part, load_file(place / part / "diffusion_pytorch_model.safetensors")).items()
    }
    made |= ldm.schedule(ldm.SCHEDULER) | names("cond_stage_model.transformer.text_model.final_layer_norm.bias")
    return save_ldm(folder / "sd.safetensors", made)


def unet_of(folder: Path) -> UNet2DConditionModel:
    return UNet2DConditionModel.from_pretrained(folder, low_cpu_mem_usage=False).eval()


@pytest.mark.parametrize("make", [sd_folder, sd_file])
@pytest.mark.parametrize("kind", ["whole", "vision", "bare"])
def test_a_start_paints_as_stable_diffusion_until_it_is_trained(
    make: Callable[[Path, int], Path], kind: str, clip: dict[str, Path], tmp_path: Path
) -> None:
    source = make(tmp_path / "sd", 4)
    convert(source, tmp_path / "out", image_encoder=str(clip[kind]))
    loaded = load_pipeline(tmp_path / "out", device="cpu")
    before = unet_of(tmp_path / "sd" / "unet")
    x, condition = torch.randn(2, 9, 8, 8), torch.randn(2, 1, 24)
    with torch.no_grad():
        found = loaded.unet(x, 5, encoder_hidden_states=condition).sample
        expected = before(x[:, :4], 5, encoder_hidden_states=condition).sample
    assert torch.allclose(found, expected, atol=5e-5)
    assert (loaded.unet.conv_in.weight[:, 4:] == 0).all()
    vae = AutoencoderKL.from_pretrained(tmp_path / "sd" / "vae", low_cpu_mem_usage=False)
    assert same(loaded.vae.state_dict(), vae.state_dict())
    vision = CLIPVisionModel.from_pretrained(clip["vision"]).state_dict()
    encoder = loaded.image_encoder.state_dict()
    assert all(torch.equal(encoder[f"model.vision_model.{name}"], value) for name, value in vision.items())
    assert loaded.image_encoder.config.hidden_act == "quick_gelu"
    loaded.unet.register_to_config(sample_size=8)
    loaded.edit(tiny.picture(30, 30), exemplar=tiny.picture(9, 9), box=(2, 2, 20, 20), steps=1)


def test_what_starts_at_random_follows_from_the_seed(clip: dict[str, Path], tmp_path: Path) -> None:
    source = sd_folder(tmp_path / "sd", 4)
    torch.manual_seed(5)
    draw = torch.randn(3)
    torch.manual_seed(5)
    for name, seed in {"a": 0, "b": 0, "c": 1}.items():
        convert(source, tmp_path / name, image_encoder=str(clip["vision"]), seed=seed)
    assert torch.equal(torch.randn(3), draw)  # the caller's randomness is left alone
    a, b, c = (load_pipeline(tmp_path / name).image_encoder.state_dict() for name in "abc")
    assert same(a, b)
    changed = {name for name in a if not torch.equal(a[name], c[name])}
    assert {name.split(".")[0] for name in changed} == {"mapper", "proj_out", "uncond_vector"}


@pytest.mark.parametrize("make", [sd_folder, sd_file])
def test_a_start_from_the_inpainting_model_paints_as_it_did(
    make: Callable[[Path, int], Path], clip: dict[str, Path], tmp_path: Path
) -> None:
    source = make(tmp_path / "sd", 9)
    convert(source, tmp_path / "out", image_encoder=str(clip["vision"]))
    loaded = load_pipeline(tmp_path / "out", device="cpu")
    before = unet_of(tmp_path / "sd" / "unet").conv_in
    noisy, masked, mask = torch.randn(2, 4, 9, 8), torch.randn(2, 4, 9, 8), torch.rand(2, 1, 9, 8).round()
    with torch.no_grad():
        found = loaded.unet.conv_in(loaded.unet_input(noisy, masked, mask))
        expected = before(torch.cat([noisy, mask, masked], dim=1))
        # what a bias cannot know: around the picture there is nothing to repaint
        outside = F.conv2d(F.pad(torch.ones(1, 1, 9, 8), (1,) * 4), before.weight[:, 4:5])
        ring = before.weight[:, 4].sum((1, 2))[:, None, None] - outside
    assert torch.allclose(found[..., 1:-1, 1:-1], expected[..., 1:-1, 1:-1], atol=1e-5)
    assert torch.allclose(found - ring, expected, atol=1e-5)
    assert ring[..., 1:-1, 1:-1].abs().max() < 1e-6 < ring.abs().max()


@pytest.mark.parametrize("channels", [5, 8])
def test_other_numbers_of_channels_are_refused(channels: int, clip: dict[str, Path], tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=f"takes {channels} channels"):
        nine_channels(torch.zeros(2, channels, 3, 3), torch.zeros(2))
    source = sd_folder(tmp_path / "sd", channels)
    with pytest.raises(ModelError, match=f"takes {channels} channels"):
        convert(source, tmp_path / "out", image_encoder=str(clip["vision"]))


def test_a_folder_around_a_file_names_it(tensors: dict[str, Tensor], tmp_path: Path) -> None:
    file = save_ldm(tmp_path / "model.ckpt", tensors)
    with pytest.raises(ModelError, match="no model_index.json.*; give the file: ") as error:
        load_pipeline(tmp_path)
    assert one_line(error).endswith(str(file))


@pytest.mark.parametrize("make", [sd_folder, sd_file])
def test_stable_diffusion_alone_says_how_it_becomes_a_start(make: Callable[[Path, int], Path], tmp_path: Path) -> None:
    source = make(tmp_path / "sd", 4)
    for load in (load_pipeline, describe, lambda place: convert(place, tmp_path / "out")):
        with pytest.raises(ModelError, match="Stable Diffusion 1.x, a start for training: .*--image-encoder") as error:
            load(source)
        one_line(error)


def test_clip_must_be_there_and_see(clip: dict[str, Path], tmp_path: Path) -> None:
    source = sd_folder(tmp_path / "sd", 4)
    for place, words in {
        str(clip["text"]): "no vision model of CLIP; it seems to be a text model",
        str(tmp_path / "nowhere"): "no folder .*nowhere with CLIP",
    }.items():
        with pytest.raises(ModelError, match=words) as error:
            convert(source, tmp_path / "out", image_encoder=place)
        one_line(error)


def test_clip_may_come_from_the_hub(clip: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[list[str]] = []
    place = Path(shutil.copytree(clip["vision"], tmp_path / "clip"))
    rename(place / "model.safetensors", dict, "pytorch_model.bin")

    def snapshot_download(name: str, allow_patterns: list[str]) -> str:
        asked.append([name, *allow_patterns])
        return str(place)

    monkeypatch.setattr("huggingface_hub.snapshot_download", snapshot_download)
    convert(sd_folder(tmp_path / "sd", 4), tmp_path / "out", image_encoder="owner/clip")
    start = ["owner/clip", "config.json"]
    assert asked == [[*start, "model.safetensors"], [*start, "pytorch_model.bin"]]  # the latter only where needed


@pytest.mark.parametrize("family", ["sd", "embedded"])
def test_a_model_that_is_one_already_is_no_start(
    family: str, saved: Path, models: dict[str, Path], clip: dict[str, Path], tmp_path: Path
) -> None:
    """Its nine channels are in our order already."""
    with pytest.raises(ModelError, match="is a Paint by Example model already"):
        convert({"sd": saved, **models}[family], tmp_path / "out", image_encoder=str(clip["vision"]))


def test_a_file_that_is_one_already_is_no_start(
    tensors: dict[str, Tensor], clip: dict[str, Path], tmp_path: Path
) -> None:
    file = save_ldm(tmp_path / "model.ckpt", tensors)
    with pytest.raises(ModelError, match="no place for 3 tensors, among them learnable_vector|proj_out"):
        convert(file, tmp_path / "out", image_encoder=str(clip["vision"]))


def test_a_start_from_a_model_that_does_not_predict_noise_is_refused(clip: dict[str, Path], tmp_path: Path) -> None:
    source = sd_folder(tmp_path / "sd", 4)
    (source / "scheduler").mkdir()
    scheduler = source / "scheduler" / "scheduler_config.json"
    scheduler.write_text('{"prediction_type": "epsilon"}')
    convert(source, tmp_path / "start", image_encoder=str(clip["vision"]))
    scheduler.write_text('{"prediction_type": "v_prediction"}')
    with pytest.raises(ModelError, match="predicts 'v_prediction'; a start .* of a model that predicts noise"):
        convert(source, tmp_path / "out", image_encoder=str(clip["vision"]))
    assert not (tmp_path / "out").exists()


def test_stable_diffusion_2_is_refused(clip: dict[str, Path], tmp_path: Path) -> None:
    source = sd_folder(tmp_path / "sd", 4)
    unet = UNet2DConditionModel(**dict(tiny.sd_unet(4).config) | {"use_linear_projection": True})
    unet.save_pretrained(source / "unet")
    with pytest.raises(ModelError, match="Stable Diffusion 2"):
        convert(source, tmp_path / "out", image_encoder=str(clip["vision"]))


# The command


def test_the_command_converts_and_describes(
    saved: Path, tensors: dict[str, Tensor], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = save_ldm(tmp_path / "model.ckpt", tensors)
    assert main(["convert", str(file), str(tmp_path / "out"), "--dtype", "float16"]) == 0
    captured = capsys.readouterr()
    assert captured.out == f"{tmp_path / 'out'}\n"
    assert "writing: 100%" in captured.err
    assert main(["convert", str(saved), str(tmp_path / "out.safetensors")]) == 0
    assert "writing: 100%" in capsys.readouterr().err
    for place, layout, dtype in (
        (saved, "diffusers", "float32"),
        (file, "LDM", "float32"),
        (tmp_path / "out", "diffusers", "float16"),
    ):
        assert main(["info", str(place), "--json"]) == 0
        report = json.loads(capsys.readouterr().out)
        assert (report["layout"], report["dtype"]) == (layout, dtype)
        assert report["parts"]["unet"]["parameters"] == sum(p.numel() for p in tiny.sd_unet().parameters())


def test_the_command_makes_a_start_that_can_be_edited_with(
    clip: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source = sd_file(tmp_path / "sd", 9)
    assert main(["convert", str(source), str(tmp_path / "out"), "--image-encoder", str(clip["whole"])]) == 0
    assert main(["info", str(tmp_path / "out")]) == 0
    assert "PaintByExampleImageEncoder" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["out.ckpt"], "pickles"),
        (["out", "--image-encoder", "./nowhere"], "already"),
        (["nowhere/out"], "no folder"),
    ],
)
def test_a_conversion_that_cannot_be_is_one_line(
    options: list[str],
    words: str,
    saved: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["convert", str(saved), *options]) == 1
    captured = capsys.readouterr()
    assert words in captured.err
    assert captured.err.count("\n") == 1
    assert not list(tmp_path.iterdir())
