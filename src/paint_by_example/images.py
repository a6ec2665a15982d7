"""The door: files, PIL pictures and arrays in, arrays and tensors out, and results to files.

    load_image, load_mask -> (crops: the square around the mask) -> image_tensor, mask_tensor
    -> (the model) -> tensor_image -> (crops: pasted back) -> save_image

Everywhere a mask is 1 / True where the picture is repainted and 0 / False where it is kept, a size is (width, height),
a box is (left, top, right, bottom) with right and bottom exclusive, and an array is (H, W) or (H, W, 3).
"""

from __future__ import annotations

import contextlib
import io
import math
import os
import stat
import threading
import uuid
import warnings
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
from numpy.typing import NDArray
from PIL import ExifTags, Image, UnidentifiedImageError
from PIL.PngImagePlugin import PngInfo

from .errors import MaskError, PictureError, UserError

if TYPE_CHECKING:
    from torch import Tensor

Picture: TypeAlias = str | os.PathLike[str] | bytes | Image.Image | NDArray[Any]
Box: TypeAlias = tuple[int, int, int, int]  # left, top, right, bottom; right and bottom exclusive
Size: TypeAlias = tuple[int, int]  # width, height, as in PIL

MAX_PIXELS = 64_000_000  # of any picture that is opened: 8000 x 8000, 192 MB once decoded
IMAGE_SIZE = 512  # side of the square that the released model paints
EXEMPLAR_SIZE = 224  # side of the square that CLIP ViT-L/14 sees
MASK_THRESHOLD = 128  # a mask value of at least this, of 255, is repainted

# Formats that are opened. A list, because PIL knows others that run a program (EPS) or recognise any file (TGA).
READABLE = ("PNG", "JPEG", "WEBP", "TIFF", "BMP", "GIF", "JPEG2000", "PPM", "AVIF")  # AVIF: from PIL 11.3 on

READABLE_SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".tif", ".tiff", ".bmp")  # of pictures looked for in a folder

# Suffix -> PIL's format and options. All are lossless but JPEG.
WRITABLE: dict[str, tuple[str, dict[str, Any]]] = {
    # Runs only, no repeats further back: of a photograph's file a quarter of the time, and about the same size.
    ".png": ("PNG", {"compress_type": zlib.Z_RLE}),
    ".webp": ("WEBP", {"lossless": True, "exact": True}),  # exact: keep the colour of transparent pixels too
    ".tif": ("TIFF", {"compression": "tiff_deflate"}),
    ".tiff": ("TIFF", {"compression": "tiff_deflate"}),
    ".bmp": ("BMP", {}),
    ".jpg": ("JPEG", {"quality": 95, "subsampling": 0}),
    ".jpeg": ("JPEG", {"quality": 95, "subsampling": 0}),
}
OPAQUE = ("BMP", "JPEG")  # formats that lose transparency

# EXIF orientation -> the move that sets the picture upright. PIL's own exif_transpose also writes the remaining
# tags again, and fails on pictures where one of those is damaged.
UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}

TURNING = [UPRIGHT[orientation] for orientation in (5, 6, 7, 8)]  # moves that exchange width and height

# What opening a file may raise -> what the user is told.
PROBLEMS: dict[type[Exception], str] = {
    FileNotFoundError: "there is no such file; check the path",
    NotADirectoryError: "there is no such file; check the path",
    PermissionError: "it may not be read; check its permissions",
    UnidentifiedImageError: f"it is not a picture of a known format ({', '.join(READABLE)}); convert it, say to PNG",
    Image.DecompressionBombError: f"it has more than {MAX_PIXELS:,} pixels; make it smaller first",
}

# Warning filters belong to the whole process: two threads of the server must not exchange them at once.
_opening = threading.Lock()


# Loading


