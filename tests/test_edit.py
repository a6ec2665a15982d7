"""Edits of several regions, with several exemplars, starting from the source itself; and what results say of it."""

from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from paint_by_example import Blend, PaintByExamplePipeline, UserError
from paint_by_example.errors import MaskError, PictureError
from paint_by_example.inputs import as_list
from paint_by_example.record import KEY, read_record
from paint_by_example.sampling import Step, make_scheduler
from tests import tiny

SOURCE = tiny.picture(60, 44)
A, B = tiny.picture(40, 20, seed=1), tiny.picture(20, 30, seed=2)
LEFT, RIGHT = (4, 6, 22, 30), (34, 10, 55, 40)


def mask_of(*boxes: tuple[int, int, int, int]) -> PIL.Image.Image:
    mask = PIL.Image.new("L", SOURCE.size)
    for box in boxes:
        mask.paste(255, box)
    return mask


def edit(pipeline: PaintByExamplePipeline, **given: Any) -> list[np.ndarray]:
    asked: dict[str, Any] = {"exemplar": A, "steps": 3} | ({} if "mask" in given else {"box": LEFT})
    return [np.asarray(image) for image in pipeline.edit(SOURCE, **(asked | given)).images]


def latent(pipeline: PaintByExamplePipeline, **given: Any) -> Tensor:
    steps: list[Step] = []
    edit(pipeline, on_step=steps.append, **given)
    return steps[-1].z_t


# --- regions ---------------------------------------------------------------------------------------------------------


def test_regions_get_an_exemplar_each(pipeline: PaintByExamplePipeline) -> None:
    (both,) = edit(pipeline, box=[LEFT, RIGHT], exemplar=[A, B])
    changed = (both != np.asarray(SOURCE)).any(-1)
    union = np.asarray(mask_of(LEFT, RIGHT)) > 0
    assert not changed[~union].any()
    assert changed[union].mean() > 0.9
    # The first region knows nothing of the second one; the second shows its own exemplar.
    left, right = (np.asarray(mask_of(box)) > 0 for box in (LEFT, RIGHT))
    assert (both[left] == edit(pipeline, box=LEFT)[0][left]).all()
    (other,) = edit(pipeline, box=[LEFT, RIGHT], exemplar=[A, A])
    assert (other[left] == both[left]).all()
    assert (other[right] != both[right]).any()


def test_regions_by_masks_and_by_boxes(pipelines: dict[str, PaintByExamplePipeline]) -> None:
    pipeline = pipelines["embedded"]
    masks = [mask_of(LEFT), mask_of(RIGHT)]
    expected = edit(pipeline, box=[LEFT, RIGHT], exemplar=[A, B])[0]
    assert (edit(pipeline, mask=masks, exemplar=[A, B])[0] == expected).all()
    assert (edit(pipeline, box=(LEFT, RIGHT), exemplar=(A, B))[0] == expected).all()
    assert (edit(pipeline, box=[list(LEFT), list(RIGHT)], exemplar=[A, B])[0] == expected).all()


def test_one_exemplar_for_all_regions(pipelines: dict[str, PaintByExamplePipeline]) -> None:
    one, listed = (edit(pipelines["embedded"], box=[LEFT, RIGHT], exemplar=exemplar)[0] for exemplar in (A, [A, A]))
    assert (one == listed).all()


def test_a_later_region_covers_an_earlier_one_and_sees_it(pipelines: dict[str, PaintByExamplePipeline]) -> None:
    pipeline = pipelines["embedded"]
    inner = (8, 10, 16, 20)
    (twice,) = edit(pipeline, box=[LEFT, inner], exemplar=[A, B])
    (once,) = edit(pipeline, box=LEFT)
    inside = np.asarray(mask_of(inner)) > 0
    assert (twice[~inside] == once[~inside]).all()
    assert (twice[inside] != once[inside]).any()
    # The second region's surroundings are what the first one painted, not the source.
    alone = np.asarray(pipeline.edit(SOURCE, exemplar=[A, B], box=[RIGHT, inner], steps=3).images[0])
    assert (twice[inside] != alone[inside]).any()


def test_a_seed_makes_its_regions_alone_or_among_others(pipeline: PaintByExamplePipeline) -> None:
    together = edit(pipeline, box=[LEFT, RIGHT], exemplar=[A, B], seed=[3, 4, 5])
    assert (edit(pipeline, box=[LEFT, RIGHT], exemplar=[A, B], seed=4)[0] == together[1]).all()
    assert (together[0] != together[1]).any()


