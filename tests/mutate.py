"""Change the code by one operator, number or word at a time and see whether its tests notice: ``make mutate``.

    python -m tests.mutate [--file sampling.py --file crops.py] [--limit 25] [--seed 0]

mutmut makes the mutants in a copy of the tree, ``build/mutate``, and runs for each the tests that come by the function
it is in. Of more mutants of a file than the limit a sample is drawn. Printed are the changes that no test noticed, and
a line of figures a file. Somebody has to look at what is printed: some changes make no other program.
"""

import argparse
import contextlib
import json
import os
import random
import shutil
import subprocess
import sys
from collections import Counter
from pathlib import Path

os.environ |= {"OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false"}

from mutmut.configuration import reset_config
from mutmut.mutation.file_mutation import mutate_file_contents
from mutmut.stats import status_by_exit_code
from mutmut.utils.format_utils import get_mutant_name

SOURCE = Path("src/paint_by_example")
TESTS = {
    "sampling.py": ("sampling",),
    "guidance.py": ("guidance",),
    "alignment.py": ("alignment",),
    "crops.py": ("crops",),
    "data/masks.py": ("masks",),
    "evaluation/frechet.py": ("evaluation_maths",),
    "evaluation/statistics.py": ("evaluation_maths",),
    "evaluation/likeness.py": ("evaluation_maths",),
    "harmonise.py": ("harmonise",),
    "state.py": ("state",),
}
"""Of each file the tests that are about it."""
SETTINGS = """[mutmut]
source_paths=src
only_mutate=
    {files}
pytest_add_cli_args=
    -mnot slow and not gpu
    -pno:schemathesis
pytest_add_cli_args_test_selection=
    {tests}
do_not_mutate_patterns=raise \\w+Error\\(
process_isolation=forkserver
timeout_multiplier=10
timeout_constant=3
"""
"""Messages are left as they are. A limit of time that a busy machine does not reach."""
QUICKLY = """
import cv2
from hypothesis import HealthCheck, Phase, settings

cv2.setNumThreads(1)
settings.register_profile(
    "mutate",
    phases=(Phase.explicit, Phase.generate),
    derandomize=True,
    database=None,
    deadline=None,
    suppress_health_check=list(HealthCheck),
)
settings.load_profile("mutate")


def pytest_collection_modifyitems(items):
    items.sort(key=lambda item: getattr(item.function, "is_hypothesis_test", False))
"""
"""For the copy's conftest.py, however busy the machine: the same examples for every mutant, no search for smaller ones,
and tests of one example first. OpenCV's threads do not outlive a fork: tests would wait for them."""


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.mutate", description=__doc__.partition("\n")[0])
    parser.add_argument("--file", choices=TESTS, action="append", help="one of the files; all if not given")
    parser.add_argument("--limit", type=int, default=25, help="mutants of a file, at most")
    parser.add_argument("--seed", type=int, default=0, help="another one draws others")
    given = parser.parse_args()
    files, work = given.file or list(TESTS), Path("build/mutate")
    copy_tree(work, files)
    with contextlib.chdir(work):
        reset_config()  # mutmut's, which is in this folder
        made = {file: mutants(SOURCE / file) for file in files}
        tried = {file: drawn(names, given.limit, f"{given.seed} {file}") for file, names in made.items()}
        states = run([name for names in tried.values() for name in names], files)
        for name in sorted(name for name, state in states.items() if state in ("survived", "no tests")):
            subprocess.run([mutmut(), "show", name], check=True)
    print(f"{'file':26}{'mutants':>8}{'tried':>8}{'killed':>8}{'timeout':>9}{'survived':>9}{'no test':>9}")
    for file, names in tried.items():
        count = Counter(states[name] for name in names)
        figures = f"{count['killed']:8}{count['timeout']:9}{count['survived']:9}{count['no tests']:9}"
        print(f"{file:26}{len(made[file]):8}{len(names):8}{figures}")
    return 0


def copy_tree(work: Path, files: list[str]) -> None:
    """Copy what tests need, with mutmut's settings."""
    shutil.rmtree(work, ignore_errors=True)
    for name in ("src", "tests"):
        shutil.copytree(name, work / name, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy("pyproject.toml", work)
    tests = sorted({f"tests/test_{name}.py" for file in files for name in TESTS[file]})
    paths = [str(SOURCE / file) for file in files]
    (work / "setup.cfg").write_text(SETTINGS.format(files="\n    ".join(paths), tests="\n    ".join(tests)))
    with (work / "tests/conftest.py").open("a") as conftest:
        conftest.write(QUICKLY)


def mutants(path: Path) -> list[str]:
    """Names of all mutants of a file."""
    return [get_mutant_name(path, name) for name in mutate_file_contents(str(path), path.read_text()).mutant_names]


def drawn(names: list[str], limit: int, seed: str) -> list[str]:
    """So many of them at random, whatever other files are tried."""
    return random.Random(seed).sample(names, min(limit, len(names)))


def run(names: list[str], files: list[str]) -> dict[str, str]:
    """Try mutants; gives of each what became of it."""
    changed = Path("mutants/src").absolute()
    changed.mkdir(parents=True)  # Python forgets a path that is not there when it starts
    environment = os.environ | {"PYTHONPATH": str(changed)}  # for processes that tests start
    subprocess.run([mutmut(), "run", "--max-children", "1", *names], env=environment, check=True)
    codes = [json.loads(Path(f"mutants/{SOURCE / file}.meta").read_text())["exit_code_by_key"] for file in files]
    return {name: status_by_exit_code[one[name]] for one in codes for name in names if name in one}


def mutmut() -> str:
    return str(Path(sys.executable).with_name("mutmut"))


if __name__ == "__main__":
    sys.exit(main())
