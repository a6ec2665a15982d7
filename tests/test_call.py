"""What `PaintByExamplePipeline.__call__` takes beyond diffusers' deprecated class."""

from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image
import pytest
import torch
from torch import Tensor

from paint_by_example import Blend, PaintByExamplePipeline, UserError
from paint_by_example.sampling import make_scheduler, seeded_generators
from tests import tiny

SOURCE, OTHER = tiny.picture(32, 32), tiny.picture(32, 32, seed=9)
A, B = tiny.picture(40, 20, seed=1), tiny.picture(20, 30, seed=2)
BOX = (8, 8, 24, 20)


def mask_of(size: tuple[int, int] = (32, 32), box: tuple[int, int, int, int] = BOX) -> PIL.Image.Image:
    mask = PIL.Image.new("L", size)
    mask.paste(255, box)
    return mask


def call(pipeline: PaintByExamplePipeline, **given: Any) -> Any:
    asked: dict[str, Any] = {"image": SOURCE, "mask_image": mask_of(), "example_image": A}
    asked |= {"num_inference_steps": 2, "output_type": "np"}
    if not {"generator", "latents", "seeds"} & given.keys():
        asked["seeds"] = 0
    result: Any = pipeline(**(asked | given))
    return result.images


# --- inputs ----------------------------------------------------------------------------------------------------------


def test_pictures_of_every_kind(tmp_path: Path, pipelines: dict[str, PaintByExamplePipeline]) -> None:
    pipeline = pipelines["embedded"]
    for name, picture in (("source", SOURCE), ("exemplar", A), ("mask", mask_of())):
        picture.save(tmp_path / f"{name}.png")
    expected = call(pipeline)
    tensor = torch.from_numpy(np.array(SOURCE)).permute(2, 0, 1) / 127.5 - 1
    white = torch.from_numpy(np.array(mask_of())) / 255
    image: Any
    for image in (str(tmp_path / "source.png"), np.asarray(SOURCE), np.asarray(SOURCE)[None], [tensor], [tensor[None]]):
        assert np.abs(call(pipeline, image=image) - expected).max() < 1e-5
    for mask in (tmp_path / "mask.png", np.asarray(mask_of()) > 0, [white], [white[None]]):
        assert np.abs(call(pipeline, mask_image=mask) - expected).max() < 1e-5
    exemplar = pipeline.exemplar_tensor([A])
    for example in (tmp_path / "exemplar.png", np.asarray(A), np.asarray(A)[None], [exemplar], [exemplar[0]]):
        assert np.abs(call(pipeline, example_image=example) - expected).max() < 1e-5


def test_an_exemplar_may_be_a_blend(pipeline: PaintByExamplePipeline) -> None:
    several = call(pipeline, example_image=[A, Blend([A, B]), B])
    assert (call(pipeline, example_image=Blend([A, B]))[0] == several[1]).all()
    assert (several[0] != several[1]).any()
    assert (call(pipeline, example_image=Blend([A, B], [0, 1]))[0] == several[2]).all()


