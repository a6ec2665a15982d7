"""The door of the package: every kind of file, PIL picture and array, and the geometry of an edit."""

from __future__ import annotations

import os
import struct
import subprocess
import sys
import threading
import time
import warnings
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from paint_by_example import images
from paint_by_example.errors import MaskError, PictureError
from paint_by_example.images import (
    MAX_PIXELS,
    image_size,
    image_tensor,
    load_exemplar,
    load_image,
    load_mask,
    mask_tensor,
    save_image,
    tensor_image,
)
from paint_by_example.strip import picture_strip


def noise(height: int, width: int, channels: int = 3, seed: int = 0) -> NDArray[np.uint8]:
    return np.random.default_rng(seed).integers(0, 256, (height, width, channels), dtype=np.uint8)


def png_bytes(
    width: int, height: int, bits: int, kind: int, rows: bytes, chunks: dict[bytes, bytes] | None = None
) -> bytes:
    """A PNG file written by hand, for what PIL cannot write: false sizes and rare chunks."""

    def chunk(name: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))

    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, bits, kind, 0, 0, 0))
    extra = b"".join(chunk(name, data) for name, data in (chunks or {}).items())
    return b"\x89PNG\r\n\x1a\n" + header + extra + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")


def refusal(picture: object, what: str = "source") -> str:
    """The one line that a picture is refused with."""
    with pytest.raises(PictureError) as caught:
        load_image(picture, what)  # type: ignore[arg-type]
    assert "\n" not in str(caught.value)
    return str(caught.value)


# Loading: kinds of files


def test_plain_rgb_file_is_loaded_unchanged(tmp_path):
    pixels = noise(5, 7)
    Image.fromarray(pixels).save(tmp_path / "a.png")
    for path in (tmp_path / "a.png", str(tmp_path / "a.png")):
        loaded = load_image(path)
        assert loaded.mode == "RGB"
        np.testing.assert_array_equal(np.asarray(loaded), pixels)


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("suffix", ["jpg", "png", "tif", "webp"])
def test_exif_orientation_is_applied_once(tmp_path, orientation, suffix):
    upright = np.zeros((24, 16, 3), np.uint8)
    upright[:8, :8] = (255, 0, 0)  # a red corner, and a blue one beside it: no two orientations look alike
    upright[:8, 8:] = (0, 0, 255)
    stored = {  # what a camera held that way writes, by the definition of the tag
        1: upright,
        2: upright[:, ::-1],
        3: upright[::-1, ::-1],
        4: upright[::-1],
        5: upright.transpose(1, 0, 2),
        6: np.rot90(upright, 1),
        7: upright[::-1, ::-1].transpose(1, 0, 2),
        8: np.rot90(upright, -1),
    }[orientation]
    exif = Image.Exif()
    exif[0x0112] = orientation
    path = tmp_path / f"a.{suffix}"
    Image.fromarray(np.ascontiguousarray(stored)).save(path, exif=exif)
    loaded = load_image(path)
    assert loaded.size == (16, 24)
    assert np.abs(np.asarray(loaded).astype(int) - upright)[2:6, 2:6].max() < 40  # JPEG is lossy
    np.testing.assert_array_equal(np.asarray(load_image(loaded)), np.asarray(loaded))
    with Image.open(path) as opened:  # a picture opened by the caller is turned too
        np.testing.assert_array_equal(np.asarray(load_image(opened)), np.asarray(loaded))


def test_damaged_metadata_does_not_spoil_a_picture(tmp_path):
    pixels = noise(8, 8)
    for exif in (b"Exif\0\0garbage", b"Exif\0\0MM\0*\0\0\0\x08\xff\xff\x01\x12"):
        Image.fromarray(pixels).save(tmp_path / "a.png", exif=exif)
        np.testing.assert_array_equal(np.asarray(load_image(tmp_path / "a.png")), pixels)


def test_palette_with_transparency(tmp_path):
    picture = Image.new("P", (3, 1))
    picture.putpalette([255, 0, 0, 0, 255, 0, 0, 0, 255])
    picture.putdata([0, 1, 2])
    picture.save(tmp_path / "opaque.png")
    assert load_image(tmp_path / "opaque.png").mode == "RGB"
    picture.save(tmp_path / "clear.png", transparency=bytes([0, 128, 255]))
    expected = [[[255, 0, 0, 0], [0, 255, 0, 128], [0, 0, 255, 255]]]
    loaded = load_image(tmp_path / "clear.png")
    assert loaded.mode == "RGBA"
    np.testing.assert_array_equal(np.asarray(loaded), expected)


