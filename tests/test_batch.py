"""Tables of edits: what they become, what is made again, and what is left when a run is killed."""

import csv
import fcntl
import json
import multiprocessing
import os
import random
import signal
import threading
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from paint_by_example import load_pipeline, pose
from paint_by_example.batch import BatchConfig, Outcome, run_batch
from paint_by_example.batch.editing import Recent
from paint_by_example.batch.table import COLUMNS, Row, read_table
from paint_by_example.batching import SharedNetwork
from paint_by_example.cli import main
from paint_by_example.errors import DataError, UserError
from paint_by_example.record import read_record
from paint_by_example.structure import Structure
from tests import tiny
from tests.test_controlnet import controlnet, shaken
from tests.test_source_encoder import learned

PROCESSES = multiprocessing.get_context("forkserver")
PROCESSES.set_forkserver_preload(["tests.test_batch"])


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> Any:
    """Processes of a batch share the cores, so results are compared with one thread each."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def write_table(folder: Path, rows: int) -> Path:
    folder.mkdir(exist_ok=True)
    for number in range(3):
        tiny.picture(60, 44, seed=number).save(folder / f"source-{number}.png")
        tiny.picture(40, 20, seed=10 + number).save(folder / f"exemplar-{number}.png")
    mask = Image.new("L", (60, 44))
    mask.paste(255, (10, 10, 30, 30))
    mask.save(folder / "mask.png")
    with (folder / "table.csv").open("w", newline="") as file:
        table = csv.writer(file)
        table.writerow(["source", "box", "mask", "exemplar", "steps", "seed"])
        for number in range(rows):
            where = ["", "mask.png"] if number % 5 == 0 else [f"4,6,22,{20 + number % 5}", ""]
            table.writerow([f"source-{number % 3}.png", *where, f"exemplar-{number // 3 % 3}.png", 2, number])
    return folder / "table.csv"


def config(table: Path, output: Path, models: dict[str, Path], **given: Any) -> BatchConfig:
    settings: dict[str, Any] = {"model": str(models["embedded"]), "device": ("cpu",)}
    return BatchConfig(table, output, **(settings | given))


def results(output: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in (output / "results").rglob("*") if path.is_file()}


def manifest(output: Path) -> list[dict[str, Any]]:
    lines = [json.loads(line) for line in (output / "manifest.jsonl").read_text().splitlines()]
    return [{name: value for name, value in line.items() if name != "seconds"} for line in lines]


# --- the table --------------------------------------------------------------------------------------------------------


def test_columns_are_the_settings_of_an_edit() -> None:
    assert {"source", "mask", "box", "exemplar", "seed", "guidance_scale", "scheduler", "feather"} <= set(COLUMNS)
    assert "on_step" not in COLUMNS


def test_a_table_is_the_same_in_all_formats(tmp_path: Path) -> None:
    pyarrow = pytest.importorskip("pyarrow")
    from pyarrow import parquet

    (tmp_path / "t.csv").write_text(
        'source,box,exemplar,seed,guidance_scale\ns.png,"1,2,3,4;5,6,7,8",a.png;b.png,3,2\n'
    )
    asked: dict[str, Any] = {"source": "s.png", "box": [[1, 2, 3, 4], [5, 6, 7, 8]], "exemplar": ["a.png", "b.png"]}
    asked |= {"seed": 3, "guidance_scale": 2.0}
    (tmp_path / "t.jsonl").write_text(json.dumps(asked) + "\n")
    parquet.write_table(pyarrow.Table.from_pylist([asked]), tmp_path / "t.parquet")
    first, *others = ([*read_table(tmp_path / f"t.{kind}")] for kind in ("csv", "jsonl", "parquet"))
    assert others == [first, first]
    (row,) = first
    assert isinstance(row, Row)
    assert row.boxes == ((1, 2, 3, 4), (5, 6, 7, 8))
    assert row.exemplars == (str(tmp_path / "a.png"), str(tmp_path / "b.png"))
    assert row.settings == {"seed": 3, "guidance_scale": 2.0}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("source,colour\n", "no rows"),
        ("source,colour\na.png,red\n", "column 'colour' is not known; there are source, mask"),
        ("", "no rows"),
    ],
)
def test_tables_that_cannot_be_used(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "t.csv").write_text(text)
    with pytest.raises(DataError, match=message):
        read_table(tmp_path / "t.csv")
    with pytest.raises(DataError, match="cannot read the table"):
        read_table(tmp_path / "missing.csv")
    with pytest.raises(DataError, match="suffix"):
        read_table(tmp_path / "table.xls")


# --- its results ------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def whole(models: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A table of 30 rows and its output."""
    folder = tmp_path_factory.mktemp("batch")
    table = write_table(folder, 30)
    assert run_batch(config(table, folder / "whole", models)) == Outcome(made=30)
    return table, folder / "whole"


