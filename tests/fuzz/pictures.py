"""Pictures, masks, arrays and boxes."""

import functools
import io
import os
import struct
import zlib
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
import torch
from PIL import Image, features

from paint_by_example.crops import box_mask, context_crop, parse_box
from paint_by_example.images import image_size, load_exemplar, load_image, load_mask
from paint_by_example.inputs import mask_tensors, source_tensors
from tests import tiny
from tests.fuzz import damage

SIDES = (0, 1, 2, 7999, 8000, 8001, 65535, 65536, 2**31 - 1)


def kept(mode: str, form: str, **options: Any) -> bytes:
    file = io.BytesIO()
    tiny.picture(24, 18, "RGB").convert(mode).save(file, form, **options)
    return file.getvalue()


@functools.cache
def whole() -> list[bytes]:
    """A picture in every format and mode that is read."""
    exif = Image.Exif()
    exif[0x0112] = 6
    grey = Image.fromarray(np.arange(24 * 18, dtype=np.uint16).reshape(18, 24) * 100)
    real = Image.fromarray(np.linspace(0, 1, 24 * 18, dtype=np.float32).reshape(18, 24))
    sixteen, floats = io.BytesIO(), io.BytesIO()
    grey.save(sixteen, "PNG")
    real.save(floats, "TIFF")
    found = [kept(mode, "PNG") for mode in ("RGB", "RGBA", "L", "LA", "P", "1")]
    found += [kept("RGB", "PNG", exif=exif, icc_profile=b"not a profile"), sixteen.getvalue(), floats.getvalue()]
    found += [kept("P", "PNG", transparency=3), kept("L", "PNG", transparency=3)]
    found += [kept(mode, "JPEG", exif=exif) for mode in ("RGB", "L", "CMYK")]
    found += [
        kept("RGB", "JPEG", progressive=True),
        kept("RGB", "WEBP", lossless=True),
        kept("RGBA", "WEBP", exif=exif),
    ]
    found += [kept("RGB", "TIFF", compression=how) for how in (None, "tiff_lzw", "tiff_deflate", "packbits", "jpeg")]
    found += [kept("1", "TIFF", compression="group4"), kept("CMYK", "TIFF"), kept("RGB", "BMP"), kept("P", "BMP")]
    found += [kept("P", "GIF"), kept("RGB", "JPEG2000"), kept("RGB", "PPM"), kept("1", "PPM")]
    frames = [tiny.picture(24, 18, "P", seed) for seed in range(3)]
    animated = io.BytesIO()
    frames[0].save(animated, "GIF", save_all=True, append_images=frames[1:])
    return [*found, animated.getvalue(), *([kept("RGB", "AVIF")] if features.check("avif") else [])]


def chunk(kind: bytes, content: bytes) -> bytes:
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))


def png(width: int, height: int, depth: int, colour: int, rows: bytes, *between: bytes) -> bytes:
    """A PNG file that claims a size, with its checksums as they should be."""
    head = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + head + b"".join(between) + chunk(b"IDAT", rows) + chunk(b"IEND", b"")


@functools.cache
def zeros(size: int) -> bytes:
    return zlib.compress(bytes(size), 9)


def bomb(rng: Random) -> bytes:
    """Little that claims to be much, or becomes much."""
    width, height = rng.choice(SIDES), rng.choice(SIDES)
    kind = rng.randrange(8)
    if kind == 0:
        return png(width, height, rng.choice((1, 8, 16)), rng.choice((0, 2, 3, 6)), zeros(1000))
    if kind == 1:  # of the largest size, with all its pixels
        return png(8000, 8000, 8, 0, zeros(8000 * 8001)) if rng.random() < 0.1 else png(8000, 1, 8, 6, zeros(32001))
    if kind == 2:  # text and colour profile of 100 MB
        named = chunk(rng.choice((b"zTXt", b"iCCP")), b"name\0\0" + zeros(100_000_000))
        return png(4, 4, 8, 2, zlib.compress(bytes(52)), named)
    if kind == 3:
        return f"{rng.choice(('P5', 'P6', 'P4', 'Pf'))}\n{width} {height}\n{rng.choice((1, 255, 65535))}\n".encode()
    if kind == 4:
        return b"GIF89a" + struct.pack("<HH", width & 0xFFFF, height & 0xFFFF) + whole()[-2][10:]
    if kind == 5:
        head = struct.pack(
            "<IiiHHIIiiII", 40, width, -height, 1, rng.choice((1, 8, 24)), rng.choice((0, 1)), 0, 1, 1, 0, 0
        )
        return b"BM" + struct.pack("<IHHI", 54, 0, 0, 54) + head + bytes(100)
    tags = [(256, 4, 1, width), (257, 4, 1, height), (258, 3, 1, 8), (259, 3, 1, rng.choice((1, 5, 8, 32773)))]
    tags += [(262, 3, 1, 1), (273, 4, 1, 8), (278, 4, 1, height), (279, 4, 1, rng.choice((10, 2**31)))]
    if kind == 6:
        tags += [(270, 2, rng.choice(damage.NUMBERS), 8)] * 500
    entries = b"".join(struct.pack("<HHII", *tag) for tag in tags)
    return b"II*\0" + struct.pack("<IH", 8, len(tags)) + entries + struct.pack("<I", rng.choice((0, 8)))  # 8: again


