"""Offload, the autoencoder's switches, LoRA weights, the safety checker, schedulers in exchange."""

import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import DDIMScheduler, DPMSolverMultistepScheduler
from diffusers.loaders import StableDiffusionLoraLoaderMixin
from PIL import Image
from torch import Tensor

from paint_by_example import PaintByExamplePipeline, UserError
from paint_by_example.errors import ModelError
from paint_by_example.sampling import Step, make_scheduler
from tests import tiny

SOURCE = tiny.picture(48, 40)
EXEMPLAR = tiny.picture(40, 20, seed=1)
BOX = (8, 8, 24, 20)


def latent(pipeline: PaintByExamplePipeline, **given: Any) -> Tensor:
    steps: list[Step] = []
    pipeline.edit(SOURCE, exemplar=EXEMPLAR, box=BOX, steps=2, on_step=steps.append, **given)
    return steps[-1].z_t


# --- offload ---------------------------------------------------------------------------------------------------------


def offload_model(pipeline: PaintByExamplePipeline) -> None:
    pipeline.enable_model_cpu_offload(device="cpu")


def offload_sequentially(pipeline: PaintByExamplePipeline) -> None:
    """What diffusers' enable_sequential_cpu_offload does, to the CPU: there it would call it cpu:0, which fails."""
    from accelerate import cpu_offload

    for part in (pipeline.vae, pipeline.image_encoder, pipeline.unet):
        cpu_offload(part, torch.device("cpu"), offload_buffers=len(part._parameters) > 0)
    assert {value.device.type for value in pipeline.unet.parameters()} == {"meta"}
    assert pipeline.image_encoder.uncond_vector.device.type == "meta"


@pytest.mark.parametrize("compat", [None, "original", "diffusers"])
@pytest.mark.parametrize("offload", [offload_model, offload_sequentially])
def test_offload_changes_nothing(
    offload: Callable[[PaintByExamplePipeline], None], compat: str | None, family: str
) -> None:
    pytest.importorskip("accelerate")
    pipeline = tiny.PIPELINES[family]()
    pipeline.compat = compat
    expected = pipeline.edit(SOURCE, exemplar=EXEMPLAR, box=BOX, steps=2)
    offload(pipeline)
    for _ in range(2):  # after an edit the hooks are set again
        found = pipeline.edit(SOURCE, exemplar=EXEMPLAR, box=BOX, steps=2)
        assert (np.asarray(found.images[0]) == np.asarray(expected.images[0])).all()
        assert found.records == expected.records
    white = Image.new("L", SOURCE.size, 255)
    called: Any = pipeline(image=SOURCE, mask_image=white, example_image=EXEMPLAR, num_inference_steps=2)
    assert called.images[0].size == SOURCE.size


def test_the_small_autoencoder_tells_the_hook_that_it_works() -> None:
    """Offload waits for calls of `forward`, and this one is only ever asked to encode and decode."""
    pytest.importorskip("accelerate")
    pipeline = tiny.embedded_pipeline()
    pipeline.enable_model_cpu_offload(device="cpu")
    asked: list[torch.nn.Module] = []
    pipeline.vae._hf_hook.pre_forward = lambda module, *arguments: asked.append(module)
    z = pipeline.encode_picture(torch.zeros(1, 3, 8, 8))
    pipeline.decode_latent(z)
    assert asked == [pipeline.vae, pipeline.vae]


@pytest.mark.parametrize("switch", ["enable_model_cpu_offload", "enable_sequential_cpu_offload"])
def test_offload_that_is_not_possible_is_one_line(switch: str, monkeypatch: pytest.MonkeyPatch) -> None:
    pipeline = tiny.embedded_pipeline()
    if not torch.cuda.is_available():
        with pytest.raises(UserError, match=f"{switch} is not possible here: .*accelerator"):
            getattr(pipeline, switch)()
    monkeypatch.setattr("diffusers.pipelines.pipeline_utils.is_accelerate_available", lambda: False)
    with pytest.raises(UserError, match=f"{switch} needs the package accelerate"):
        getattr(pipeline, switch)()


