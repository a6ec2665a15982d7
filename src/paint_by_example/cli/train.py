"""``pbe train``."""

from __future__ import annotations

from typing import Any


def train(options: Any) -> None:
    """Train with a `TrainConfig`, print the folder of the trained model."""
    from .. import training

    print(training.train(options))


def train_options() -> type:
    """The trainer declares its options itself."""
    from ..training import TrainConfig

    return TrainConfig
