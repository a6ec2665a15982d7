"""``pbe distill``."""

from __future__ import annotations

import json as to_json
from dataclasses import dataclass, fields
from typing import Any


def distill(options: Any) -> None:
    """Distil with a `DistillConfig`, print the folder of the student."""
    from .. import distillation
    from ..settings import DistillConfig

    config = DistillConfig(**{field.name: getattr(options, field.name) for field in fields(DistillConfig)})
    model = distillation.distill(config)
    print(to_json.dumps({"model": str(model)}) if options.json else model)


def distill_options() -> type:
    """The distiller declares its options itself; one more is the command's."""
    from ..settings import DistillConfig

    @dataclass
    class Distill(DistillConfig):
        json: bool = False
        """Print one JSON object."""

    Distill.__doc__ = DistillConfig.__doc__
    return Distill
