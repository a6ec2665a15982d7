"""Tensors in files: read without executing anything in them, written without holding them all in memory.

Read tensors are mapped from the file: each costs memory when it is used, and the system can take that back at any time.
"""

from __future__ import annotations

import contextlib
import json
import pickle
import re
import shutil
import struct
from collections import OrderedDict
from collections.abc import Callable, Collection, Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file
from torch import Tensor

from .errors import ModelError

# What trainers note beside the weights is made of these. Of all of them only the names are read, see `_StandIn`.
BOOKKEEPING = {"_codecs", "argparse", "collections", "ldm", "numpy", "omegaconf", "pathlib", "typing"} | {
    *("lightning", "lightning_fabric", "lightning_utilities", "pytorch_lightning")
}

_DTYPES = {  # names in the header of a safetensors file
    torch.float64: "F64",
    torch.float32: "F32",
    torch.float16: "F16",
    torch.bfloat16: "BF16",
    torch.int64: "I64",
    torch.int32: "I32",
    torch.int16: "I16",
    torch.int8: "I8",
    torch.uint8: "U8",
    torch.bool: "BOOL",
}


class _StandIn:
    """Takes the place of whatever class a trainer's bookkeeping names, so that nothing of it is imported or called."""

    def __new__(cls, *_: Any, **__: Any) -> _StandIn:
        """Whatever the arguments."""
        return super().__new__(cls)

    def __setstate__(self, state: object) -> None:
        """Whatever the state."""


class _StandInDict:
    """The same for kinds of dictionaries: torch fills only the common ones."""

    def __new__(cls, *_: Any, **__: Any) -> OrderedDict[Any, Any]:  # type: ignore[misc]
        """Whatever the arguments."""
        return OrderedDict()


def read_tensors(path: Path) -> dict[str, Tensor]:
    """The tensors of a file by name, whether safetensors or saved by ``torch.save``.

    Args:
        path: of the file; what it is shows in its first bytes, whatever its suffix. In a trainer's file the tensors
            are those under ``state_dict``.

    Raises:
        ModelError: if it is neither, is damaged, holds no tensors or would have to be executed to be read.
    """
    try:
        with path.open("rb") as file:
            head = file.read(64)
    except OSError as error:
        raise ModelError(f"cannot read {path}: {error.strerror}") from error
    if head.startswith(b"version https://git-lfs"):
        raise ModelError(f"{path} is a pointer of Git LFS in the weights' place; fetch them with: git lfs pull")
    if head[8:9] == b"{":
        try:
            tensors = load_file(path)
        except (SafetensorError, OSError, ValueError) as error:
            raise ModelError(f"{path} is damaged, fetch it again: {error}") from error
    elif head[:2] == b"PK" or head[:1] == b"\x80":
        tensors = _read_pickle(path, is_zip=head[:2] == b"PK")
    else:
        raise ModelError(f"{path} is no file of weights: neither safetensors nor saved by torch.save")
    if not tensors:
        raise ModelError(f"{path} holds no tensors")
    return tensors


def _read_pickle(path: Path, is_zip: bool) -> dict[str, Tensor]:
    try:
        unknown = torch.serialization.get_unsafe_globals_in_checkpoint(path) if is_zip else []
        if dangerous := [name for name in unknown if name.partition(".")[0] not in BOOKKEEPING]:
            raise ModelError(_refusal(path, dangerous))
        stand_ins: list[Any] = [(_StandInDict if name.lower().endswith("dict") else _StandIn, name) for name in unknown]
        with torch.serialization.safe_globals(stand_ins):
            # without zip, as before torch 1.6, a file cannot be mapped
            content = torch.load(path, map_location="cpu", weights_only=True, mmap=is_zip)
    except pickle.UnpicklingError as error:
        found = re.search(r"GLOBAL ([\w.]+)|function <built-in function (\w+)>", f"{error}")
        names = [found[1] or found[2]] if found else []
        raise ModelError(_refusal(path, names)) from error
    except ModelError:
        raise
    except Exception as error:  # zip, pickle and torch each have kinds of their own for a damaged file
        reason = f"{error}".partition("\n")[0] or type(error).__name__
        raise ModelError(f"{path} is damaged, fetch it again: {reason}") from error
    if isinstance(content, dict) and isinstance(content.get("state_dict"), dict):
        content = content["state_dict"]
    if not isinstance(content, dict):
        raise ModelError(f"{path} holds a {type(content).__name__}; tensors by name are expected")
    return {str(name): value.detach() for name, value in content.items() if isinstance(value, Tensor)}


