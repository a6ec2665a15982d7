"""Who may ask, what is refused, and that no path leads out."""

import io
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from starlette.testclient import TestClient

from paint_by_example.errors import UserError
from paint_by_example.server import access, serving
from paint_by_example.server import app as app_module
from paint_by_example.server.app import Options, create_app
from paint_by_example.server.browsing import Roots
from paint_by_example.server.jobs import Jobs
from paint_by_example.server.models import Shelf
from paint_by_example.server.serving import devices
from paint_by_example.server.store import Store
from paint_by_example.server.uploads import file_name
from tests import server_client as ask

BASE = "http://127.0.0.1"
TOKEN = "a-token-of-some-length"
UPLOAD, PIXELS = 300_000, 20_000


@pytest.fixture(scope="module")
def jobs(models: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Jobs]:
    jobs = Jobs(Shelf(str(models["clip"])), Store(tmp_path_factory.mktemp("server"), 3600), devices("cpu"), capacity=8)
    jobs.start()
    yield jobs
    jobs.close()


def client_of(jobs: Jobs, base: str = BASE, **options: Any) -> TestClient:
    options = {"upload_bytes": UPLOAD, "pixels": PIXELS} | options
    return TestClient(create_app(jobs, Options(**options)), base_url=base)


@pytest.fixture
def client(jobs: Jobs) -> TestClient:
    return client_of(jobs)


# --- who may ask ------------------------------------------------------------------------------------------------------


def test_without_a_token_only_this_machine_s_names_are_answered(jobs: Jobs) -> None:
    for host in ("http://127.0.0.1:8080", "http://localhost", "http://[::1]:8080"):
        assert client_of(jobs, host).get("/api/models").status_code == 200
    answer = client_of(jobs, "http://evil.example").get("/api/models")  # a name of theirs that leads here
    assert answer.status_code == 400
    assert "evil.example" in answer.json()["error"]


@pytest.mark.parametrize(
    "headers",
    [
        {"Origin": "http://evil.example"},
        {"Origin": "null"},
        {"Origin": "http://127.0.0.1:9999"},
        {"Sec-Fetch-Site": "cross-site"},
        {"Sec-Fetch-Site": "same-site"},
    ],
)
def test_other_sites_pages_are_refused(client: TestClient, headers: dict[str, str]) -> None:
    answer = client.post("/api/edits", files=ask.parts(), headers=headers)
    assert answer.status_code == 403
    assert answer.json() == {"error": "a page of another site may not ask here"}
    assert client.get("/api/edits", headers=headers).status_code == 403


def test_the_own_page_is_answered(client: TestClient) -> None:
    headers = {"Origin": BASE, "Sec-Fetch-Site": "same-origin"}
    assert client.get("/api/models", headers=headers).status_code == 200


def test_there_are_no_cors_headers(client: TestClient) -> None:
    asked = {"Origin": BASE, "Access-Control-Request-Method": "POST"}
    for answer in (client.get("/api/models", headers=asked), client.options("/api/edits", headers=asked)):
        assert not [name for name in answer.headers if name.startswith("access-control")]


@pytest.mark.parametrize("path", ["/api/models", "/health", "/nothing", "/", "/metrics"])
def test_every_answer_has_the_headers_that_protect(client: TestClient, path: str) -> None:
    headers = client.get(path).headers
    policy = headers["content-security-policy"]
    assert "default-src 'none'" in policy
    assert "unsafe" not in policy
    assert "http" not in policy
    assert headers["x-content-type-options"] == "nosniff"
    assert headers["x-frame-options"] == "DENY"
    assert headers["referrer-policy"] == "no-referrer"


def test_browsers_are_told_of_openers_only_where_they_listen(jobs: Jobs) -> None:
    """Over http from another machine they take it for a mistake, and say so on the console."""
    for address, told in (("http://127.0.0.1", True), ("http://somewhere:8080", False), ("https://somewhere", True)):
        headers = client_of(jobs, address, token=TOKEN).get("/health").headers
        assert ("cross-origin-opener-policy" in headers) == told