def test_results_are_those_of_single_edits(whole: tuple[Path, Path], models: dict[str, Path]) -> None:
    table, output = whole
    pipeline = load_pipeline(models["embedded"], device="cpu")
    rows, lines = read_table(table), manifest(output)
    assert [line["row"] for line in lines] == list(range(1, 31))
    assert len(results(output)) == 30
    for row, line in zip(rows, lines, strict=True):
        assert isinstance(row, Row)
        where: dict[str, Any] = {"mask": row.masks[0]} if row.masks else {"box": row.boxes[0]}
        single = pipeline.edit(row.source, exemplar=row.exemplars[0], **where, **row.settings)
        with Image.open(output / line["result"]) as made:
            assert (np.asarray(made) == np.asarray(single.images[0])).all()
        assert line["seed"] == row.settings["seed"]
        assert line["settings"] == {"steps": 2}
    record = read_record(output / lines[3]["result"])
    assert Path(str(record.source.path)).samefile(table.parent / "source-0.png")
    assert record.seed == 3


def test_only_what_is_missing_is_made(whole: tuple[Path, Path], models: dict[str, Path], tmp_path: Path) -> None:
    table, output = write_table(tmp_path / "table", 4), tmp_path / "out"
    assert run_batch(config(table, output, models)) == Outcome(made=4)
    before = {path: path.stat().st_mtime_ns for path in (output / "results").rglob("*.png")}
    text = table.read_text().splitlines()
    table.write_text("\n".join([text[0], text[4], text[1], text[2].replace(",2,1", ",3,1"), text[3]]) + "\n")
    assert run_batch(config(table, output, models)) == Outcome(made=1, kept=3)
    assert all(path.stat().st_mtime_ns == since for path, since in before.items())
    tiny.picture(40, 20, seed=99).save(table.parent / "exemplar-0.png")
    assert run_batch(config(table, output, models)).made == 3  # row 4 has another exemplar
    assert run_batch(config(table, output, models, model=str(models["clip"]))).made == 4


def test_rows_say_how_fast(tmp_path: Path) -> None:
    values = {"source": "s.png", "box": [1, 2, 3, 4], "exemplar": "e.png", "preset": "fast", "backend": "torch"}
    intervals = ("0.2-1", [0.2, 1], "0.2", 0.5)
    lines = [json.dumps(values | {"guidance_interval": interval}) + "\n" for interval in intervals]
    (tmp_path / "t.jsonl").write_text("".join(lines))
    *rows, alone, number = read_table(tmp_path / "t.jsonl")
    for row in rows:
        assert isinstance(row, Row)
        assert row.settings == {"preset": "fast", "backend": "torch", "guidance_interval": (0.2, 1.0)}
    assert alone == (3, "guidance_interval must be two numbers as in 0.2-1, got '0.2'")
    assert number == (4, "guidance_interval must be two numbers as in 0.2-1, got 0.5")