def load_image(picture: Picture, what: str = "source", reduce: int = 1) -> Image.Image:
    """Loads a picture of any kind as 8 bits per channel, upright.

    A file's EXIF orientation is applied, and of an animation the first frame is taken. Grey pictures of 16 bits are
    scaled, not clipped. Pictures of mode `I` and `F` do not say what white is: it is taken to be the smallest of 255
    and 65535 (`I`), or of 1, 255 and 65535 (`F`), that no pixel exceeds. An embedded RGB colour profile is kept in
    `info["icc_profile"]`, from where `save_image` writes it; the pixel values are not converted by it.

    Args:
        picture: A path, what is in such a file, a PIL picture, or an array of shape (H, W), (H, W, 1), (H, W, 3) or
            (H, W, 4) and type uint8, uint16, bool, or float in [0, 1].
        what: The picture's role, for messages.
        reduce: 1, 2, 4 or 8: a JPEG file is decoded at that part of its sides, rounded up, which is much quicker.
            Other formats come at their full size.

    Returns:
        A new picture of mode RGBA where the given one has an alpha channel or a transparent colour, otherwise RGB.

    Raises:
        PictureError: There is no such file, it is not a picture or damaged, or it has more than `MAX_PIXELS`.
    """
    name = _name(picture, what)
    with _plain_errors(name):
        return _decode(picture, name, reduce)


def image_size(file: str | os.PathLike[str] | bytes, what: str = "source") -> Size:
    """Reads the size that a picture file has once it is upright, without decoding its pixels.

    Args:
        file: Its path, or what is in it.
        what: See `load_image`.

    Returns:
        Width and height.

    Raises:
        PictureError: See `load_image`; damage to the pixels is not found.
    """
    name = _name(file, what)
    with _plain_errors(name), _open(file, name) as opened:
        _check_size(opened.size, name)
        width, height = opened.size
        return (height, width) if _upright_move(opened) in TURNING else (width, height)


def load_exemplar(picture: Picture) -> Image.Image:
    """Loads the picture of what to paint, as `load_image` does, with transparency laid over white.

    Args:
        picture: See `load_image`.

    Returns:
        A picture of mode RGB, of any size.

    Raises:
        PictureError: See `load_image`.
    """
    return over(load_image(picture, "exemplar"), "white")


def load_mask(mask: Picture, size: Size) -> NDArray[np.bool_]:
    """Loads a mask: white is repainted, black and transparent are kept.

    Args:
        mask: See `load_image`. Its luminance over black, of 255, is compared with `MASK_THRESHOLD`.
        size: Width and height of the source.

    Returns:
        An array (H, W), True = repaint, with at least one True.

    Raises:
        PictureError: See `load_image`.
        MaskError: The mask has another size than the source, or selects nothing.
    """
    picture = load_image(mask, "mask")
    if picture.size != size:
        raise MaskError(
            f"the mask is {_times(picture.size)} pixels but the source is {_times(size)};"
            " draw the mask on a copy of the source"
        )
    values = np.asarray(over(picture, "black").convert("L"))
    selected: NDArray[np.bool_] = values >= MASK_THRESHOLD
    if not selected.any():
        raise MaskError(
            f"the mask selects nothing: its brightest value is {values.max()} of 255, and white"
            f" (at least {MASK_THRESHOLD}) marks what is repainted; if black or transparency marks it, invert the mask"
        )
    return selected


@contextlib.contextmanager
def _plain_errors(name: str) -> Iterator[None]:
    """Says of whatever happens while a picture is read what the user can do."""
    try:
        yield
    except UserError:
        raise
    except Exception as error:  # a decoder raises whatever it stumbles over in a damaged file, not only OSError
        problem = next((text for kind, text in PROBLEMS.items() if isinstance(error, kind)), None)
        problem = problem or f"it cannot be read ({error}) and may be damaged or cut short; save or download it again"
        raise PictureError(f"cannot use {name}: {problem}") from error