def test_the_documented_policy_is_the_one_sent() -> None:
    documented = (Path(__file__).parents[1] / "docs" / "http-api.md").read_text()
    _, _, rest = documented.partition("Content-Security-Policy: ")
    assert " ".join(rest.partition("```")[0].split()) == access.POLICY


def test_a_token_is_asked_for(jobs: Jobs) -> None:
    client = client_of(jobs, "http://somewhere:8080", token=TOKEN)
    for path in ("/", "/api/models", "/metrics", "/openapi.json", "/api/nothing"):
        answer = client.get(path)
        assert answer.status_code == 401, path
        assert answer.headers["www-authenticate"] == "Bearer"
    assert client.post("/api/edits", files=ask.parts()).status_code == 401
    assert client.get("/health").status_code == 200
    for wrong in ("Bearer", "Bearer x", f"Basic {TOKEN}", f"Bearer {TOKEN}x", "Bearer \xff"):
        assert client.get("/api/models", headers={b"Authorization": wrong.encode("latin-1")}).status_code == 401
    assert client.get("/api/models", headers={"Authorization": f"Bearer {TOKEN}"}).status_code == 200


def test_a_token_in_the_page_s_address_becomes_a_cookie(jobs: Jobs) -> None:
    client = client_of(jobs, "http://somewhere:8080", token=TOKEN)
    assert client.get("/?token=wrong", follow_redirects=False).status_code == 401
    assert client.get(f"/api/models?token={TOKEN}").status_code == 401  # in the page's address only
    answer = client.get(f"/?token={TOKEN}", follow_redirects=False)
    assert (answer.status_code, answer.headers["location"]) == (303, "/")
    cookie = answer.headers["set-cookie"]
    assert "HttpOnly" in cookie
    assert "SameSite=Strict" in cookie
    assert client.get("/api/models").status_code == 200


def test_a_token_is_made_for_any_address_but_this_machine_s(monkeypatch: pytest.MonkeyPatch) -> None:
    assert [serving.is_loopback(host) for host in ("127.0.0.1", "127.8.8.8", "::1", "localhost")] == [True] * 4
    assert [serving.is_loopback(host) for host in ("0.0.0.0", "::", "192.168.0.4", "example.org")] == [False] * 4


# --- how much ---------------------------------------------------------------------------------------------------------


def test_an_upload_that_says_it_is_too_large(client: TestClient) -> None:
    answer = client.post("/api/edits", files=ask.parts(source=b"x" * UPLOAD))
    assert answer.status_code == 413
    assert f"{UPLOAD:,} bytes" in answer.json()["error"]


