"""Parsers of our own, led by coverage: libFuzzer, by atheris, looks for texts that take a branch not taken before.

``run`` starts this file as a process of its own, because libFuzzer ends the process it runs in.
"""

import contextlib
import importlib.util
import json
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

RUNS = 20_000
SECONDS = 2  # of one text, at most
MEGABYTES = 3000  # of the process, of which torch takes some

SEEDS = (
    "1,2,30,40",
    "0.2-1",
    '{"source": "a.png", "box": [1, 2, 3, 4], "exemplar": "b;c", "steps": 4, "seed": 1}',
    '{"picture": "a.png", "boxes": [[1, 2, 3, 4]], "masks": [null]}',
    '{"steps": 4, "regions": [{"box": [1, 2, 3, 4], "exemplars": [0], "weights": [0.5]}], "seeds": [1]}',
    '{"version": "1", "model": {"path": "m", "sha256": "0"}, "source": {"path": null, "sha256": "0"}, "regions":'
    ' [{"exemplars": [[{"path": "a", "sha256": "0"}, 1.0]], "mask": null, "box": [1, 2, 3, 4]}], "seed": 0,'
    ' "guidance_scale": 5, "steps": 4, "scheduler": null, "eta": 0, "strength": 1, "guidance_rescale": 0, "feather": 0,'
    ' "compat": null}',
    "../a/..\\b.png",
    "pbe_token=abc; a=b",
    "[::1]:80",
)


def parsers() -> list[Callable[[str], object]]:
    """Each with the errors that its caller expects of it left out."""
    from paint_by_example.batch.table import _row
    from paint_by_example.cli.arguments import box_text
    from paint_by_example.crops import parse_box
    from paint_by_example.data.dataset import read_line
    from paint_by_example.errors import UserError
    from paint_by_example.presets import parse_interval
    from paint_by_example.record import _parse
    from paint_by_example.server.access import _cookie, _name
    from paint_by_example.server.messages import read_settings
    from paint_by_example.server.uploads import file_name

    def document(parse: Callable[[Any], object]) -> Callable[[str], object]:
        return lambda text: parse(json.loads(text))

    def cleaned(text: str) -> None:
        name = file_name(text, "source")
        assert name == Path(name).name
        assert name.isprintable()
        assert len(name) <= 69

    known = (ValueError, RecursionError)
    record = (*known, KeyError, TypeError, AttributeError, OverflowError)  # as `read_record` has it
    found = (
        (parse_box, (UserError,)),
        (parse_interval, (ValueError,)),
        (document(lambda row: _row(1, row, Path()) if isinstance(row, dict) else None), (UserError, *known)),
        (lambda text: read_line(text, 1, Path("index.jsonl")), (UserError,)),
        (read_settings, (UserError,)),
        (document(_parse), (UserError, *record)),
        (cleaned, ()),
        (_cookie, ()),
        (_name, ()),
        (box_text, ()),
    )
    return [_expecting(parse, errors) for parse, errors in found]


def _expecting(parse: Callable[[str], object], errors: Any) -> Callable[[str], object]:
    def quietly(text: str) -> None:
        with contextlib.suppress(*errors):
            parse(text)

    return quietly


def run(seed: int, scale: float) -> tuple[int, int]:
    """Run libFuzzer for so many times `RUNS` texts, print what came of it; gives texts and faults."""
    if importlib.util.find_spec("atheris") is None:
        print("parsers       left out: pip install -r requirements/fuzz.txt")
        return 0, 0
    runs = max(1, round(RUNS * scale))
    with tempfile.TemporaryDirectory() as folder:
        for number, text in enumerate(SEEDS):
            for which in range(16):
                Path(folder, f"{number}-{which}").write_bytes(bytes([which]) + text.encode())
        options = [f"-runs={runs}", f"-seed={seed + 1}", "-max_len=2000", f"-timeout={SECONDS}"]
        options += [f"-rss_limit_mb={MEGABYTES}", f"-artifact_prefix={folder}/", folder]
        command = [sys.executable, "-m", "tests.fuzz.parsers", *options]
        ended = subprocess.run(command, capture_output=True, text=True, errors="replace", check=False)
    tail = ended.stderr.splitlines()[-40:]
    counts = next((line for line in reversed(tail) if "cov:" in line), "")
    fault = ended.returncode != 0
    branches = counts.partition("cov: ")[2].partition(" ")[0]
    print(f"{'parsers':14}{runs:8,}   {branches} branches seen, {int(fault)} faults")
    if fault:
        print("\n".join(["--- parsers:", *tail]))
    return runs, int(fault)


def main() -> None:
    import atheris

    with atheris.instrument_imports(include=["paint_by_example"]):
        found = parsers()

    def one(content: bytes) -> None:
        if content:
            found[content[0] % len(found)](content[1:].decode("utf-8", "surrogateescape"))

    atheris.Setup(sys.argv, one)
    atheris.Fuzz()


if __name__ == "__main__":
    main()