def test_every_part_that_works_is_offloaded() -> None:
    assert PaintByExamplePipeline.model_cpu_offload_seq == "image_encoder->unet->vae"
    assert PaintByExamplePipeline._exclude_from_cpu_offload == []


# --- the autoencoder -------------------------------------------------------------------------------------------------


def test_slicing_and_tiling() -> None:
    pipeline = tiny.clip_pipeline()
    whole = latent(pipeline)
    pipeline.enable_vae_slicing()
    assert pipeline.vae.use_slicing
    assert torch.equal(latent(pipeline), whole)
    pipeline.disable_vae_slicing()
    pipeline.enable_vae_tiling()
    assert pipeline.vae.use_tiling
    pipeline.vae.tile_sample_min_size, pipeline.vae.tile_latent_min_size = 16, 8
    assert not torch.equal(latent(pipeline), whole)
    pipeline.disable_vae_tiling()
    assert not pipeline.vae.use_tiling
    assert not pipeline.vae.use_slicing
    assert torch.equal(latent(pipeline), whole)


@pytest.mark.parametrize("name", ["enable_vae_tiling", "enable_vae_slicing"])
def test_the_small_autoencoder_needs_neither(name: str) -> None:
    with pytest.raises(UserError, match="PatchAutoencoder has no enable_.*ing, and is small enough"):
        getattr(tiny.embedded_pipeline(), name)()


# --- LoRA ------------------------------------------------------------------------------------------------------------


@pytest.fixture
def lora(tmp_path: Path) -> Path:
    """Low-rank weights for the tiny U-Net of the released model's family, as diffusers' trainers save them."""
    peft = pytest.importorskip("peft")
    pipeline = tiny.clip_pipeline()
    torch.manual_seed(1)
    config = peft.LoraConfig(r=2, lora_alpha=2, target_modules=["to_v", "to_out.0"], init_lora_weights=False)
    pipeline.unet.add_adapter(config)
    layers = peft.utils.get_peft_model_state_dict(pipeline.unet)
    StableDiffusionLoraLoaderMixin.save_lora_weights(tmp_path / "lora", unet_lora_layers=layers)
    return tmp_path / "lora"


def test_lora_weights_are_loaded_scaled_fused_and_unloaded(lora: Path) -> None:
    pipeline = tiny.clip_pipeline()
    plain, print_of_plain = latent(pipeline), pipeline.fingerprint()
    pipeline.load_lora_weights(lora, adapter_name="style")
    assert pipeline.get_active_adapters() == ["style"]
    full = latent(pipeline)
    assert not torch.allclose(full, plain)
    assert pipeline.fingerprint() != print_of_plain  # an edit with them is not to be repeated without
    pipeline.set_adapters(["style"], [0.0])
    torch.testing.assert_close(latent(pipeline), plain)
    pipeline.set_adapters(["style"], [1.0])
    pipeline.fuse_lora(components=["unet"])
    torch.testing.assert_close(latent(pipeline), full, rtol=0, atol=1e-4)
    pipeline.unfuse_lora(components=["unet"])
    pipeline.unload_lora_weights()
    torch.testing.assert_close(latent(pipeline), plain, rtol=0, atol=1e-4)


def test_lora_weights_from_a_file_and_from_memory(lora: Path) -> None:
    from safetensors.torch import load_file

    (file,) = lora.glob("*.safetensors")
    results = []
    for given in (lora, str(file), load_file(file)):
        pipeline = tiny.clip_pipeline()
        pipeline.load_lora_weights(given)
        results.append(latent(pipeline))
    assert torch.equal(results[0], results[1])
    assert torch.equal(results[0], results[2])