def _decode(picture: object, name: str, reduce: int = 1) -> Image.Image:
    if isinstance(picture, Image.Image):
        return _normalise(picture, name)
    if isinstance(picture, np.ndarray):
        return _normalise(_array_picture(picture, name), name)
    if isinstance(picture, str | os.PathLike | bytes):
        with _open(picture, name) as opened:
            if reduce > 1:
                _check_size(opened.size, name)
                width, height = opened.size
                opened.draft(opened.mode, (max(width // reduce, 1), max(height // reduce, 1)))
            return _normalise(opened, name)
    raise PictureError(f"cannot use {name}: it is a {type(picture).__name__}; give a path, a PIL picture or an array")


def _name(picture: object, what: str) -> str:
    """How messages call a picture."""
    return f"the {what} {os.fspath(picture)}" if isinstance(picture, str | os.PathLike) else f"the {what}"


def _open(file: str | os.PathLike[str] | bytes, name: str) -> Image.Image:
    """Opens a picture file, or what is in it, without decoding it yet."""
    if not isinstance(file, bytes):
        _check_file(Path(file), name)
    with _opening, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of damaged metadata, and of sizes that _check_size judges anyway
        return Image.open(io.BytesIO(file) if isinstance(file, bytes) else file, formats=READABLE)


def _check_file(path: Path, name: str) -> None:
    status = path.stat()
    if stat.S_ISDIR(status.st_mode):
        raise PictureError(f"cannot use {name}: it is a folder; name a file in it")
    if not stat.S_ISREG(status.st_mode):
        raise PictureError(f"cannot use {name}: it is not a regular file; copy its content to one")
    if status.st_size == 0:
        raise PictureError(f"cannot use {name}: the file is empty; save or download it again")


def _check_size(size: Size, name: str) -> None:
    if min(size) == 0:
        raise PictureError(f"cannot use {name}: it is {_times(size)} pixels; both sides must be at least 1")
    if math.prod(size) > MAX_PIXELS:
        raise PictureError(
            f"cannot use {name}: it is {_times(size)} = {math.prod(size):,} pixels"
            f" and at most {MAX_PIXELS:,} are accepted; make it smaller first"
        )


def _normalise(image: Image.Image, name: str) -> Image.Image:
    """Decodes a picture of any mode into a new one of mode RGB or RGBA, upright."""
    _check_size(image.size, name)
    image.load()
    move = _upright_move(image)
    # The profile of another colour space does not describe the RGB values that come out.
    profile = image.info.get("icc_profile") if image.mode in ("RGB", "RGBA", "P") else None
    if image.mode == "F" or image.mode.startswith("I"):
        image = _eight_bits(image, name)
    elif image.mode == "La":
        image = image.convert("LA")  # PIL knows no direct way from premultiplied grey
    image = image.convert("RGBA" if image.has_transparency_data else "RGB")
    image.info = {"icc_profile": profile} if profile else {}
    return image.transpose(move) if move is not None else image


def _upright_move(image: Image.Image) -> Image.Transpose | None:
    """What sets a picture upright, as its metadata say."""
    try:
        return UPRIGHT.get(image.getexif().get(ExifTags.Base.Orientation, 1))
    except Exception:  # metadata is parsed only here; a picture whose metadata is damaged is still a picture
        return None


def _eight_bits(image: Image.Image, name: str) -> Image.Image:
    """Scales a grey picture of mode I;16, I or F, whose values PIL's convert would clip at 255."""
    values = np.asarray(image)
    whites = {"F": (1, 255, 65535), "I": (255, 65535)}.get(image.mode, (65535,))
    low, high = values.min(), values.max()
    # The comparison is written so that NaN fails it.
    white = next((white for white in whites if low >= 0 and high <= white), None)
    if white is None:
        raise PictureError(
            f"cannot use {name}: its values range from {low:g} to {high:g} and 0 to {whites[-1]} is accepted;"
            " save it with 8 or 16 bits"
        )
    grey = Image.fromarray(_scale(values, white))
    if (key := image.info.get("transparency")) is not None:  # the one value that is transparent, at full depth
        grey.putalpha(Image.fromarray(_scale(values != key, 1)))
    return grey


def _array_picture(array: NDArray[Any], name: str) -> Image.Image:
    """Turns an array into a PIL picture of mode L, RGB or RGBA."""
    if array.ndim not in (2, 3) or array.shape[2:] not in ((), (1,), (3,), (4,)):
        raise PictureError(
            f"cannot use {name}: the array has shape {array.shape}; give (H, W), (H, W, 1), (H, W, 3) or (H, W, 4)"
        )
    _check_size((array.shape[1], array.shape[0]), name)
    kind, bits = array.dtype.kind, 8 * array.dtype.itemsize
    if kind in "bf":
        white = 1
    elif kind == "u" and bits <= 16:
        white = 2**bits - 1
    else:
        raise PictureError(
            f"cannot use {name}: the array is of {array.dtype}; give uint8, uint16, bool or float in [0, 1]"
        )
    low, high = array.min(), array.max()
    if not (low >= 0 and high <= white):  # written so that NaN fails it
        raise PictureError(
            f"cannot use {name}: the array's values range from {low:g} to {high:g}; give floats in [0, 1], or uint8"
        )
    if array.shape[2:] == (1,):
        array = array[:, :, 0]
    return Image.fromarray(_scale(array, white))


def _scale(values: NDArray[Any], white: int) -> NDArray[np.uint8]:
    """Scales values in [0, white] to uint8 in [0, 255], rounding."""
    if values.dtype == np.uint8:
        return values
    return np.rint(values * np.float32(255 / white)).astype(np.uint8)


def over(image: Image.Image, colour: str) -> Image.Image:
    """Lays a picture of mode RGB or RGBA over a colour; the result is RGB."""
    if image.mode == "RGB":
        return image
    ground = Image.new("RGBA", image.size, colour)
    ground.alpha_composite(image)
    return ground.convert("RGB")


def _times(size: Size) -> str:
    return f"{size[0]} x {size[1]}"


# Tensors


def image_tensor(image: NDArray[np.uint8]) -> Tensor:
    """Turns a picture into what the autoencoder takes.

    Args:
        image: An array (H, W, 3), [0, 255].

    Returns:
        A float32 tensor (1, 3, H, W), [-1, 1].
    """
    import torch

    return torch.from_numpy(np.moveaxis(image, 2, 0)[None].astype(np.float32, order="C")) / 127.5 - 1


def mask_tensor(mask: NDArray[np.bool_]) -> Tensor:
    """Turns a mask into a tensor.

    Args:
        mask: An array (H, W), True = repaint.

    Returns:
        A float32 tensor (1, 1, H, W), {0, 1}, 1 = repaint.
    """
    import torch

    return torch.from_numpy(mask[None, None].astype(np.float32))


def tensor_image(x: Tensor) -> list[NDArray[np.uint8]]:
    """Turns what the autoencoder gives into pictures, rounding and clamping.

    Args:
        x: A tensor (B, 3, H, W) of any float type on any device, about [-1, 1].

    Returns:
        B arrays (H, W, 3), [0, 255].
    """
    import torch

    values = ((x.detach().float() + 1) * 127.5).round().clamp(0, 255)
    return list(values.to(torch.uint8).permute(0, 2, 3, 1).cpu().numpy())


# Saving


def save_image(image: Image.Image, path: str | os.PathLike[str], info: dict[str, str] | None = None) -> None:
    """Saves a picture in the format of its suffix, beside its place first, so that no half-written file is ever seen.

    PNG, WebP, TIFF and BMP files are lossless. JPEG files, at quality 95, are not: pixels that an edit kept are then
    no longer bit-identical to the source's. JPEG and BMP files hold no transparency; it is laid over white.

    Args:
        image: A picture of mode RGB or RGBA.
        path: Ends in one of the suffixes in `WRITABLE`; its folder exists.
        info: Names and texts to store in the file (PNG only; other formats leave them out).

    Raises:
        PictureError: The suffix is unknown, or the file cannot be written.
    """
    path = Path(path)
    if path.suffix.lower() not in WRITABLE:
        found = f"the suffix {path.suffix} is unknown" if path.suffix else "its name has no suffix"
        raise PictureError(f"cannot write {path}: {found}; use one of {', '.join(WRITABLE)}")
    file_format, options = WRITABLE[path.suffix.lower()]
    options = options | {"icc_profile": image.info.get("icc_profile")}
    if file_format in OPAQUE:
        image = over(image, "white")
    if file_format == "PNG" and info:
        text = PngInfo()
        for key, value in info.items():
            text.add_text(key, value)
        options = options | {"pnginfo": text}
    beside = path.with_name(f".{uuid.uuid4().hex}.part")
    try:
        image.save(beside, format=file_format, **options)
        os.replace(beside, path)
    except Exception as error:  # encoders, like decoders, raise more than OSError
        problem = error.strerror if isinstance(error, OSError) and error.strerror else error
        raise PictureError(f"cannot write {path}: {problem}; check its folder, or write it elsewhere") from error
    finally:
        with contextlib.suppress(OSError):
            beside.unlink()
