"""Ours against an ancestor: the same edits of the same tiny model, and a table of how far apart the results are.

.venv/bin/python -m tests.oracle.compare build/oracle
"""

from __future__ import annotations

import argparse
import dataclasses
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from safetensors.torch import save_file

from paint_by_example import load_pipeline
from paint_by_example.sampling import SchedulerName, denoise, make_scheduler

from .edits import (
    DIFFUSERS,
    EDITS,
    ORIGINAL,
    ORIGINAL_EDITS,
    SOLVER_START,
    Edit,
    Results,
    difference,
    noise,
    picture,
    predict,
    run,
    run_parts,
    weights,
    write_released,
)

LIMITS = {
    "latents": 0.0,
    "mask": 0.0,
    "noise": 1e-5,
    "condition": 1e-5,
    "masked source": 5e-5,
    "part": 1e-5,
    "solver": 1e-5,
    "z_0": 5e-5,
    "picture": 5e-5,
}
"""How large the largest difference may be, where 1 is the standard deviation of the ancestor's own result.

All of it is rounding: an evaluation of a network in float32 leaves some 1e-6, and a run divides that by √ᾱ_T = 0.07
over its steps, while guidance multiplies it by up to 2 λ - 1. The masked source is less exact since the ancestor has a
picture's channels last in memory and we have them first, which takes other kernels through the autoencoder. What the
modes do differently shows as 0.01 and more.
"""


def limit(name: str) -> float:
    """The limit for a result: 'pndm 50/z_0', 'part/u-net'."""
    first, _, last = name.rpartition("/")
    return LIMITS[first] if first in LIMITS else LIMITS[last]


@dataclasses.dataclass(frozen=True)
class Ancestor:
    """Who made the results that ours are compared with."""

    compat: str
    data: Path
    edits: dict[str, Edit]
    model: Callable[[Path], Path]
    """Writes its tiny model into a folder."""

    def stored(self) -> Results:
        """Its results in tests/data."""
        with np.load(self.data.with_suffix(".npz")) as file:
            return dict(file)


def write_original(folder: Path) -> Path:
    """Write a tiny model as the authors' code has it: a single file, without a configuration."""
    save_file(weights(ORIGINAL.with_suffix(".tsv")), folder / "model.safetensors")
    return folder / "model.safetensors"


ANCESTORS = {
    "diffusers": Ancestor("diffusers", DIFFUSERS, EDITS, write_released),
    "original": Ancestor("original", ORIGINAL, ORIGINAL_EDITS, write_original),
}


def load(model: Path, compat: str | None) -> Any:
    """The pipeline as an ancestor behaves."""
    return load_pipeline(model, device="cpu", dtype=torch.float32, compat=compat)


def ours(pipeline: Any, ancestor: Ancestor, name: str, theirs: Results) -> Results:
    """What we make of what has a name among the ancestor's results: of an edit all of it, otherwise the one thing.

    Args:
        pipeline: ours.
        ancestor: gives the edits.
        name: an edit's, or part/... or solver/...
        theirs: the ancestor's results; where an edit starts from latents, they are among them.
    """
    kind, _, what = name.partition("/")
    if kind == "solver":
        solver, _, steps = what.partition(" ")
        scheduler = make_scheduler(cast(SchedulerName, solver), pipeline.scheduler)
        *_, last = denoise(predict, noise(SOLVER_START, 7), scheduler, int(steps))
        return {name: last.z_t.numpy()}
    if what == "exemplar":
        return {name: pipeline.exemplar_tensor([picture(EDITS["pndm"].exemplar, 40)]).numpy()}
    if kind == "part":
        return {name: run_parts(pipeline)[what]}
    latents = theirs.get(f"{name}/latents")
    results = run(pipeline, ancestor.edits[name], None if latents is None else torch.from_numpy(latents))
    return {f"{name}/{what}": value for what, value in results.items()}


def kept(results: Results, ancestor: Ancestor) -> Results:
    """What of an ancestor's results is worth its room in tests/data."""
    dropped = {f"{name}/picture" for name, edit in ancestor.edits.items() if not edit.kept}
    return {name: value for name, value in results.items() if name not in dropped}


def report(found: Results, theirs: Results) -> bool:
    """Print the table; say whether all of it is within the limits."""
    good = True
    print(f"{'':42} {'largest':>9} {'rms':>9} {'deviation':>9} {'relative':>9} {'limit':>9}")
    for name, expected in theirs.items():
        gap = difference(found[name], expected)
        within = gap.relative <= limit(name)
        good &= within
        print(
            f"{name:42} {gap.largest:9.2e} {gap.rms:9.2e} {gap.deviation:9.3f} {gap.relative:9.2e} {limit(name):9.0e}"
            f"{'' if within else '  <- too far'}"
        )
    return good


def main() -> int:
    """Compare, print, fail where a limit is passed."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("folder", type=Path, help="what tests.oracle.ancestor has written")
    parser.add_argument("--store", action="store_true", help="keep the ancestor's results in tests/data")
    options = parser.parse_args()
    with np.load(options.folder / "results.npz") as file:
        fresh = dict(file)
    diffusers = ANCESTORS["diffusers"]
    if options.store:
        np.savez_compressed(diffusers.data.with_suffix(".npz"), **kept(fresh, diffusers))  # type: ignore[arg-type]
    good = report_on(diffusers, options.folder / "model", fresh)
    same = [difference(fresh[name], value).relative <= limit(name) for name, value in diffusers.stored().items()]
    print(f"\n{sum(same)} of the {len(same)} results in tests/data are those just made")
    good &= all(same)
    original = ANCESTORS["original"]
    good &= report_on(original, original.model(options.folder), original.stored())
    return 0 if good else 1


def report_on(ancestor: Ancestor, model: Path, theirs: Results) -> bool:
    """Make and compare all that an ancestor has made."""
    print(f"\nOurs as {ancestor.compat!r}:")
    pipeline = load(model, ancestor.compat)
    found: Results = {}
    for name in theirs:
        if name.endswith("/latents"):
            found[name] = theirs[name]
        elif name not in found:
            edit = name.rpartition("/")[0]
            found |= ours(pipeline, ancestor, edit if edit in ancestor.edits else name, theirs)
    return report(found, theirs)


if __name__ == "__main__":
    sys.exit(main())