def bad(rng: Random) -> bytes:
    """A picture's file with something wrong."""
    return bomb(rng) if rng.random() < 0.1 else damage.damaged(rng, rng.choice(whole()))


class Pictures:
    """Files, and what is in them, to the door that all pictures come through."""

    cases = 3000

    def __init__(self, folder: Path) -> None:
        whole()

    def attempt(self, rng: Random, folder: Path) -> None:
        content: Any = bad(rng)
        if rng.random() < 0.5:
            path = folder / rng.choice(("a.png", "a.jpg", "\x1b[31m.png", "é.webp", "a\nb.tif", "-x.gif"))
            path.write_bytes(content)
            content = path
        if rng.random() < 0.05:
            content = os.path.join(folder, rng.choice(damage.NAMES))
        which = rng.randrange(4)
        if which == 0:
            image_size(content)
        elif which == 1:
            load_exemplar(content)
        else:
            load_image(content, reduce=rng.choice((1, 1, 8)))


class Masks:
    """Masks and boxes for a source of some size."""

    cases = 1500

    def __init__(self, folder: Path) -> None:
        whole()

    def attempt(self, rng: Random, folder: Path) -> None:
        size = (24, 18) if rng.random() < 0.7 else (rng.choice((1, 24, 8000)), rng.choice((1, 18, 4000)))
        kind = rng.random()
        if kind < 0.6:
            mask = load_mask(bad(rng), size)
        elif kind < 0.8:
            numbers = [str(damage.value(rng)) if rng.random() < 0.3 else rng.randrange(-50, 50) for _ in range(4)]
            mask = box_mask(parse_box(",".join(map(str, numbers))), size)
        else:
            sides = [rng.choice((-(2**63), -1, 0, 1, 20, 2**31, 2**63, 10**30)) for _ in range(4)]
            mask = box_mask((sides[0], sides[1], sides[2], sides[3]), size)
        context_crop(mask)


class Arrays:
    """Arrays and tensors of any shape, type and range."""

    cases = 1000
    TYPES = ("uint8", "uint16", "uint32", "int8", "int64", "float16", "float32", "float64", "bool", "complex64", "U3")
    SHAPES = (
        (),
        (3,),
        (4, 5),
        (0, 5),
        (4, 5, 1),
        (4, 5, 2),
        (4, 5, 3),
        (4, 5, 4),
        (2, 4, 5, 3),
        (0, 0, 3),
        (1, 1, 4, 5),
    )

    def __init__(self, folder: Path) -> None:
        pass

    def attempt(self, rng: Random, folder: Path) -> None:
        shape = rng.choice(self.SHAPES)
        numbers = np.random.default_rng(rng.getrandbits(32)).random(shape) * rng.choice((1, 1, 255, -1, 1e300, 2))
        if numbers.size and rng.random() < 0.3:
            numbers.flat[rng.randrange(numbers.size)] = rng.choice((np.nan, np.inf, -np.inf))
        with np.errstate(all="ignore"):
            array: Any = numbers.astype(rng.choice(self.TYPES))
        which = rng.randrange(5)
        if which == 0:
            load_mask(array, (5, 4))
        elif which == 1:
            load_image(array)
        elif which == 2:
            modes = (
                "1",
                "L",
                "LA",
                "La",
                "P",
                "PA",
                "RGB",
                "RGBA",
                "RGBa",
                "RGBX",
                "CMYK",
                "YCbCr",
                "HSV",
                "LAB",
                "I",
                "F",
            )
            load_image(Image.new(rng.choice((*modes, "I;16", "I;16B")), (rng.choice((0, 1, 5)), 4)))
        elif array.dtype.kind != "U":
            if array.dtype == np.uint32:
                array = array.astype(np.int32)
            tensor = torch.from_numpy(np.ascontiguousarray(array))
            given = rng.choice((tensor, [tensor, tensor], [tensor, array], [array, array], (), None, 3, "x"))
            source_tensors(given) if which == 3 else mask_tensors(given)
