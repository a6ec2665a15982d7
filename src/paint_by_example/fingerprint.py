"""A hash that tells one model's weights from another's. It is no protection against forgery."""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Iterable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch
    from torch import Tensor

SAMPLED = 256  # values of a tensor that count, at most: quick however large the model
HASH_LENGTH = 32  # hexadecimal digits kept of SHA-256


def fingerprint(weights: Iterable[tuple[str, Tensor]], rest: str = "") -> str:
    """Hash weights, some values of each tensor in float16, so that the same model in float32 and float16 has one hash.

    Args:
        weights: names and tensors, in an order that is always the same.
        rest: what else makes a difference.

    Returns:
        `HASH_LENGTH` hexadecimal digits.
    """
    import torch

    digest = hashlib.sha256()
    for name, value in weights:
        sample = torch.take(value.detach(), sampled(value.numel(), value.device))  # it copies no more than these
        digest.update(f"{name} {tuple(value.shape)}".encode())
        digest.update(sample.to("cpu", torch.float16).numpy().tobytes())
    digest.update(rest.encode())
    return digest.hexdigest()[:HASH_LENGTH]


@functools.lru_cache(maxsize=4096)
def sampled(count: int, device: torch.device) -> Tensor:
    """Which of that many values count."""
    import torch

    return torch.arange(0, count, -(-count // SAMPLED) or 1, device=device)