def _refusal(path: Path, names: list[str]) -> str:
    what = f"it asks for {', '.join(sorted(names)[:5])}" if names else "it asks for more than tensors"
    return f"{path} is refused, because reading it would execute code: {what}; use a .safetensors file of this model"


def read_metadata(path: Path) -> dict[str, str]:
    """The notes in the header of a safetensors file; none for files of other kinds."""
    try:
        with safe_open(path, framework="pt") as file:
            return dict(file.metadata() or {})
    except (SafetensorError, OSError):
        return {}


def write_tensors(
    path: Path,
    tensors: Mapping[str, Tensor],
    dtype: torch.dtype | None = None,
    metadata: Mapping[str, str] | None = None,
    as_they_are: Collection[str] = (),
    on_bytes: Callable[[int], None] | None = None,
) -> None:
    """Write a safetensors file, one tensor after another: no more than one is converted and held at a time.

    Args:
        path: file to write.
        tensors: by name.
        dtype: of the floating-point ones in the file; as they are if not given.
        metadata: notes for the header.
        as_they_are: names of tensors that keep their type.
        on_bytes: called with the number of bytes written, for progress.

    Raises:
        ModelError: if a number is too large for the type.
    """
    # The largest elements first, so that every tensor starts at a multiple of its elements' size.
    kinds = {
        name: tensor.dtype if name in as_they_are else stored_type(tensor, dtype) for name, tensor in tensors.items()
    }
    order = sorted(tensors, key=lambda name: -kinds[name].itemsize)
    header: dict[str, Any] = {"__metadata__": {"format": "pt", **(metadata or {})}}
    end = 0
    for name in order:
        start, end = end, end + tensors[name].numel() * kinds[name].itemsize
        shape = list(tensors[name].shape)
        header[name] = {"dtype": _DTYPES[kinds[name]], "shape": shape, "data_offsets": [start, end]}
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    with path.open("wb") as file:
        file.write(struct.pack("<Q", len(text)) + text)
        for name in order:
            tensor = tensors[name].detach().cpu()
            converted = tensor.to(kinds[name]).contiguous()
            if (
                kinds[name] == torch.float16 != tensor.dtype
                and not converted.isfinite().all()
                and tensor.isfinite().all()
            ):
                raise ModelError(
                    f"{name} has numbers up to {tensor.abs().max():g}, too large for float16; use bfloat16"
                )
            file.write(converted.flatten().view(torch.uint8).numpy().data)
            if on_bytes is not None:
                on_bytes(converted.numel() * converted.itemsize)


def stored_type(tensor: Tensor, dtype: torch.dtype | None) -> torch.dtype:
    """The type a tensor is stored or loaded in: only floating-point ones are converted."""
    return dtype if dtype is not None and tensor.is_floating_point() else tensor.dtype


def stored_size(tensors: Mapping[str, Tensor], dtype: torch.dtype | None = None) -> int:
    """Bytes that tensors take in a file."""
    return sum(tensor.numel() * stored_type(tensor, dtype).itemsize for tensor in tensors.values())


@contextlib.contextmanager
def written_beside(path: Path, overwrite: bool = False) -> Iterator[Path]:
    """A place beside a path, renamed to it when all is written there, and removed if that fails.

    Args:
        path: file or folder to be written.
        overwrite: replace what is there.

    Yields:
        The place to write to; whether a file or a folder is made there is the caller's choice.

    Raises:
        ModelError: if something is at the path already, or cannot be written.
    """
    if path.exists() and not overwrite:
        raise ModelError(f"{path} is there already; give another place, or --overwrite")
    if not path.absolute().parent.is_dir():
        raise ModelError(f"cannot write {path}: there is no folder {path.parent}; make it first")
    beside, old = (path.absolute().with_name(f".{path.absolute().name}.{suffix}") for suffix in ("part", "old"))
    _remove(beside)  # of an earlier attempt that was killed
    try:
        yield beside
        if path.is_dir() or (beside.is_dir() and path.exists()):  # a folder cannot be renamed onto another
            _remove(old)
            path.rename(old)
        beside.replace(path)  # of a file, at once: whoever reads sees the old one or the new one
        _remove(old)
    except OSError as error:
        raise ModelError(f"cannot write {path}: {error.strerror or error}") from error
    finally:
        _remove(beside)


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)
