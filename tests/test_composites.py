"""Scenes of the embedded model's training set, on a tiny folder; and how the folder is built, from tiny packages."""

import io
import json
import subprocess
import tarfile
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image, ImageDraw
from torch.utils.data import DataLoader, Subset

from paint_by_example.data import composites, packages
from paint_by_example.data.composites import (
    ITEMS,
    PATCHES,
    PATCHING,
    PICTURING,
    RECOLOURING,
    VARIANTS,
    Composites,
    object_scene,
    paste,
    patch_scene,
    place_exemplar,
    recolour,
    resize_cutout,
)
from paint_by_example.data.packages import (
    Entry,
    group_of,
    is_object_emoji,
    merge_copies,
    prepare,
    read_entries,
    split_by_group,
    unpack,
)
from paint_by_example.errors import DataError

COLOURS = ((220, 30, 40), (20, 160, 60), (40, 60, 210), (230, 200, 30), (150, 40, 180), (30, 190, 200))


def draw_object(number: int, size: int = 90) -> Image.Image:
    """A shape with a hole of another colour, different for each number."""
    picture = Image.new("RGBA", (size, size), (0, 0, 0, 0))
    brush = ImageDraw.Draw(picture)
    colour = COLOURS[number % len(COLOURS)]
    if number % 2:
        brush.polygon([(4, size - 4), (size // 2, 4), (size - 4, size - 4)], fill=(*colour, 255))
    else:
        brush.ellipse((4, 4, size - 5, size - 5), fill=(*colour, 255))
    spot = 10 + number * 7 % 40
    brush.rectangle((spot, 50, spot + 22, 72), fill=(*COLOURS[(number + 1 + number // 6) % len(COLOURS)], 255))
    return picture


def draw_background(number: int, width: int = 160, height: int = 120) -> Image.Image:
    rng = np.random.default_rng(number)
    coarse = Image.fromarray(rng.integers(0, 256, (6, 8, 3), np.uint8))
    return coarse.resize((width, height), Image.Resampling.BICUBIC)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("composites")
    for kind in ("objects", "backgrounds"):
        (root / kind).mkdir()
    entries = []
    for number in range(6):
        split = "held_out" if number >= 4 else "train"
        draw_object(number).save(root / "objects" / f"thing-{number}.png")
        entries.append(
            {"name": f"thing-{number}", "kind": "object", "source": "t", "group": f"g{number}", "split": split}
        )
    for number in range(3):
        split = "held_out" if number == 2 else "train"
        draw_background(number).save(root / "backgrounds" / f"place-{number}.jpg")
        entries.append(
            {"name": f"place-{number}", "kind": "background", "source": "t", "group": f"p{number}", "split": split}
        )
    (root / "composites.jsonl").write_text("".join(json.dumps(entry) + "\n" for entry in entries))
    return root


@pytest.fixture(scope="module")
def scenes(folder: Path) -> Composites:
    return Composites(folder, size=64, exemplar_size=48, seed=3, length=40)


def same(first: dict[str, Any], second: dict[str, Any]) -> bool:
    return first.keys() == second.keys() and all(np.array_equal(first[name], second[name]) for name in first)


# Items


def test_an_item_has_the_shapes_types_and_ranges_it_says(scenes: Composites) -> None:
    kinds = set()
    for index in range(len(scenes)):
        item = scenes[index]
        assert {name: (value.shape, value.dtype) for name, value in item.items()} == {
            "source": ((3, 64, 64), np.float32),
            "mask": ((1, 64, 64), np.float32),
            "exemplar": ((48, 48, 3), np.uint8),
        }
        assert -1 <= item["source"].min() < item["source"].max() <= 1
        assert np.isin(item["mask"], (0, 1)).all()
        assert 0 < item["mask"].mean() < 1
        assert np.array_equal(item["source"], scenes.picture(index))
        kinds.add(scenes.draw(np.random.default_rng((3, 0, index))) >= len(scenes.objects) * VARIANTS)
    assert kinds == {False, True}  # objects and patches were both among them


def test_an_item_depends_on_seed_epoch_and_index_and_not_on_the_order_of_access(folder: Path) -> None:
    def items(order: Sequence[int], seed: int = 0, epoch: int = 0) -> dict[int, dict[str, Any]]:
        data = Composites(folder, size=32, exemplar_size=32, seed=seed)
        data.epoch = epoch
        return {index: data[index] for index in order}

    forwards, backwards = items(range(6)), items(range(5, -1, -1))
    assert all(same(forwards[index], backwards[index]) for index in range(6))
    assert not any(same(forwards[index], forwards[index + 1]) for index in range(5))
    for others in (items(range(6), seed=1), items(range(6), epoch=1)):
        assert not any(same(forwards[index], others[index]) for index in range(6))
    assert not np.array_equal(items([0])[0]["mask"], items([0], epoch=1)[0]["mask"])


@pytest.mark.filterwarnings("ignore:This DataLoader will create:UserWarning")  # where there is one core
def test_workers_change_no_bit(scenes: Composites) -> None:
    def batches(workers: int) -> list[dict[str, torch.Tensor]]:
        return list(DataLoader(Subset(scenes, range(10)), batch_size=4, num_workers=workers))  # type: ignore[arg-type]

    alone = batches(0)
    assert len(alone) == 3
    for workers in (1, 2):
        for batch, again in zip(alone, batches(workers), strict=True):
            assert all(torch.equal(batch[name], again[name]) for name in ("source", "mask", "exemplar"))


def test_features_take_the_place_of_exemplars(folder: Path) -> None:
    features = np.arange(4 * VARIANTS + 2 * PATCHES, dtype=np.float16)[:, None]
    data = Composites(folder, size=32, features=features)
    for index in range(5):
        item = data[index]
        assert set(item) == {"source", "mask", "features"}
        assert item["features"].dtype == np.float32
        assert item["features"].tolist() == [data.draw(np.random.default_rng((0, ITEMS, index)))]
    with pytest.raises(DataError, match="5 rows of exemplar features for 56 exemplars"):
        Composites(folder, features=features[:5])


def test_a_loop_over_the_items_ends(folder: Path) -> None:
    data = Composites(folder, size=16, exemplar_size=16, length=3)
    assert len([data[index] for index in range(3)]) == len(list(data)) == 3  # type: ignore[call-overload]
    for index in (3, -1):
        with pytest.raises(IndexError):
            data[index]


def test_the_splits_share_nothing(folder: Path) -> None:
    train, held_out = (Composites(folder, split) for split in ("train", "held_out"))
    for name in ("name", "group"):
        one, other = (
            {getattr(entry, name) for entry in (*data.objects, *data.backgrounds)} for data in (train, held_out)
        )
        assert one
        assert other
        assert not one & other


# Exemplars


def test_variant_0_keeps_its_colours_and_the_others_have_their_own(scenes: Composites, folder: Path) -> None:
    original = np.asarray(Image.open(folder / "objects" / "thing-1.png"))
    variants = [scenes.cutout(1 * VARIANTS + variant) for variant in range(VARIANTS)]
    assert np.array_equal(variants[0], original)
    assert len({variant.tobytes() for variant in variants}) == VARIANTS
    assert np.array_equal(scenes.cutout(8), scenes.cutout(8))
    # each has the object's outline, as it is or mirrored
    outline = original[..., 3]
    mirrored = [np.array_equal(variant[..., 3], outline[:, ::-1]) for variant in variants]
    assert all(np.array_equal(v[..., 3], outline) or flag for v, flag in zip(variants, mirrored, strict=True))


def test_recolouring_a_grey_thing_changes_only_its_brightness() -> None:
    grey = np.full((4, 4, 4), 100, np.uint8)
    result = recolour(np.random.default_rng(0), grey)
    assert np.ptp(result[..., :3]) == 0
    assert 70 - 1 <= result[0, 0, 0] <= 120
    assert np.array_equal(result[..., 3], grey[..., 3])


def test_an_exemplar_is_always_the_same(scenes: Composites) -> None:
    numbers = (0, 7, scenes.exemplars - 1)
    pictures = [scenes.exemplar(number) for number in numbers]
    assert all(np.array_equal(picture, scenes.exemplar(n)) for picture, n in zip(pictures, numbers, strict=True))
    assert len({picture.tobytes() for picture in pictures}) == 3


def test_place_exemplar_centres_without_distorting() -> None:
    cutout = np.zeros((20, 40, 4), np.uint8)
    cutout[...] = (255, 0, 0, 255)
    canvas = place_exemplar(np.full((80, 80, 3), 255, np.uint8), cutout, share=0.5)
    red = (canvas == (255, 0, 0)).all(-1)
    rows, columns = np.flatnonzero(red.any(1)), np.flatnonzero(red.any(0))
    assert (rows[0], rows[-1], columns[0], columns[-1]) == (30, 49, 20, 59)
    assert red.sum() == 20 * 40
    assert (canvas[~red] == 255).all()


# Scenes


@pytest.mark.parametrize("seed", range(12))
def test_the_box_surrounds_the_object_and_the_rest_is_background(monkeypatch: pytest.MonkeyPatch, seed: int) -> None:
    monkeypatch.setattr(composites, "shade", lambda _, scene, light: scene)
    monkeypatch.setattr(composites, "contact_shadow", lambda _, alpha, __: np.zeros_like(alpha))
    background = np.asarray(draw_background(0, 96, 96))
    scene = object_scene(np.random.default_rng(seed), np.asarray(draw_object(seed % 6)), background)
    changed = np.abs(scene.source - background).max(-1)
    left, top, right, bottom = scene.box
    outside = np.ones((96, 96), bool)
    outside[top:bottom, left:right] = False
    # a pixel that is less than a tenth object does not count as object
    assert changed[outside].max() <= 255 * packages.ALPHA_THRESHOLD / 255 * 1.25
    beyond = np.ones((96, 96), bool)
    beyond[max(top - 2, 0) : bottom + 2, max(left - 2, 0) : right + 2] = False
    assert changed[beyond].max() == 0
    # and it is tight: there is object along each of its sides
    edges = (
        changed[top, left:right],
        changed[bottom - 1, left:right],
        changed[top:bottom, left],
        changed[top:bottom, right - 1],
    )
    assert all(edge.max() > 0 for edge in edges)
    assert changed[top:bottom, left:right].mean() > 20
    # as large as the hole of an edit, and as near to the middle
    assert 0.38 * 96 < max(right - left, bottom - top) < 0.72 * 96
    assert abs((left + right) / 2 - 48) < 0.06 * 96 + 5
    assert abs((top + bottom) / 2 - 48) < 0.06 * 96 + 5


def test_a_shadow_only_darkens_and_only_near_the_foot(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(composites, "shade", lambda _, scene, light: scene)
    background = np.full((96, 96, 3), 200, np.uint8)
    shadows = 0
    for seed in range(12):
        rng = np.random.default_rng(seed)
        scene = object_scene(rng, np.asarray(draw_object(0)), background)
        left, top, right, bottom = scene.box
        outside = np.ones((96, 96), bool)
        outside[max(top - 2, 0) : bottom + 2, max(left - 2, 0) : right + 2] = False
        assert scene.source[outside].max() <= 200
        assert scene.source[outside].min() >= 200 * (1 - 0.6) - 1e-3
        assert (scene.source[: max(top - 2, 0)] == 200).all()  # none above the object
        shadows += bool((scene.source[outside] < 199).any())
    assert 2 <= shadows <= 11  # 60 %


def test_a_patch_scene_shows_the_box_where_it_says(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(composites, "shade", lambda _, scene, light: scene)
    for seed in range(12):
        rng = np.random.default_rng(seed)
        photograph = np.zeros((90, 140, 3), np.uint8)
        width, height = rng.integers(20, 60, 2).tolist()
        left, top = int(rng.integers(140 - width + 1)), int(rng.integers(90 - height + 1))
        photograph[top : top + height, left : left + width] = 255
        scene = patch_scene(rng, photograph, (left, top, left + width, top + height), 64)
        x0, y0, x1, y1 = scene.box
        assert 0 <= x0 < x1 <= 64
        assert 0 <= y0 < y1 <= 64
        inside = np.zeros((64, 64), bool)
        inside[y0:y1, x0:x1] = True
        white = scene.source[..., 0] > 127
        assert (white != inside).sum() <= 2 * (x1 - x0 + y1 - y0)  # at most a pixel along the border
        assert abs((x1 - x0) / (y1 - y0) - width / height) < 0.25 * width / height  # not squashed


def test_strong_light_falls_on_object_and_background_and_not_on_the_exemplar(folder: Path) -> None:
    plain, lit = (Composites(folder, size=64, exemplar_size=32, light=light) for light in (False, True))
    changes = []
    for index in range(12):
        one, other = plain[index], lit[index]
        assert np.array_equal(one["exemplar"], other["exemplar"])
        assert one["source"].shape == other["source"].shape
        assert np.abs(other["source"]).max() <= 1
        inside = one["mask"][0] > 0
        changes.append([np.abs(one["source"] - other["source"])[:, where].mean() for where in (inside, ~inside)])
    assert np.min(np.mean(changes, axis=0)) > 0.1


def test_some_scenes_are_bent_where_that_is_asked_for(folder: Path) -> None:
    data = Composites(folder, size=64, exemplar_size=32, bent=0.5)
    bent = [data[index]["bent"] for index in range(40)]
    assert 10 <= sum(bent) <= 30
    assert "bent" not in Composites(folder, size=64, exemplar_size=32)[0]
    number = next(n for n in range(40) if data.draw(np.random.default_rng(n)) < len(data.objects) * 6)
    straight, turned = (data.scene(np.random.default_rng(number), 0, bent=flag) for flag in (False, True))
    assert not np.array_equal(straight.source, turned.source)


def test_errors_name_what_is_missing(tmp_path: Path, folder: Path) -> None:
    with pytest.raises(DataError, match=r"no composites.jsonl in .*pbe prepare composites"):
        Composites(tmp_path)
    (tmp_path / "composites.jsonl").write_text(
        json.dumps({"name": "a", "kind": "object", "source": "t", "group": "a", "split": "train"}) + "\n"
    )
    with pytest.raises(DataError, match="holds 1 objects, train of split 'train': objects and backgrounds are needed"):
        Composites(tmp_path)
    with pytest.raises(DataError, match="holds nothing of split 'held_out'"):
        Composites(tmp_path, "held_out")
    (tmp_path / "composites.jsonl").write_text((folder / "composites.jsonl").read_text())
    with pytest.raises(DataError, match=r"objects.thing-0.png: .*No such file"):
        Composites(tmp_path)
    (tmp_path / "composites.jsonl").write_text('{"name": "a"}\n')
    with pytest.raises(DataError, match=r"composites.jsonl, line 1 is no entry"):
        Composites(tmp_path)


def test_a_picture_of_another_mode_is_an_error(tmp_path: Path) -> None:
    Image.new("L", (3, 3)).save(tmp_path / "a.png")
    with pytest.raises(DataError, match="its mode is L, not RGBA"):
        composites.read_pixels(tmp_path / "a.png", "RGBA")


# Building the folder


def write_package(path: Path, files: dict[str, Image.Image | bytes]) -> None:
    with tarfile.open(path, "w:gz") as archive:
        for name, content in files.items():
            if isinstance(content, Image.Image):
                buffer = io.BytesIO()
                content.save(buffer, "WEBP" if name.endswith(".webp") else "PNG", lossless=True)
                content = buffer.getvalue()
            info = tarfile.TarInfo(name)
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))


ANIMALS = [f"{0x1F400 + number:x}" for number in range(24)]


@pytest.fixture(scope="module")
def downloads(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("downloads")
    files: dict[str, Image.Image | bytes] = {
        f"package/assets/{code}.webp": draw_object(number) for number, code in enumerate(ANIMALS)
    }
    cook = draw_object(31)
    files |= {
        "package/assets/1f468-200d-1f373.webp": cook,
        "package/assets/1f468-1f3fd-200d-1f373.webp": cook,  # the same with a skin tone
        "package/assets/1f468-200d-1f680.webp": draw_object(32),
        "package/assets/1f1e6-1f1e8.webp": draw_object(33),  # a flag
        "package/assets/1f550.webp": draw_object(34),  # a clock
        "package/assets/1f40d-broken.webp": draw_object(35),  # no code points
        "package/assets/1f980.webp": b"this is no picture",
        "package/assets/1f981.webp": Image.new("RGBA", (90, 90), (9, 9, 9, 255)),  # a full rectangle
        "package/assets/1f982.webp": Image.new("RGBA", (90, 90), (9, 9, 9, 0)),  # nothing
        "package/assets/1f983.webp": draw_object(36, 90).resize((40, 40)),  # too small
        "package/README.png": draw_object(37),  # not among the pictures
    }
    write_package(root / "lobehub-fluent-emoji-3d-1.1.0.tgz", files)
    wallpapers: dict[str, Image.Image | bytes] = {
        f"usr/share/backgrounds/place-{number}.png": draw_background(number) for number in range(16)
    }
    wallpapers |= {
        "usr/share/backgrounds/upright.png": draw_background(90, 60, 120),
        "usr/share/backgrounds/screenshot.png": draw_background(91),
        "usr/share/backgrounds/day-l.png": draw_background(92),
        "usr/share/backgrounds/day-d.png": draw_background(93),
    }
    write_package(root / "gnome-backgrounds.tgz", wallpapers)
    return root


@pytest.fixture(scope="module")
def prepared(downloads: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("prepared") / "out"
    counts = prepare(downloads, out)
    entries = read_entries(out)
    assert sum(counts.values()) == len(entries)
    assert prepare(downloads / "nowhere", out) == counts  # what is whole is not built again
    return out


def test_prepare_takes_things_and_leaves_signs_copies_and_broken_files(prepared: Path) -> None:
    entries = {entry.name: entry for entry in read_entries(prepared)}
    objects = {name for name, entry in entries.items() if entry.kind == "object"}
    assert objects == {f"lobehub-{code}" for code in (*ANIMALS, "1f468-200d-1f373", "1f468-200d-1f680")}
    backgrounds = {name for name, entry in entries.items() if entry.kind == "background"}
    assert backgrounds == {*(f"place-{number}" for number in range(16)), "day-l", "day-d"}
    assert entries["lobehub-1f468-200d-1f373"].group == entries["lobehub-1f468-200d-1f680"].group
    assert entries["day-l"].group == entries["day-d"].group == "day"
    assert all(entry.path(prepared).exists() for entry in entries.values())
    with Image.open(entries["lobehub-1f400"].path(prepared)) as picture:
        assert picture.size == (82, 82)  # cropped to what can be seen: 4 to 85 of 90 pixels


def test_what_prepare_built_makes_scenes(prepared: Path) -> None:
    for split in ("train", "held_out"):
        data = Composites(prepared, split, size=32, exemplar_size=32)
        assert data[0]["source"].shape == (3, 32, 32)
    groups = {split: {e.group for e in read_entries(prepared) if e.split == split} for split in ("train", "held_out")}
    assert not groups["train"] & groups["held_out"]


def test_prepare_goes_on_after_it_was_broken_off(prepared: Path, downloads: Path, tmp_path: Path) -> None:
    for kind in ("objects", "backgrounds"):
        (tmp_path / kind).mkdir()
    (tmp_path / "objects" / "lobehub-1f400.png").write_bytes(b"half a pict")
    (tmp_path / "backgrounds" / "place-0.jpg").write_bytes(b"half a pict")
    prepare(downloads, tmp_path)
    assert (tmp_path / "composites.jsonl").read_text() == (prepared / "composites.jsonl").read_text()
    for name in ("objects/lobehub-1f400.png", "backgrounds/place-0.jpg"):
        assert (tmp_path / name).read_bytes() == (prepared / name).read_bytes()


def test_files_of_one_name_in_several_folders_are_all_kept(tmp_path: Path) -> None:
    inside = "usr/share/tuxpaint/stamps"
    write_package(
        tmp_path / "tuxpaint-stamps-default.tgz",
        {
            f"{inside}/animals/cat.png": draw_object(0),
            f"{inside}/toys/a/cat.png": draw_object(1),
            f"{inside}/zoo/a/cat.png": draw_object(2),
            f"{inside}/flags/a/cat.png": draw_object(3),
        },
    )
    prepare(tmp_path, tmp_path / "out")
    entries = read_entries(tmp_path / "out")
    assert len({entry.name for entry in entries}) == len(entries) == 3
    assert {entry.group for entry in entries} == {"tuxpaint-cat"}
    assert len({entry.path(tmp_path / "out").read_bytes() for entry in entries}) == 3


def test_where_the_package_is_unpacked_does_not_matter(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "flags").mkdir()  # the name of a folder that is skipped within the package
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "flags"))
    write_package(tmp_path / "tuxpaint-stamps-default.tgz", {"usr/share/tuxpaint/stamps/cat1.png": draw_object(0)})
    assert sum(prepare(tmp_path, tmp_path / "out").values()) == 1


def test_bad_packages_are_errors(tmp_path: Path, downloads: Path) -> None:
    with pytest.raises(DataError, match=r"no package found in .*expected files named .*lobehub-fluent-emoji-3d\*"):
        prepare(tmp_path, tmp_path / "out")
    good = (downloads / "lobehub-fluent-emoji-3d-1.1.0.tgz").read_bytes()
    package = tmp_path / "lobehub-fluent-emoji-3d.tgz"
    flipped = bytearray(good)
    flipped[len(good) // 2 : len(good) // 2 + 200] = bytes(200)
    for content in (b"this is no archive", b"", good[: len(good) // 2], bytes(flipped)):
        package.write_bytes(content)
        with pytest.raises(DataError, match=r"cannot unpack .*lobehub-fluent-emoji-3d.tgz.*download it again"):
            prepare(tmp_path, tmp_path / "out")
        assert not (tmp_path / "out" / "composites.jsonl").exists()
    write_package(package, {"package/README.md": b"nothing else"})
    with pytest.raises(DataError, match=r"no usable picture in lobehub-fluent-emoji-3d.tgz"):
        prepare(tmp_path, tmp_path / "out")


def test_a_package_cannot_write_elsewhere(tmp_path: Path) -> None:
    package = tmp_path / "a.tgz"
    write_package(package, {"../outside.txt": b"x"})
    (tmp_path / "folder").mkdir()
    with pytest.raises(DataError, match="outside"):
        unpack(package, tmp_path / "folder")
    assert not (tmp_path / "outside.txt").exists()


def test_a_name_that_no_file_can_have_is_an_error(tmp_path: Path) -> None:
    with tarfile.open(tmp_path / "a.tgz", "w:gz", format=tarfile.PAX_FORMAT) as archive:
        member = tarfile.TarInfo("n")
        member.pax_headers = {"path": "a\0b"}
        archive.addfile(member)
    with pytest.raises(DataError, match="null"):
        unpack(tmp_path / "a.tgz", tmp_path)


def test_of_a_package_only_files_are_unpacked(tmp_path: Path) -> None:
    package, folder = tmp_path / "a.tgz", tmp_path / "folder"
    folder.mkdir()
    with tarfile.open(package, "w:gz") as archive:
        for name, kind in (("away", tarfile.SYMTYPE), ("same", tarfile.LNKTYPE), ("pipe", tarfile.FIFOTYPE)):
            member = tarfile.TarInfo(name)
            member.type, member.linkname = kind, "../a.tgz"
            archive.addfile(member)
        member = tarfile.TarInfo("deep/er/a.txt")
        member.size = 3
        archive.addfile(member, io.BytesIO(b"yes"))
    unpack(package, folder)
    assert [path.relative_to(folder).as_posix() for path in sorted(folder.rglob("*"))] == [
        "deep",
        "deep/er",
        "deep/er/a.txt",
    ]
    assert (folder / "deep" / "er" / "a.txt").read_bytes() == b"yes"


@pytest.mark.parametrize(
    ("problem", "message"),
    [
        (subprocess.CalledProcessError(2, "dpkg-deb", stderr="not a Debian archive"), "not a Debian archive"),
        (FileNotFoundError(2, "No such file or directory", "dpkg-deb"), "needs dpkg-deb"),
    ],
)
def test_a_deb_that_cannot_be_unpacked_is_an_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, problem: Exception, message: str
) -> None:
    def fail(*_: Any, **__: Any) -> None:
        raise problem

    monkeypatch.setattr(subprocess, "run", fail)
    with pytest.raises(DataError, match=message):
        unpack(tmp_path / "a.deb", tmp_path)


@pytest.mark.parametrize(
    ("code", "expected"),
    [
        ("1f431", True),  # a cat
        ("2602", True),  # an umbrella
        ("1f468-200d-1f373", True),  # a cook
        ("1F431", True),
        ("1f468-1f3fb-200d-1f373", False),  # with a skin tone
        ("31-20e3", False),  # key cap
        ("1f1e6-1f1e8", False),  # flag
        ("1f170", False),  # letter
        ("2648", False),  # zodiac
        ("2764", False),  # heart
        ("1f534", False),  # red circle
        ("1f55b", False),  # clock
        ("1f6ab", False),  # prohibited
        ("1f7e9", False),  # green square
        ("cat", False),
        ("", False),
    ],
)
def test_which_emoji_are_things(code: str, expected: bool) -> None:
    assert is_object_emoji(code) is expected


@pytest.mark.parametrize(
    ("package", "stem", "group"),
    [
        ("openclipart-png", "hummer_01", "hummer"),
        ("openclipart-png", "hummer_12", "hummer"),
        ("tuxpaint-stamps-default", "cat", "cat"),
        ("lobehub-fluent-emoji-3d", "1f468-200d-1f373", "1f468"),
        ("lobehub-fluent-emoji-3d", "1f600", "face"),
        ("lobehub-fluent-emoji-3d", "1f923", "face"),
    ],
)
def test_variants_share_a_group(package: str, stem: str, group: str) -> None:
    assert group_of(package, stem) == group


def entry(name: str, group: str, kind: str = "object") -> Entry:
    return Entry(name, kind, "t", group, "")


def test_the_split_is_by_group_and_stable() -> None:
    entries = [entry(f"{group}-{number}", f"group-{group}") for group in range(400) for number in range(2)]
    split = split_by_group(entries)
    assert [(e.name, e.group) for e in split] == [(e.name, e.group) for e in entries]
    assert all(one.split == other.split for one, other in zip(split[::2], split[1::2], strict=True))
    assert split_by_group(entries[100:300]) == split[100:300]  # whatever else there is
    assert sum(e.split == "held_out" for e in split) / len(split) == pytest.approx(0.08, abs=0.04)
    backgrounds = split_by_group([entry(str(number), str(number), "background") for number in range(400)])
    assert sum(e.split == "held_out" for e in backgrounds) / 400 == pytest.approx(0.15, abs=0.05)
    held_out = [e.group for e in split if e.split == "held_out"]
    assert held_out[:3:2] == ["group-20", "group-50"]  # the same on every machine


def test_near_copies_come_into_one_group_also_by_way_of_another() -> None:
    base = np.random.default_rng(0).random(192).astype(np.float32)
    far = 1 - base
    thumbnails = np.stack([base, base + 0.03, base + 0.06, far, far + 0.05, base])
    entries = [entry(name, name) for name in "abcde"] + [entry("f", "f", "background")]
    merged = merge_copies(entries, thumbnails)
    assert [e.name for e in merged] == list("abcdef")
    groups = [e.group for e in merged]
    assert groups[0] == groups[1] == groups[2]  # c is a copy of b, b of a
    assert len({groups[0], groups[3], groups[4], groups[5]}) == 4  # too far, or of another kind


def test_what_is_invisible_does_not_bleed_into_the_edge():
    """Opaque red beside invisible green: every size of it is red times alpha, without any green."""
    cutout = np.zeros((40, 40, 4), np.uint8)
    cutout[..., 1] = 255
    cutout[8:30, 5:33] = (255, 0, 0, 255)
    for size in ((13, 17), (40, 40), (90, 70)):
        resized = resize_cutout(cutout, size)
        assert resized.shape == (size[1], size[0], 4)
        np.testing.assert_allclose(resized[..., 0], resized[..., 3], atol=1e-3)
        assert resized[..., 1].max() == 0
        assert 0 < (resized[..., 3] > 0).mean() < 1


def test_items_share_no_random_stream_with_what_stays_the_same():
    assert len({RECOLOURING, PATCHING, PICTURING}) == 3
    assert max(RECOLOURING, PATCHING, PICTURING) < ITEMS  # epoch n has stream ITEMS + n


# Mattes and crowds


def test_a_matte_is_where_the_object_is(scenes: Composites) -> None:
    rng = np.random.default_rng(0)
    whole = 0
    for _ in range(40):
        picture, alpha = scenes.matte(rng)
        assert picture.shape == (scenes.exemplar_size, scenes.exemplar_size, 3)
        assert alpha.shape == picture.shape[:2]
        assert alpha.max() > 200
        whole += int((alpha == 255).all())
    assert 0 < whole < 20  # patches of photographs are their own objects


def test_what_is_pasted_lies_where_it_should() -> None:
    cutout = np.zeros((20, 10, 4), np.uint8)
    cutout[..., 0], cutout[..., 3] = 200, 255
    canvas = np.full((40, 40, 3), 90, np.uint8)
    pasted = paste(canvas, cutout, 0.5, np.array([10.0, 0.0]))
    red = pasted[..., 0] == 200
    assert np.flatnonzero(red.any(0)).tolist() == list(range(25, 35))
    assert np.flatnonzero(red.any(1)).tolist() == list(range(10, 30))
    assert (pasted[~red] == 90).all()
    assert (canvas == 90).all()
    assert (paste(canvas, cutout, 0.5, np.array([60.0, 0.0])) == 90).all()  # beyond the edge


def test_other_objects_stand_near_the_edges(scenes: Composites) -> None:
    grey = np.full((64, 64, 3), 128, np.uint8)
    changed = np.zeros((64, 64), bool)
    crowded = 0
    for seed in range(100):
        scene = scenes.crowd(np.random.default_rng(seed), grey)
        different = (scene != grey).any(-1)
        changed |= different
        crowded += int(different.any())
    assert 10 < crowded < 50
    assert not changed[26:38, 26:38].any()
    assert (grey == 128).all()
