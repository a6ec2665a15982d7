"""A network on disk: built without weights first, which tells what tensors there must be, of which shapes.

That costs nothing, so that a model can be checked, described and converted without being held in memory.
"""

from __future__ import annotations

import contextlib
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import diffusers
import torch
import transformers
from diffusers import ModelMixin
from torch import Tensor, nn

from .errors import ModelError
from .ldm import likely_kind
from .weights import stored_type

Shapes = dict[str, tuple[int, ...]]


@dataclass(frozen=True)
class Network:
    """A network on disk: what it is, and its tensors, which are read when they are used."""

    module: nn.Module
    """Without weights, on the meta device."""
    tensors: Mapping[str, Tensor]
    """By the module's names, exactly those."""

    def load(self, device: torch.device | str = "cpu", dtype: torch.dtype | None = None) -> nn.Module:
        """The network with its weights; only once, since it is the same module.

        Args:
            device: where to.
            dtype: of the floating-point tensors; as stored if not given.
        """
        # Copied, though on the CPU they could stay mapped: whoever writes into the file would write into the model.
        tensors = {
            name: tensor.to(device, stored_type(tensor, dtype), copy=True) for name, tensor in self.tensors.items()
        }
        self.module.load_state_dict(tensors, assign=True)
        for owner in self.module.modules():
            for name, buffer in list(owner.named_buffers(recurse=False)):
                if buffer.is_meta:  # not saved, because it is always the same: CLIP's numbers of positions
                    assert name == "position_ids"
                    owner.register_buffer(name, torch.arange(buffer.shape[-1], device=device)[None], persistent=False)
        return self.module.eval()


def outline(kind: Any, config: Any) -> nn.Module:
    """A network without weights, on the meta device."""
    with torch.device("meta"), quiet():
        module = kind.from_config(config) if issubclass(kind, ModelMixin) else kind(config)
    return cast(nn.Module, module.eval())


def shapes_of(module: nn.Module) -> Shapes:
    """Names and shapes of a network's tensors."""
    return {name: tuple(tensor.shape) for name, tensor in module.state_dict().items()}


def check_tensors(tensors: Mapping[str, Tensor], expected: Shapes, place: Path) -> None:
    """Raise a `ModelError` where tensors are not those of a network."""
    found = {name: tuple(tensor.shape) for name, tensor in tensors.items()}
    check_shapes(found, expected, place, found)


def check_shapes(found: Shapes, expected: Shapes, place: Path, names: Collection[str]) -> None:
    """Raise a `ModelError` where names and shapes are not the expected ones.

    Args:
        found: in a file.
        expected: by a network.
        place: of the file.
        names: all in the file, from which to guess what it is instead.
    """
    missing = [name for name in expected if name not in found]
    unknown = [name for name in found if name not in expected]
    wrong = [
        f"{name} {found[name]} instead of {expected[name]}"
        for name in expected
        if found.get(name, expected[name]) != expected[name]
    ]
    faults = [
        f"{verb} {len(these)} tensors, among them {first(these)}"
        for verb, these in (("lack", missing), ("have no place for", unknown), ("have in other shapes", wrong))
        if these
    ]
    if faults:
        raise ModelError(f"the weights in {place} {'; '.join(faults)}{seems(names) if missing else ''}")


def first(names: Collection[str]) -> str:
    """The first five of some names."""
    return ", ".join(list(names)[:5]) + (", ..." if len(names) > 5 else "")


def seems(names: Collection[str]) -> str:
    """The end of a message: what a file with these names seems to be, where something comes to mind."""
    kind = likely_kind(names)
    return f"; it seems to be {kind}" if kind else ""


@contextlib.contextmanager
def quiet(bars: bool = False) -> Iterator[None]:
    """Silence diffusers and transformers; what they would warn of, missing tensors, is raised here.

    Args:
        bars: show their progress bars nevertheless.
    """
    logs: tuple[Any, ...] = (diffusers.utils.logging, transformers.utils.logging)
    before = [(log.get_verbosity(), log.is_progress_bar_enabled()) for log in logs]
    for log in logs:
        log.set_verbosity_error()
        if not bars:
            log.disable_progress_bar()
    try:
        yield
    finally:
        for log, (verbosity, shown) in zip(logs, before, strict=True):
            log.set_verbosity(verbosity)
            if shown:
                log.enable_progress_bar()
