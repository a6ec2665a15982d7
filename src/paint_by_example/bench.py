"""How fast a model is on this machine: its parts timed, and what the presets come to with each backend.

A preset's edit is computed from its parts: the calls of the U-Net that it makes, of one picture or of two (guidance),
each timed alone; and all the rest of an edit, timed with a network that gives zeros. So a minute is enough also where
one edit takes many.
"""

from __future__ import annotations

import statistics
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import cast, get_args

import numpy as np
import torch
from torch import Tensor

from .calibration import dead_leaves
from .compiled import BACKENDS, BackendName, Network, choose_backend, predict
from .crops import box_mask
from .dial import embed_scale
from .errors import UserError
from .images import image_tensor, mask_tensor
from .memory import peak_memory
from .painter import GUIDANCE_SCALE
from .pipeline import PaintByExamplePipeline
from .presets import PresetName
from .sampling import make_scheduler, seeded_generators

EXACT: tuple[BackendName, ...] = ("torch", "compile", "openvino")  # equal to rounding
SLOW_TO_START: tuple[BackendName, ...] = ("compile", "openvino-int8")  # timed only if they are named
CALLS, ENOUGH = 5, 6.0  # a part is timed so often, or until so many seconds have gone by
PATIENCE = 2.0  # seconds that an edit may take before a preset that loses something is recommended


@dataclass(frozen=True)
class Row:
    """A preset with a backend."""

    preset: PresetName | None
    backend: BackendName
    steps: int
    calls: int
    """Of the U-Net, however many pictures each is of."""
    call_seconds: float
    """Of one with guidance: a batch of two."""
    seconds: float
    """Of an edit."""


@dataclass(frozen=True)
class Report:
    """What was found."""

    rows: tuple[Row, ...]
    """The first is what an edit without preset and backend is."""
    recommended: Row
    peak_memory_gib: float | None
    """Of this process, or on a GPU of its tensors; None where the system does not tell."""

    @property
    def advice(self) -> str:
        """The recommendation in one sentence."""
        best, plain = self.recommended, self.rows[0]
        how = f"--preset {best.preset}" + ("" if best.backend == "torch" else f" --backend {best.backend}")
        return f"{how} is recommended: {best.seconds:.2g} s an edit, {plain.seconds / best.seconds:.1f} times as fast."


def usable_backends(device: torch.device) -> list[BackendName]:
    """Those that can be used here and start quickly, torch first."""
    return [name for name in BACKENDS if name not in SLOW_TO_START and choose_backend((name,), device) == name]


def bench(
    pipeline: PaintByExamplePipeline,
    backends: Sequence[BackendName] | None = None,
    on_part: Callable[[str], object] = lambda name: None,
) -> Report:
    """Time a model.

    Args:
        pipeline: the model.
        backends: to time beside torch; by default those that can be used and start quickly.
        on_part: told what is timed next.

    Raises:
        UserError: a backend cannot be used here.
    """
    device = pipeline.device
    named = usable_backends(device) if backends is None else [name for name in backends if name != "torch"]
    for name in named:
        if choose_backend((name,), device) != name:
            raise UserError(f"the backend {name} cannot be used here")
    seconds: dict[BackendName, dict[int, float]] = {}
    order: list[BackendName] = ["torch", *(name for name in named if name != "torch")]
    for name in order:
        on_part(f"{name}: calls of the U-Net")
        seconds[name] = time_calls(pipeline, pipeline.network(name))
    rows = []
    for preset in (None, *get_args(PresetName)):
        on_part(f"{preset or 'no preset'}: the rest of an edit")
        counted, steps, rest = count_calls(pipeline, preset)
        for name, taken in seconds.items():
            if (preset is None and name != "torch") or (preset in (None, "exact") and name not in EXACT):
                continue
            total = rest + sum(number * taken[pictures] for pictures, number in counted.items())
            rows.append(Row(preset, name, steps, counted.total(), taken[2], total))
    peak = peak_memory(device)
    return Report(tuple(rows), recommend(rows), None if peak is None else peak / 2**30)


