"""The server as people start it: flags, examples, a kill under load, many clients at once."""

import contextlib
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx2 as httpx
import numpy as np
import pytest
from PIL import Image

from benchmarks import server_load
from paint_by_example.cli import main
from paint_by_example.server.messages import LibraryPage
from paint_by_example.server.settings import ServeConfig
from tests import server_client as ask
from tests import tiny

ROOT = Path(__file__).parents[1]
command = sys.modules["paint_by_example.cli.serve"]  # the module: `cli.serve` is its function
DOCUMENTED = (ROOT / "docs" / "http-api.md").read_text()


@pytest.fixture(scope="module")
def server(models: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> Iterator[ask.Process]:
    folder = tmp_path_factory.mktemp("server")
    with ask.serving(models["embedded"], folder / "state", log=folder / "log") as server:
        yield server


@pytest.fixture
def pictures(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    tiny.picture(320, 256).save(tmp_path / "room.png")
    tiny.picture(70, 90, seed=1).save(tmp_path / "chair.png")
    mask = np.zeros((256, 320), np.uint8)
    mask[60:200, 80:220] = 255
    Image.fromarray(mask).save(tmp_path / "mask.png")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def example(kind: str, server: ask.Process) -> str:
    (text,) = re.findall(rf"```{kind}\n(.*?)```", DOCUMENTED, re.S)
    assert "http://127.0.0.1:8080" in text
    return str(text).replace("http://127.0.0.1:8080", server.address.rstrip("/"))


def test_the_documented_python_client(server: ask.Process, pictures: Path) -> None:
    script = example("python", server)
    assert len([line for line in script.splitlines() if line.strip()]) <= 21
    ran = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=120)
    assert ran.returncode == 0, ran.stderr
    source = np.asarray(Image.open("room.png"))
    for seed in (0, 1):
        result = np.asarray(Image.open(f"out-{seed}.png"))
        assert result.shape == source.shape
        assert (result[60:220, 40:200] != source[60:220, 40:200]).mean() > 0.5
        np.testing.assert_array_equal(result[:60], source[:60])


@pytest.mark.skipif(shutil.which("curl") is None, reason="needs curl")
def test_the_documented_curl_commands(server: ask.Process, pictures: Path) -> None:
    text = "\n".join(re.findall(r"```sh\n(.*?)```", DOCUMENTED, re.S))
    script = text.replace("http://127.0.0.1:8080", server.address.rstrip("/")).replace("python3", sys.executable)
    ran = subprocess.run(["bash", "-ec", script], capture_output=True, text=True, timeout=120)
    assert ran.returncode == 0, ran.stderr
    assert ran.stdout.count("event: state") >= 1
    result, source, mask = (np.asarray(Image.open(name)) for name in ("out.png", "room.png", "mask.png"))
    np.testing.assert_array_equal(result[mask == 0], source[mask == 0])
    assert (result[mask > 0] != source[mask > 0]).mean() > 0.5
    drawn = np.asarray(Image.open("map.png"))
    assert drawn.shape == (tiny.IMAGE, tiny.IMAGE, 3)
    assert set(np.unique(drawn)) == {0, 255}


def test_the_documented_answers_have_the_fields_there_are(server: ask.Process) -> None:
    blocks = re.findall(r"```json\n(.*?)```", DOCUMENTED, re.S)
    edit, result, drawn, listed, files, pictures, about = (json.loads(block) for block in blocks)
    made = server.client.post("/api/edits", files=ask.parts()).json()
    made = ask.wait(server.client, made["id"])
    assert set(edit) == set(made)
    assert set(result) == set(made["results"][0])
    maps = server.client.post("/api/structure", files=ask.parts(structure="edges")).json()
    assert set(drawn) == set(maps)
    assert set(drawn["maps"][0]) == set(maps["maps"][0])
    assert set(listed) == set(found := server.client.get("/api/models").json())
    assert set(listed["models"][0]) == set(found["models"][0])
    shown = server.client.get("/api/server").json()
    assert set(about) == set(shown)
    assert set(about["limits"]) == set(shown["limits"])
    assert set(files) == {"root", "folder", "entries"}
    assert set(pictures) == set(LibraryPage.model_fields)


def test_events_arrive_while_the_edit_runs(server: ask.Process) -> None:
    name = server.client.post("/api/edits", files=ask.parts(steps=60)).json()["id"]
    states = []
    with server.client.stream("GET", f"/api/edits/{name}/events") as stream:
        for line in stream.iter_lines():
            if line == "event: step":
                states.append(server.client.get(f"/api/edits/{name}").json()["state"])
    assert "running" in states


def test_a_client_that_leaves_ends_its_stream_only(server: ask.Process) -> None:
    name = server.client.post("/api/edits", files=ask.parts(steps=60)).json()["id"]
    with server.client.stream("GET", f"/api/edits/{name}/events") as stream:
        next(stream.iter_lines())
    assert ask.wait(server.client, name)["state"] == "done"


def test_slow_clients_hold_nobody_up(server: ask.Process) -> None:
    """Forty that never read their events, forty that have sent half an upload, and one that is served meanwhile."""
    name = server.client.post("/api/edits", files=ask.parts(steps=100)).json()["id"]
    port = server.client.base_url.port
    host = f"Host: 127.0.0.1:{port}\r\n"
    upload = f"POST /api/edits HTTP/1.1\r\n{host}Content-Type: multipart/form-data; boundary=x\r\n"
    upload += "Content-Length: 900000\r\n\r\n--x"
    with contextlib.ExitStack() as stack:
        for text in [f"GET /api/edits/{name}/events HTTP/1.1\r\n{host}\r\n", upload] * 40:
            slow = stack.enter_context(socket.create_connection(("127.0.0.1", port)))
            slow.sendall(text.encode())
        assert server.client.get("/health", timeout=5).json()["status"] == "ok"
        edit = server.client.post("/api/edits", files=ask.parts()).json()["id"]
        assert ask.wait(server.client, edit)["state"] == "done"
    assert ask.wait(server.client, name)["state"] == "done"


@pytest.mark.chaos
def test_a_kill_under_load_loses_nothing_finished(models: dict[str, Path], tmp_path: Path) -> None:
    """kill -9 with some edits done, one running and some waiting: after a start, each is found as it was left."""
    state = tmp_path / "state"
    with ask.serving(models["embedded"], state, log=tmp_path / "log") as server:
        names = [
            server.client.post(
                "/api/edits", files=ask.parts(source=ask.png(seed=number), seeds=[number], steps=40)
            ).json()["id"]
            for number in range(12)
        ]
        results: dict[str, bytes] = {}
        while len(results) < 3:
            for name in names:
                view = server.client.get(f"/api/edits/{name}").json()
                if view["state"] == "done":
                    results[name] = server.client.get(view["results"][0]["url"]).content
        server.end(signal.SIGKILL)
    with ask.serving(models["embedded"], state, log=tmp_path / "log") as server:
        after = {name: server.client.get(f"/api/edits/{name}").json() for name in names}
        for name, content in results.items():
            assert after[name]["state"] == "done"
            assert server.client.get(after[name]["results"][0]["url"]).content == content
        states = {view["state"] for view in after.values()}
        assert states == {"done", "interrupted"}
        interrupted = {name for name, view in after.items() if view["state"] == "interrupted"}
        assert len(interrupted) >= 5
        listed = server.client.get("/api/edits?state=interrupted").json()["edits"]
        assert {edit["id"] for edit in listed} == interrupted
        said = re.findall(r"the edit (\w+) \(room\) was interrupted; send it again", server.errors())
        assert set(said) == interrupted
        for name in names:  # results of those that ended between the last look and the kill are whole
            if after[name]["state"] == "done":
                content = server.client.get(after[name]["results"][0]["url"]).content
                (tmp_path / "it.png").write_bytes(content)
                Image.open(tmp_path / "it.png").load()
        assert (
            ask.wait(server.client, server.client.post("/api/edits", files=ask.parts()).json()["id"])["state"] == "done"
        )


def test_a_server_that_is_told_to_stop_ends_its_streams(models: dict[str, Path], tmp_path: Path) -> None:
    with ask.serving(models["embedded"], tmp_path / "state", log=tmp_path / "log") as server:
        names = [server.client.post("/api/edits", files=ask.parts(steps=200)).json()["id"] for _ in range(2)]
        with server.client.stream("GET", f"/api/edits/{names[1]}/events") as stream:
            lines = stream.iter_lines()
            next(lines)
            server.process.send_signal(signal.SIGTERM)
            text = "\n".join(lines)
        assert '"state":"interrupted"' in text
        assert server.process.wait(30) in (0, -signal.SIGTERM)
        assert "Traceback" not in server.errors()
    stored = [json.loads((tmp_path / "state" / "edits" / name / "edit.json").read_text()) for name in names]
    assert [edit["state"] for edit in stored] == ["interrupted"] * 2


def test_a_token_is_made_up_and_works(models: dict[str, Path], tmp_path: Path) -> None:
    with ask.serving(models["embedded"], tmp_path / "state", "--host", "0.0.0.0", log=tmp_path / "log") as server:
        token = server.address.partition("?token=")[2]
        assert len(token) >= 32
        port = server.address.rpartition(":")[2].partition("/")[0]
        client = httpx.Client(base_url=f"http://127.0.0.1:{port}")
        assert client.get("/api/models").status_code == 401
        assert client.get("/api/models", headers={"Authorization": f"Bearer {token}"}).status_code == 200
        client.close()


@pytest.mark.slow
def test_fifty_clients_at_once(models: dict[str, Path], tmp_path: Path) -> None:
    """Each gets its own picture back, nothing is lost, and memory does not grow; see benchmarks/server_load.py."""
    report = server_load.run(server_load.Options(clients=50, edits=5, one_by_one=5, model=models["embedded"]), tmp_path)
    assert report.done + report.cancelled == 250
    assert report.cancelled >= 1
    assert report.mixed_up == report.lost == 0
    assert report.refused > 0  # the queue was full, and those who came again were served
    assert report.memory_growth < 0.1


def test_a_few_clients_at_once(models: dict[str, Path], tmp_path: Path) -> None:
    options = server_load.Options(clients=6, edits=2, one_by_one=1, queue=3, steps=2, model=models["embedded"])
    report = server_load.run(options, tmp_path)
    assert report.done + report.cancelled == 12
    assert report.mixed_up == report.lost == 0


# --- the command ------------------------------------------------------------------------------------------------------


def one_line(capsys: pytest.CaptureFixture[str]) -> str:
    captured = capsys.readouterr()
    assert captured.err.count("\n") == 1
    assert captured.err.startswith("pbe: error: ")
    return captured.err


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--model", "ldm"], "iopaint start --model ldm"),
        (["--model", "./nowhere"], "no model './nowhere'"),
        (["--device", "abacus"], "cannot use the device 'abacus'"),
        (["--input", "nowhere"], "there is no nowhere"),
        (["--model-dir", "nowhere"], "there is no folder nowhere"),
        (["--queue", "0"], "--queue must be between 1 and"),
        (["--port", "70000"], "--port must be between 0 and 65535"),
        (["--token", "short"], "at least 16 characters"),
        (["--token", "spaces are not for addresses"], "letters, digits"),
        (["--host", "nowhere.invalid"], "cannot listen on nowhere.invalid"),
    ],
)
def test_a_start_that_fails_says_why(
    arguments: list[str],
    words: str,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    port = [] if "--port" in arguments else ["--port", "0"]
    assert main(["serve", *arguments, *port, "--state-dir", str(tmp_path / "state")]) == 1
    assert words in one_line(capsys)


def test_a_port_in_use_is_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        assert main(["serve", "--port", str(port), "--state-dir", str(tmp_path)]) == 1
    assert f"cannot listen on 127.0.0.1, port {port}" in one_line(capsys)


def test_a_missing_extra_is_said(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    for name in list(sys.modules):
        if name.startswith("paint_by_example.server") and name != ServeConfig.__module__:
            monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "uvicorn", None)
    assert main(["serve", "--port", "0"]) == 1
    assert "pbe serve needs the package uvicorn; install paint-by-example[serve]" in one_line(capsys)


@pytest.mark.parametrize("flag", ["--config-installer"])
def test_the_installer_s_command_says_what_replaced_it(flag: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["serve", flag]) == 0
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.count("\n") == 1
    assert flag in captured.err
    assert "pip install" in captured.err


def test_every_old_flag_is_taken(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Lama Cleaner's whole command line: what it starts, and a line for each flag that lost its meaning."""
    from paint_by_example.server import serving

    started: list[ServeConfig] = []
    opened: list[Any] = []

    def start(asked: ServeConfig, ready: Any) -> None:
        started.append(asked)
        ready("http://x/")

    monkeypatch.setattr(serving, "serve", start)
    monkeypatch.setattr(command, "open_window", lambda *given, ends: opened.append((*given, ends)))
    line = """--host 127.0.0.1 --port 0 --model cv2 --no-half --cpu-offload --disable-nsfw --sd-cpu-textencoder
        --local-files-only --enable-xformers --device cpu --gui --gui-size 800 600 --no-gui-auto-close --input {0}
        --output-dir {0}/out --model-dir {0} --disable-model-switch --load-installer-config --installer-config x.json"""
    assert main(["serve", *line.format(tmp_path).split()]) == 0
    (asked,) = started
    assert (asked.host, asked.port, asked.model, asked.device) == ("127.0.0.1", 0, "cv2", "cpu")
    assert (asked.input, asked.output_dir, asked.model_dir) == (tmp_path, tmp_path / "out", tmp_path)
    assert asked.disable_model_switch
    loading = serving.loading(asked)
    assert (loading.half, loading.offload, loading.checked) == (False, True, False)
    assert loading.text_on_cpu
    assert loading.local_files_only
    assert opened == [("http://x/", (800, 600), False)]
    captured = capsys.readouterr()
    assert captured.out == "http://x/\n"
    said = captured.err.splitlines()
    assert len(said) == 3
    for flag, text in zip(("--enable-xformers", "--load-installer-config", "--installer-config"), said, strict=True):
        assert flag in text


def test_a_window_is_a_browser_s_app_and_ends_the_server(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    browser = tmp_path / "chromium"
    browser.write_text(f'#!/bin/sh\necho "$@" > {tmp_path}/asked\n')
    browser.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path))
    stopped: list[bool] = []
    monkeypatch.setattr(command, "stop", lambda: stopped.append(True))
    command.open_window("http://127.0.0.1:1/", (800, 600), ends=True)
    deadline = time.monotonic() + 20
    while not stopped:
        assert time.monotonic() < deadline
        time.sleep(0.01)
    assert (tmp_path / "asked").read_text().startswith("--app=http://127.0.0.1:1/ --window-size=800,600 ")


def test_a_window_that_cannot_be_shown_leaves_the_server(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    browser = tmp_path / "chromium"
    browser.write_text("#!/bin/sh\nexit 3\n")
    browser.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path))
    stopped: list[bool] = []
    monkeypatch.setattr(command, "stop", lambda: stopped.append(True))
    command.open_window("http://127.0.0.1:1/", (800, 600), ends=True)
    said, deadline = "", time.monotonic() + 20
    while "opened no window (status 3); open http://127.0.0.1:1/" not in said:
        assert time.monotonic() < deadline
        said += capsys.readouterr().err
        time.sleep(0.01)
    assert not stopped


def test_without_such_a_browser_the_usual_one_opens(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    import webbrowser

    shown: list[str] = []
    monkeypatch.setattr(shutil, "which", lambda name: None)
    monkeypatch.setattr(webbrowser, "open", shown.append)
    command.open_window("http://127.0.0.1:1/", (800, 600), ends=True)
    assert shown == ["http://127.0.0.1:1/"]
    assert "no browser with an app mode" in capsys.readouterr().err