def test_rgb_with_a_transparent_colour(tmp_path):
    Image.fromarray(np.array([[[1, 2, 3], [4, 5, 6]]], np.uint8)).save(tmp_path / "a.png", transparency=(1, 2, 3))
    assert np.asarray(load_image(tmp_path / "a.png"))[..., 3].tolist() == [[0, 255]]


def test_grey_with_alpha(tmp_path):
    pixels = noise(4, 4, 2)
    Image.fromarray(pixels, "LA").save(tmp_path / "a.png")
    expected = pixels[..., [0, 0, 0, 1]]
    np.testing.assert_array_equal(np.asarray(load_image(tmp_path / "a.png")), expected)


def test_cmyk_jpeg(tmp_path):
    Image.new("CMYK", (16, 16), (0, 255, 255, 0)).save(tmp_path / "a.jpg", quality=95)
    loaded = load_image(tmp_path / "a.jpg")
    assert loaded.mode == "RGB"
    assert np.abs(np.asarray(loaded).astype(int) - (255, 0, 0)).max() < 8


def test_one_bit(tmp_path):
    pixels = noise(9, 9, 1)[..., 0] > 127
    Image.fromarray(pixels).save(tmp_path / "a.png")
    np.testing.assert_array_equal(np.asarray(load_image(tmp_path / "a.png"))[..., 1], pixels * 255)


@pytest.mark.parametrize("suffix", ["png", "tif"])
def test_16_bit_grey_is_scaled_with_rounding(tmp_path, suffix):
    values = np.arange(65536, dtype=np.uint16).reshape(256, 256)
    Image.fromarray(values).save(tmp_path / f"a.{suffix}")
    loaded = np.asarray(load_image(tmp_path / f"a.{suffix}"))
    np.testing.assert_array_equal(loaded[..., 0], np.round(values.astype(np.float64) / 257))


def test_16_bit_grey_pgm(tmp_path):
    (tmp_path / "a.pgm").write_bytes(b"P5 3 1 65535\n" + struct.pack(">3H", 0, 32768, 65535))
    assert np.asarray(load_image(tmp_path / "a.pgm"))[0, :, 0].tolist() == [0, 128, 255]


def test_16_bit_grey_with_a_transparent_value(tmp_path):
    rows = b"\0" + struct.pack(">3H", 1000, 1001, 65535)  # all but equal: told apart only at full depth
    (tmp_path / "a.png").write_bytes(png_bytes(3, 1, 16, 0, rows, {b"tRNS": struct.pack(">H", 1000)}))
    np.testing.assert_array_equal(
        np.asarray(load_image(tmp_path / "a.png")), [[[4, 4, 4, 0], [4, 4, 4, 255], [255, 255, 255, 255]]]
    )


def test_16_bit_rgb(tmp_path):
    rows = b"\0" + struct.pack(">6H", 0, 257 * 100, 65535, 257, 257 * 2, 257 * 3)
    (tmp_path / "a.png").write_bytes(png_bytes(2, 1, 16, 2, rows))
    assert np.asarray(load_image(tmp_path / "a.png")).tolist() == [[[0, 100, 255], [1, 2, 3]]]


@pytest.mark.parametrize("suffix", ["gif", "webp", "png"])
def test_first_frame_of_an_animation(tmp_path, suffix):
    frames = [Image.new("RGB", (8, 8), colour) for colour in ("red", "blue")]
    frames[0].save(tmp_path / f"a.{suffix}", save_all=True, append_images=frames[1:], lossless=True)
    assert np.asarray(load_image(tmp_path / f"a.{suffix}"))[0, 0, :3].tolist() == [255, 0, 0]


MODES = [
    "1",
    "L",
    "P",
    "RGB",
    "CMYK",
    "YCbCr",
    "LAB",
    "HSV",
    "RGBX",
    "LA",
    "La",
    "PA",
    "RGBA",
    "RGBa",
    "I",
    "F",
    "I;16",
    "I;16B",
]


@pytest.mark.parametrize("mode", MODES)
def test_every_mode_of_pil(mode):
    loaded = load_image(Image.new(mode, (3, 2)))
    assert loaded.size == (3, 2)
    assert loaded.mode == ("RGBA" if mode in ("LA", "La", "PA", "RGBA", "RGBa") else "RGB")