def recommend(rows: Sequence[Row]) -> Row:
    """The first preset, from `exact` on, whose edit takes at most `PATIENCE`, or else the quickest of all."""
    quickest = {
        preset: min((row for row in rows if row.preset == preset), key=lambda row: row.seconds)
        for preset in cast(tuple[PresetName, ...], get_args(PresetName))
    }
    quick = [row for row in quickest.values() if row.seconds <= PATIENCE]
    return quick[0] if quick else min(quickest.values(), key=lambda row: row.seconds)


@torch.no_grad()
def time_calls(pipeline: PaintByExamplePipeline, network: Network | None) -> dict[int, float]:
    """Median seconds of a call of the U-Net, by pictures in it: 1 and 2.

    Args:
        pipeline: the model.
        network: runs the U-Net; the U-Net itself if None.
    """
    unet = pipeline.unet
    channels, side = 2 * int(unet.config.out_channels) + 1, int(unet.config.sample_size)
    condition = pipeline.null_condition()
    told: tuple[Tensor, ...] = ()
    if pipeline.scale_size is not None:
        told = (embed_scale(GUIDANCE_SCALE, pipeline.scale_size).to(pipeline.device, unet.dtype),)
    taken = {}
    for pictures in (2, 1):
        x = torch.zeros(pictures, channels, side, side, device=pipeline.device, dtype=unet.dtype)
        conditions, t = condition.expand(pictures, -1, -1).to(x), torch.tensor(500, device=pipeline.device)

        def call(x: Tensor = x, conditions: Tensor = conditions, t: Tensor = t) -> None:
            found = predict(unet, x, t, conditions, *told) if network is None else network(x, t, conditions, *told)
            found.flatten()[:1].cpu()  # waits for the device

        call()  # the first one also converts, compiles or loads kernels
        taken[pictures] = median_seconds(call)
    return taken


def median_seconds(run: Callable[[], None]) -> float:
    """Median seconds of a few runs."""
    taken: list[float] = []
    while len(taken) < CALLS and sum(taken) < ENOUGH:
        started = time.perf_counter()
        run()
        taken.append(time.perf_counter() - started)
    return statistics.median(taken)


@torch.no_grad()
def count_calls(pipeline: PaintByExamplePipeline, preset: PresetName | None) -> tuple[Counter[int], int, float]:
    """What a preset asks of the U-Net in an edit, and what the rest of the edit takes.

    Returns:
        Calls by pictures in them, the steps, and seconds.
    """
    how = pipeline.preset(preset)
    solver = pipeline.scheduler if how.scheduler is None else make_scheduler(how.scheduler, pipeline.scheduler)
    steps = how.steps or pipeline.default_steps(solver)
    side, latents = pipeline.image_size, int(pipeline.unet.config.out_channels)
    rng = np.random.default_rng(0)
    source, exemplar = dead_leaves(rng, side), dead_leaves(rng, pipeline.image_encoder.image_size)
    mask = box_mask((side // 4, side // 4, side * 3 // 4, side * 3 // 4), (side, side))
    counted: Counter[int] = Counter()

    def nothing(x: Tensor, *_: Tensor) -> Tensor:
        counted[len(x)] += 1
        return torch.zeros_like(x[:, :latents])

    def edit() -> None:
        counted.clear()
        square, condition = (image_tensor(source), mask_tensor(mask)), pipeline.encode_exemplar(exemplar[None])
        *_, last = pipeline.paint(
            *square,
            condition,
            steps=steps,
            generators=seeded_generators([0]),
            scheduler=solver,
            guidance_interval=how.guidance_interval,
            network=nothing,
        )
        pipeline.show(last.z_t, *square, condition).cpu()

    edit()
    return counted, steps, median_seconds(edit)