@pytest.mark.parametrize(("width", "height"), [(31, 33), (1, 1), (30, 64)])
def test_any_size(width: int, height: int, family: str, pipeline: PaintByExamplePipeline) -> None:
    source, mask = tiny.picture(width, height), PIL.Image.new("L", (width, height), 255)
    factor = {"embedded": 4, "clip": 2}[family]
    assert call(pipeline, image=source, mask_image=mask).shape == (1, height, width, 3)
    shape = call(pipeline, image=source, mask_image=mask, output_type="latent").shape
    assert shape[2:] == (-(-height // factor), -(-width // factor))


# --- seeds and batches -----------------------------------------------------------------------------------------------


def test_seeds_sources_and_exemplars_broadcast(pipeline: PaintByExamplePipeline) -> None:
    first, second = call(pipeline, seeds=[3, 4])
    assert (first != second).any()
    both = call(pipeline, image=[SOURCE, OTHER], seeds=[3, 4])
    assert (both[0] == first).all()
    assert (both[1] == call(pipeline, image=OTHER, seeds=4)[0]).all()
    same = call(pipeline, image=[SOURCE, OTHER], example_image=[A, B], seeds=3)
    assert (same[0] == first).all()
    assert (same[1] == call(pipeline, image=OTHER, example_image=B, seeds=[3])[0]).all()
    many = call(pipeline, image=[SOURCE, OTHER], num_images_per_prompt=2, seeds=[3, 4, 4, 5])
    assert (many[:2] == [first, second]).all()
    assert (many[2] == both[1]).all()


def test_a_seed_is_its_generator(pipeline: PaintByExamplePipeline) -> None:
    assert (
        call(pipeline, seeds=[5, 6]) == call(pipeline, image=[SOURCE] * 2, generator=seeded_generators([5, 6]))
    ).all()


@pytest.mark.parametrize("settings", [{}, {"strength": 0.6}, {"guidance_rescale": 0.5}, {"eta": 0.8}])
def test_results_do_not_depend_on_the_batch(settings: dict[str, Any], family: str) -> None:
    pipeline = tiny.PIPELINES[family]()
    pipeline.scheduler = make_scheduler("ddim", pipeline.scheduler)
    together = call(pipeline, image=[SOURCE, OTHER, SOURCE], example_image=[A, A, B], seeds=[1, 2, 3], **settings)
    for index, (image, exemplar) in enumerate(((SOURCE, A), (OTHER, A), (SOURCE, B))):
        alone = call(pipeline, image=image, example_image=exemplar, seeds=index + 1, **settings)
        assert (alone[0] == together[index]).all()
    if settings:
        assert (call(pipeline, seeds=1) != together[0]).any()


def test_one_generator_draws_for_one_result_after_another(pipelines: dict[str, PaintByExamplePipeline]) -> None:
    pipeline = pipelines["embedded"]
    generator = torch.Generator().manual_seed(5)
    latents = torch.stack([torch.randn(6, 8, 8, generator=generator) for _ in range(3)])
    drawn = call(pipeline, num_images_per_prompt=3, generator=torch.Generator().manual_seed(5))
    assert (drawn == call(pipeline, num_images_per_prompt=3, latents=latents)).all()


# --- output ----------------------------------------------------------------------------------------------------------


def test_np_is_not_rounded(pipeline: PaintByExamplePipeline) -> None:
    images = call(pipeline)
    assert images.shape == (1, 32, 32, 3)
    assert 0 <= images.min() <= images.max() <= 1
    inside = images[(images > 0) & (images < 1)] * 255
    assert np.abs(inside - inside.round()).max() > 0.1


def test_padding_mask_crop_is_our_crop(pipeline: PaintByExamplePipeline) -> None:
    source, box = tiny.picture(90, 70), (21, 13, 47, 38)
    mask = mask_of(source.size, box)
    (image,) = call(pipeline, image=source, mask_image=mask, padding_mask_crop=6, output_type="pil")
    assert image.size == source.size
    inside = np.asarray(mask) > 0
    assert (np.asarray(image)[~inside] == np.asarray(source)[~inside]).all()
    assert (np.asarray(image) != np.asarray(source)).any(-1)[inside].mean() > 0.9
    # It sees 6 pixels around the mask: what lies further away changes nothing.
    far = source.copy()
    far.paste("white", (0, 0, 90, 6))
    far.paste("white", (21 + 26 + 8, 0, 90, 70))
    (again,) = call(pipeline, image=far, mask_image=mask, padding_mask_crop=6, output_type="pil")
    assert (np.asarray(again)[inside] == np.asarray(image)[inside]).all()
    near = source.copy()
    near.paste("white", (16, 13, 20, 38))
    (other,) = call(pipeline, image=near, mask_image=mask, padding_mask_crop=6, output_type="pil")
    assert (np.asarray(other)[inside] != np.asarray(image)[inside]).any()


def test_padding_mask_crop_takes_sources_of_any_sizes(pipelines: dict[str, PaintByExamplePipeline]) -> None:
    pipeline = pipelines["embedded"]
    sources = [tiny.picture(50, 40), tiny.picture(33, 61, seed=4)]
    masks = [mask_of(source.size, (5, 5, 20, 22)) for source in sources]
    given: dict[str, Any] = {"padding_mask_crop": 4, "mask_image": masks}
    images = call(pipeline, image=sources, output_type="pil", **given)
    assert [image.size for image in images] == [source.size for source in sources]
    (alone,) = call(pipeline, image=sources[1], mask_image=masks[1], padding_mask_crop=4, output_type="pil")
    assert (np.asarray(alone) == np.asarray(images[1])).all()
    with pytest.raises(UserError, match="several sizes"):
        call(pipeline, image=sources, **given)
    several = call(pipeline, image=sources[0], mask_image=masks[0], padding_mask_crop=4, seeds=[0, 1], output_type="pt")
    assert several.shape == (2, 3, 40, 50)
    assert (several[0].permute(1, 2, 0).mul(255).round().numpy() == np.asarray(images[0])).all()


# --- callbacks -------------------------------------------------------------------------------------------------------


def test_callback_on_step_end_sees_and_replaces(pipeline: PaintByExamplePipeline) -> None:
    seen: list[tuple[int, int, Tensor]] = []

    def watch(pipe: Any, step: int, t: int, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
        assert pipe is pipeline
        assert set(tensors) == {"latents", "pred_original_sample"}
        seen.append((step, t, tensors["latents"]))
        return tensors

    names = ["latents", "pred_original_sample"]
    given: dict[str, Any] = {"num_inference_steps": 4, "output_type": "latent", "seeds": [0, 1]}
    plain = call(pipeline, **given)
    watched = call(pipeline, callback_on_step_end=watch, callback_on_step_end_tensor_inputs=names, **given)
    assert torch.equal(plain, watched)  # it gave back what it got
    assert [step for step, _, _ in seen] == list(range(len(seen)))
    assert torch.equal(seen[-1][2], plain)

    def replace(_: Any, step: int, t: int, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
        return {"latents": tensors["latents"] * (0.5 if step == 1 else 1)}

    changed = call(pipeline, callback_on_step_end=replace, **given)
    assert not torch.allclose(changed, plain)
    last = call(
        pipeline,
        callback_on_step_end=lambda *args: {"latents": torch.full_like(args[3]["latents"], 0.25)},
        **given,
    )
    assert last.eq(0.25).all()


def test_replaced_latents_go_to_their_own_result(pipelines: dict[str, PaintByExamplePipeline]) -> None:
    def halve_the_first(_: Any, step: int, t: int, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
        z = tensors["latents"].clone()
        z[0] *= 0.5
        return {"latents": z}

    given: dict[str, Any] = {"num_inference_steps": 4, "output_type": "latent", "seeds": [0, 1]}
    plain = call(pipelines["embedded"], **given)
    changed = call(pipelines["embedded"], callback_on_step_end=halve_the_first, **given)
    assert torch.equal(changed[1], plain[1])
    assert not torch.allclose(changed[0], plain[0])


def test_interrupt_ends_after_the_step(pipeline: PaintByExamplePipeline) -> None:
    steps: list[int] = []
    kept: list[Tensor] = []

    def stop(pipe: Any, step: int, t: int, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
        steps.append(step)
        kept.append(tensors["latents"])
        pipe._interrupt = step == 1
        assert pipe.interrupt == (step == 1)
        return tensors

    latents = call(pipeline, callback_on_step_end=stop, num_inference_steps=6, output_type="latent")
    assert steps == [0, 1]
    assert torch.equal(latents, kept[-1])
    steps.clear()
    call(pipeline, num_inference_steps=6)  # is not interrupted still
    assert not pipeline.interrupt


def test_a_bar_shows_the_steps_unless_it_is_switched_off(capsys: pytest.CaptureFixture[str]) -> None:
    pipeline = tiny.embedded_pipeline()
    call(pipeline, num_inference_steps=3)
    assert "3/3" in capsys.readouterr().err
    pipeline.set_progress_bar_config(disable=True)
    call(pipeline, num_inference_steps=3)
    assert capsys.readouterr().err == ""


def test_a_callback_may_name_its_inputs(pipelines: dict[str, PaintByExamplePipeline]) -> None:
    class Callback:
        tensor_inputs = ("pred_original_sample",)

        def __call__(self, pipe: Any, step: int, t: int, tensors: dict[str, Tensor]) -> None:
            assert list(tensors) == ["pred_original_sample"]

    call(pipelines["embedded"], callback_on_step_end=Callback())


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"seeds": [1, 2], "image": [SOURCE] * 3}, "3 sources, 1 masks, 1 exemplars and 2 seeds"),
        ({"seeds": 1, "generator": torch.Generator()}, "both a generator and seeds"),
        ({"seeds": []}, "no seed"),
        ({"seeds": -1}, "seed must be in"),
        ({"seeds": [1, 2], "num_images_per_prompt": 3}, "2 seeds and 3 results"),
        ({"strength": 0}, "strength must be above 0"),
        ({"guidance_rescale": -1.0}, "guidance_rescale must be between 0 and 1"),
        ({"guidance_scale": float("inf")}, "guidance_scale must be a finite number"),
        ({"padding_mask_crop": -1}, "padding_mask_crop must be at least 0"),
        ({"padding_mask_crop": 3, "output_type": "latent"}, "latent does not go with padding_mask_crop"),
        ({"padding_mask_crop": 3, "image": torch.zeros(1, 3, 32, 32)}, "needs pictures, not tensors"),
        ({"callback_on_step_end_tensor_inputs": ["prompt_embeds"]}, "may hold latents, pred_.*; got prompt_embeds"),
        ({"image": [SOURCE, torch.zeros(3, 32, 32)]}, "tensors and other pictures"),
        ({"image": [torch.zeros(3, 32, 32), torch.zeros(3, 16, 32)]}, "one shape"),
        ({"example_image": []}, "empty list"),
        ({"example_image": torch.zeros(0, 3, 32, 32)}, "empty list"),
    ],
)
def test_a_call_that_cannot_be(given: dict[str, Any], words: str, pipelines: dict[str, PaintByExamplePipeline]) -> None:
    with pytest.raises(UserError, match=words) as error:
        call(pipelines["embedded"], **given)
    assert "\n" not in str(error.value)
