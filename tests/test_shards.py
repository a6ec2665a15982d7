"""Shards: what is written, what is read, in which order, and by whom."""

from __future__ import annotations

import errno
import json
import subprocess
import sys
import tarfile
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch.utils.data import DataLoader

from paint_by_example.batches import Steps
from paint_by_example.cli import main
from paint_by_example.data import shards as module
from paint_by_example.data.dataset import BoxDataset, read_index
from paint_by_example.data.shards import RUN, SHARDS, ShardDataset, location, write_shards
from paint_by_example.errors import DataError, UserError
from paint_by_example.processes import Shares
from paint_by_example.settings import TrainConfig
from paint_by_example.state import read_log, write_whole
from paint_by_example.training import train

PICTURES = 23  # more than two runs, and none of the sizes below divides it


@pytest.fixture(scope="module")
def index(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Noise, which keeps its size as a file; every third picture with a mask."""
    folder = tmp_path_factory.mktemp("pictures")
    lines = []
    for number in range(PICTURES):
        rng = np.random.default_rng(number)
        name = f"{number}.{'jpg' if number % 2 else 'png'}"
        Image.fromarray(rng.integers(0, 256, (200, 240, 3), np.uint8)).save(folder / name)
        line: dict[str, Any] = {"picture": name, "boxes": [[20, 30, 120, 140], [100, 20, 220, 90]]}
        if number % 3 == 0:
            mask = np.zeros((200, 240), np.uint8)
            mask[30:140, 20:120] = 255
            Image.fromarray(mask).save(folder / f"{number}.mask.png")
            line["masks"] = [f"{number}.mask.png", None]
        lines.append(json.dumps(line) + "\n")
    (folder / "index.jsonl").write_text("".join(lines))
    return folder / "index.jsonl"


@pytest.fixture(scope="module")
def shards(index: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("shards")
    assert write(index, out) == 0
    return out


def write(index: Path, out: Path, *more: str) -> int:
    return main(["prepare", "shards", str(out), "--index", str(index), "--shard-size", "1", *more])


def files(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.name != "settings.json"}


def line_of(index: Path, item: dict[str, Any], epoch: int = 0) -> int:
    """Which line of the index an item was made of: the one that `BoxDataset` makes the same of."""
    data = BoxDataset(index, 32, 16)
    data.epoch = epoch
    return next(number for number in range(len(data)) if same(data[number], item))


def same(first: dict[str, Any], second: dict[str, Any]) -> bool:
    return first.keys() == second.keys() and all(np.array_equal(first[name], second[name]) for name in first)


# Writing


def test_shards_are_tar_files_with_a_list_of_what_is_where(index: Path, shards: Path) -> None:
    table = [json.loads(line) for line in (shards / SHARDS).read_text().splitlines()]
    assert len(table) > 2
    assert [line["shard"] for line in table] == sorted(path.name for path in shards.glob("*.tar"))
    assert sum(len(line["examples"]) for line in table) == PICTURES
    seen = []
    for line in table:
        file = shards / line["shard"]
        assert 10**6 <= file.stat().st_size < 1.3 * 10**6 or line is table[-1]
        with tarfile.open(file) as tar:
            members = {member.name: tar.extractfile(member).read() for member in tar}  # type: ignore[union-attr]
        keys = list(dict.fromkeys(name.split(".")[0] for name in members))
        assert len(keys) == len(line["examples"])
        for key in keys:
            number = int(key)
            seen.append(number)
            entry = json.loads(members[f"{key}.json"])
            original = index.parent / f"{number}{Path(entry['picture']).suffix}"
            assert members[entry["picture"]] == original.read_bytes()
            assert ("masks" in entry) == (number % 3 == 0)
    assert sorted(seen) == list(range(PICTURES)) != seen


def test_webdataset_reads_them(shards: Path) -> None:
    pytest.importorskip("webdataset")
    last = max(path.name for path in shards.glob("*.tar"))
    pattern = str(shards / f"shard-{{000000..{last[6:12]}}}.tar")
    code = (
        "import sys, webdataset; print(*(one['__key__'] for one in webdataset.WebDataset(sys.argv[1], shardshuffle=0)))"
    )
    found = subprocess.run([sys.executable, "-c", code, pattern], capture_output=True, text=True, check=True).stdout
    assert sorted(map(int, found.split())) == list(range(PICTURES))


@pytest.mark.parametrize("done", [0, 1, 2])
def test_running_again_goes_on_where_it_stopped(
    index: Path, shards: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, done: int
) -> None:
    written: list[str] = []

    def noted(path: Path, write: Any) -> None:
        written.append(path.name)
        write_whole(path, write)

    def killed(path: Path, write: Any) -> None:
        if len(written) == done:
            path.with_name(f"{path.name}.partial").write_bytes(b"half a shard")
            raise KeyboardInterrupt
        noted(path, write)

    monkeypatch.setattr(module, "write_whole", killed)
    assert write(index, tmp_path) == 130
    assert not (tmp_path / SHARDS).exists()  # nobody trains on a part of it
    with (tmp_path / f"{SHARDS}.partial").open("a") as listed:
        listed.write('{"shard": "shard-00')  # a line that was being written
    monkeypatch.setattr(module, "write_whole", noted)
    assert write(index, tmp_path) == 0
    assert files(tmp_path) == files(shards)
    assert len(written) == len(set(written))  # none twice
    assert write(index, tmp_path) == 0
    assert files(tmp_path) == files(shards)


def test_broken_pictures_are_skipped_listed_and_counted(
    index: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "pictures"
    folder.mkdir()
    lines = index.read_text().splitlines(keepends=True)[:6]
    (folder / "index.jsonl").write_text("".join(lines))
    for number in (0, 2, 3, 5):
        for file in index.parent.glob(f"{number}.*"):
            (folder / file.name).write_bytes(file.read_bytes())
    (folder / "2.png").write_bytes((folder / "2.png").read_bytes()[:5000])
    (folder / "3.mask.png").write_bytes(b"no mask")
    for _ in range(2):
        assert write(folder / "index.jsonl", tmp_path / "out") == 0
        captured = capsys.readouterr()
        assert captured.out == "shards  1\npictures  2\nskipped  4\n"
        skipped = dict(line.split("\t") for line in (tmp_path / "out" / "skipped.tsv").read_text().splitlines())
        assert skipped.keys() == {"1.jpg", "2.png", "3.jpg", "4.png"}
        assert "No such file" in skipped["1.jpg"]
        assert "may be damaged" in skipped["2.png"]
        assert "the mask" in skipped["3.jpg"]
    data = ShardDataset(tmp_path / "out", 32, 16)
    assert sorted(line_of(index, data[number]) for number in range(2)) == [0, 5]


@pytest.mark.parametrize("failures", [2, 3])
def test_a_passing_failure_to_read_costs_no_picture(
    failures: int, index: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "PAUSES", (0.01, 0.01, 0))
    read, left = Path.read_bytes, [failures]

    def failing(path: Path) -> bytes:
        if path != index and left[0]:
            left[0] -= 1
            raise OSError(errno.EIO, "Input/output error")
        return read(path)

    monkeypatch.setattr(Path, "read_bytes", failing)
    if failures == 3:
        with pytest.raises(DataError, match=r"cannot read .*: Input/output error; run again to go on from here"):
            write_shards(index, tmp_path / "out")
    written = write_shards(index, tmp_path / "out")
    assert left == [0]
    assert written["skipped"] == 0
    assert written["pictures"] == len(read_index(index))


def test_what_cannot_be_written_is_one_line(index: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["prepare", "shards", str(tmp_path)]) == 2
    assert "missing: --index" in capsys.readouterr().err
    assert write(tmp_path / "nothing.jsonl", tmp_path) == 1
    assert "cannot read the index" in capsys.readouterr().err
    assert write(index, tmp_path / "zero", "--shard-size", "0") == 1
    assert "at least 1 MB" in capsys.readouterr().err
    assert write(index, tmp_path / "out") == 0
    assert write(index, tmp_path / "out", "--seed", "1") == 1
    assert "other options" in capsys.readouterr().err
    (tmp_path / "index.jsonl").write_text('{"picture": "gone.png", "boxes": [[0, 0, 5, 5]]}\n')
    assert write(tmp_path / "index.jsonl", tmp_path / "none") == 1
    assert "no picture of" in capsys.readouterr().err


# Reading


def test_an_item_is_what_the_index_gives(index: Path, shards: Path) -> None:
    data = ShardDataset(shards, 32, 16)
    assert len(data) == PICTURES
    for data.epoch in range(2):
        lines = [line_of(index, item, data.epoch) for item in data]  # type: ignore[attr-defined]
        assert sorted(lines) == list(range(PICTURES))
    with pytest.raises(IndexError):
        data[PICTURES]


def test_the_order_depends_on_seed_and_epoch_and_keeps_runs_together(shards: Path) -> None:
    def order(seed: int, epoch: int) -> list[int]:
        data = ShardDataset(shards, seed=seed)
        data.epoch = epoch
        return [int(number) for number in data.order()]

    orders = [order(0, 0), order(0, 1), order(1, 0)]
    assert order(0, 0) == orders[0]
    assert len({tuple(one) for one in orders}) == 3
    assert all(sorted(one) == list(range(PICTURES)) for one in orders)
    data = ShardDataset(shards)
    for first, last in zip(data.starts, data.starts[1:], strict=False):
        assert last - first <= RUN
        assert all(one.index(last - 1) - one.index(first) == last - 1 - first for one in orders)


def test_each_run_is_read_once_where_its_examples_follow_each_other(
    shards: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = ShardDataset(shards, 32, 16)
    ranges: list[tuple[Any, ...]] = []
    read = module.read_range

    def counted(*place: Any) -> bytes:
        ranges.append(place)
        return read(*place)

    monkeypatch.setattr(module, "read_range", counted)
    assert len(list(data)) == PICTURES  # type: ignore[call-overload]
    assert len(ranges) == len(set(ranges)) == len(data.starts) - 1


def epochs_of(shards: Path, rank: int, workers: int, first: int = 0) -> list[torch.Tensor]:
    """What a process of two sees of two epochs in batches of 4, with its share of 2 of each."""
    steps = Steps(ShardDataset(shards, 32, 16), first * 4, 2 * PICTURES // 4 * 4)
    return [
        batch["source"]
        for batch in DataLoader(steps, batch_sampler=Shares(len(steps) // 4, 4, 2, rank), num_workers=workers)
    ]


def test_two_ranks_with_two_workers_see_each_example_once_an_epoch(shards: Path) -> None:
    data = ShardDataset(shards, 32, 16)
    expected = []
    for data.epoch in range(2):
        expected += [data[position]["source"] for position in range(PICTURES)]
    ranks = [epochs_of(shards, rank, workers=2) for rank in range(2)]
    seen = [source for shares in zip(*ranks, strict=True) for share in shares for source in share.numpy()]
    assert len(seen) == 2 * PICTURES // 4 * 4
    assert all(np.array_equal(one, other) for one, other in zip(seen, expected, strict=False))
    assert len({source.tobytes() for source in seen[:PICTURES]}) == PICTURES


def test_a_run_goes_on_from_any_step_as_if_it_had_not_stopped(shards: Path) -> None:
    whole = epochs_of(shards, 1, workers=2)
    for first in (1, 6, 8):
        rest = epochs_of(shards, 1, workers=1, first=first)
        assert len(rest) == len(whole) - first > 0
        assert all(torch.equal(one, other) for one, other in zip(rest, whole[first:], strict=True))


class Store(BaseHTTPRequestHandler):
    """Serves a folder, parts of files too."""

    folder: Path
    ranges: bool = True
    failing: int = 0
    asked: int = 0

    def do_GET(self) -> None:
        type(self).asked += 1
        content = (self.folder / self.path.lstrip("/")).read_bytes()
        if type(self).failing:
            type(self).failing -= 1
            self.send_error(503)
            return
        part = self.headers.get("Range")
        if part and self.ranges:
            first, last = map(int, part.removeprefix("bytes=").split("-"))
            content = content[first : last + 1]
        self.send_response(206 if part and self.ranges else 200)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, *_: Any) -> None:
        pass


@pytest.fixture
def store(shards: Path) -> Iterator[tuple[str, type[Store]]]:
    pytest.importorskip("aiohttp")
    kind = type("FolderStore", (Store,), {"folder": shards})
    with ThreadingHTTPServer(("127.0.0.1", 0), kind) as server:
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}", kind
        server.shutdown()
        thread.join()


def test_shards_are_read_from_a_server(
    shards: Path, store: tuple[str, type[Store]], monkeypatch: pytest.MonkeyPatch
) -> None:
    url, kind = store
    local, remote = ShardDataset(shards, 32, 16), ShardDataset(Path(f"{url}/{SHARDS}"), 32, 16)
    assert all(same(one, other) for one, other in zip(local, remote, strict=True))  # type: ignore[call-overload]
    assert kind.asked == 1 + len(local.starts) - 1  # the list, and a request a run
    monkeypatch.setattr(module, "PAUSES", (0.01, 0.01, 0))
    kind.failing = 2  # a moment's failure is waited out
    assert same(remote[0], local[0])
    remote.read, kind.failing = (-1, b""), 3
    with pytest.raises(DataError, match=r"cannot read http.*shard-.*503"):
        remote[0]
    kind.ranges = False
    with pytest.raises(DataError, match="knows no ranges"):
        remote[0]


def test_workers_read_from_a_server(shards: Path, store: tuple[str, type[Store]]) -> None:
    data = ShardDataset(f"{store[0]}/{SHARDS}", 32, 16)
    local = ShardDataset(shards, 32, 16)
    data[0]  # before the workers are forked
    for number, batch in enumerate(DataLoader(data, 1, num_workers=2, multiprocessing_context="forkserver")):  # type: ignore[arg-type]
        assert np.array_equal(batch["source"][0], local[number]["source"])


def test_shards_are_read_from_a_store_of_objects(shards: Path) -> None:
    import fsspec

    memory = fsspec.filesystem("memory")
    for name, content in files(shards).items():
        memory.pipe_file(f"/bucket/{name}", content)
    local, remote = ShardDataset(shards, 32, 16), ShardDataset(Path("memory://bucket"), 32, 16)
    assert same(local[5], remote[5])


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        (Path("s3://bucket/a/shards.jsonl"), "s3://bucket/a/shards.jsonl"),
        (Path("https://host:80/a"), "https://host:80/a"),
        ("gs://bucket", "gs://bucket"),
        (Path("/data/shards.jsonl"), "/data/shards.jsonl"),
        (Path("data:/x"), "data://x"),
    ],
)
def test_a_url_survives_being_a_path(path: Path | str, expected: str) -> None:
    assert location(path) == expected


def test_what_cannot_be_read_is_named(index: Path, shards: Path, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"cannot read .*shards\.jsonl: FileNotFoundError"):
        ShardDataset(tmp_path)
    with pytest.raises(UserError, match=r"cannot read s3://nowhere/shards\.jsonl: .*s3fs"):
        ShardDataset("s3://nowhere/shards.jsonl")
    for text, wrong in (("{}", "no list of shards"), ("no", "no list of shards"), ("", "lists no example")):
        (tmp_path / SHARDS).write_text(text)
        with pytest.raises(DataError, match=wrong):
            ShardDataset(tmp_path)
    for name, content in files(shards).items():
        (tmp_path / name).write_bytes(content)
    broken = sorted(tmp_path.glob("*.tar"))[0]

    def problem(content: bytes) -> str:
        broken.write_bytes(content)
        data = ShardDataset(tmp_path, 32, 16)
        first = int(np.flatnonzero(data.order() == 0)[0])  # the first example of the first shard
        with pytest.raises(DataError) as caught:
            data[first]
        return str(caught.value)

    whole = files(shards)[broken.name]
    assert "it is cut short" in problem(whole[:2000])
    assert "no part of a tar file" in problem(b"x" * len(whole))
    other = bytearray(whole)
    start = whole.index(b".json\0")
    other[start : start + 5] = b".text"
    assert "this is no example, but 0000" in problem(bytes(other))  # a checksum is wrong: the rest is cut off
    broken.unlink()
    data = ShardDataset(tmp_path, 32, 16)
    with pytest.raises(DataError, match=r"cannot read .*shard-000000\.tar: FileNotFoundError"):
        list(data)  # type: ignore[call-overload]


def test_a_training_on_shards_that_is_killed_goes_on_exactly(
    shards: Path, models: dict[str, Path], tmp_path: Path
) -> None:
    def losses(run: str, *steps: int) -> list[float]:
        for last in steps:
            options = {
                "steps": last,
                "batch_size": 4,
                "log_every": 1,
                "workers": 2,
                "held_out_edits": 0,
                "sample_every": 99,
            }
            train(
                TrainConfig(shards / SHARDS, tmp_path / run, init=str(models["embedded"]), device="cpu", **options)  # type: ignore[arg-type]
            )
        return [line["loss"] for line in read_log(tmp_path / run, "log")]

    whole = losses("whole", 8)  # into the second epoch
    assert losses("stopped", 3, 8) == whole
    assert len(set(whole)) == 8