def test_rows_keep_what_stood_there(tmp_path: Path) -> None:
    learned(("structure", "context")).save_pretrained(tmp_path / "aware")
    table, output = write_table(tmp_path / "rows", 1), tmp_path / "out"
    lines = np.zeros((44, 60, 3), np.uint8)
    lines[20, 10:40] = 255
    Image.fromarray(lines).save(table.parent / "lines.png")
    first = 'source-0.png,"4,6,22,20",exemplar-0.png,2,'
    kept = ("edges,1.5,,,", "sketch=lines.png,,yes,,", ",,no,0.5,colour", ",,,,", "depth,,,,", ",,maybe,,")
    head = "source,box,exemplar,steps,structure,structure_scale,context,source_exemplar,harmonise\n"
    table.write_text(head + "".join(f"{first}{one}\n" for one in kept))
    assert run_batch(BatchConfig(table, output, model=str(tmp_path / "aware"), device=("cpu",))).made == 4
    pipeline = load_pipeline(tmp_path / "aware", device="cpu")
    given: dict[str, Any] = {"exemplar": table.parent / "exemplar-0.png", "box": (4, 6, 22, 20), "steps": 2}
    told: list[dict[str, Any]] = [
        {"structure": "edges", "structure_scale": 1.5},
        {"structure": Structure("sketch", table.parent / "lines.png"), "context": True},
        {"source_exemplar": 0.5, "harmonise": "colour"},
        {},
    ]
    made = manifest(output)
    pictures = [np.asarray(Image.open(output / line["result"])) for line in made]
    for picture, settings in zip(pictures, told, strict=True):
        single = pipeline.edit(table.parent / "source-0.png", **given, **settings)
        assert (picture == np.asarray(single.images[0])).all()
    assert len({picture.tobytes() for picture in pictures}) == 4
    assert read_record(output / made[1]["result"]).settings()["context"] is True
    failed = [json.loads(line)["reason"] for line in (output / "failed.jsonl").read_text().splitlines()]
    assert failed[0].startswith("unknown structure 'depth'")
    assert failed[1] == "context must be yes or no, got 'maybe'"
    lines[30, 10:40] = 255
    Image.fromarray(lines).save(table.parent / "lines.png")  # another drawing is another row
    assert run_batch(BatchConfig(table, output, model=str(tmp_path / "aware"), device=("cpu",))).made == 1


def test_a_network_beside_the_model_sees_structures(tmp_path: Path) -> None:
    pipeline = tiny.sd_pipeline()
    pipeline.save_pretrained(tmp_path / "model")
    shaken(controlnet(pipeline)).save_pretrained(tmp_path / "beside")
    table = write_table(tmp_path / "rows", 1)
    row = 'source-0.png,"4,6,22,20",exemplar-0.png,2,'
    table.write_text(f"source,box,exemplar,steps,structure\n{row}edges\n{row}\n")
    settings: dict[str, Any] = {"model": str(tmp_path / "model"), "device": ("cpu",)}
    asked = BatchConfig(table, tmp_path / "out", controlnet=str(tmp_path / "beside"), **settings)
    assert run_batch(asked) == Outcome(made=2)
    lines = manifest(asked.output)
    pipeline.load_controlnet(tmp_path / "beside")
    given: dict[str, Any] = {"exemplar": table.parent / "exemplar-0.png", "box": (4, 6, 22, 20), "steps": 2}
    told: list[dict[str, Any]] = [{"structure": "edges"}, {}]
    for line, alike in zip(lines, told, strict=True):
        single = pipeline.edit(table.parent / "source-0.png", **given, **alike)
        assert Image.open(asked.output / line["result"]).tobytes() == single.images[0].tobytes()
    guide = read_record(asked.output / lines[0]["result"]).structure
    assert guide is not None
    assert guide.controlnet is not None
    assert pipeline.controlnet is not None
    assert guide.controlnet.sha256 == pipeline.controlnet.fingerprint()
    assert [line["row"] for line in manifest(asked.output)] == [1, 2]

    controlnet(pipeline).save_pretrained(tmp_path / "beside")  # another one
    assert run_batch(asked) == Outcome(made=1, kept=1)
    assert run_batch(asked) == Outcome(kept=2)
    plain = BatchConfig(table, tmp_path / "plain", **settings)
    assert run_batch(plain) == Outcome(made=1, failed=1)
    assert manifest(plain.output)[0]["id"] == lines[1]["id"]  # a row without a structure is the same with and without