def test_steps_count_through_all_regions(pipelines: dict[str, PaintByExamplePipeline]) -> None:
    steps: list[Step] = []
    result = pipelines["embedded"].edit(
        SOURCE, box=[LEFT, RIGHT], exemplar=A, steps=3, scheduler="ddim", on_step=steps.append
    )
    assert [step.index for step in steps] == [0, 1, 2, 3, 4, 5]
    assert {step.total for step in steps} == {6}
    assert len(result.boxes) == 2
    assert result.box == result.boxes[0]


@given(data=st.data())
@settings(max_examples=8, deadline=None)
def test_pixels_outside_all_masks_are_the_sources(
    data: st.DataObject, pipelines: dict[str, PaintByExamplePipeline]
) -> None:
    boxes = []
    for _ in range(data.draw(st.integers(1, 3))):
        left, top = data.draw(st.integers(0, 59)), data.draw(st.integers(0, 43))
        boxes.append((left, top, data.draw(st.integers(left + 1, 60)), data.draw(st.integers(top + 1, 44))))
    (image,) = edit(
        pipelines["embedded"], box=boxes, steps=1, guidance_scale=1, strength=data.draw(st.sampled_from([0.4, 1.0]))
    )
    outside = np.asarray(mask_of(*boxes)) == 0
    assert (image[outside] == np.asarray(SOURCE)[outside]).all()


@pytest.mark.parametrize(
    ("asked", "kind", "words"),
    [
        ({"box": [LEFT, RIGHT], "exemplar": [A, B, A]}, UserError, "2 regions and 3 exemplars do not go together"),
        ({"exemplar": [A, B]}, UserError, "2 exemplars were given for one region; .* a Blend"),
        ({"box": []}, UserError, "empty list"),
        ({"exemplar": []}, UserError, "empty list"),
        ({"box": [LEFT, (70, 0, 80, 10)]}, MaskError, "outside"),
        ({"mask": [mask_of(LEFT), mask_of()]}, MaskError, "selects nothing"),
        ({"strength": 0.0}, UserError, "strength must be above 0 and at most 1, got 0"),
        ({"strength": 1.1}, UserError, "strength"),
        ({"strength": float("nan")}, UserError, "strength"),
        ({"eta": -0.1, "scheduler": "ddim"}, UserError, "eta must be between 0 and 1"),
        ({"eta": 0.5, "scheduler": "unipc"}, UserError, "eta is for ddim only"),
        ({"guidance_rescale": 2.0}, UserError, "guidance_rescale must be between 0 and 1"),
        ({"guidance_rescale": float("nan")}, UserError, "guidance_rescale must be a finite number"),
        ({"exemplar": Blend([A, "nowhere.png"])}, PictureError, "exemplar nowhere.png"),
    ],
)
def test_an_edit_that_cannot_be(
    asked: dict[str, Any], kind: type[UserError], words: str, pipelines: dict[str, PaintByExamplePipeline]
) -> None:
    with pytest.raises(kind, match=words) as error:
        edit(pipelines["embedded"], **asked)
    assert "\n" not in str(error.value)


def test_four_numbers_are_one_box() -> None:
    assert as_list((1, 2, 3, 4)) == [(1, 2, 3, 4)]
    assert as_list([(1, 2, 3, 4)] * 4) == [(1, 2, 3, 4)] * 4
    assert len(as_list(np.zeros((4, 2, 3, 3)))) == 4


# --- exemplars -------------------------------------------------------------------------------------------------------


def test_a_blend_is_the_mean_of_conditions(pipeline: PaintByExamplePipeline) -> None:
    a, b = (pipeline.encode_exemplar([exemplar]) for exemplar in (A, B))
    torch.testing.assert_close(pipeline.condition(Blend([A, B])), (a + b) / 2)
    torch.testing.assert_close(pipeline.condition(Blend([A, B], [3, 1])), 0.75 * a + 0.25 * b)
    torch.testing.assert_close(pipeline.condition(Blend([A, B], [1.5, -0.5])), 1.5 * a - 0.5 * b)
    assert torch.equal(pipeline.condition(Blend([A])), a)


def test_a_blend_goes_from_one_exemplar_to_the_other(pipeline: PaintByExamplePipeline) -> None:
    first, last = latent(pipeline, exemplar=A), latent(pipeline, exemplar=B)
    ends = [latent(pipeline, exemplar=Blend([A, B], weights)) for weights in ([1, 0], [0, 1])]
    assert torch.equal(ends[0], first)
    assert torch.equal(ends[1], last)
    # As many as its shares say, whatever scale they are given on
    middle = latent(pipeline, exemplar=Blend([A, B], [2, 2]))
    assert torch.equal(middle, latent(pipeline, exemplar=Blend([A, B])))
    assert not torch.equal(middle, first)