@pytest.mark.parametrize(
    ("mode", "values", "expected"),
    [
        ("I", [0, 100, 255], [0, 100, 255]),
        ("I", [0, 257 * 100, 65535], [0, 100, 255]),
        ("F", [0, 0.2, 1], [0, 51, 255]),
        ("F", [0, 100.4, 255], [0, 100, 255]),
        ("F", [0, 25700, 65535], [0, 100, 255]),
    ],
)
def test_deep_modes_take_the_smallest_white_that_fits(mode, values, expected):
    picture = Image.new(mode, (3, 1))
    picture.putdata(values)
    assert np.asarray(load_image(picture))[0, :, 0].tolist() == expected


@pytest.mark.parametrize(("mode", "value"), [("I", -1), ("I", 65536), ("F", -0.5), ("F", 1e9), ("F", float("nan"))])
def test_deep_modes_with_unknown_white_are_refused(mode, value):
    assert "0 to 65535 is accepted" in refusal(Image.new(mode, (2, 2), value))


def test_colour_profile_is_kept_where_it_still_applies(tmp_path):
    for mode, kept in (("RGB", {"icc_profile": b"profile"}), ("CMYK", {}), ("L", {})):
        Image.new(mode, (2, 2)).save(tmp_path / "a.tif", icc_profile=b"profile")
        assert load_image(tmp_path / "a.tif").info == kept


def test_loaded_picture_is_a_new_one():
    given_picture = Image.new("RGB", (2, 2))
    assert load_image(given_picture) is not given_picture
    array = np.zeros((2, 2, 3), np.uint8)
    loaded = load_image(array)
    array[:] = 255
    assert np.asarray(loaded).max() == 0


# Loading: arrays


@pytest.mark.parametrize(
    ("array", "expected"),
    [
        (np.array([[0, 7]], np.uint8), [[[0] * 3, [7] * 3]]),
        (np.array([[[0], [7]]], np.uint8), [[[0] * 3, [7] * 3]]),
        (np.array([[False, True]]), [[[0] * 3, [255] * 3]]),
        (np.array([[0, 65535 - 128]], np.uint16), [[[0] * 3, [255] * 3]]),
        (np.array([[0, 65535 - 129]], ">u2"), [[[0] * 3, [254] * 3]]),
        (np.array([[[0, 0.2, 1]]], np.float32), [[[0, 51, 255]]]),
        (np.array([[[0, 0.5, 1]]], np.float16), [[[0, 128, 255]]]),
        (np.array([[[1, 2, 3, 4]]], np.uint8), [[[1, 2, 3, 4]]]),
        (np.array([[[1, 2, 3], [4, 5, 6]]], np.uint8)[:, ::-1], [[[4, 5, 6], [1, 2, 3]]]),
    ],
)
def test_arrays(array, expected):
    assert np.asarray(load_image(array)).tolist() == expected


@pytest.mark.parametrize(
    ("array", "found"),
    [
        (np.zeros((3, 4, 5), np.uint8), "(3, 4, 5)"),
        (np.zeros((3, 4, 2), np.uint8), "(3, 4, 2)"),
        (np.zeros(3, np.uint8), "(3,)"),
        (np.zeros((1, 3, 4, 3), np.uint8), "(1, 3, 4, 3)"),
        (np.zeros((0, 4, 3), np.uint8), "4 x 0"),
        (np.zeros((3, 4), np.int64), "int64"),
        (np.zeros((3, 4), np.uint32), "uint32"),
        (np.zeros((3, 4), np.complex64), "complex64"),
        (np.zeros((3, 4), object), "object"),
        (np.full((3, 4), 255.0), "255"),
        (np.full((3, 4), -0.1), "-0.1"),
        (np.array([[0, np.nan]]), "nan"),
        (np.array([[0, np.inf]]), "inf"),
        (np.broadcast_to(np.uint8(0), (9000, 8000)), "72,000,000"),
    ],
)
def test_unusable_arrays_are_refused_by_what_they_are(array, found):
    assert found in refusal(array, "exemplar")


@pytest.mark.parametrize("thing", [None, 3, bytearray(b"a.png"), [1, 2]])
def test_other_types_are_refused(thing):
    assert type(thing).__name__ in refusal(thing)


# Loading: files that cannot be used


