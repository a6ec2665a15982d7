"""The memory that this process has held."""

from __future__ import annotations

import sys

import torch


def peak_memory(device: torch.device) -> int | None:
    """Bytes that were in use at once, at most: of the GPU, or else of the machine; None where nobody counts them."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    try:
        import resource
    except ImportError:  # Windows
        return None
    unit = 1 if sys.platform == "darwin" else 1024  # bytes there, KiB elsewhere
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
