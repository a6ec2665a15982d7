"""The pipeline: loading and saving, editing, and the call that programs written for diffusers make."""

import inspect
import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from paint_by_example import PaintByExamplePipeline, UserError, load_pipeline
from paint_by_example.compat import latent_mask
from paint_by_example.errors import MaskError, ModelError, PictureError
from paint_by_example.pipeline import choose_device, describe
from paint_by_example.sampling import Step, make_scheduler, seeded_generators
from tests import tiny

SOURCE = tiny.picture(tiny.IMAGE, tiny.IMAGE)
EXEMPLAR = tiny.picture(40, 20, seed=1)
HOLE = (8, 8, 24, 20)


def mask_of(size: tuple[int, int], box: tuple[int, int, int, int] = HOLE) -> PIL.Image.Image:
    mask = PIL.Image.new("L", size)
    mask.paste(255, box)
    return mask


MASK = mask_of(SOURCE.size)


def pixels(image: PIL.Image.Image) -> np.ndarray:
    return np.asarray(image)


def one_line(error: pytest.ExceptionInfo[UserError]) -> str:
    text = str(error.value)
    assert "\n" not in text
    assert len(text) < 600
    return text


# Loading and saving


def index_of(folder: Path) -> dict[str, Any]:
    index: dict[str, Any] = json.loads((folder / "model_index.json").read_text())
    return index


def state(pipeline: PaintByExamplePipeline) -> dict[str, Tensor]:
    return {
        f"{part}.{name}": value
        for part in ("vae", "image_encoder", "unet")
        for name, value in getattr(pipeline, part).state_dict().items()
    }


def test_index_names_this_package_where_it_owns_the_class(models: dict[str, Path]) -> None:
    released, embedded = index_of(models["clip"]), index_of(models["embedded"])
    assert released["_class_name"] == embedded["_class_name"] == "PaintByExamplePipeline"
    assert released["image_encoder"] == ["paint_by_example", "PaintByExampleImageEncoder"]
    assert released["vae"] == ["diffusers", "AutoencoderKL"]
    assert embedded["image_encoder"] == ["paint_by_example", "PooledImageEncoder"]
    assert embedded["vae"] == ["paint_by_example", "PatchAutoencoder"]
    assert embedded["unet"] == ["diffusers", "UNet2DConditionModel"]


def test_index_of_a_part_that_was_exchanged_names_this_package_too() -> None:
    pipeline = tiny.embedded_pipeline()
    pipeline.vae = tiny.embedded_pipeline().vae
    assert pipeline.config["vae"] == ("paint_by_example", "PatchAutoencoder")


@pytest.mark.parametrize("load", [load_pipeline, PaintByExamplePipeline.from_pretrained])
def test_what_is_saved_is_loaded(
    load: Callable[[Path], PaintByExamplePipeline],
    family: str,
    models: dict[str, Path],
    pipelines: dict[str, PaintByExamplePipeline],
    tmp_path: Path,
) -> None:
    saved, loaded = pipelines[family], load(models[family])
    expected, found = state(saved), state(loaded)
    assert expected.keys() == found.keys()
    assert all(torch.equal(value, found[name]) for name, value in expected.items())
    assert not any(part.training for part in (loaded.vae, loaded.image_encoder, loaded.unet))
    assert loaded.scheduler.config["prediction_type"] == saved.scheduler.config["prediction_type"]
    loaded.save_pretrained(tmp_path)  # and once more
    assert state(load(tmp_path)).keys() == expected.keys()


def test_a_fresh_process_loads_and_load_pipeline_is_quiet(models: dict[str, Path]) -> None:
    code = f"""
import sys, warnings
import paint_by_example
pipe = paint_by_example.PaintByExamplePipeline.from_pretrained({str(models["embedded"])!r})
print(type(pipe).__module__, type(pipe.vae).__module__, type(pipe.image_encoder).__module__)
print("from here on", file=sys.stderr)
warnings.simplefilter("error")
print(type(paint_by_example.load_pipeline({str(models["clip"])!r}).image_encoder).__module__)
"""
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    names = ("pipeline", "autoencoder", "conditioning", "conditioning")
    assert ran.stdout.split() == [f"paint_by_example.{name}" for name in names]
    assert ran.stderr.partition("from here on\n")[2] == ""