def test_a_region_may_have_a_blend(pipelines: dict[str, PaintByExamplePipeline]) -> None:
    pipeline = pipelines["embedded"]
    (plain,) = edit(pipeline, box=[LEFT, RIGHT], exemplar=[A, B])
    (blended,) = edit(pipeline, box=[LEFT, RIGHT], exemplar=[A, Blend([A, B])])
    right = np.asarray(mask_of(RIGHT)) > 0
    assert (plain[~right] == blended[~right]).all()
    assert (plain[right] != blended[right]).any()


@given(st.lists(st.floats(0.01, 100), min_size=1, max_size=5))
@settings(max_examples=50, deadline=None)
def test_shares_have_sum_one_and_stay_as_they_are(weights: list[float]) -> None:
    shares = Blend([A] * len(weights), weights).shares()
    assert sum(shares) == pytest.approx(1)
    assert Blend([A] * len(weights), shares).shares() == shares
    assert shares[0] * weights[-1] == pytest.approx(shares[-1] * weights[0])


@pytest.mark.parametrize(
    ("exemplars", "weights", "words"),
    [
        ([], None, "at least one exemplar"),
        ("a.png", None, "needs a list"),
        ([A, B], [1.0], "2 exemplars needs as many weights, got 1"),
        ([A, B], [1.0, -1.0], "positive sum"),
        ([A, B], [1.0, float("nan")], "finite"),
    ],
)
def test_a_blend_that_cannot_be(exemplars: Any, weights: Any, words: str) -> None:
    with pytest.raises(UserError, match=words):
        Blend(exemplars, weights)


# --- strength, eta, rescale ------------------------------------------------------------------------------------------


def test_a_weak_edit_stays_near_the_source(pipelines: dict[str, PaintByExamplePipeline]) -> None:
    pipeline = pipelines["embedded"]
    source = PIL.Image.new("RGB", (32, 32), (200, 60, 90))
    distances = []
    for strength in (1.0, 0.5, 0.05):
        image = pipeline.edit(source, exemplar=A, box=(8, 8, 24, 24), steps=20, strength=strength).images[0]
        distances.append(float(np.abs(np.asarray(image, float) - np.asarray(source, float)).mean()))
    assert distances[0] > distances[1] > distances[2]


@pytest.mark.parametrize(("strength", "visited"), [(1.0, 10), (0.5, 5), (0.24, 2), (0.01, 1)])
def test_strength_is_the_share_of_levels(
    strength: float, visited: int, pipelines: dict[str, PaintByExamplePipeline]
) -> None:
    steps: list[Step] = []
    edit(pipelines["embedded"], steps=10, scheduler="ddim", strength=strength, on_step=steps.append)
    assert len(steps) == visited
    assert steps[0].total == visited
    assert steps[-1].t == 1


def test_strength_starts_from_the_sources_noised_latent() -> None:
    pipeline = tiny.clip_pipeline()
    pipeline.scheduler = make_scheduler("ddim", pipeline.scheduler)
    unet = tiny.record_unet(pipeline)
    source = tiny.picture(32, 32)
    pipeline.edit(source, exemplar=A, box=(8, 8, 24, 24), steps=10, strength=0.5, seed=3)
    x, t, _ = unet.seen[0]
    assert int(t) == 401
    z_0 = pipeline.encode_picture(torch.from_numpy(np.array(source)).permute(2, 0, 1)[None] / 127.5 - 1)
    noise = torch.randn(4, 16, 16, generator=torch.Generator().manual_seed(3))
    a = pipeline.scheduler.alphas_cumprod[401]
    torch.testing.assert_close(x[:1, :4], a.sqrt() * z_0 + (1 - a).sqrt() * noise, rtol=0, atol=1e-5)


def test_settings_count_and_do_not_depend_on_the_batch(pipelines: dict[str, PaintByExamplePipeline]) -> None:
    pipeline = pipelines["embedded"]
    plain = latent(pipeline, scheduler="ddim")
    for given_ in ({"strength": 0.5}, {"eta": 0.7}, {"guidance_rescale": 0.7}):
        changed = latent(pipeline, scheduler="ddim", **given_)
        assert not torch.equal(changed, plain), given_
        assert torch.equal(latent(pipeline, scheduler="ddim", seed=[9, 0], **given_)[1:], changed), given_


