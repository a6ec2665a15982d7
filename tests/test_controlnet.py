"""ControlNets and T2I-Adapters with random weights, beside a small U-Net of Stable Diffusion's layers."""

import copy
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import AutoencoderKL, ControlNetModel, T2IAdapter, UNet2DConditionModel
from torch import Tensor

from paint_by_example import PaintByExamplePipeline
from paint_by_example.controlnet import Control, check_fit, load_control
from paint_by_example.errors import ModelError
from tests.tiny import sd_pipeline

WIDTHS = [32, 64, 64, 64]
SIDE = 32


@pytest.fixture(scope="module")
def pipeline() -> PaintByExamplePipeline:
    return sd_pipeline()


def controlnet(pipeline: PaintByExamplePipeline, **options: Any) -> ControlNetModel:
    """As training starts from: the U-Net's layers, and zeros where it ends."""
    torch.manual_seed(1)
    return ControlNetModel(
        block_out_channels=WIDTHS, layers_per_block=1, cross_attention_dim=24, attention_head_dim=8, **options
    ).eval()


def adapter(**options: Any) -> T2IAdapter:
    torch.manual_seed(1)
    return T2IAdapter(**({"channels": WIDTHS, "num_res_blocks": 1} | options)).eval()


def shaken(network: torch.nn.Module) -> Any:
    network = copy.deepcopy(network)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.05)
    return network


def painted(pipeline: PaintByExamplePipeline, beside: Any = None, **options: Any) -> Tensor:
    generator = torch.Generator().manual_seed(3)
    source = torch.rand(1, 3, SIDE, SIDE, generator=generator) * 2 - 1
    mask = torch.zeros(1, 1, SIDE, SIDE)
    mask[..., 8:24, 8:24] = 1
    maps = (torch.rand(1, 3, SIDE, SIDE, generator=generator) > 0.8).float()
    if beside is not None:
        options |= {"control": Control(beside, "tiny"), "structure": options.get("structure", maps)}
    options = {"guidance_scale": 3.0, "steps": 2} | options
    condition = torch.randn(1, 1, 24, generator=generator)
    *_, last = pipeline.paint(source, mask, condition, generators=[torch.Generator().manual_seed(0)], **options)
    return last.z_t


def test_one_that_has_learned_nothing_changes_nothing(pipeline: PaintByExamplePipeline) -> None:
    plain = painted(pipeline)
    network = controlnet(pipeline)
    assert torch.equal(painted(pipeline, network), plain)
    assert torch.allclose(painted(pipeline, network, structure_scale=0.5), plain, atol=0.05)  # batches of three


@pytest.mark.parametrize("make", [controlnet, lambda pipeline: adapter()])
def test_one_that_has_changes_the_result_by_the_map(pipeline: PaintByExamplePipeline, make: Any) -> None:
    network, plain = shaken(make(pipeline)), painted(pipeline)
    told = painted(pipeline, network)
    assert (told - plain).abs().mean() > 1e-3
    other = painted(pipeline, network, structure=torch.zeros(1, 3, SIDE, SIDE))
    assert (told - other).abs().mean() > 1e-4
    assert torch.equal(painted(pipeline, network, structure_scale=0.0), plain)
    halfway = painted(pipeline, network, structure_scale=0.5)
    assert min((halfway - plain).abs().mean(), (halfway - told).abs().mean()) > 0.05


def test_it_runs_with_torch_whatever_the_backend(pipeline: PaintByExamplePipeline) -> None:
    def compiled(*_: Any) -> Tensor:
        raise AssertionError("it takes no residuals")

    network = shaken(controlnet(pipeline))
    assert torch.equal(painted(pipeline, network, network=compiled), painted(pipeline, network))


@pytest.mark.parametrize("make", [controlnet, lambda pipeline: adapter(in_channels=1)])
def test_some_of_a_batch_may_be_told(pipeline: PaintByExamplePipeline, make: Any) -> None:
    generator = torch.Generator().manual_seed(0)
    control = Control(shaken(make(pipeline)), "tiny")
    z_t, condition = torch.randn(6, 4, 4, 4, generator=generator), torch.randn(6, 1, 24, generator=generator)
    maps = torch.rand(2, 3, SIDE, SIDE, generator=generator)
    hints = control.hints(maps)
    t = torch.tensor(500)
    everything = hints(z_t, t, condition, (True, True, True))
    some = hints(z_t, t, condition, (False, True, False))
    assert hints(z_t, t, condition, (False,)) == {}
    for name, values in everything.items():
        pairs = zip(*([x] if isinstance(x, Tensor) else x for x in (values, some[name])), strict=True)
        for full, part in pairs:
            assert full.shape == part.shape
            assert torch.allclose(part[2:4], full[2:4], atol=1e-5)
            assert not part[:2].any()
            assert not part[4:].any()