def test_an_index_in_the_words_of_the_released_checkpoint(models: dict[str, Path], tmp_path: Path) -> None:
    """It names a class that transformers no longer has, and a safety checker, which is not loaded."""
    folder = Path(shutil.copytree(models["clip"], tmp_path / "released"))
    index = index_of(folder) | {
        "feature_extractor": ["transformers", "CLIPFeatureExtractor"],
        "safety_checker": ["stable_diffusion", "StableDiffusionSafetyChecker"],
    }
    (folder / "model_index.json").write_text(json.dumps(index))
    settings = {"crop_size": 224, "feature_extractor_type": "CLIPFeatureExtractor", "size": 224, "resample": 3}
    settings |= {"image_mean": [0.1, 0.2, 0.3], "image_std": [0.4, 0.5, 0.6]}
    (folder / "feature_extractor" / "preprocessor_config.json").write_text(json.dumps(settings))
    pipeline = load_pipeline(folder)
    assert tuple(pipeline.feature_extractor.image_mean) == (0.1, 0.2, 0.3)
    assert pipeline.safety_checker is None


def test_weights_take_the_type_that_is_asked_for(models: dict[str, Path]) -> None:
    pipeline = load_pipeline(models["embedded"], device="cpu", dtype=torch.float64)
    assert {value.dtype for value in state(pipeline).values()} == {torch.float64}
    pipeline.edit(SOURCE, exemplar=EXEMPLAR, box=HOLE, steps=2)


def truncate(folder: Path) -> None:
    weights = folder / "unet" / "diffusion_pytorch_model.safetensors"
    weights.write_bytes(weights.read_bytes()[:1000])


def lose_a_tensor(folder: Path) -> None:
    from safetensors.torch import load_file, save_file

    weights = folder / "image_encoder" / "model.safetensors"
    tensors = load_file(weights)
    del tensors["uncond_vector"]
    save_file(tensors, weights, {"format": "pt"})


def exchange_the_unet(folder: Path) -> None:
    tiny.unet(latent_channels=4, sample_size=16, condition_size=24).save_pretrained(folder / "unet")


def in_index(name: str, value: object) -> Callable[[Path], None]:
    def change(folder: Path) -> None:
        (folder / "model_index.json").write_text(json.dumps(index_of(folder) | {name: value}))

    return change


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (lambda folder: shutil.rmtree(folder), "no model at"),
        (lambda folder: (folder / "model_index.json").unlink(), "no model_index.json"),
        (lambda folder: (folder / "model_index.json").write_text("{"), "cannot load"),
        (lambda folder: shutil.rmtree(folder / "unet"), "unet"),
        (truncate, "is damaged, fetch it again"),
        (lose_a_tensor, "lack 1 tensors, among them uncond_vector"),
        (exchange_the_unet, "do not fit together"),
        (in_index("vae", ["diffusers", "AutoencoderTiny"]), "the vae of .* is AutoencoderTiny; AutoencoderKL or"),
        (in_index("scheduler", [None, None]), "the scheduler of .* is missing"),
    ],
)
def test_a_folder_that_is_no_model(
    damage: Callable[[Path], None],
    words: str,
    models: dict[str, Path],
    tmp_path: Path,
    capfd: pytest.CaptureFixture[str],
) -> None:
    folder = Path(shutil.copytree(models["clip"], tmp_path / "model"))
    damage(folder)
    with pytest.raises(ModelError, match=words) as error:
        load_pipeline(folder)
    assert str(folder) in one_line(error)
    assert capfd.readouterr().err == ""


def test_a_file_is_no_model(tmp_path: Path) -> None:
    (tmp_path / "model.ckpt").touch()
    with pytest.raises(ModelError, match="is no file of weights"):
        load_pipeline(tmp_path / "model.ckpt")


