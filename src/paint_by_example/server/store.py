"""Edits on disk, so that none that is finished is lost with the server.

    STATE/lock                       held while a server uses the folder
    STATE/edits/ID/edit.json         how the edit stands, as a client sees it
    STATE/edits/ID/inputs/           what was uploaded, until it has ended
    STATE/edits/ID/0.png, 1.png ...  results, unless they go to --output-dir

An edit's id begins with the time, so sorted by name they are sorted by age.
"""

from __future__ import annotations

import contextlib
import os
import re
import secrets
import shutil
import sys
import time
from collections.abc import Iterator
from pathlib import Path

from ..errors import UserError
from ..state import write_whole
from .messages import Edit, State

ID = re.compile(r"[0-9a-f]{32}")
ENDED: tuple[State, ...] = ("done", "failed", "cancelled", "interrupted")
SCANNED = 2000  # edits that a list looks at, at most


def new_id() -> str:
    """32 hexadecimal digits: milliseconds since 1970, and 80 random bits, so that nobody guesses another's."""
    return f"{time.time_ns() // 1_000_000:012x}{secrets.token_hex(10)}"


class Store:
    """A folder of edits.

    Args:
        folder: made if it is not there.
        keep_seconds: how long an edit that has ended stays.

    Raises:
        UserError: another server uses the folder, or it cannot be written.
    """

    def __init__(self, folder: Path, keep_seconds: float) -> None:
        self.folder, self.keep_seconds = folder / "edits", keep_seconds
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            self.lock = (folder / "lock").open("w")
        except OSError as error:
            raise UserError(f"cannot keep edits in {folder}: {error.strerror}; give --state-dir") from error
        if not _locked(self.lock.fileno()):
            self.lock.close()
            raise UserError(f"another server keeps its edits in {folder}; give --state-dir")

    def close(self) -> None:
        """Let another server use the folder."""
        self.lock.close()

    def place(self, name: str) -> Path:
        """The folder of an edit."""
        return self.folder / name

    def write(self, edit: Edit) -> None:
        """Write how an edit stands: whole, and on the disk when this returns."""
        text = edit.model_dump_json(exclude={"place", "seconds_left"}, indent=1).encode()
        write_whole(self.place(edit.id) / "edit.json", lambda file: file.write(text))

    def read(self, name: str) -> Edit | None:
        """How an edit stood when it was last written; None if there is none."""
        if not ID.fullmatch(name):
            return None
        try:
            return Edit.model_validate_json((self.place(name) / "edit.json").read_bytes())
        except (OSError, ValueError):  # removed meanwhile, or damaged by other hands
            return None

    def newest(self) -> Iterator[Edit]:
        """Edits, the newest first, `SCANNED` at most."""
        names = sorted((name for name in os.listdir(self.folder) if ID.fullmatch(name)), reverse=True)
        for name in names[:SCANNED]:
            edit = self.read(name)
            if edit is not None:
                yield edit

    def remove(self, name: str) -> None:
        """Remove an edit with its results."""
        shutil.rmtree(self.place(name), ignore_errors=True)

    def remove_inputs(self, name: str) -> None:
        """Remove what was uploaded for an edit."""
        shutil.rmtree(self.place(name) / "inputs", ignore_errors=True)

    def recover(self) -> list[Edit]:
        """After a start: mark edits that the last server did not end as interrupted, and give them."""
        interrupted = []
        for name in os.listdir(self.folder):
            edit = self.read(name)
            if edit is None:
                self.remove(name)  # half made: its client was never told of it
            elif edit.state not in ENDED:
                now = time.time()
                ended = {"state": "interrupted", "finished": now, "expires": now + self.keep_seconds, "results": []}
                edit = edit.model_copy(update=ended)
                self.remove_inputs(name)
                for picture in self.place(name).glob("*.png"):
                    picture.unlink()
                self.write(edit)
                interrupted.append(edit)
        return interrupted

    def sweep(self, active: set[str]) -> int:
        """Remove edits that ended longer than `keep_seconds` ago; gives their number."""
        removed = 0
        for name in os.listdir(self.folder):
            if name in active:
                continue
            with contextlib.suppress(OSError):
                if time.time() - (self.place(name) / "edit.json").stat().st_mtime > self.keep_seconds:
                    self.remove(name)
                    removed += 1
        return removed


def _locked(descriptor: int) -> bool:
    """Lock a file until it is closed or the process ends, however it does."""
    if sys.platform == "win32":
        import msvcrt

        try:
            msvcrt.locking(descriptor, msvcrt.LK_NBLCK, 1)
        except OSError:
            return False
        return True
    import fcntl

    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return False
    return True


def state_folder(port: int) -> Path:
    """Where a server keeps its edits if nobody says: in the user's data folder, one for each port."""
    home = os.environ.get("XDG_DATA_HOME") or Path.home() / ".local" / "share"
    return Path(home) / "paint-by-example" / f"server-{port}"
