"""A network of OpenVINO's with its products in whole numbers of eight bits, by NNCF's post-training quantisation.

Only to make one needs the package nncf (extra ``fast-cpu``); what was made runs without it.
"""

from __future__ import annotations

import contextlib
import importlib.util
import logging
import sys
import warnings
from collections.abc import Iterable
from typing import Any

from numpy.typing import NDArray

FLOAT = (r".*unet\.conv_in/.*", r".*unet\.conv_out/.*", r".*time_emb.*")
"""Names of operations that stay as they are, beside `last_block`; benchmarks/precision.py measures what that gains."""


def has_nncf() -> bool:
    """Whether NNCF is installed."""
    return importlib.util.find_spec("nncf") is not None


def last_block(unet: Any) -> str:
    """Names of the operations in a U-Net's last block, which stay as they are too."""
    return rf".*up_blocks\.{len(unet.up_blocks) - 1}\..*"


def quantise(model: Any, inputs: Iterable[list[NDArray[Any]]], unquantised: tuple[str, ...]) -> Any:
    """Quantise a network; progress goes to stderr.

    Args:
        model: OpenVINO's.
        inputs: what it is called with, whose ranges of values count.
        unquantised: patterns of names of operations to leave as they are.

    Returns:
        The network in int8; the one given may have changed.
    """
    listed = list(inputs)
    # nncf's bars know no stream but stdout, which is for results
    with warnings.catch_warnings(), contextlib.redirect_stdout(sys.stderr):
        warnings.simplefilter("ignore")
        import nncf

        nncf.set_log_level(logging.ERROR)
        return nncf.quantize(
            model,
            nncf.Dataset(listed),
            subset_size=len(listed),
            preset=nncf.QuantizationPreset.MIXED,  # activations may be lopsided, as those of SiLU are
            model_type=nncf.ModelType.TRANSFORMER,  # smooths outliers
            ignored_scope=nncf.IgnoredScope(patterns=list(unquantised), validate=False),
        )