def test_lora_weights_that_cannot_be_are_one_line(lora: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from safetensors.torch import load_file

    (file,) = lora.glob("*.safetensors")
    tensors = load_file(file)
    pipeline = tiny.clip_pipeline()
    of_text = {name.replace("unet.", "text_encoder."): value for name, value in tensors.items()}
    for given, words in (
        (lora / "nowhere", "nowhere"),
        (of_text, "hold none for a U-Net"),
        ({}, "the given LoRA weights"),
    ):
        with pytest.raises(ModelError, match=words) as error:
            pipeline.load_lora_weights(given)
        assert "\n" not in str(error.value)
    wrong = {name: torch.zeros(value.shape[0], 7) if "lora_A" in name else value for name, value in tensors.items()}
    with pytest.raises(ModelError, match="cannot load the given LoRA weights"):
        pipeline.load_lora_weights(wrong)
    monkeypatch.setitem(sys.modules, "peft", None)
    with pytest.raises(UserError, match="need the package peft"):
        pipeline.load_lora_weights(lora)


# --- the safety checker ----------------------------------------------------------------------------------------------


class BlackeningChecker(torch.nn.Module):
    """As Stable Diffusion's: takes pictures and CLIP's view of them, blackens what it flags in place."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(1))
        self.config = SimpleNamespace(vision_config=SimpleNamespace(image_size=24))
        self.views: list[Tensor] = []
        self.device, self.dtype = self.weight.device, self.weight.dtype

    def forward(self, images: np.ndarray, clip_input: Tensor) -> tuple[np.ndarray, list[bool]]:
        assert images.dtype == np.float32
        self.views.append(clip_input)
        images[:] = 0
        return images, [len(self.views) == 2]


@pytest.mark.parametrize("output_type", ["pil", "np", "pt"])
def test_the_registered_module_reports_and_changes_nothing(output_type: str) -> None:
    pipeline = tiny.embedded_pipeline()
    asked: dict[str, Any] = {"image": SOURCE, "mask_image": Image.new("L", SOURCE.size, 255), "example_image": EXEMPLAR}
    asked |= {"num_inference_steps": 1, "seeds": [1, 2], "output_type": output_type}
    plain: Any = pipeline(**asked)
    assert plain.nsfw_content_detected is None
    checker = BlackeningChecker()
    pipeline.safety_checker = checker
    result: Any = pipeline(**asked)
    assert result.nsfw_content_detected == [False, True]
    assert [view.shape for view in checker.views] == [(1, 3, 24, 24)] * 2
    for image, before in zip(result.images, plain.images, strict=True):
        assert (np.asarray(image) == np.asarray(before)).all()
    _, flagged = pipeline(**(asked | {"output_type": "latent", "return_dict": False}))
    assert flagged is None


def test_a_function_as_safety_checker_is_not_saved(tmp_path: Path) -> None:
    parts = tiny.embedded_pipeline().components
    pipeline = PaintByExamplePipeline(**(parts | {"safety_checker": lambda pictures: [True] * len(pictures)}))
    assert pipeline.edit(SOURCE, exemplar=EXEMPLAR, box=BOX, steps=1).nsfw_content_detected == [True]
    pipeline.save_pretrained(tmp_path)
    assert PaintByExamplePipeline.from_pretrained(tmp_path).safety_checker is None


# --- schedulers ------------------------------------------------------------------------------------------------------


def test_a_swap_in_diffusers_way_does_not_clip_latents(
    family: str, models: dict[str, Path], pipeline: PaintByExamplePipeline
) -> None:
    for scheduler in (pipeline.scheduler, PaintByExamplePipeline.from_pretrained(models[family]).scheduler):
        swapped = DDIMScheduler.from_config(scheduler.config)
        assert swapped.config["clip_sample"] is False
        back = DDIMScheduler.from_config(DPMSolverMultistepScheduler.from_config(scheduler.config).config)
        assert back.config["clip_sample"] is False


def test_swapped_in_schedulers_are_used(family: str) -> None:
    pipeline = tiny.PIPELINES[family]()
    own = pipeline.scheduler
    results = []
    for scheduler in (make_scheduler("ddim", own), make_scheduler("unipc", own), make_scheduler("dpm++", own)):
        pipeline.scheduler = scheduler
        results.append(latent(pipeline))
    assert not torch.equal(results[0], results[1])
    pipeline.scheduler = DDIMScheduler.from_config(make_scheduler("ddim", own).config)
    assert torch.equal(latent(pipeline), results[0])
