"""The self-supervised dataset on pictures drawn here, and the geometry of its crops."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from torch.utils.data import DataLoader

from paint_by_example.crops import resize
from paint_by_example.data import dataset as module
from paint_by_example.data.composites import Composites
from paint_by_example.data.dataset import BoxDataset, Examples, average, read_line
from paint_by_example.data.framing import jitter_room, reduction, snap, square_crop, squashing_crop
from paint_by_example.data.masks import arbitrary_mask, draw_mask, extend_box
from paint_by_example.data.recipes import DEFAULT, RECIPES
from paint_by_example.errors import DataError
from paint_by_example.images import Box, Size, load_image

LANDSCAPE_BOXES = [[40, 30, 90, 80], [100, 20, 180, 60]]
PORTRAIT_BOXES = [[10.4, 20.6, 59.5, 99.9]]


def write_index(path: Path, lines: list[Any]) -> Path:
    path.write_text("".join((line if isinstance(line, str) else json.dumps(line)) + "\n" for line in lines))
    return path


def texture(width: int, height: int, seed: int) -> Image.Image:
    rng = np.random.default_rng(seed)
    return Image.fromarray(rng.integers(0, 256, (9, 12, 3), np.uint8)).resize((width, height), Image.Resampling.BICUBIC)


@pytest.fixture(scope="module")
def index(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("boxes")
    (root / "photos").mkdir()
    texture(200, 120, 0).save(root / "photos" / "landscape.png")
    texture(90, 150, 1).save(root / "portrait.png")
    return write_index(
        root / "index.jsonl",
        [
            {"picture": "photos/landscape.png", "boxes": LANDSCAPE_BOXES},
            "",
            {"picture": str(root / "portrait.png"), "boxes": PORTRAIT_BOXES, "label": "read by nobody"},
        ],
    )


@st.composite
def boxes(draw: st.DrawFn) -> tuple[Box, Size]:
    width, height = draw(st.integers(1, 1200)), draw(st.integers(1, 1200))
    left, top = draw(st.integers(0, width - 1)), draw(st.integers(0, height - 1))
    right, bottom = draw(st.integers(left + 1, width)), draw(st.integers(top + 1, height))
    return (left, top, right, bottom), (width, height)


def same(first: dict[str, Any], second: dict[str, Any]) -> bool:
    return all(np.array_equal(first[name], second[name]) for name in ("source", "mask", "exemplar"))


# Items


def test_both_datasets_are_what_the_trainer_takes(index: Path) -> None:
    examples: Examples = BoxDataset(index)  # mypy holds both to the protocol
    kind: type[Examples] = Composites
    assert len(examples) == 2
    assert kind is not None


def test_an_item_has_the_shapes_types_and_ranges_it_says(index: Path) -> None:
    data = BoxDataset(index)
    item = data[1]
    assert {name: (value.shape, value.dtype) for name, value in item.items()} == {
        "source": ((3, 512, 512), np.float32),
        "mask": ((1, 512, 512), np.float32),
        "exemplar": ((224, 224, 3), np.uint8),
    }
    assert -1 <= item["source"].min() < -0.2 < 0.2 < item["source"].max() <= 1
    assert item["source"].flags.c_contiguous
    assert set(np.unique(item["mask"])) == {0, 1}


def test_an_item_depends_on_seed_epoch_and_index_and_not_on_the_order_of_access(index: Path) -> None:
    def items(order: tuple[int, ...], seed: int = 0, epoch: int = 0) -> dict[int, dict[str, Any]]:
        data = BoxDataset(index, 64, 32, seed)
        data.epoch = epoch
        return {number: data[number] for number in order}

    forwards, backwards = items((0, 1)), items((1, 0))
    for number in (0, 1):
        assert same(forwards[number], backwards[number])
        assert not same(forwards[number], items((number,), seed=1)[number])
        assert not same(forwards[number], items((number,), epoch=1)[number])


@pytest.mark.filterwarnings("ignore:This DataLoader will create:UserWarning")  # where there is one core
def test_workers_change_no_bit(index: Path) -> None:
    data = BoxDataset(index, 64, 32)
    data.epoch = 3

    def batches(workers: int) -> list[dict[str, torch.Tensor]]:
        return list(DataLoader(data, batch_size=1, num_workers=workers))  # type: ignore[arg-type]

    alone = batches(0)
    assert len(alone) == 2
    for workers in (1, 2):
        for batch, again in zip(alone, batches(workers), strict=True):
            assert all(torch.equal(batch[name], again[name]) for name in ("source", "mask", "exemplar"))


def test_each_box_is_drawn_about_as_often(index: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data = BoxDataset(index, 16, 16)
    drawn: list[Box] = []

    def grow(box: Box, *_: Any) -> Box:
        drawn.append(box)
        return box

    monkeypatch.setattr(module, "grow", grow)
    for data.epoch in range(100):
        data[0]
    assert set(drawn) == {(40, 30, 90, 80), (100, 20, 180, 60)}
    assert 30 <= drawn.count((40, 30, 90, 80)) <= 70


def test_a_loop_over_the_items_ends(index: Path) -> None:
    data = BoxDataset(index, 16, 16)
    assert len(list(data)) == 2  # type: ignore[call-overload]
    for number in (2, -1):
        with pytest.raises(IndexError):
            data[number]


# What is where


@pytest.mark.parametrize("arbitrary_share", [0.0, 1.0])
def test_the_mask_covers_the_box_and_the_box_is_all_in_the_crop(tmp_path: Path, arbitrary_share: float) -> None:
    """A white box on black, followed through every step."""
    picture = np.zeros((150, 260, 3), np.uint8)
    picture[50:110, 150:200] = 255
    Image.fromarray(picture).save(tmp_path / "a.png")
    data = BoxDataset(
        write_index(tmp_path / "index.jsonl", [{"picture": "a.png", "boxes": [[150, 50, 200, 110]]}]),
        size=256,
        recipe=replace(DEFAULT, arbitrary_share=arbitrary_share, tight_share=0.0),
    )
    shapes = set()
    for data.epoch in range(20):
        item = data[0]
        white, mask = item["source"][0] > 0, item["mask"][0] > 0
        rows, columns = np.flatnonzero(white.any(1)), np.flatnonzero(white.any(0))
        height, width = len(rows), len(columns)
        assert white.sum() >= 0.98 * height * width  # the box is there, whole but for its blurred corners
        assert height / width == pytest.approx(60 / 50, rel=0.05)  # and not squashed
        assert height >= 60 / 150 * 256 - 2  # a crop as large as the picture, or zoomed
        assert not (mask[0].any() and mask[-1].any() and mask[:, 0].any() and mask[:, -1].any())
        # 5 pixels of a canvas of 512 are 2.5 here
        inner = white[rows[0] + 4 : rows[-1] - 3, columns[0] + 4 : columns[-1] - 3]
        assert inner.all()
        assert mask[rows[0] + 4 : rows[-1] - 3, columns[0] + 4 : columns[-1] - 3].all()
        if arbitrary_share == 0:
            assert mask[white].all()
            y, x = np.nonzero(mask)
            assert mask.sum() == (np.ptp(y) + 1) * (np.ptp(x) + 1)
        shapes.add((height, int(columns[0]), int(rows[0])))
    assert len(shapes) > 10  # zoom and position vary
    assert len({height for height, *_ in shapes}) > 3


def test_a_wide_box_is_not_squashed(tmp_path: Path) -> None:
    y, x = np.mgrid[:120, :400]
    disc = (x - 200) ** 2 + (y - 60) ** 2 < 50**2
    picture = np.full((120, 400, 3), 40, np.uint8)
    picture[disc] = 255
    picture[0], picture[-1] = (255, 0, 0), (0, 0, 255)  # the first and last row
    Image.fromarray(picture).save(tmp_path / "a.png")
    index = write_index(tmp_path / "index.jsonl", [{"picture": "a.png", "boxes": [[20, 0, 390, 120]]}])
    data = BoxDataset(index, 256, 64, recipe=replace(DEFAULT, arbitrary_share=0.0, tight_share=0.0))
    paddings = set()
    for data.epoch in range(5):
        source, mask = data[0]["source"], data[0]["mask"][0]
        seen = source[1] > 0.3  # green: only the disc
        rows, columns = np.flatnonzero(seen.any(1)), np.flatnonzero(seen.any(0))
        assert len(rows) == pytest.approx(len(columns), abs=2)
        assert len(columns) == pytest.approx(100 / 385 * 256, rel=0.06)
        # above and below the picture its border goes on, and so does the mask, which covers its full height
        middle, reach = (rows[0] + rows[-1]) / 2, 60 * len(columns) / 100
        above, below = source[:, : max(int(middle - reach) - 1, 0)], source[:, int(middle + reach) + 3 :]
        assert above.shape[1] + below.shape[1] > 100
        paddings.add(above.shape[1])
        for border, colour in ((above, (1, -1, -1)), (below, (-1, -1, 1))):
            assert np.all(np.abs(border - np.array(colour)[:, None, None]) < 0.02)
        assert (mask == mask[0]).all()
        assert mask[0].mean() > 0.9
    assert len(paddings) > 2


def test_the_exemplar_is_the_padded_box_of_the_original_picture(index: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "augment", lambda _, picture, **__: picture)
    data = BoxDataset(index, 32, 48)
    with Image.open(index.parent / "portrait.png") as picture:
        # 10 pixels more on each side, cut off at the left border of the picture
        crop = np.asarray(picture.crop((0, 10, 70, 110)))
    assert np.array_equal(data[1]["exemplar"], average(crop, 48).transpose(1, 2, 0))


@pytest.mark.parametrize("shape", [(768, 700), (512, 1100), (1500, 513)])
def test_averages_are_near_those_of_edits(shape: tuple[int, int]) -> None:
    picture = np.asarray(texture(shape[1], shape[0], 3))
    mean, edits = average(picture, 512).transpose(1, 2, 0), resize(picture, (512, 512))
    assert np.abs(mean.astype(int) - edits).max() <= 4
    checks = np.indices((1024, 1024)).sum(0)[..., None].repeat(3, 2) % 2 * 255  # finer than the result can show
    assert np.abs(average(checks.astype(np.uint8), 512).astype(int) - 127).max() <= 3


def test_a_crop_that_is_too_small_is_enlarged_as_by_edits(index: Path) -> None:
    data = BoxDataset(index, 32, 200, recipe=replace(DEFAULT, tight_share=1.0))
    with Image.open(index.parent / "portrait.png") as picture:
        crop = np.asarray(picture.crop((0, 10, 70, 110)))
    assert np.array_equal(data.resized(crop, 200), resize(crop, (200, 200)).transpose(2, 0, 1))


def test_exemplars_are_augmented(index: Path) -> None:
    data = BoxDataset(index, 16, 32)
    exemplars = set()
    for data.epoch in range(8):
        exemplars.add(data[1]["exemplar"].tobytes())
    assert len(exemplars) > 4


def test_boxes_are_clipped_and_rounded_outwards(tmp_path: Path) -> None:
    data = BoxDataset(write_index(tmp_path / "index.jsonl", [{"picture": "a", "boxes": [[-7, 3.2, 5.1, 99]]}]))
    assert data.box(data.lines[0], 0, (20, 30)) == (0, 3, 6, 30)


def test_a_thin_stroke_of_the_mask_survives_shrinking(tmp_path: Path) -> None:
    texture(600, 600, 0).save(tmp_path / "a.png")
    index = write_index(tmp_path / "index.jsonl", [{"picture": "a.png", "boxes": [[300, 100, 301, 500]]}])
    data = BoxDataset(index, size=32, recipe=replace(DEFAULT, arbitrary_share=0.0, tight_share=0.0))
    for data.epoch in range(5):
        data_mask = data[0]["mask"][0]
        assert data_mask.any(1).sum() >= 32 * 400 / 600 - 1
        assert set(np.unique(data_mask)) == {0, 1}


# Recipes


@pytest.mark.parametrize("name", RECIPES)
def test_every_recipe_gives_examples_that_depend_on_the_index_alone(index: Path, name: str) -> None:
    data, again = (BoxDataset(index, 64, 32, recipe=RECIPES[name]) for _ in range(2))
    for data.epoch in range(3):
        again.epoch = data.epoch
        item = data[1]
        assert same(item, again[1])
        assert (item["source"].shape, item["mask"].shape) == ((3, 64, 64), (1, 64, 64))
        assert item["source"].dtype == item["mask"].dtype == np.float32
        assert 0 <= item["mask"].min() <= item["mask"].max() == 1
        assert -1 <= item["source"].min() < item["source"].max() <= 1


def test_masks_are_soft_in_the_released_recipe_only(index: Path) -> None:
    def between(name: str) -> int:
        data = BoxDataset(index, 64, 32, recipe=RECIPES[name])
        masks = []
        for data.epoch in range(6):
            masks.append(data[0]["mask"])
        return int(((np.stack(masks) > 0) & (np.stack(masks) < 1)).sum())

    assert between("paper") == between("default") == 0 < between("released")


def test_the_released_crop_squashes_wide_boxes_and_leaves_square_pictures() -> None:
    rng = np.random.default_rng(0)
    assert squashing_crop(rng, (10, 5, 90, 45), (100, 50)) == (0, 0, 100, 50)
    assert squashing_crop(rng, (5, 10, 45, 90), (50, 100)) == (0, 0, 50, 100)
    assert squashing_crop(rng, (40, 40, 60, 60), (100, 100)) == (0, 0, 100, 100)
    for _ in range(50):
        x0, y0, x1, y1 = squashing_crop(rng, (40, 20, 60, 30), (100, 50))
        assert x1 - x0 == y1 - y0 <= 50
        assert 0 <= x0 <= 40 < 60 <= x1 <= 100
        assert 0 <= y0 <= 20 < 30 <= y1 <= 50


def test_only_boxes_of_the_area_asked_for_are_drawn_where_there_are_others() -> None:
    line = read_line('{"picture": "a", "boxes": [[0, 0, 5, 5], [0, 0, 50, 50], [0, 0, 100, 95]]}', 1, Path("x"))
    small = read_line('{"picture": "a", "boxes": [[0, 0, 5, 5]]}', 1, Path("x"))
    data = object.__new__(BoxDataset)
    for name, expected in (("paper", {1}), ("released", {1}), ("default", {0, 1})):
        data.recipe = RECIPES[name]
        rng = np.random.default_rng(0)
        assert {data.choose(rng, line, (100, 100)) for _ in range(40)} == expected
        assert data.choose(rng, small, (100, 100)) == 0


def test_what_surrounds_the_object_turns_white_where_there_is_a_mask(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "augment", lambda _, picture, **__: picture)
    Image.new("RGB", (80, 60), "red").save(tmp_path / "a.png")
    mask = np.zeros((60, 80), np.uint8)
    mask[20:40, 30:50] = 255
    Image.fromarray(mask).save(tmp_path / "m.png")
    line = {"picture": "a.png", "boxes": [[30, 20, 50, 40]], "masks": ["m.png"]}
    index = write_index(tmp_path / "index.jsonl", [line, line | {"masks": [None]}])
    for share, whites in ((1.0, (True, False)), (0.0, (False, False))):
        data = BoxDataset(index, 32, 40, recipe=replace(DEFAULT, remove_background=share))
        for number, white in enumerate(whites):
            exemplar = data[number]["exemplar"]
            assert exemplar[20, 20].tolist() == [255, 0, 0]
            assert exemplar[2, 2].tolist() == ([255, 255, 255] if white else [255, 0, 0])
    (tmp_path / "m.png").unlink()
    with pytest.raises(DataError, match=r"line 1: cannot use the mask .*m\.png: there is no such file"):
        BoxDataset(index, 32, 40, recipe=replace(DEFAULT, remove_background=1.0))[0]


# Decoding at a part of the size


def test_a_jpeg_file_is_decoded_smaller_only_where_no_detail_is_lost() -> None:
    crop = (0, 0, 1024, 1024)
    assert reduction(crop, (0, 0, 448, 448), 512, 224) == 2
    assert reduction(crop, (0, 0, 447, 448), 512, 224) == 1
    assert reduction((0, 0, 1023, 1023), (0, 0, 448, 448), 512, 224) == 1
    assert reduction(crop, (0, 0, 448, 448), 64, 32) == 8


@pytest.mark.parametrize("orientation", [1, 6])
def test_a_reduced_jpeg_gives_nearly_the_same_example_as_a_whole_picture(tmp_path: Path, orientation: int) -> None:
    """The same pixels as JPEG, decoded at a part of its size, and as PNG, which cannot be."""
    exif = Image.Exif()
    exif[0x0112] = orientation
    texture(800, 608, 0).save(tmp_path / "a.jpg", quality=95, exif=exif)
    load_image(tmp_path / "a.jpg").save(tmp_path / "a.png")
    lines = [{"picture": name, "boxes": [[100, 150, 500, 590]]} for name in ("a.jpg", "a.png")]
    pair = [BoxDataset(write_index(tmp_path / f"{number}.jsonl", [lines[number]]), 64, 32) for number in (0, 1)]
    assert load_image(tmp_path / "a.jpg", reduce=4).size == ((200, 152) if orientation == 1 else (152, 200))
    for epoch in range(4):
        for data in pair:
            data.epoch = epoch
        small, large = pair[0][0], pair[1][0]
        # the crop's edges may move by less than a reduced pixel
        assert np.abs(small["mask"] - large["mask"]).mean() < 0.06
        assert np.abs(small["source"] - large["source"]).mean() < 0.06
        assert np.abs(small["exemplar"].astype(int) - large["exemplar"]).mean() < 6


@given(boxes(), st.integers(0, 2**32), st.sampled_from([1, 2, 4, 8]))
def test_a_snapped_crop_is_a_square_of_whole_reduced_pixels_around_the_crop(
    case: tuple[Box, Size], seed: int, factor: int
) -> None:
    crop = square_crop(np.random.default_rng(seed), *case)
    x0, y0, x1, y1 = snap(crop, factor)
    assert x1 - x0 == y1 - y0 < crop[2] - crop[0] + 2 * factor
    assert x0 <= crop[0] < crop[2] <= x1
    assert y0 <= crop[1] < crop[3] <= y1
    assert all(edge % factor == 0 for edge in (x0, y0, x1, y1))


# Crops


@given(boxes(), st.integers(0, 2**32))
def test_the_crop_is_a_square_around_the_box_within_the_picture_if_that_can_be(
    case: tuple[Box, Size], seed: int
) -> None:
    box, (width, height) = case
    left, top, right, bottom = box
    x0, y0, x1, y1 = square_crop(np.random.default_rng(seed), box, (width, height))
    assert x1 - x0 == y1 - y0 > 0
    assert x0 <= left < right <= x1
    assert y0 <= top < bottom <= y1
    longest, shorter = max(right - left, bottom - top), min(width, height)
    if longest <= shorter:
        assert 0 <= x0 < x1 <= width
        assert 0 <= y0 < y1 <= height
        assert x1 - x0 >= 0.4 * shorter - 1  # no more than 0.6 of the margin is shaved off
    else:
        assert x1 - x0 == longest
        assert min(x0, 0) + width <= max(x1, width)
        assert (x0 <= 0 and x1 >= width) or width == max(width, height)
        assert (y0 <= 0 and y1 >= height) or height == max(width, height)


def test_position_and_zoom_take_all_their_values() -> None:
    rng = np.random.default_rng(0)
    unzoomed = {crop[0] for _ in range(300) if (crop := square_crop(rng, (20, 0, 24, 10), (40, 10)))}
    assert unzoomed == set(range(14, 21))  # from the box's right end to its left one; it touches top and bottom
    zooms = [square_crop(rng, (45, 45, 55, 55), (100, 100)) for _ in range(600)]
    assert {crop[0] for crop in zooms} == set(range(28))  # 0.6 of 45
    assert all(crop == (crop[0], crop[0], 100 - crop[0], 100 - crop[0]) for crop in zooms)
    padded = {square_crop(rng, (0, 3, 20, 6), (20, 10))[1] for _ in range(300)}
    assert padded == set(range(-10, 1))  # the picture lies anywhere in the square


@settings(deadline=None)
@given(boxes(), st.integers(0, 2**32))
def test_no_part_of_a_mask_is_lost_to_the_crop(case: tuple[Box, Size], seed: int) -> None:
    box, size = case
    rng = np.random.default_rng(seed)
    extended = extend_box(rng, box, size)
    x0, y0, x1, y1 = square_crop(rng, jitter_room(extended, size), size)
    mask = arbitrary_mask(rng, box, extended, size, pixel=(x1 - x0) / 512)
    assert mask[max(y0, 0) : max(y1, 0), max(x0, 0) : max(x1, 0)].sum() == mask.sum() > 0


def test_the_jitter_is_1_to_5_pixels_of_a_canvas_of_512(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    texture(900, 700, 0).save(tmp_path / "a.png")
    index = write_index(tmp_path / "index.jsonl", [{"picture": "a.png", "boxes": [[300, 200, 600, 500]]}])
    steps: list[float] = []
    sides: list[int] = []

    def draw(*arguments: Any, **options: Any) -> np.ndarray:
        steps.append(options["pixel"])
        return draw_mask(*arguments, **options)

    def crop(*arguments: Any) -> Box:
        box = square_crop(*arguments)
        sides.append(box[2] - box[0])
        return box

    monkeypatch.setattr(module, "draw_mask", draw)
    monkeypatch.setattr(module, "square_crop", crop)
    data = BoxDataset(index, 64, 32)
    for data.epoch in range(6):
        data[0]
    # one step in the picture, in pixels of the canvas: exactly one at 512, an eighth of one here
    assert steps == [side / 512 for side in sides]
    assert len(set(sides)) > 2


# Errors

GOOD: dict[str, Any] = {"picture": "a.png", "boxes": [[0, 0, 5, 5]]}


@pytest.mark.parametrize(
    ("line", "problem"),
    [
        ("{", "this is no JSON"),
        ("[]", "there is no picture"),
        ({"boxes": [[0, 0, 1, 1]]}, "there is no picture"),
        (GOOD | {"picture": 3}, "there is no picture"),
        (GOOD | {"boxes": []}, "there are no boxes"),
        ({"picture": "a.png"}, "there are no boxes"),
        (GOOD | {"boxes": [0, 0, 5, 5]}, "0 is not a box of four numbers"),
        (GOOD | {"boxes": [[0, 0, 5]]}, "not a box of four numbers"),
        (GOOD | {"boxes": [[0, 0, 5, "5"]]}, "not a box of four numbers"),
        (GOOD | {"boxes": [[0, 0, 5, True]]}, "not a box of four numbers"),
        ('{"picture": "a.png", "boxes": [[0, 0, 5, NaN]]}', "not a box of four numbers"),
        (GOOD | {"boxes": [[0, 0, 5, 5], [5, 0, 5, 5]]}, r"the box \[5, 0, 5, 5\] is empty"),
        (GOOD | {"boxes": [[0, 6, 5, 5]]}, "is empty"),
    ],
)
def test_a_malformed_line_is_named(tmp_path: Path, line: Any, problem: str) -> None:
    index = write_index(tmp_path / "index.jsonl", [GOOD, "", line])
    with pytest.raises(DataError, match=rf"index\.jsonl, line 3: .*{problem}"):
        BoxDataset(index)


def test_an_index_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"cannot read the index .*nothing\.jsonl"):
        BoxDataset(tmp_path / "nothing.jsonl")
    (tmp_path / "empty.jsonl").write_text("\n")
    with pytest.raises(DataError, match=r"empty\.jsonl is empty"):
        BoxDataset(tmp_path / "empty.jsonl")
    (tmp_path / "binary.jsonl").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(DataError, match=r"cannot read the index .*binary\.jsonl"):
        BoxDataset(tmp_path / "binary.jsonl")


def test_a_picture_that_cannot_be_used_is_named_with_its_line(tmp_path: Path) -> None:
    (tmp_path / "broken.png").write_bytes(b"\x89PNG half a picture")
    texture(30, 20, 0).save(tmp_path / "a.png")
    data = BoxDataset(
        write_index(
            tmp_path / "index.jsonl",
            [
                GOOD | {"picture": "gone.png"},
                GOOD | {"picture": "broken.png"},
                GOOD | {"boxes": [[31, 0, 40, 5]]},
                GOOD | {"boxes": [[-9, 0, -2, 5]]},
            ],
        ),
        16,
        16,
    )
    for number, problem in enumerate(
        (
            r"gone\.png",
            r"broken\.png",
            r"\[31.0, 0.0, 40.0, 5.0\] lies outside a\.png, which is 30 x 20",
            "lies outside",
        )
    ):
        with pytest.raises(DataError, match=rf"index\.jsonl, line {number + 1}: .*{problem}"):
            data[number]
