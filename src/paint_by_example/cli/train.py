"""``pbe train``."""

from __future__ import annotations

import json as to_json
from dataclasses import dataclass, fields
from typing import Annotated, Any, Literal

import tyro


def train(options: Any) -> None:
    """Train with a `TrainConfig`, print the folder of the trained model; or print what that would need."""
    from ..processes import Processes
    from ..settings import TrainConfig

    config = TrainConfig(**{field.name: getattr(options, field.name) for field in fields(TrainConfig)})
    is_first = Processes.of_environment().is_first  # of several, one prints
    if options.dry_run:
        from ..plan import plan

        if is_first:
            needed = plan(config)
            print(to_json.dumps(needed.as_dict()) if options.json else needed.as_text())
        return
    from .. import training

    model = training.train(config)
    if is_first:
        print(to_json.dumps({"model": str(model)}) if options.json else model)


def train_options() -> type:
    """The trainer declares its options itself; two more are the command's."""
    from ..settings import TrainConfig

    @dataclass
    class Train(TrainConfig):
        add: Annotated[
            Literal["structure", "context", "structure,context"] | None, tyro.conf.arg(metavar="PART[,PART]")
        ] = None
        dry_run: bool = False
        """Train nothing: print the settings, what would learn, and the memory it needs, computed from tensors."""
        json: bool = False
        """Print one JSON object."""

    Train.__doc__ = TrainConfig.__doc__
    return Train