def test_unusable_files(tmp_path):
    (tmp_path / "text.png").write_text("this is no picture\n" * 100)
    (tmp_path / "empty.png").touch()
    (tmp_path / "vector.eps").write_text("%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 10 10\n")
    os.mkfifo(tmp_path / "pipe.png")
    for path, found in [
        (tmp_path / "missing.png", "no such file"),
        (tmp_path / "text.png" / "a.png", "no such file"),
        (tmp_path, "is a folder"),
        (tmp_path / "text.png", "not a picture"),
        (tmp_path / "vector.eps", "not a picture"),
        (tmp_path / "empty.png", "is empty"),
        (tmp_path / "pipe.png", "not a regular file"),
        (tmp_path / ("x" * 300 + ".png"), "too long"),
        ("a\0b.png", "null"),
    ]:
        message = refusal(path, "mask")
        assert "the mask " in message
        assert str(path).replace("\0", r"\x00") in message
        assert found in message


@pytest.mark.parametrize("suffix", ["png", "jpg", "webp", "gif", "tif", "bmp", "avif", "jp2", "ppm"])
def test_truncated_files_are_refused(tmp_path, suffix):
    path = tmp_path / f"a.{suffix}"
    Image.fromarray(noise(64, 64)).save(path)
    assert load_image(path).size == (64, 64)
    data = path.read_bytes()
    for share in (0.05, 0.5, 0.9):
        path.write_bytes(data[: int(len(data) * share)])
        assert str(path) in refusal(path)


@pytest.mark.parametrize("suffix", ["png", "jpg", "webp", "gif", "tif", "bmp", "avif", "jp2"])
def test_damaged_files_raise_nothing_else(tmp_path, suffix):
    path = tmp_path / f"a.{suffix}"
    Image.fromarray(noise(12, 12)).save(path)
    data, rng = path.read_bytes(), np.random.default_rng(0)
    for _ in range(60):
        damaged = np.frombuffer(data, np.uint8).copy()
        damaged[rng.integers(0, min(len(damaged), 300), 4)] = rng.integers(0, 256, 4)
        path.write_bytes(damaged.tobytes())
        try:
            assert load_image(path).mode in ("RGB", "RGBA")
        except PictureError as error:
            assert str(path) in str(error)  # noqa: PT017 (most damaged pixels still make a picture)


@pytest.mark.parametrize("size", [(9000, 8000), (10_000, 10_000), (50_000, 50_000)])
def test_bombs_are_refused_before_they_are_decoded(tmp_path, size):
    # Under PIL's warning, above it, and above its error. No pixel is there: decoding would fail otherwise.
    (tmp_path / "bomb.png").write_bytes(png_bytes(size[0], size[1], 8, 2, b""))
    message = refusal(tmp_path / "bomb.png")
    assert f"{MAX_PIXELS:,}" in message
    assert "bomb.png" in message


def test_the_limit_itself_is_accepted(tmp_path, monkeypatch):
    monkeypatch.setattr(images, "MAX_PIXELS", 12)
    assert load_image(np.zeros((3, 4), np.uint8)).size == (4, 3)
    assert "13" in refusal(np.zeros((1, 13), np.uint8))
    assert "13" in refusal(Image.new("L", (13, 1)))