def test_options_about_structures_that_are_of_no_use(
    models: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    table = write_table(tmp_path / "rows", 1)
    command = ["batch", str(table), str(tmp_path / "out"), "--model", str(models["embedded"]), "--device", "cpu"]
    assert main([*command, "--controlnet", "x"]) == 1
    assert "--controlnet goes with a column structure, and no row has one" in capsys.readouterr().err
    assert main([*command, "--pose-models", "x"]) == 1
    assert "--pose-models goes with the structure pose, and no row has it" in capsys.readouterr().err
    table.write_text('source,box,exemplar,structure\nsource-0.png,"4,6,22,20",exemplar-0.png,pose\n')
    assert main([*command, "--pose-models", str(tmp_path)]) == 1
    assert f"no networks for poses in {tmp_path}; get them with: pip download" in capsys.readouterr().err
    assert main([*command, "--controlnet", str(tmp_path / "rows")]) == 1
    assert f"cannot load the ControlNet or T2I-Adapter {tmp_path / 'rows'}" in capsys.readouterr().err
    assert not (tmp_path / "out" / "manifest.jsonl").exists()


def test_rows_with_poses_are_told_where_the_networks_are(tmp_path: Path) -> None:
    learned(("structure",)).save_pretrained(tmp_path / "aware")
    table, networks = write_table(tmp_path / "rows", 1), tmp_path / "networks"
    table.write_text('source,box,exemplar,structure\nsource-0.png,"4,6,22,20",exemplar-0.png,pose\n')
    networks.mkdir()
    for name in (pose.DETECTOR, pose.LANDMARKS):
        (networks / name).write_bytes(b"no network")
    asked = BatchConfig(table, tmp_path / "out", str(tmp_path / "aware"), device=("cpu",), pose_models=networks)
    assert run_batch(asked).failed == 1
    assert f"cannot read {pose.DETECTOR} from {networks}" in (tmp_path / "out" / "failed.jsonl").read_text()


def test_bad_rows_are_told_and_the_rest_goes_on(
    models: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    table, output = write_table(tmp_path, 3), tmp_path / "out"
    with table.open("a") as file:
        file.write('missing.png,"1,2,3,4",,exemplar-0.png,2,0\n')
        file.write('source-0.png,"100,100,120,120",,exemplar-0.png,2,0\n')
        file.write("source-0.png,,,exemplar-0.png,2,0\n")
        file.write('source-0.png,"1,2,9,9",,exemplar-0.png,many,0\n')
    command = ["batch", str(table), str(output), "--model", str(models["embedded"]), "--device", "cpu", "--json"]
    assert main(command) == 1
    printed = capsys.readouterr()
    assert json.loads(printed.out) == {"made": 3, "kept": 0, "failed": 4}
    assert "4 rows failed" in printed.err
    failed = [json.loads(line) for line in (output / "failed.jsonl").read_text().splitlines()]
    assert [line["row"] for line in failed] == [4, 5, 6, 7]
    for line, reason in zip(failed, ("missing.png", "box", "either a mask or a box", "steps must be"), strict=True):
        assert reason in line["reason"]
        assert "\n" not in line["reason"]
    write_table(tmp_path, 3)
    assert main(command) == 0
    assert not (output / "failed.jsonl").exists()


def test_rows_that_are_alike_share_a_result(models: dict[str, Path], tmp_path: Path) -> None:
    table, output = write_table(tmp_path, 2), tmp_path / "out"
    with table.open("a") as file:
        file.write(table.read_text().splitlines()[1] + "\n")
    run_batch(config(table, output, models))
    first, _, third = manifest(output)
    assert third == first | {"row": 3}
    assert len(results(output)) == 2


def test_an_output_folder_is_for_one_process(whole: tuple[Path, Path], models: dict[str, Path]) -> None:
    table, output = whole
    with (output / ".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        with pytest.raises(DataError, match="another pbe batch is writing"):
            run_batch(config(table, output, models))
    assert run_batch(config(table, output, models)) == Outcome(kept=30)


@pytest.mark.chaos
def test_a_full_disk_ends_the_run_and_leaves_whole_files(
    models: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    table, output = write_table(tmp_path, 4), tmp_path / "out"
    run_batch(config(table, tmp_path / "whole", models))
    size = max(map(len, results(tmp_path / "whole").values()))
    import resource

    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    before = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (size - 1000, limits[1]))
        with pytest.raises(DataError, match="make room and run the same command again"):
            run_batch(config(table, output, models))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        signal.signal(signal.SIGXFSZ, before)
    expected = results(tmp_path / "whole")
    assert all(expected[name] == content for name, content in results(output).items())
    run_batch(config(table, output, models))
    assert results(output) == expected


def test_with_calls_shared_results_agree_up_to_rounding(
    whole: tuple[Path, Path], models: dict[str, Path], tmp_path: Path
) -> None:
    table, output = whole
    shared = tmp_path / "shared"
    assert run_batch(config(table, shared, models, batch=4)) == Outcome(made=30)
    assert manifest(shared) == manifest(output)
    for line in manifest(shared):
        pair = [np.asarray(Image.open(folder / line["result"])).astype(int) for folder in (output, shared)]
        assert abs(pair[0] - pair[1]).max() <= 2


def test_rows_of_different_sources_share_calls(
    models: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    table, sizes = write_table(tmp_path / "table", 3), Counter[int]()

    def counting(network: torch.nn.Module, **given: bool) -> SharedNetwork:
        return SharedNetwork(network, lambda size: sizes.update([size]), **given)

    monkeypatch.setattr("paint_by_example.batch.editing.SharedNetwork", counting)
    assert run_batch(config(table, tmp_path / "out", models, batch=3)) == Outcome(made=3)
    assert sizes == {3: 2}  # of two steps each


def test_rows_compute_with_a_thread_each_and_their_calls_with_all(
    models: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    table, seen = write_table(tmp_path / "table", 3), Counter[tuple[str, int, bool]]()

    def note(what: str) -> None:
        seen[what, torch.get_num_threads(), torch.is_grad_enabled()] += 1

    class Noting(SharedNetwork):
        def __call__(self, *given: Any, **options: Any) -> Any:
            note("row")
            return super().__call__(*given, **options)

        def __init__(self, network: torch.nn.Module, **given: Any) -> None:
            super().__init__(network, **given)

            def forward(*given: Any, **options: Any) -> Any:
                note("network")
                return type(network).forward(network, *given, **options)

            self.forward = forward

    monkeypatch.setattr("paint_by_example.batch.editing.SharedNetwork", Noting)
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        assert run_batch(config(table, tmp_path / "out", models, batch=3)) == Outcome(made=3)
        with ThreadPoolExecutor(1) as another:
            assert another.submit(torch.get_num_threads).result() == torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)
    assert {(what, threads) for what, threads, _ in seen} == {("row", 1), ("network", 2)}
    assert not any(grad for _, _, grad in seen)


@pytest.mark.slow
def test_several_processes_give_the_same_files(
    whole: tuple[Path, Path], models: dict[str, Path], tmp_path: Path
) -> None:
    table, output = whole
    assert run_batch(config(table, tmp_path / "two", models, processes=2)).made == 30
    check_same(tmp_path / "two", output)


def check_same(first: Path, second: Path) -> None:
    assert manifest(first) == manifest(second)
    for line in manifest(first):
        pictures = [np.asarray(Image.open(folder / line["result"])) for folder in (first, second)]
        assert (pictures[0] == pictures[1]).all()


# --- kills ------------------------------------------------------------------------------------------------------------


def batch_process(given: BatchConfig) -> None:
    torch.set_num_threads(1)
    run_batch(given)


def start(given: BatchConfig) -> Any:
    process = PROCESSES.Process(target=batch_process, args=(given,))
    process.start()
    return process


@pytest.mark.chaos
@pytest.mark.parametrize(("rows", "kills"), [(30, 2), pytest.param(1000, 5, marks=pytest.mark.slow)])
def test_a_batch_killed_at_random_moments_is_the_batch_that_was_not(
    rows: int, kills: int, models: dict[str, Path], tmp_path: Path
) -> None:
    table = write_table(tmp_path, rows)
    whole, killed = (config(table, tmp_path / name, models) for name in ("whole", "killed"))
    process = start(whole)
    process.join()
    assert process.exitcode == 0
    moments = random.Random(0)
    for number in range(kills):
        process = start(killed)
        # Further on each time: after some number of results, and then a moment.
        while len(list(tmp_path.glob("killed/results/*/*.png"))) < rows * (number + moments.random()) / (kills + 1):
            assert process.is_alive()
            time.sleep(0.005)
        time.sleep(moments.uniform(0, 0.05))
        process.kill()
        process.join()
        assert process.exitcode == -signal.SIGKILL
        expected = results(whole.output)
        assert all(expected[name] == content for name, content in results(killed.output).items())
    assert len(results(killed.output)) < rows
    process = start(killed)
    process.join()
    assert process.exitcode == 0
    assert results(killed.output) == results(whole.output)
    assert manifest(killed.output) == manifest(whole.output)
    assert {path.name for path in killed.output.iterdir()} == {path.name for path in whole.output.iterdir()}


@pytest.mark.slow
def test_a_process_that_dies_is_replaced(models: dict[str, Path], tmp_path: Path) -> None:
    table = write_table(tmp_path, 60)
    run_batch(config(table, tmp_path / "whole", models))
    command = config(table, tmp_path / "killed", models, processes=2)
    killed: list[int] = []

    def kill_one(done: int, total: int) -> None:
        if not killed:
            child = multiprocessing.active_children()[0]
            killed.append(child.pid or 0)
            child.kill()

    assert run_batch(command, kill_one).failed == 0
    assert killed
    check_same(tmp_path / "killed", tmp_path / "whole")


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # Ray's own
def test_ray_gives_the_same_files_though_a_worker_is_killed(models: dict[str, Path], tmp_path: Path) -> None:
    pytest.importorskip("ray")
    table = write_table(tmp_path, 200)
    run_batch(config(table, tmp_path / "whole", models))
    killed: list[int] = []

    def kill_one(done: int, total: int) -> None:
        if not killed:
            killed.append(ray_worker())
            os.kill(killed[0], signal.SIGKILL)

    assert run_batch(config(table, tmp_path / "ray", models, engine="ray", processes=2), kill_one).failed == 0
    assert killed
    check_same(tmp_path / "ray", tmp_path / "whole")


def ray_worker() -> int:
    """A process that edits, of the Ray that this process started."""
    for process in Path("/proc").glob("[0-9]*"):
        try:
            if b"RayEditor" in (process / "cmdline").read_bytes() and os.getpid() in ancestors(int(process.name)):
                return int(process.name)
        except OSError:  # it ended meanwhile
            continue
    raise AssertionError("Ray runs no worker that edits")


def ancestors(process: int) -> list[int]:
    found = []
    while process > 1:
        process = int(Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[1])
        found.append(process)
    return found


def test_what_several_threads_want_at_once_is_made_once() -> None:
    recent, made, begun = Recent(), [], threading.Event()

    def make() -> int:
        made.append(1)
        begun.wait(0.2)  # the others ask meanwhile
        return 7

    with ThreadPoolExecutor(4) as threads:
        assert list(threads.map(lambda _: recent.get("key", make), range(4))) == [7] * 4
    assert len(made) == 1

    def fail() -> int:
        raise UserError("no")

    with pytest.raises(UserError, match="no"):
        recent.get("other", fail)
    assert recent.get("other", make) == 7  # it is tried again
