"""``pbe bench``."""

from __future__ import annotations

import json
import sys
from dataclasses import asdict, dataclass
from typing import Annotated, Literal

import tyro


@dataclass(frozen=True)
class Bench:
    """Time a model on this machine, in about a minute, and recommend a preset (see docs/speed.md)."""

    model: Annotated[tyro.conf.Positional[str], tyro.conf.arg(metavar="MODEL")] = "embedded"
    """embedded, a folder or file, or a repository of the Hugging Face hub: owner/name."""
    backend: tyro.conf.UseAppendAction[
        tuple[Literal["compile", "openvino", "openvino-bf16", "openvino-int8"], ...]
    ] = ()
    """To time beside torch, may be given several times; if not given those that can be used here, without compile and
    openvino-int8, which take long to start."""
    device: str | None = None
    """cpu, cuda, cuda:1, ...; the best there is if not given."""
    json: bool = False
    """Print one JSON object instead of a table."""


def bench(options: Bench) -> None:
    """Time the model, print what presets and backends come to."""
    from .. import bench as bench_module
    from ..pipeline import load_pipeline

    pipeline = load_pipeline(options.model, device=options.device)
    report = bench_module.bench(
        pipeline, options.backend or None, on_part=lambda name: print(f"timing {name}", file=sys.stderr)
    )
    if options.json:
        print(json.dumps(asdict(report) | {"model": options.model, "advice": report.advice}))
        return
    print(f"{'preset':8}{'backend':15}{'steps':>6}{'calls':>6}{'s a call':>10}{'s an edit':>11}{'times':>7}")
    for row in report.rows:
        times = report.rows[0].seconds / row.seconds
        figures = f"{row.steps:6}{row.calls:6}{row.call_seconds:10.3g}{row.seconds:11.3g}{times:7.1f}"
        print(f"{row.preset or '-':8}{row.backend:15}{figures}")
    if report.peak_memory_gib is not None:
        print(f"peak memory: {report.peak_memory_gib:.1f} GiB")
    print(report.advice)
