"""How much memory an edit with the released model's networks needs, accounted for from the tensors: no GPU is needed.

    python benchmarks/memory.py [--json]

The networks are run at full size on tensors without values, which know their shapes and types and nothing else; what is
alive at once is added up. Attention is counted as fused kernels have it, without the matrix of scores. A GPU's own
context, the allocator's rounding and the work space of convolutions come on top, some hundreds of megabytes.
"""

from __future__ import annotations

import json
import weakref
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
import tyro
from diffusers import AutoencoderKL, UNet2DConditionModel
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from transformers import CLIPVisionConfig

from paint_by_example import PaintByExampleImageEncoder

GIGABYTE = 10**9

UNET = {
    "sample_size": 64,
    "in_channels": 9,
    "out_channels": 4,
    "cross_attention_dim": 768,
    "attention_head_dim": 8,
}  # the rest is diffusers' default, which is Stable Diffusion 1.x
VAE = {
    "block_out_channels": (128, 256, 512, 512),
    "layers_per_block": 2,
    "down_block_types": ("DownEncoderBlock2D",) * 4,
    "up_block_types": ("UpDecoderBlock2D",) * 4,
    "latent_channels": 4,
    "sample_size": 512,
}
CLIP = {
    "hidden_size": 1024,
    "intermediate_size": 4096,
    "num_hidden_layers": 24,
    "num_attention_heads": 16,
    "patch_size": 14,
    "projection_dim": 768,
}


@dataclass
class Options:
    """Account for an edit's memory."""

    size: int = 512
    """Side of the picture, pixels."""
    json: bool = False
    """Print one JSON object."""


class Alive(TorchDispatchMode):
    """Adds up the storage of the tensors that are alive."""

    def __init__(self) -> None:
        super().__init__()
        self.now = self.peak = 0
        self.known: set[int] = set()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        for tensor in tree_leaves(result):
            if isinstance(tensor, torch.Tensor):
                self.add(tensor.untyped_storage())
        return result

    def add(self, storage: torch.UntypedStorage) -> None:
        """Count a storage until it is gone."""
        key, size = storage._cdata, storage.nbytes()
        if key in self.known:
            return
        self.known.add(key)
        self.now += size
        self.peak = max(self.peak, self.now)
        weakref.finalize(storage, self.remove, key, size)

    def remove(self, key: int, size: int) -> None:
        """Forget a storage."""
        self.known.discard(key)
        self.now -= size


def account(make: Callable[[], nn.Module], run: Callable[[Any], Any], dtype: torch.dtype) -> dict[str, float]:
    """Weights and the most that is alive beside them in a run, gigabytes."""
    usual = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        return count(make, run)
    finally:
        torch.set_default_dtype(usual)


def count(make: Callable[[], nn.Module], run: Callable[[Any], Any]) -> dict[str, float]:
    """As `account`, in the default type."""
    with FakeTensorMode(allow_non_fake_inputs=True), torch.no_grad():
        network = make().eval()
        kept = [*network.parameters(), *network.buffers()]
        weights = sum(part.numel() * part.element_size() for part in kept)
        with Alive() as alive:
            alive.known |= {part.untyped_storage()._cdata for part in kept}  # a view of a weight is no new memory
            run(network)
    return {"weights": round(weights / GIGABYTE, 3), "activations": round(alive.peak / GIGABYTE, 3)}


def measure(options: Options) -> dict[str, Any]:
    """All figures."""
    side, latent = options.size, options.size // 8
    half = torch.float16
    parts = {
        "image_encoder": account(
            lambda: PaintByExampleImageEncoder(CLIPVisionConfig(**CLIP)),
            lambda network: network(torch.empty(1, 3, 224, 224, dtype=half)),
            half,
        ),
        "unet": account(
            lambda: UNet2DConditionModel(**UNET),
            lambda network: network(
                torch.empty(2, 9, latent, latent, dtype=half), 500, torch.empty(2, 1, 768, dtype=half)
            ),
            half,
        ),
        "vae, encoding": account(
            lambda: AutoencoderKL(**VAE),
            lambda network: network.encode(torch.empty(1, 3, side, side, dtype=half)),
            half,
        ),
        "vae, decoding": account(
            lambda: AutoencoderKL(**VAE),
            lambda network: network.decode(torch.empty(1, 4, latent, latent, dtype=half)),
            half,
        ),
    }
    resident = sum(part["weights"] for name, part in parts.items() if name != "vae, encoding")
    busiest = max(part["activations"] for part in parts.values())
    return {
        "size": side,
        "parts": parts,
        "all on the device": round(resident + busiest, 3),
        "with model offload": round(max(part["weights"] + part["activations"] for part in parts.values()), 3),
    }


if __name__ == "__main__":
    given = tyro.cli(Options)
    figures = measure(given)
    if given.json:
        print(json.dumps(figures))
    else:
        print(f"{given.size} x {given.size}, float16, guided (two predictions at once); gigabytes")
        for name, part in figures["parts"].items():
            print(f"{name:20}{part['weights']:8.2f} weights{part['activations']:8.2f} activations")
        for name in ("all on the device", "with model offload"):
            print(f"{name:20}{figures[name]:8.2f}")
