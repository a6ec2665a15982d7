"""Install the package outside the checkout, as somebody does who has never seen it, and use it: ``make install-test``.

    python tests/install.py

In a temporary folder the sdist and the wheel are built, the wheel is installed into an environment of its own with the
versions of requirements/constraints.txt, a picture is edited by the command, and the tests that the sdist holds are run
without its sources. Printed are sizes, the tree of what is needed, and what each extra adds. Needs Python and the
package index; takes minutes.
"""

import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
import venv
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

ROOT = Path(__file__).parents[1]
CONSTRAINTS = ROOT / "requirements" / "constraints.txt"
TESTS = ("crops", "images", "masks", "sampling", "guidance", "conditioning", "compat", "pipeline", "cli")
"""They take seconds each, and need no extra."""
LIMIT = 300.0  # seconds for the tests
OF_CONTRIBUTORS = "dev"  # an extra of the checkout
PICTURES = """
from PIL import Image
Image.radial_gradient("L").resize((320, 256)).convert("RGB").save("room.png")
Image.linear_gradient("L").resize((70, 90)).convert("RGB").save("chair.png")
"""
BOX = (80, 60, 220, 200)
COMPARE = f"""
from PIL import Image, ImageChops
changed = ImageChops.difference(Image.open("room.png"), Image.open("out.png").convert("RGB")).getbbox()
assert changed is not None, "nothing was painted"
left, top, right, bottom = changed
assert left >= {BOX[0]} and top >= {BOX[1]} and right <= {BOX[2]} and bottom <= {BOX[3]}, changed
print("painted:", changed, "in the box", {BOX})
"""


class Environment:
    """A virtual environment, and a folder that its commands run in.

    Args:
        folder: made here.
        work: where its commands run, outside the checkout.
    """

    def __init__(self, folder: Path, work: Path) -> None:
        venv.create(folder, symlinks=os.name != "nt", with_pip=True)
        self.bin, self.work = folder / ("Scripts" if os.name == "nt" else "bin"), work
        hidden = ("PYTHONPATH", "PYTHONHOME", "VIRTUAL_ENV")
        self.variables = {name: value for name, value in os.environ.items() if name not in hidden}
        self.variables |= {"OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}

    def run(self, program: str, *arguments: str | Path, limit: float | None = None) -> None:
        """Run one of its programs; its output is shown.

        Raises:
            CalledProcessError: it failed.
        """
        sys.stdout.flush()
        command = [str(self.bin / program), *map(str, arguments)]
        subprocess.run(command, check=True, cwd=self.work, env=self.variables, timeout=limit)

    def install(self, *wanted: str | Path) -> None:
        """Install with the versions that this project is tested with."""
        self.run("pip", "install", "--quiet", "-c", CONSTRAINTS, *wanted)


@contextmanager
def step(title: str) -> Iterator[None]:
    print(f"\n== {title}", flush=True)
    start = time.perf_counter()
    yield
    print(f"-- {time.perf_counter() - start:.0f} s", flush=True)


def build(folder: Path) -> tuple[Path, Path]:
    """The sdist, and the wheel that is made of it, which must be the one that is made of the checkout."""
    builder = Environment(folder / "builder", folder)
    builder.install("build")
    builder.run("python", "-m", "build", "--outdir", folder / "of-sdist", ROOT)
    builder.run("python", "-m", "build", "--wheel", "--outdir", folder / "of-checkout", ROOT)
    (sdist,), (wheel,) = (list((folder / "of-sdist").glob(name)) for name in ("*.tar.gz", "*.whl"))
    if contents(wheel) != contents(folder / "of-checkout" / wheel.name):
        raise SystemExit("install: the wheel made of the sdist is another than that of the checkout")
    for file in (sdist, wheel):
        print(f"{file.name}: {file.stat().st_size / 1e6:.1f} MB")
    return sdist, wheel


def contents(wheel: Path) -> dict[str, int]:
    """The files in a wheel and their checksums."""
    with zipfile.ZipFile(wheel) as archive:
        return {entry.filename: entry.CRC for entry in archive.infolist()}


def print_contents(wheel: Path) -> None:
    """What takes the most room in the wheel, packed."""
    with zipfile.ZipFile(wheel) as archive:
        entries = sorted(archive.infolist(), key=lambda entry: -entry.compress_size)
    for entry in entries[:3]:
        print(f"  {entry.compress_size / 1e6:.1f} MB {entry.filename}")
    rest = sum(entry.compress_size for entry in entries[3:])
    print(f"  {rest / 1e6:.1f} MB in {len(entries) - 3} other files")


def unpack_tests(sdist: Path, folder: Path) -> Path:
    """The sdist's files without the sources: tests can only import what is installed."""
    shutil.unpack_archive(sdist, folder)
    (unpacked,) = folder.iterdir()
    shutil.rmtree(unpacked / "src")
    return unpacked


def extras(wheel: Path) -> list[str]:
    """The names of a wheel's extras."""
    with zipfile.ZipFile(wheel) as archive:
        (metadata,) = (name for name in archive.namelist() if name.endswith(".dist-info/METADATA"))
        lines = archive.read(metadata).decode().splitlines()
    return [line.partition(": ")[2] for line in lines if line.startswith("Provides-Extra: ")]


def added(environment: Environment, wheel: Path, extra: str) -> list[str]:
    """What an extra would install beside what is there."""
    report = environment.work / "report.json"
    environment.run(
        "pip", "install", "--quiet", "--dry-run", "--report", report, "-c", CONSTRAINTS, f"{wheel}[{extra}]"
    )
    found = [entry["metadata"] for entry in json.loads(report.read_text())["install"]]
    return sorted(f"{one['name']} {one['version']}" for one in found if one["name"] != "paint-by-example")


def main() -> None:
    with tempfile.TemporaryDirectory(prefix="pbe-install-") as name:
        folder = Path(name)
        (work := folder / "work").mkdir()
        print(f"Python {sys.version.split()[0]}")
        with step("build the sdist, and the wheel of it and of the checkout"):
            sdist, wheel = build(folder)
            print_contents(wheel)
        environment = Environment(folder / "environment", work)
        with step("install the wheel alone"):
            environment.install(wheel)
            environment.run("python", ROOT / "tests" / "dependencies.py", "paint-by-example")
        with step("import it"):
            environment.run("python", "-c", "import paint_by_example as p; print(p.__version__, p.__file__)")
        with step("edit a picture"):
            environment.run("python", "-c", PICTURES)
            box = ",".join(map(str, BOX))
            environment.run("pbe", "edit", "room.png", "--exemplar", "chair.png", "--box", box, "--output", "out.png")
            environment.run("python", "-c", COMPARE)
        with step("what each extra adds"):
            for extra in extras(wheel):
                if extra != OF_CONTRIBUTORS:
                    print(f"{extra}: {', '.join(added(environment, wheel, extra)) or 'nothing'}", flush=True)
        with step("the sdist's tests, without its sources"):
            environment.install("pytest", "hypothesis")
            environment.work = unpack_tests(sdist, folder / "sdist")
            tests = [f"tests/test_{test}.py" for test in TESTS]
            environment.run("python", "-m", "pytest", "-q", "-m", "not slow and not gpu", *tests, limit=LIMIT)


if __name__ == "__main__":
    main()