@pytest.mark.parametrize("make", [controlnet, lambda pipeline: adapter()])
def test_a_saved_one_is_the_same(pipeline: PaintByExamplePipeline, make: Any, tmp_path: Path) -> None:
    network = shaken(make(pipeline))
    network.save_pretrained(tmp_path)
    control = load_control(tmp_path, pipeline.unet, pipeline.latent_factor)
    assert control.name == str(tmp_path)
    assert control.fingerprint() == Control(network, "").fingerprint() != Control(shaken(network), "").fingerprint()
    assert torch.equal(painted(pipeline, control.network), painted(pipeline, network))


@pytest.mark.parametrize("kind", [ControlNetModel, T2IAdapter])
def test_sizes_as_published_fit_the_released_unet(kind: Any) -> None:
    with torch.device("meta"):  # shapes, no numbers
        unet = UNet2DConditionModel(in_channels=9, cross_attention_dim=768)
        network = kind() if kind is T2IAdapter else kind(cross_attention_dim=768)
        check_fit(network, unet, 8, "published")
        z_t, condition, t = torch.zeros(3, 4, 32, 32), torch.zeros(3, 1, 768), torch.tensor(5.0)
        options = Control(network, "").hints(torch.zeros(1, 3, 256, 256))(z_t, t, condition, (False, True, True))
        assert options
        assert unet(torch.zeros(3, 9, 32, 32), t, condition, **options).sample.shape == z_t.shape


def test_what_cannot_be_loaded_is_one_line(pipeline: PaintByExamplePipeline, tmp_path: Path) -> None:
    def fails(name: Path, match: str) -> None:
        with pytest.raises(ModelError, match=match) as caught:
            load_control(name, pipeline.unet, pipeline.latent_factor)
        assert "\n" not in str(caught.value)

    fails(tmp_path, "cannot load the ControlNet or T2I-Adapter .*")
    file = tmp_path / "a.safetensors"
    file.write_bytes(b"")
    fails(file, "is a file; give the folder")

    controlnet(pipeline).save_pretrained(tmp_path / "whole")
    weights = tmp_path / "whole" / "diffusion_pytorch_model.safetensors"
    weights.write_bytes(weights.read_bytes()[:1000])
    fails(tmp_path / "whole", "cannot load the ControlNet")

    AutoencoderKL(block_out_channels=(32,)).save_pretrained(tmp_path / "vae")
    fails(tmp_path / "vae", "holds a AutoencoderKL, which is neither")

    adapter().save_pretrained(tmp_path / "adapter")
    config = json.loads((tmp_path / "adapter" / "config.json").read_text())
    (tmp_path / "adapter" / "config.json").write_text(json.dumps(config | {"num_res_blocks": 2}))
    fails(tmp_path / "adapter", "lacks .* of its tensors")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"cross_attention_dim": 32}, "its cross_attention_dim is 32, this model's 24"),
        ({"in_channels": 9}, "its latent channels is 9, this model's 4"),
        ({"conditioning_embedding_out_channels": (8, 8)}, "its pixels to a cell is 2, this model's 8"),
    ],
)
def test_a_controlnet_of_another_model(
    pipeline: PaintByExamplePipeline, options: dict[str, Any], message: str, tmp_path: Path
) -> None:
    given: dict[str, Any] = {"block_out_channels": WIDTHS, "layers_per_block": 1, "cross_attention_dim": 24}
    ControlNetModel(**(given | options)).save_pretrained(tmp_path)
    with pytest.raises(ModelError, match=message):
        load_control(tmp_path, pipeline.unet, pipeline.latent_factor)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"channels": [32, 64, 64, 32]}, r"its channels is \[32, 64, 64, 32\], this model's \[32, 64, 64, 64\]"),
        ({"downscale_factor": 4}, "its pixels to a cell is 4, this model's 8"),
    ],
)
def test_an_adapter_of_another_model(
    pipeline: PaintByExamplePipeline, options: dict[str, Any], message: str, tmp_path: Path
) -> None:
    adapter(**options).save_pretrained(tmp_path)
    with pytest.raises(ModelError, match=message):
        load_control(tmp_path, pipeline.unet, pipeline.latent_factor)
