"""Runs cases in a process of its own and sees that each keeps the rules.

An input either does or is refused by a `UserError` of one printable line. Nothing else may come of it: no other
exception, no end of the process, no more processor time, waiting or memory than stated below, no file written, removed
or read where it should not be, no program started, no address asked.
"""

import contextlib
import faulthandler
import io
import multiprocessing
import os
import random
import resource
import shutil
import sys
import tempfile
import time
import traceback
import warnings
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from paint_by_example.errors import UserError

CPU_SECONDS = 10.0  # of a case, at most
WALL_SECONDS = 60.0  # of a case, at most: other programs may have the processor
MEMORY = 1 << 30  # bytes of a case above what the process had, at most: a picture of the largest size takes most of it
SPARE = 3 << 30  # bytes above that, at which the system refuses more, so that a fault does not take the whole machine

PROCESSES = multiprocessing.get_context("fork")


class Target(Protocol):
    """What takes input from outside."""

    cases: int
    """How many are tried by default."""

    def __init__(self, folder: Path) -> None:
        """Make the inputs that are then damaged.

        Args:
            folder: to keep them in.
        """

    def attempt(self, rng: random.Random, folder: Path) -> int | None:
        """Make one bad input and hand it over.

        Args:
            rng: what is done to it.
            folder: an empty one, which alone may be written to.

        Returns:
            How many inputs it was, if not one.
        """


class BrokenRule(BaseException):
    """Raised where something is about to be done that must not be; no ``except Exception`` hides it."""


@dataclass
class Verdict:
    """Of one case."""

    number: int
    inputs: int = 1
    refused: bool = False
    fault: str | None = None
    seconds: float = 0.0
    """Of the processor."""
    memory: int = 0
    """Bytes above what the process had."""


@dataclass
class Summary:
    """Of a target's cases."""

    cases: int = 0
    inputs: int = 0
    refused: int = 0
    seconds: float = 0.0
    """Of the slowest."""
    memory: int = 0
    """Of the largest."""
    faults: list[Verdict] = field(default_factory=list)

    def add(self, verdict: Verdict) -> None:
        self.cases += 1
        self.inputs += verdict.inputs
        self.refused += verdict.refused
        self.seconds = max(self.seconds, verdict.seconds)
        self.memory = max(self.memory, verdict.memory)
        if verdict.fault is not None:
            self.faults.append(verdict)


def judge(kind: type[Target], name: str, seed: int, numbers: range) -> Summary:
    """Try a target's cases; where one ends the process, another goes on behind it."""
    summary = Summary()
    with tempfile.TemporaryDirectory(prefix=f"fuzz-{name}-") as place:
        todo = list(numbers)
        while todo:
            ours, theirs = PROCESSES.Pipe(duplex=False)
            stack = Path(place) / "stack"
            process = PROCESSES.Process(target=work, args=(theirs, kind, name, seed, todo, Path(place), stack))
            process.start()
            theirs.close()
            before = len(todo)
            with contextlib.suppress(EOFError):
                while todo:
                    summary.add(ours.recv())
                    todo.pop(0)
            process.join()
            if process.exitcode == 1 and len(todo) == before:
                raise RuntimeError(f"the target {name} cannot be prepared: {stack.read_text()}")
            if todo:
                said = stack.read_text(errors="replace").strip() or f"exit code {process.exitcode}"
                summary.add(Verdict(todo.pop(0), fault=f"the process ended: {said}"))
    return summary


def work(
    verdicts: Any,
    kind: type[Target],
    name: str,
    seed: int,
    numbers: list[int],
    place: Path,
    stack: Path,
) -> None:
    """What the process does: a verdict a case, as long as it lives."""
    with stack.open("w") as said:
        faulthandler.enable(said)
        sys.dont_write_bytecode = True
        warnings.simplefilter("ignore")
        prepared, outside = place / "prepared", place / "outside"
        for folder in (prepared, outside):
            shutil.rmtree(folder, ignore_errors=True)
            folder.mkdir()
        (outside / "secret").write_text("of nobody's business")
        sys.stderr = sys.stdout = io.StringIO()  # what is said there is not looked at
        os.dup2(os.open(os.devnull, os.O_WRONLY), 2)  # nor what libraries in C say
        try:
            target = kind(prepared)
        except Exception:
            said.write(traceback.format_exc())
            raise
        guard = Guard(outside, prepared / "state")
        sys.addaudithook(guard)
        resource.setrlimit(resource.RLIMIT_DATA, (status("VmData") + MEMORY + SPARE, resource.RLIM_INFINITY))
        for number in numbers:
            folder = place / "case"
            shutil.rmtree(folder, ignore_errors=True)  # of a case that ended its process
            folder.mkdir()
            tempfile.tempdir = str(folder)
            faulthandler.dump_traceback_later(WALL_SECONDS, exit=True, file=said)
            verdict = attempt(target, random.Random(f"{seed} {name} {number}"), folder, guard)
            faulthandler.cancel_dump_traceback_later()
            verdict.number = number
            shutil.rmtree(folder)
            sys.stdout.seek(0)
            sys.stdout.truncate()
            verdicts.send(verdict)
    os._exit(0)  # threads of a server or of LanceDB are not waited for


