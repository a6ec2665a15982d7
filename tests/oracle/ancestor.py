"""Run the edits with diffusers' own pipeline: with its last version that can, in an environment of its own.

.venv-oracle/bin/python -m tests.oracle.ancestor build/oracle
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import diffusers
import numpy as np
import torch
import transformers
from diffusers import DDIMScheduler

from .edits import (
    DIFFUSERS,
    EDITS,
    FILES,
    SOLVER_START,
    SOLVER_STEPS,
    Results,
    noise,
    picture,
    predict,
    run,
    run_parts,
    weights,
    write_released,
)


def load(folder: Path) -> Any:
    """The pipeline of a folder; every tensor must be where it belongs."""
    for library in (diffusers, transformers):
        library.utils.logging.set_verbosity_error()
        library.utils.logging.disable_progress_bar()
    pipeline = diffusers.PaintByExamplePipeline.from_pretrained(folder)
    assert type(pipeline).__module__.startswith("diffusers.pipelines.paint_by_example")
    tensors = weights(DIFFUSERS.with_suffix(".tsv"))
    for part in FILES:
        state = getattr(pipeline, part).state_dict()
        written = {name.removeprefix(f"{part}/"): x for name, x in tensors.items() if name.startswith(f"{part}/")}
        assert state.keys() == written.keys(), state.keys() ^ written.keys()
        assert all(torch.equal(x, state[name]) for name, x in written.items())
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def solve(scheduler: Any, steps: int) -> np.ndarray:
    """A run of a scheduler by itself, as the ancestor's loop does it."""
    scheduler.set_timesteps(steps)
    z_t = noise(SOLVER_START, 7)
    for t in scheduler.timesteps:
        z_t = scheduler.step(predict(z_t, t), t, z_t).prev_sample
    return np.asarray(z_t.numpy())


def main() -> None:
    """Write the tiny model, run all of it, write the results."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("folder", type=Path)
    options = parser.parse_args()
    print(f"diffusers {diffusers.__version__}, transformers {transformers.__version__}, torch {torch.__version__}")

    pipeline = load(write_released(options.folder / "model"))
    results: Results = {f"part/{name}": value for name, value in run_parts(pipeline).items()}
    exemplar = picture(EDITS["pndm"].exemplar, 40)
    results["part/exemplar"] = np.asarray(pipeline.feature_extractor(exemplar, return_tensors="np").pixel_values)
    for steps in SOLVER_STEPS:
        results[f"solver/pndm {steps}"] = solve(pipeline.scheduler, steps)
        results[f"solver/ddim {steps}"] = solve(DDIMScheduler.from_config(pipeline.scheduler.config), steps)
    for name, edit in EDITS.items():
        results |= {f"{name}/{what}": value for what, value in run(pipeline, edit).items()}
    np.savez_compressed(options.folder / "results.npz", **results)  # type: ignore[arg-type]


if __name__ == "__main__":
    main()