def test_an_upload_that_does_not_say_how_large_it_is(client: TestClient) -> None:
    def endless() -> Iterator[bytes]:
        yield b'--x\r\nContent-Disposition: form-data; name="source"; filename="a.png"\r\n\r\n'
        for _ in range(UPLOAD // 1000 + 10):
            yield b"y" * 1000

    headers = {"Content-Type": "multipart/form-data; boundary=x"}
    assert client.post("/api/edits", content=endless(), headers=headers).status_code == 413


def test_requests_that_upload_nothing_are_small(client: TestClient) -> None:
    assert client.put("/api/models/current", json={"name": "x" * access.OTHER_BODY}).status_code == 413


def bomb() -> bytes:
    """A picture of few bytes and many pixels."""
    file = io.BytesIO()
    Image.new("1", (20_000, 20_000)).save(file, "PNG")
    return file.getvalue()


def animated(kind: str) -> bytes:
    frames = [Image.new("RGB", (8, 8), colour) for colour in ("red", "blue")]
    file = io.BytesIO()
    frames[0].save(file, kind, save_all=True, append_images=frames[1:])
    return file.getvalue()


def with_zip() -> bytes:
    archive = io.BytesIO()
    with zipfile.ZipFile(archive, "w") as file:
        file.writestr("run.sh", "echo")
    return ask.png() + archive.getvalue()


def of_format(kind: str) -> bytes:
    file = io.BytesIO()
    Image.new("RGB", (8, 8)).save(file, kind)
    return file.getvalue()


def cut_short() -> bytes:
    content = ask.png()
    return content[: len(content) // 2]


REFUSED: dict[str, tuple[Callable[[], bytes], str]] = {
    "empty": (lambda: b"", "empty"),
    "text": (lambda: b"hello", "not a picture of a known format"),
    "svg": (lambda: b"<svg xmlns='http://www.w3.org/2000/svg'/>", "not a picture"),
    "eps": (lambda: of_format("EPS"), "not a picture"),
    "pickle": (lambda: b"\x80\x04\x95\x1a\x00\x00\x00", "not a picture"),
    "cut short": (cut_short, "damaged"),
    "bomb": (bomb, "pixels"),
    "huge": (lambda: ask.png(200, 101), "20,200 pixels and at most 20,000 are accepted"),
    "GIF": (lambda: animated("GIF"), "animated"),
    "APNG": (lambda: animated("PNG"), "animated"),
    "WEBP": (lambda: animated("WEBP"), "animated"),
    "pages": (lambda: animated("TIFF"), "several pages"),
    "zip": (with_zip, "a picture and a ZIP archive in one"),
    "html": (lambda: ask.png() + b"<HTML><body onload=x>", "a picture and a web page or script in one"),
    "php": (lambda: ask.png() + b"<?php system($_GET[0]);", "a web page or script"),
    "jpeg2000": (lambda: of_format("JPEG2000"), "JPEG2000 is not taken"),
    "ppm": (lambda: of_format("PPM"), "PPM is not taken"),
}


@pytest.mark.parametrize("part", ["source", "mask", "exemplar"])
@pytest.mark.parametrize("what", REFUSED)
def test_files_that_are_refused(client: TestClient, jobs: Jobs, what: str, part: str) -> None:
    make, words = REFUSED[what]
    content, before = make(), sorted(jobs.store.folder.iterdir())
    files = [one for one in ask.parts() if one[0] != part]
    files.append((part, ("C:\\photos\\it.png", content, "image/png")))
    answer = client.post("/api/edits", files=files)
    assert answer.status_code == 422
    error = answer.json()["error"]
    assert words.lower() in error.lower()
    assert "it.png" in error
    assert str(jobs.store.folder) not in error
    assert sorted(jobs.store.folder.iterdir()) == before


def test_a_picture_that_mentions_markup_across_two_reads_is_found(tmp_path: Path, client: TestClient) -> None:
    from paint_by_example.server import uploads

    content = ask.png()
    padding = b"\0" * (uploads.CHUNK - len(content) - 4)
    (tmp_path / "it.png").write_bytes(content + padding + b"<script>")
    with pytest.raises(UserError, match="web page or script"):
        uploads.check_picture(tmp_path / "it.png", "source", "it.png", PIXELS)


def test_plain_pictures_of_all_formats_are_taken(client: TestClient) -> None:
    for kind in ("PNG", "JPEG", "WEBP", "GIF", "TIFF", "BMP", "AVIF"):
        file = io.BytesIO()
        Image.fromarray(np.full((40, 48, 3), 90, np.uint8)).save(file, kind)
        answer = client.post("/api/edits", files=ask.parts(source=file.getvalue()))
        assert answer.status_code == 202, (kind, answer.text)


@pytest.mark.parametrize(
    ("given", "kept"),
    [
        ("room.png", "room.png"),
        ("C:\\photos\\room.png", "room.png"),
        ("../../etc/passwd", "passwd"),
        ("..", "source"),
        ("", "source"),
        (None, "source"),
        ("a\x1b[31m\nb.png", "a__31m_b.png"),
        ("房间.png", "房间.png"),
        ("x" * 300 + ".png", "x" * 60 + ".png"),
        (".bashrc", "bashrc"),
    ],
)
def test_names_of_files(given: str | None, kept: str) -> None:
    assert file_name(given, "source") == kept


# --- no path leads out ------------------------------------------------------------------------------------------------


@pytest.fixture
def browsed(jobs: Jobs, tmp_path: Path) -> TestClient:
    (tmp_path / "secret.png").write_bytes(ask.png())
    (tmp_path / "outside").mkdir()
    (tmp_path / "outside" / "other.png").write_bytes(ask.png())
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "room.png").write_bytes(ask.png())
    (tmp_path / "in" / "page.html.png").write_bytes(b"<html>")
    (tmp_path / "in" / "link.png").symlink_to(tmp_path / "secret.png")
    (tmp_path / "in" / "way").symlink_to(tmp_path / "outside")
    (tmp_path / "in" / "round").symlink_to(tmp_path / "in")
    return client_of(jobs, roots=Roots(input=tmp_path / "in", output=tmp_path / "outside"))


@pytest.mark.parametrize(
    "path",
    [
        "../secret.png",
        "/etc/hostname",
        "link.png",
        "way/other.png",
        "way/../../secret.png",
        "./room.png/../../secret.png",
        "..\\secret.png",
        "room.png\0",
        ".",
        "",
        "x" * 900,
    ],
)
def test_pictures_outside_are_not_there(browsed: TestClient, path: str) -> None:
    for size in (None, 32):
        answer = browsed.get("/api/files/picture", params={"path": path} | ({"size": size} if size else {}))
        assert answer.status_code == 404, answer.text


@pytest.mark.parametrize("folder", ["..", "../outside", "way", "/", "/etc", "room.png", ".", "a/../..", "\0"])
def test_folders_outside_are_not_there(browsed: TestClient, folder: str) -> None:
    answer = browsed.get("/api/files", params={"folder": folder})
    if folder == ".":  # the root by another name
        folder = ""
    assert answer.status_code == 404 or folder == ""


def test_links_that_lead_out_are_not_listed(browsed: TestClient) -> None:
    names = [entry["name"] for entry in browsed.get("/api/files").json()["entries"]]
    assert names == ["round", "page.html.png", "room.png"]
    answer = browsed.get("/api/files/picture", params={"path": "page.html.png"})
    assert answer.status_code == 422
    assert "/" not in answer.json()["error"].replace("/ ", "")


def test_the_output_folder_is_its_own_root(browsed: TestClient) -> None:
    listed = browsed.get("/api/files", params={"root": "output"}).json()
    assert [entry["name"] for entry in listed["entries"]] == ["other.png"]
    assert browsed.get("/api/files/picture", params={"root": "input", "path": "other.png"}).status_code == 404


def test_an_input_of_one_picture_shows_just_that(jobs: Jobs, tmp_path: Path) -> None:
    for name in ("room.png", "private.png"):
        (tmp_path / name).write_bytes(ask.png())
    client = client_of(jobs, roots=Roots(input=tmp_path / "room.png"))
    assert client.get("/api/server").json()["input"] == {"kind": "picture", "picture": "room.png"}
    assert [entry["name"] for entry in client.get("/api/files").json()["entries"]] == ["room.png"]
    assert client.get("/api/files/picture", params={"path": "room.png"}).status_code == 200
    assert client.get("/api/files/picture", params={"path": "private.png"}).status_code == 404


def test_page_files(client: TestClient, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "page").mkdir()
    (tmp_path / "page" / "index.html").write_text("<!doctype html>")
    (tmp_path / "page" / "main.js").write_text("export {}")
    (tmp_path / "page" / "notes.py").write_text("secret")
    (tmp_path / "secret.js").write_text("secret")
    monkeypatch.setattr(app_module, "PAGE", tmp_path / "page")
    assert client.get("/").headers["content-type"] == "text/html; charset=utf-8"
    script = client.get("/page/main.js")
    assert script.headers["content-type"] == "text/javascript; charset=utf-8"
    assert script.headers["cache-control"] == "no-cache"
    assert client.get("/page/main.js", headers={"If-None-Match": script.headers["etag"]}).status_code in (200, 304)
    for path in ("notes.py", "../secret.js", "%2e%2e/secret.js", "..%2fsecret.js", "", "main.js/x", "%00", "x" * 5000):
        assert client.get(f"/page/{path}").status_code == 404, path
