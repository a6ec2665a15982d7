"""How much is given up for speed, by name. docs/speed.md says what of it is measured, and what is not yet."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal, TypeAlias, get_args

from .compiled import BackendName
from .errors import UserError
from .sampling import SchedulerName

PresetName: TypeAlias = Literal["exact", "fast", "draft"]


@dataclass(frozen=True)
class Preset:
    """What a preset sets. An option that is given takes its place."""

    steps: int | None = None
    """Noise levels to visit; what the solver is good at if None."""
    scheduler: SchedulerName | None = None
    """The model's own if None."""
    guidance_interval: tuple[float, float] = (0.0, 1.0)
    """Shares of the noise levels, 0 the cleanest and 1 the noisiest, between which there is guidance
    (arXiv 2404.07724); outside of them the conditional prediction counts alone, which halves an evaluation."""
    backends: tuple[BackendName, ...] = ("torch",)
    """Who runs the U-Net: the first that can be used."""


PRESETS: dict[PresetName, Preset] = {
    "exact": Preset(backends=("openvino",)),
    "fast": Preset(10, "dpm++", (0.2, 1.0), ("openvino-bf16", "openvino")),
    "draft": Preset(5, "dpm++", (0.4, 1.0), ("openvino-bf16", "openvino")),
}


def parse_interval(value: Any) -> tuple[float, float]:
    """Read an interval of noise levels: "0.2-1", or two numbers.

    Raises:
        ValueError: it is neither.
    """
    parts = value.split("-") if isinstance(value, str) else list(value) if isinstance(value, list | tuple) else [value]
    low, high = (float(part) for part in parts)
    return low, high


def parse_switch(value: Any) -> bool:
    """Read whether something is on: yes or no, true or false, 1 or 0.

    Raises:
        ValueError: it is none of these.
    """
    switches = {"yes": True, "true": True, "1": True, "no": False, "false": False, "0": False}
    if str(value).lower() not in switches:
        raise ValueError(value)
    return switches[str(value).lower()]


def find_preset(name: str | None) -> Preset:
    """The preset of a name; of None the one that changes nothing.

    Raises:
        UserError: there is none of that name.
    """
    if name is None:
        return Preset()
    for known in get_args(PresetName):
        if name == known:
            return PRESETS[known]
    raise UserError(f"unknown preset {name!r}; choose one of {', '.join(PRESETS)}")