# --- precision, safety, records --------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("compat", [None, "original", "diffusers"])
def test_half_precision(dtype: torch.dtype, compat: str | None, family: str) -> None:
    pipeline = tiny.PIPELINES[family]().to(dtype)
    pipeline.compat = compat
    result = pipeline.edit(SOURCE, exemplar=Blend([A, B]), box=LEFT, steps=2, strength=0.9, guidance_rescale=0.5)
    plain = tiny.PIPELINES[family]()
    plain.compat = compat
    expected = plain.edit(SOURCE, exemplar=Blend([A, B]), box=LEFT, steps=2, strength=0.9, guidance_rescale=0.5)
    gap = np.abs(np.asarray(result.images[0], float) - np.asarray(expected.images[0], float))
    # diffusers draws in the weights' type, and then from another stream
    assert gap.max() < 40 or compat == "diffusers"
    outputs = pipeline(
        image=SOURCE.resize((32, 32)),
        mask_image=mask_of(LEFT).resize((32, 32)),
        example_image=A,
        num_inference_steps=2,
        output_type="np",
    )
    assert outputs.images.dtype == np.float32
    assert np.isfinite(outputs.images).all()


def test_a_flagged_picture_is_reported_and_not_changed() -> None:
    pipeline = tiny.embedded_pipeline()
    expected = edit(pipeline, seed=[1, 2])
    assert pipeline.edit(SOURCE, exemplar=A, box=LEFT, steps=1).nsfw_content_detected is None
    shown: list[PIL.Image.Image] = []

    def checker(pictures: list[PIL.Image.Image]) -> list[bool]:
        shown.extend(pictures)
        for picture in pictures:
            picture.paste("black", (0, 0, 60, 44))
        return [index == 1 for index in range(len(pictures))]

    pipeline.safety_checker = checker
    result = pipeline.edit(SOURCE, exemplar=A, box=LEFT, steps=3, seed=[1, 2])
    assert result.nsfw_content_detected == [False, True]
    assert len(shown) == 2
    assert all((np.asarray(image) == before).all() for image, before in zip(result.images, expected, strict=True))


def test_a_result_is_saved_with_its_record(tmp_path: Path, pipelines: dict[str, PaintByExamplePipeline]) -> None:
    for name, image in (("source", SOURCE), ("a", A), ("b", B), ("mask", mask_of(LEFT))):
        image.save(tmp_path / f"{name}.png")
    result = pipelines["embedded"].edit(
        tmp_path / "source.png",
        exemplar=[Blend([tmp_path / "a.png", B], [3, 1]), str(tmp_path / "b.png")],
        mask=[tmp_path / "mask.png", mask_of(RIGHT)],
        steps=2,
        seed=[5, 6],
        scheduler="ddim",
        eta=0.25,
    )
    result.save(tmp_path / "out.png", 1)
    with PIL.Image.open(tmp_path / "out.png") as saved:
        assert (np.asarray(saved) == np.asarray(result.images[1])).all()
        assert '"path": "source.png"' in saved.info[KEY]
    record = read_record(tmp_path / "out.png")
    assert record == result.records[1].named(source=tmp_path / "source.png")  # as paths of the system, not of a URL
    assert (record.seed, record.steps, record.scheduler, record.eta) == (6, 2, "ddim", 0.25)
    assert record.guidance_scale == 5.0
    first, second = record.regions
    assert [(file.path is None, share) for file, share in first.exemplars] == [(False, 0.75), (True, 0.25)]
    assert first.exemplars[1][0].sha256 == second.exemplars[0][0].sha256  # the same picture, in memory and on disk
    assert (first.mask is None, second.mask and second.mask.path) == (False, None)
    result.save(tmp_path / "out.jpg")  # which holds no record
    with pytest.raises(PictureError, match="no PNG file"):
        read_record(tmp_path / "out.jpg")


def test_a_fingerprint_tells_models_apart(pipelines: dict[str, PaintByExamplePipeline]) -> None:
    assert pipelines["embedded"].fingerprint() != pipelines["clip"].fingerprint()
    pipeline = tiny.clip_pipeline()
    expected = pipelines["clip"].fingerprint()
    assert pipeline.fingerprint() == expected
    assert pipeline.to(torch.float16).fingerprint() == expected
    for change in ("weight", "schedule"):
        pipeline = tiny.clip_pipeline()
        if change == "weight":
            with torch.no_grad():
                next(pipeline.image_encoder.parameters()).mul_(1.5)
        else:
            pipeline.scheduler = make_scheduler("ddim", pipeline.scheduler)
        assert pipeline.fingerprint() != expected, change