def test_pil_picture_of_a_truncated_file(tmp_path):
    Image.fromarray(noise(64, 64)).save(tmp_path / "a.png")
    data = (tmp_path / "a.png").read_bytes()
    (tmp_path / "a.png").write_bytes(data[: len(data) // 2])
    with Image.open(tmp_path / "a.png") as opened:
        assert "damaged" in refusal(opened)
    assert "0 x 3" in refusal(Image.new("RGB", (0, 3)))


def test_loading_in_threads_leaves_the_warning_filters_alone(tmp_path, monkeypatch):
    Image.fromarray(noise(8, 8)).save(tmp_path / "a.png")
    before, opened = list(warnings.filters), Image.open

    def slow(*args: Any, **options: Any) -> Image.Image:
        time.sleep(0.02)  # long enough for the threads to overlap
        return opened(*args, **options)

    monkeypatch.setattr(Image, "open", slow)
    threads = [threading.Thread(target=load_image, args=(tmp_path / "a.png",)) for _ in range(4)]
    for thread in threads:
        thread.start()
        time.sleep(0.005)
    for thread in threads:
        thread.join()
    assert list(warnings.filters) == before


def test_import_loads_no_torch():
    code = "import sys, paint_by_example.images; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


@pytest.mark.parametrize("suffix", [".png", ".jpg"])
def test_what_is_in_a_file_is_as_good_as_the_file(tmp_path, suffix):
    file = tmp_path / f"a{suffix}"
    exif = Image.Exif()
    exif[0x0112] = 6  # a quarter turn
    Image.fromarray(noise(40, 60)).save(file, exif=exif)
    content = file.read_bytes()
    assert image_size(content) == image_size(file) == (40, 60)
    for reduce in (1, 2):
        same, other = (np.asarray(load_image(source, reduce=reduce)) for source in (content, file))
        assert np.array_equal(same, other)
    assert "cannot use the source: it cannot be read" in refusal(content[: len(content) // 2])
    assert "cannot use the source: it is not a picture" in refusal(b"a.png")


# Exemplars and masks


def test_exemplar_is_laid_over_white():
    pixels = np.array([[[255, 0, 0, 255], [255, 0, 0, 0], [0, 0, 0, 51]]], np.uint8)
    loaded = load_exemplar(pixels)
    assert loaded.mode == "RGB"
    assert np.asarray(loaded).tolist() == [[[255, 0, 0], [255, 255, 255], [204, 204, 204]]]


def test_mask_threshold_and_transparency(tmp_path):
    Image.fromarray(np.array([[0, 127, 128, 255]], np.uint8)).save(tmp_path / "m.png")
    mask = load_mask(tmp_path / "m.png", (4, 1))
    assert mask.dtype == np.bool_
    assert mask.tolist() == [[False, False, True, True]]
    white = np.full((1, 3, 4), 255, np.uint8)
    white[0, :, 3] = 0, 127, 128
    assert load_mask(white, (3, 1)).tolist() == [[False, False, True]]


def test_mask_from_a_bool_array():
    mask = noise(5, 6, 1)[..., 0] > 127
    np.testing.assert_array_equal(load_mask(mask, (6, 5)), mask)


def test_mask_of_another_size():
    with pytest.raises(MaskError, match="4 x 3 pixels but the source is 3 x 4"):
        load_mask(np.ones((3, 4), bool), (3, 4))


def test_empty_mask():
    with pytest.raises(MaskError, match=r"brightest value is 1 of 255.*white.*invert"):
        load_mask(np.ones((3, 4), np.uint8), (4, 3))


def test_unreadable_mask(tmp_path):
    with pytest.raises(PictureError, match=r"the mask .*no such file"):
        load_mask(tmp_path / "m.png", (4, 3))


# Tensors


def test_image_tensor_and_back_is_exact():
    image = np.arange(256, dtype=np.uint8).reshape(8, 32)[..., None].repeat(3, axis=2)
    image[..., 1] = 255 - image[..., 0]
    image.setflags(write=False)
    tensor = image_tensor(image)
    assert str(tensor.dtype) == "torch.float32"
    assert tuple(tensor.shape) == (1, 3, 8, 32)
    assert (tensor.min().item(), tensor.max().item()) == (-1, 1)
    assert tensor[0, 0, 0, 1].item() == pytest.approx(1 / 127.5 - 1)
    assert tensor[0, 1, 0, 1].item() == pytest.approx(254 / 127.5 - 1)
    (back,) = tensor_image(tensor)
    np.testing.assert_array_equal(back, image)


def test_tensor_image_rounds_and_clamps():
    import torch

    x = torch.tensor([-3.0, -1.0, 0.6 / 127.5 - 1, 3.0]).expand(2, 3, 1, 4).half()
    pictures = tensor_image(x.requires_grad_())
    assert len(pictures) == 2
    assert pictures[1].dtype == np.uint8
    assert pictures[1][0, :, 2].tolist() == [0, 0, 1, 255]


def test_mask_tensor():
    mask = np.array([[True, False, True]])
    tensor = mask_tensor(mask)
    assert str(tensor.dtype) == "torch.float32"
    assert tensor.tolist() == [[[[1.0, 0.0, 1.0]]]]


# Saving


@pytest.mark.parametrize("suffix", ["png", "PNG", "webp", "tif", "tiff", "bmp"])
def test_results_are_saved_without_loss(tmp_path, suffix):
    pixels = noise(13, 17)
    save_image(Image.fromarray(pixels), tmp_path / f"a.{suffix}")
    np.testing.assert_array_equal(np.asarray(load_image(tmp_path / f"a.{suffix}")), pixels)
    assert os.listdir(tmp_path) == [f"a.{suffix}"]


@pytest.mark.parametrize("suffix", ["png", "webp", "tif"])
def test_transparency_and_profile_are_saved(tmp_path, suffix):
    picture = Image.fromarray(noise(6, 6, 4))
    picture.info["icc_profile"] = b"profile"
    save_image(picture, str(tmp_path / f"a.{suffix}"))
    loaded = load_image(tmp_path / f"a.{suffix}")
    np.testing.assert_array_equal(np.asarray(loaded), np.asarray(picture))
    assert loaded.info == {"icc_profile": b"profile"}


@pytest.mark.parametrize("suffix", ["jpg", "jpeg", "bmp"])
def test_formats_without_transparency_get_white(tmp_path, suffix):
    save_image(Image.new("RGBA", (8, 8), (255, 0, 0, 0)), tmp_path / f"a.{suffix}")
    loaded = load_image(tmp_path / f"a.{suffix}")
    assert loaded.mode == "RGB"
    assert np.asarray(loaded).min() >= 250


def test_png_carries_texts(tmp_path):
    save_image(Image.new("RGB", (2, 2)), tmp_path / "a.png", {"seed": "7", "exemplar": "椅子.jpg"})
    with Image.open(tmp_path / "a.png") as opened:
        assert opened.info == {"seed": "7", "exemplar": "椅子.jpg"}
    save_image(Image.new("RGB", (2, 2)), tmp_path / "a.jpg", {"seed": "7"})
    assert load_image(tmp_path / "a.jpg").size == (2, 2)


def test_saved_file_has_the_usual_permissions(tmp_path):
    (tmp_path / "usual").touch()
    save_image(Image.new("RGB", (2, 2)), tmp_path / "a.png")
    assert (tmp_path / "a.png").stat().st_mode == (tmp_path / "usual").stat().st_mode


def test_failed_save_keeps_the_old_file_and_leaves_nothing(tmp_path, monkeypatch):
    old = tmp_path / "a.webp"
    save_image(Image.new("RGB", (2, 2), "red"), old)
    content = old.read_bytes()
    with pytest.raises(PictureError, match=r"cannot write .*a\.webp"):
        save_image(Image.new("RGB", (16_384, 1)), old)  # longer than WebP can hold
    assert os.listdir(tmp_path) == ["a.webp"]
    assert old.read_bytes() == content

    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "replace", interrupted)
    with pytest.raises(KeyboardInterrupt):
        save_image(Image.new("RGB", (2, 2), "blue"), old)
    assert os.listdir(tmp_path) == ["a.webp"]
    assert old.read_bytes() == content


def test_save_is_never_seen_half_written(tmp_path, monkeypatch):
    target, seen = tmp_path / "a.png", []

    def watching(beside: Path, path: Path) -> None:
        seen.append((beside.parent, path, target.exists(), load_image(beside).size))

    monkeypatch.setattr(os, "replace", watching)
    save_image(Image.new("RGB", (3, 2)), target)
    assert seen == [(tmp_path, target, False, (3, 2))]


def test_places_that_cannot_be_written(tmp_path):
    picture = Image.new("RGB", (2, 2))
    (tmp_path / "file").write_text("kept")
    (tmp_path / "folder.png").mkdir()
    for path in (tmp_path / "missing" / "a.png", tmp_path / "file" / "a.png", tmp_path / "folder.png"):
        with pytest.raises(PictureError) as caught:
            save_image(picture, path)
        assert str(path) in str(caught.value)
    for name in ("a.gif", "a.xyz", "a"):
        with pytest.raises(PictureError, match=r"suffix.*\.png"):
            save_image(picture, tmp_path / name)
    assert sorted(os.listdir(tmp_path)) == ["file", "folder.png"]


# Strips


def test_picture_strip():
    pictures = [
        Image.new("RGB", (10, 20), "red"),
        Image.new("RGBA", (40, 20), (0, 0, 0, 0)),
        Image.new("L", (20, 20), 0),
    ]
    strip = picture_strip(pictures, height=40, gap=5)
    assert strip.mode == "RGB"
    assert strip.size == (5 + 20 + 5 + 80 + 5 + 40 + 5, 5 + 40 + 5)
    pixels = np.asarray(strip)
    assert (pixels[5:45, 5:25] == (255, 0, 0)).all()
    assert (pixels[5:45, 115:155] == 0).all()
    assert (pixels[:, 25:115] == 255).all()


def test_picture_strip_writes_labels_under_the_pictures():
    picture = Image.new("RGB", (20, 20), "white")
    plain = picture_strip([picture, picture], height=40)
    labelled = picture_strip([picture, picture], height=40, labels=["a much longer label", ""])
    assert labelled.height > plain.height
    assert labelled.width > plain.width  # a label is not cut off
    ink = np.asarray(labelled).min(axis=(1, 2)) < 128
    assert not ink[:48].any()
    assert ink[48:].any()
    with pytest.raises(ValueError, match="shorter"):
        picture_strip([picture, picture], labels=["one"])