def attempt(target: Target, rng: random.Random, folder: Path, guard: "Guard") -> Verdict:
    verdict = Verdict(0)
    Path("/proc/self/clear_refs").write_text("5")  # the peak is counted from here
    before, started = status("VmRSS"), time.process_time()
    try:
        with guard.watching(folder):
            verdict.inputs = target.attempt(rng, folder) or 1
    except UserError as error:
        verdict.refused = True
        if not str(error).isprintable():
            verdict.fault = f"a message with control characters: {str(error)!r}"
    except BaseException:
        verdict.fault = traceback.format_exc()
    verdict.seconds = time.process_time() - started
    verdict.memory = max(0, status("VmHWM") - before)
    if guard.broken:  # also where what was raised there was caught
        verdict.fault = "; ".join(guard.broken)
    elif verdict.fault is None and verdict.seconds > CPU_SECONDS:
        verdict.fault = f"it took {verdict.seconds:.1f} s of the processor"
    elif verdict.fault is None and verdict.memory > MEMORY:
        verdict.fault = f"it took {verdict.memory >> 20:,} MB of memory"
    return verdict


def status(name: str) -> int:
    """A size that the system knows of this process, bytes."""
    line = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith(f"{name}:"))
    return int(line.split()[1]) << 10


class Guard:
    """Is told by Python of every file, program and address before it is opened, and raises where that is forbidden.

    Args:
        outside: a folder that nothing may be read from either.
        kept: one that a server keeps what it knows in, where its threads write whatever the case is.
    """

    WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND
    CHANGES = ("os.rename", "os.remove", "os.mkdir", "os.rmdir", "os.link", "os.symlink", "os.truncate", "os.chmod")
    IN_FOLDER = ("os.remove", "os.mkdir", "os.rmdir")  # that of an open descriptor, their last argument, or -1
    NEVER = ("subprocess.Popen", "os.system", "os.exec", "os.posix_spawn", "socket.connect", "socket.getaddrinfo")

    def __init__(self, outside: Path, kept: Path) -> None:
        self.outside, self.kept = os.path.realpath(outside), os.path.realpath(kept)
        self.inside: str | None = None
        self.broken: list[str] = []

    @contextlib.contextmanager
    def watching(self, folder: Path) -> Iterator[None]:
        self.inside, self.broken = os.path.realpath(folder), []
        try:
            yield
        finally:
            self.inside = None

    def __call__(self, event: str, arguments: tuple[Any, ...]) -> None:
        if self.inside is None:
            return
        if event == "open" and isinstance(arguments[0], str | bytes):
            path = self.real(arguments[0])
            if within(path, self.outside):
                self.forbid(f"read {path}")
            if arguments[2] & self.WRITING and path != "/dev/null" and not self.ours(path):
                self.forbid(f"wrote {path}")
        elif event in self.CHANGES:
            folder = arguments[-1] if event in self.IN_FOLDER else -1
            for path in arguments[event in ("os.link", "os.symlink") : 2]:
                if isinstance(path, str | bytes) and not self.ours(self.real(path, folder)):
                    self.forbid(f"{event} {os.fsdecode(path)}")
        elif event in self.NEVER:
            self.forbid(f"{event} {arguments!r}")

    def ours(self, path: str) -> bool:
        return self.inside is None or within(path, self.inside) or within(path, self.kept)

    def real(self, path: str | bytes, folder: int = -1) -> str:
        with contextlib.suppress(ValueError, OSError):
            start = os.getcwd() if folder < 0 else os.readlink(f"/proc/self/fd/{folder}")
            return os.path.realpath(os.path.join(start, os.fsdecode(path)))
        return "/"

    def forbid(self, what: str) -> None:
        self.broken.append(what)
        raise BrokenRule(what)


def within(path: str, folder: str) -> bool:
    return path == folder or path.startswith(folder + os.sep)