def test_a_name_that_the_hub_does_not_have(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []

    def download(name: str, **_: Any) -> str:
        asked.append(name)
        raise OSError("no such\nrepository " + "x" * 1000)

    monkeypatch.setattr(PaintByExamplePipeline, "download", download)
    with pytest.raises(ModelError, match="hub: no such repository") as error:
        load_pipeline("owner/name")
    one_line(error)
    assert asked == ["owner/name"]
    with pytest.raises(ModelError, match="no model at"):
        load_pipeline("./owner/name")
    assert asked == ["owner/name"]


@pytest.mark.parametrize("device", ["quantum", "cuda:99"])
def test_a_device_that_is_not_there(device: str) -> None:
    with pytest.raises(UserError, match=f"'{device}'.*cpu always works") as error:
        choose_device(device)
    one_line(error)


def test_describe_adds_up(family: str, models: dict[str, Path], pipelines: dict[str, PaintByExamplePipeline]) -> None:
    found = describe(models[family])
    parts = (pipelines[family].vae, pipelines[family].image_encoder, pipelines[family].unet)
    assert found["parameters"] == sum(p.numel() for part in parts for p in part.parameters())
    assert found["image_size"] == tiny.IMAGE
    assert found["latent_factor"] == {"embedded": 4, "clip": 2}[family]
    assert found["latent_channels"] == {"embedded": 6, "clip": 4}[family]
    assert found["prediction_type"] == {"embedded": "v_prediction", "clip": "epsilon"}[family]
    assert json.loads(json.dumps(found)) == found


# Tensors


def test_exemplars_are_squashed_whole_and_normalised(pipeline: PaintByExamplePipeline) -> None:
    """Three equal thirds of colour stay thirds; a crop of the centre would show the middle one alone."""
    stripes = np.zeros((50, 300, 3), np.uint8)
    for third in range(3):
        stripes[:, 100 * third : 100 * (third + 1), third] = 255
    x = pipeline.exemplar_tensor(stripes[None])
    assert x.shape == (1, 3, tiny.EXEMPLAR, tiny.EXEMPLAR)
    mean, std = (
        torch.tensor(values)[:, None, None]
        for values in (pipeline.feature_extractor.image_mean, pipeline.feature_extractor.image_std)
    )
    colours = (x[0] * std + mean).mean((1, 2))
    assert torch.allclose(colours, torch.full((3,), 1 / 3), atol=0.02)


def test_without_a_feature_extractor_the_exemplar_cannot_be_normalised() -> None:
    pipeline = tiny.embedded_pipeline()
    pipeline.feature_extractor = None
    with pytest.raises(ModelError, match="feature_extractor"):
        pipeline.edit(SOURCE, exemplar=EXEMPLAR, box=HOLE)


def test_latents_are_scaled_by_the_autoencoders_factor(pipelines: dict[str, PaintByExamplePipeline]) -> None:
    pipeline = pipelines["clip"]
    x = torch.rand(1, 3, 32, 32, generator=torch.Generator().manual_seed(0)) * 2 - 1
    with torch.no_grad():
        posterior = pipeline.vae.encode(x).latent_dist
        z = pipeline.encode_picture(x)
        assert torch.equal(z, posterior.mean * 0.18215)
        assert torch.equal(pipeline.decode_latent(z), pipeline.vae.decode(z / 0.18215).sample)
        sampled = pipeline.encode_picture(x, torch.Generator().manual_seed(1))
    assert not torch.equal(sampled, z)


def test_unet_input_is_noisy_latent_then_masked_latent_then_what_is_kept(pipeline: PaintByExamplePipeline) -> None:
    z_t, z_masked = torch.full((2, 4, 3, 3), 7.0), torch.full((2, 4, 3, 3), -7.0)
    mask = torch.zeros(2, 1, 3, 3)
    mask[:, :, 1] = 1
    x = pipeline.unet_input(z_t, z_masked, mask)
    assert x.shape == (2, 9, 3, 3)
    assert (x[:, :4] == 7).all()
    assert (x[:, 4:8] == -7).all()
    assert torch.equal(x[:, 8:], 1 - mask)  # 1 = keep, in the U-Net and nowhere else


@given(st.sampled_from([8, 32, 512]), st.sampled_from([2, 4, 8]), st.data())
@settings(max_examples=30, deadline=None)
def test_latent_mask_keeps_a_stroke_of_one_pixel(side: int, factor: int, data: st.DataObject) -> None:
    row, column = data.draw(st.integers(0, side - 1)), data.draw(st.integers(0, side - 1))
    mask = torch.zeros(1, 1, side, side)
    mask[..., row, column] = 1
    m = latent_mask(mask, (side // factor, side // factor))
    assert m[0, 0, row // factor, column // factor] == 1 / factor**2
    assert torch.count_nonzero(m) == 1
    assert latent_mask(torch.ones_like(mask), m.shape[-2:]).eq(1).all()


def test_what_the_unet_is_shown_in_an_edit() -> None:
    pipeline = tiny.embedded_pipeline()
    unet = tiny.record_unet(pipeline)
    pipeline.edit(SOURCE, exemplar=EXEMPLAR, mask=MASK, steps=2, seed=3)
    assert len(unet.seen) == 2
    x, t, condition = unet.seen[0]
    z_t, z_masked, keep = x.split([6, 6, 1], dim=1)
    assert len(x) == 2  # once without the exemplar, once with it
    assert torch.equal(x[0], x[1])
    # the tiny canvas is as large as the source, so nothing is resized
    source = torch.from_numpy(np.array(pixels(SOURCE))).permute(2, 0, 1)[None] / 127.5 - 1
    hole = torch.from_numpy(np.array(pixels(MASK)))[None, None] / 255
    assert torch.allclose(z_masked[:1], pipeline.encode_picture(source * (1 - hole)), atol=1e-6)
    assert torch.equal(keep[0, 0], 1 - hole[0, 0, ::4, ::4])  # the box lies on the latent's grid
    assert torch.equal(z_t[0], torch.randn(6, 8, 8, generator=torch.Generator().manual_seed(3)))
    assert t > unet.seen[1][1]
    assert torch.equal(condition[:1], pipeline.image_encoder.uncond_vector)
    assert torch.equal(condition[1:], pipeline.encode_exemplar([EXEMPLAR]))


# Editing


@given(data=st.data())
@settings(max_examples=8, deadline=None)
def test_pixels_outside_the_mask_are_the_sources(
    data: st.DataObject, pipelines: dict[str, PaintByExamplePipeline]
) -> None:
    width, height = data.draw(st.integers(1, 70)), data.draw(st.integers(1, 70))
    left, top = data.draw(st.integers(0, width - 1)), data.draw(st.integers(0, height - 1))
    box = left, top, data.draw(st.integers(left + 1, width)), data.draw(st.integers(top + 1, height))
    source = tiny.picture(width, height)
    result = pipelines["embedded"].edit(
        source, exemplar=EXEMPLAR, box=box, steps=1, guidance_scale=1, feather=data.draw(st.integers(0, 4))
    )
    (image,) = result.images
    outside = pixels(mask_of(source.size, box)) == 0
    assert image.size == source.size
    assert (pixels(image)[outside] == pixels(source)[outside]).all()
    assert result.box[0] <= left
    assert result.box[3] >= box[3]


def test_pixels_inside_the_mask_are_painted(pipeline: PaintByExamplePipeline) -> None:
    result = pipeline.edit(SOURCE, exemplar=EXEMPLAR, mask=MASK, steps=2)
    assert result.seeds == [0]
    assert (result.steps, result.guidance_scale, result.box) == (2, 5.0, (0, 0, 32, 32))
    inside = pixels(MASK) > 0
    changed = (pixels(result.images[0]) != pixels(SOURCE)).any(-1)
    assert changed[inside].mean() > 0.9
    assert not changed[~inside].any()


def test_a_mask_and_its_box_are_the_same_edit(pipeline: PaintByExamplePipeline) -> None:
    by_mask = pipeline.edit(SOURCE, exemplar=EXEMPLAR, mask=MASK, steps=1).images[0]
    by_box = pipeline.edit(SOURCE, exemplar=EXEMPLAR, box=HOLE, steps=1).images[0]
    assert (pixels(by_mask) == pixels(by_box)).all()


def test_the_seed_makes_the_picture_alone_or_among_others(pipeline: PaintByExamplePipeline) -> None:
    def edit(seed: Any) -> list[np.ndarray]:
        result = pipeline.edit(SOURCE, exemplar=EXEMPLAR, mask=MASK, steps=3, seed=seed)
        return [pixels(image) for image in result.images]

    together = edit([7, 11, 2**64 - 1])
    assert (edit(7)[0] == together[0]).all()
    assert (edit(np.int64(11))[0] == together[1]).all()
    assert (edit(range(11, 12))[0] == together[1]).all()
    assert (edit(2**64 - 1)[0] == together[2]).all()
    assert (together[0] != together[1]).any()


def test_the_latents_for_a_seed_are_the_same_bit_for_bit(pipeline: PaintByExamplePipeline) -> None:
    def last(seed: Any) -> Tensor:
        steps: list[Step] = []
        pipeline.edit(SOURCE, exemplar=EXEMPLAR, mask=MASK, steps=3, seed=seed, on_step=steps.append)
        return steps[-1].z_t

    together = last([5, 6, 7, 8])
    assert len(together) == 4
    assert all(torch.equal(last(seed)[0], together[row]) for row, seed in ((0, 5), (3, 8)))


def test_settings_change_the_result(pipeline: PaintByExamplePipeline) -> None:
    def latent(**given: Any) -> Tensor:
        steps: list[Step] = []
        asked: dict[str, Any] = {"exemplar": EXEMPLAR, "mask": MASK, "steps": 4} | given
        pipeline.edit(SOURCE, on_step=steps.append, **asked)
        return steps[-1].z_t

    first = latent()
    assert torch.equal(latent(), first)
    for other in (
        {"guidance_scale": 1},
        {"steps": 5},
        {"seed": 1},
        {"scheduler": "unipc"},
        {"mask": mask_of((32, 32), (0, 0, 9, 9))},
    ):
        assert not torch.equal(latent(**other), first), other
    assert not torch.equal(latent(exemplar=PIL.Image.new("RGB", (9, 9), "red")), first)
    # without weight for the exemplar, another exemplar changes nothing
    assert torch.equal(latent(guidance_scale=0), latent(guidance_scale=0, exemplar=PIL.Image.new("RGB", (9, 9), "red")))


def test_steps_default_to_what_the_solver_is_good_at(pipelines: dict[str, PaintByExamplePipeline]) -> None:
    assert pipelines["embedded"].edit(SOURCE, exemplar=EXEMPLAR, box=HOLE, guidance_scale=1).steps == 50
    fast = pipelines["embedded"].edit(SOURCE, exemplar=EXEMPLAR, box=HOLE, guidance_scale=1, scheduler="dpm++")
    assert fast.steps == 20


def test_transparency_and_colour_profile_are_kept(pipelines: dict[str, PaintByExamplePipeline]) -> None:
    source = tiny.picture(40, 30, "RGBA")
    source.info["icc_profile"] = b"a profile"
    image = pipelines["embedded"].edit(source, exemplar=EXEMPLAR, box=HOLE, steps=1).images[0]
    assert image.mode == "RGBA"
    assert (pixels(image)[..., 3] == pixels(source)[..., 3]).all()
    assert (pixels(image)[20:] == pixels(source)[20:]).all()
    assert image.info["icc_profile"] == b"a profile"


@pytest.mark.parametrize(("width", "height"), [(3, 5), (1, 1), (200, 2)])
def test_any_picture_may_be_repainted_whole(
    width: int, height: int, pipelines: dict[str, PaintByExamplePipeline]
) -> None:
    source = tiny.picture(width, height)
    white = PIL.Image.new("L", source.size, 255)
    image = pipelines["embedded"].edit(source, exemplar=EXEMPLAR, mask=white, steps=1).images[0]
    assert image.size == source.size
    assert (pixels(image) != pixels(source)).any()


def test_pictures_may_be_paths_and_arrays(tmp_path: Path, pipelines: dict[str, PaintByExamplePipeline]) -> None:
    pipeline = pipelines["embedded"]
    for name, image in (("source", SOURCE), ("exemplar", EXEMPLAR), ("mask", MASK)):
        image.save(tmp_path / f"{name}.png")
    by_path = pipeline.edit(
        tmp_path / "source.png", exemplar=str(tmp_path / "exemplar.png"), mask=tmp_path / "mask.png", steps=1
    )
    by_array = pipeline.edit(pixels(SOURCE), exemplar=pixels(EXEMPLAR), mask=pixels(MASK) > 0, steps=1)
    assert (pixels(by_path.images[0]) == pixels(by_array.images[0])).all()


def test_on_step_sees_every_step_of_all_results(pipeline: PaintByExamplePipeline) -> None:
    steps: list[Step] = []
    pipeline.edit(SOURCE, exemplar=EXEMPLAR, box=HOLE, steps=4, seed=[1, 2], scheduler="ddim", on_step=steps.append)
    assert [step.index for step in steps] == [0, 1, 2, 3]
    assert {step.total for step in steps} == {4}
    assert {len(step.z_t) for step in steps} == {len(step.z_0) for step in steps} == {2}


def test_on_step_cancels_by_raising(pipeline: PaintByExamplePipeline, monkeypatch: pytest.MonkeyPatch) -> None:
    class Cancelled(Exception):
        pass

    asked = 0
    predict = pipeline.unet.forward

    def counted(*arguments: Any, **named: Any) -> Any:
        nonlocal asked
        asked += 1
        return predict(*arguments, **named)

    def cancel(step: Step) -> None:
        if step.index == 1:
            raise Cancelled

    monkeypatch.setattr(pipeline.unet, "forward", counted)
    with pytest.raises(Cancelled):
        pipeline.edit(SOURCE, exemplar=EXEMPLAR, box=HOLE, steps=9, on_step=cancel)
    assert asked == 2


@pytest.mark.parametrize(
    ("given", "kind", "words"),
    [
        ({"mask": None}, MaskError, "neither a mask nor a box"),
        ({"box": HOLE}, MaskError, "both a mask and a box"),
        ({"mask": mask_of((31, 32))}, MaskError, "31 x 32"),
        ({"mask": PIL.Image.new("L", (32, 32))}, MaskError, "selects nothing"),
        ({"mask": None, "box": (40, 0, 50, 10)}, MaskError, "outside"),
        ({"source": "nowhere.png"}, PictureError, "source nowhere.png"),
        ({"exemplar": "nowhere.png"}, PictureError, "exemplar nowhere.png"),
        ({"steps": 0}, UserError, "steps must be between 1 and 1000, got 0"),
        ({"steps": 1001}, UserError, "got 1001"),
        ({"seed": -1}, UserError, "seed must be in .*, got -1"),
        ({"seed": [0, 2**64]}, UserError, "seed must be in"),
        ({"seed": []}, UserError, "no seed"),
        ({"feather": -1}, UserError, "feather must be at least 0"),
        ({"guidance_scale": float("nan")}, UserError, "guidance_scale must be a finite number, got nan"),
        ({"guidance_scale": float("inf")}, UserError, "guidance_scale"),
        ({"scheduler": "euler"}, UserError, "'euler'"),
    ],
)
def test_an_edit_that_cannot_be(
    given: dict[str, Any], kind: type[UserError], words: str, pipelines: dict[str, PaintByExamplePipeline]
) -> None:
    asked: dict[str, Any] = {"source": SOURCE, "exemplar": EXEMPLAR, "mask": MASK} | given
    with pytest.raises(kind, match=words) as error:
        pipelines["embedded"].edit(asked.pop("source"), **asked)
    one_line(error)


# Programs written for diffusers


def call(pipeline: PaintByExamplePipeline, **given: Any) -> Any:
    asked: dict[str, Any] = {
        "image": SOURCE,
        "mask_image": MASK,
        "example_image": EXEMPLAR,
        "num_inference_steps": 2,
        "output_type": "np",
    }
    if "generator" not in given and "latents" not in given:
        asked["generator"] = torch.Generator().manual_seed(0)
    return pipeline(**(asked | given))


def test_arguments_are_those_of_the_deprecated_class() -> None:
    parameters = list(inspect.signature(PaintByExamplePipeline.__call__).parameters.values())[1:]
    new = "seeds strength guidance_rescale padding_mask_crop callback_on_step_end callback_on_step_end_tensor_inputs"
    added = {parameter.name: parameter for parameter in parameters if parameter.name in new.split()}
    assert len(added) == 6
    assert {parameter.name: parameter.default for parameter in parameters} == {
        "example_image": inspect.Parameter.empty,
        "image": inspect.Parameter.empty,
        "mask_image": inspect.Parameter.empty,
        "height": None,
        "width": None,
        "num_inference_steps": 50,
        "guidance_scale": 5.0,
        "negative_prompt": None,
        "num_images_per_prompt": 1,
        "eta": 0.0,
        "generator": None,
        "latents": None,
        "output_type": "pil",
        "return_dict": True,
        "callback": None,
        "callback_steps": 1,
    } | {name: parameter.default for name, parameter in added.items()}
    # What is new is for names only, so that it stands in nobody's way.
    assert {parameter.kind for parameter in added.values()} == {inspect.Parameter.KEYWORD_ONLY}
    assert [parameter.name for parameter in parameters][:3] == ["example_image", "image", "mask_image"]


def test_every_argument_at_once(pipelines: dict[str, PaintByExamplePipeline]) -> None:
    pipeline = tiny.clip_pipeline()
    pipeline.scheduler = make_scheduler("ddim", pipeline.scheduler)
    images, flagged = pipeline(
        EXEMPLAR,
        SOURCE,
        MASK,
        height=8,
        width=8,
        num_inference_steps=2,
        guidance_scale=3.0,
        negative_prompt="text",
        num_images_per_prompt=2,
        eta=0.5,
        generator=torch.Generator().manual_seed(0),
        latents=torch.randn(2, 4, 16, 16, generator=torch.Generator().manual_seed(0)),
        output_type="pil",
        return_dict=False,
        callback=lambda step, t, latents: None,
        callback_steps=2,
    )
    assert [image.size for image in images] == [(32, 32), (32, 32)]
    assert flagged is None


def test_output_types_are_one_picture(pipeline: PaintByExamplePipeline) -> None:
    as_np, as_pt = call(pipeline).images, call(pipeline, output_type="pt").images
    as_pil, as_latent = call(pipeline, output_type="pil").images, call(pipeline, output_type="latent").images
    assert as_np.shape == (1, 32, 32, 3)
    assert as_np.dtype == np.float32
    assert as_np.min() >= 0
    assert as_np.max() <= 1
    assert (as_pt.permute(0, 2, 3, 1).numpy() == as_np).all()
    assert (pixels(as_pil[0]) == (as_np[0] * 255).round()).all()
    with torch.no_grad():
        decoded = (pipeline.decode_latent(as_latent) / 2 + 0.5).clamp(0, 1)
    assert torch.equal(decoded, as_pt)


def test_guidance_counts_and_neither_prompt_nor_size_does(pipeline: PaintByExamplePipeline) -> None:
    plain = call(pipeline).images
    assert (call(pipeline, guidance_scale=5.0, height=99, width=1, negative_prompt="text").images == plain).all()
    assert (call(pipeline, guidance_scale=1.0).images != plain).any()


def test_tensors_are_taken_as_they_are(pipeline: PaintByExamplePipeline) -> None:
    source = torch.from_numpy(np.array(pixels(SOURCE))).permute(2, 0, 1) / 127.5 - 1
    mask = torch.from_numpy(np.array(pixels(MASK))) / 255
    exemplar = pipeline.exemplar_tensor([EXEMPLAR])
    expected = call(pipeline).images
    for s, m, e in (
        (source, mask, exemplar[0]),
        (source[None], mask[None], exemplar),
        (source[None], mask[None, None], exemplar),
        (source[None], mask[None, None] * 0.5, exemplar),  # binarised
    ):
        assert np.abs(call(pipeline, image=s, mask_image=m, example_image=e).images - expected).max() < 1e-5


def test_callback_sees_the_steps_it_asked_for(pipeline: PaintByExamplePipeline) -> None:
    seen: list[tuple[int, int, Tensor]] = []
    result = call(
        pipeline,
        callback=lambda *step: seen.append(step),
        callback_steps=2,
        num_inference_steps=5,
        output_type="latent",
    )
    assert [index for index, _, _ in seen] == [0, 2, 4]
    assert seen[0][1] > seen[1][1]
    assert seen[-1][2].shape == result.images.shape


def test_latents_are_where_it_starts(pipeline: PaintByExamplePipeline) -> None:
    shape = (1, pipeline.unet.config.out_channels, 32 // pipeline.latent_factor, 32 // pipeline.latent_factor)
    noise = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    assert (call(pipeline, latents=noise).images == call(pipeline).images).all()
    assert (call(pipeline, latents=-noise).images != call(pipeline).images).any()


def test_generators(pipeline: PaintByExamplePipeline) -> None:
    """One for all draws for one result after another; of a list each has its own."""
    one = call(pipeline, generator=torch.Generator().manual_seed(5), num_images_per_prompt=2).images
    listed = call(pipeline, generator=seeded_generators([5, 6]), num_images_per_prompt=2).images
    alone = [call(pipeline, generator=torch.Generator().manual_seed(seed)).images[0] for seed in (5, 6)]
    np.testing.assert_allclose(one[0], listed[0], rtol=0, atol=1e-4)  # the batch may change the last bits
    assert np.abs(one[1] - listed[1]).max() > 0.01
    for together, by_itself in zip(listed, alone, strict=True):
        np.testing.assert_allclose(together, by_itself, rtol=0, atol=1e-4)


def test_without_a_generator_torchs_own_seed_counts(pipelines: dict[str, PaintByExamplePipeline]) -> None:
    def draw(seed: int) -> np.ndarray:
        torch.manual_seed(seed)
        images: np.ndarray = call(pipelines["embedded"], generator=None).images
        return images

    assert (draw(1) == draw(1)).all()
    assert (draw(1) != draw(2)).any()
    before = torch.initial_seed()
    call(pipelines["embedded"], generator=None)
    assert torch.initial_seed() == before


def test_one_of_a_kind_goes_with_several_of_another(pipeline: PaintByExamplePipeline) -> None:
    other = tiny.picture(32, 32, seed=9)
    generators = seeded_generators([3, 3])
    two = call(pipeline, image=[SOURCE, other], generator=generators).images
    first, second = (call(pipeline, image=image, generator=seeded_generators([3])).images for image in (SOURCE, other))
    np.testing.assert_allclose(two, np.concatenate([first, second]), rtol=0, atol=1e-4)
    assert len(call(pipeline, example_image=[EXEMPLAR] * 3).images) == 3
    assert len(call(pipeline, mask_image=[MASK] * 3).images) == 3
    assert len(call(pipeline, image=[SOURCE] * 2, num_images_per_prompt=2).images) == 4


def test_results_for_a_source_stand_together(pipelines: dict[str, PaintByExamplePipeline]) -> None:
    """As in diffusers: two results for the first source, then two for the second."""
    latents = torch.zeros(4, 6, 8, 8)
    images = call(
        pipelines["embedded"], image=[SOURCE, tiny.picture(32, 32, seed=9)], num_images_per_prompt=2, latents=latents
    ).images
    np.testing.assert_allclose(images[0], images[1], rtol=0, atol=1e-4)
    np.testing.assert_allclose(images[2], images[3], rtol=0, atol=1e-4)
    assert np.abs(images[0] - images[2]).max() > 0.01


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"image": [SOURCE] * 2, "mask_image": [MASK] * 3}, "2 sources, 3 masks and 1 exemplars"),
        ({"image": [SOURCE, tiny.picture(16, 32)]}, "one size, got 16 x 32, 32 x 32"),
        ({"image": []}, "empty list"),
        ({"mask_image": mask_of((16, 32))}, "16 x 32 pixels but the source is 32 x 32"),
        ({"mask_image": torch.zeros(32, 32)}, "selects nothing"),
        ({"mask_image": torch.full((32, 32), 255.0)}, r"in \[0, 1\], got 255 to 255"),
        ({"mask_image": torch.ones(1, 3, 32, 32)}, "shape"),
        ({"image": torch.full((3, 32, 32), 2.0)}, r"in \[-1, 1\], got 2 to 2"),
        ({"image": torch.full((3, 32, 32), float("nan"))}, "got nan"),
        ({"image": torch.zeros(1, 4, 32, 32)}, "shape"),
        ({"example_image": torch.zeros(1, 3, 16, 16)}, r"\(B, 3, 32, 32\)"),
        ({"generator": seeded_generators([1, 2])}, "2 generators do not go with 1 results"),
        ({"latents": torch.zeros(1, 6, 4, 4)}, r"\(1, 6, 8, 8\), got \(1, 6, 4, 4\)"),
        ({"output_type": "gif"}, "output_type .* 'gif'"),
        ({"num_images_per_prompt": 0}, "num_images_per_prompt"),
        ({"callback_steps": 0}, "callback_steps"),
        ({"num_inference_steps": 0}, "steps must be between"),
        ({"eta": 2.0}, "eta must be between"),
    ],
)
def test_a_call_that_cannot_be(given: dict[str, Any], words: str, pipelines: dict[str, PaintByExamplePipeline]) -> None:
    with pytest.raises(UserError, match=words) as error:
        call(pipelines["embedded"], **given)
    one_line(error)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_noise_is_drawn_where_the_generator_is(models: dict[str, Path]) -> None:
    pipeline = load_pipeline(models["clip"], device="cuda", dtype=torch.float32)
    generator = torch.Generator("cuda").manual_seed(0)
    expected = torch.randn(1, 4, 16, 16, generator=torch.Generator("cuda").manual_seed(0), device="cuda")
    assert (call(pipeline, generator=generator).images == call(pipeline, latents=expected).images).all()
