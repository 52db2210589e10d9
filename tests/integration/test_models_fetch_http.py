"""Downloads from a server on loopback: hash, size, redirections, broken transfers."""

from __future__ import annotations

import hashlib
import http.server
import io
import threading
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from raysweep.errors import ModelError
from raysweep.models.entry import parse_entries
from raysweep.models.fetch import fetch, resolve
from raysweep.models.zoo import open_zoo

CONTENT = bytes(range(256)) * 40
LARGE = CONTENT * 40
BREAK = 200_000
"""Where a broken transfer of `LARGE` ends."""
HOSTS = frozenset({"127.0.0.1"})


def packed() -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as file:
        file.writestr("pack/vit-face-expression.onnx", CONTENT)
        file.writestr("pack/other.onnx", b"x")
    return buffer.getvalue()


class _Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        where = {"/away": "https://evil.org/x", "/here": "/file", "/loop": "/loop"}.get(self.path)
        if where:
            self.send_response(302)
            self.send_header("Location", where)
            self.send_header("Content-Length", "0")
            self.end_headers()
            return
        if self.path == "/missing":
            self.send_error(404)
            return
        body = packed() if self.path == "/zip" else CONTENT
        self.server.asked.append((self.path, self.headers.get("Range")))  # type: ignore[attr-defined]
        if self.path.startswith("/tagged"):
            self._tagged(LARGE)
            return
        self.send_response(200)
        if self.path == "/short":
            self.send_header("Content-Length", str(len(body)))
            body = body[:100]
        elif self.path != "/nolength":
            self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def _tagged(self, body: bytes) -> None:
        """A file that can be asked for from the middle; `/tagged/a` breaks off at first, and is another file under `/tagged/b`."""
        tag = '"one"' if len(self.server.asked) < 3 else '"two"'  # type: ignore[attr-defined]
        wanted = self.headers.get("Range")
        start = 0
        if wanted and (self.headers.get("If-Range") == tag or self.path == "/tagged/same"):
            start = int(wanted.removeprefix("bytes=").removesuffix("-"))
            self.send_response(206)
            self.send_header("Content-Range", f"bytes {start}-{len(body) - 1}/{len(body)}")
        else:
            self.send_response(200)
        self.send_header("ETag", tag)
        self.send_header("Content-Length", str(len(body) - start))
        self.end_headers()
        broken = len(self.server.asked) == 1 or (self.path == "/tagged/changed" and len(self.server.asked) == 2)  # type: ignore[attr-defined]
        self.wfile.write(body[start : start + BREAK] if broken else body[start:])

    def log_message(self, format: str, *args: object) -> None:
        """Quiet."""


@pytest.fixture(scope="module")
def server() -> Iterator[str]:
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), _Handler) as running:
        running.asked = []  # type: ignore[attr-defined]
        thread = threading.Thread(target=running.serve_forever, daemon=True)
        thread.start()
        _Handler.asked = running.asked  # type: ignore[attr-defined]
        yield f"http://127.0.0.1:{running.server_address[1]}"
        running.shutdown()
        thread.join()


def entry(**fields: Any) -> Any:
    base = {"name": "a", "task": "embedder", "file": "a.onnx", "licence": "MIT", "format": "onnx"}
    return parse_entries({"entries": [base | fields]}, "test")


DIGEST = hashlib.sha256(CONTENT).hexdigest()


def files(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_a_file_arrives_checked(server: str, tmp_path: Path) -> None:
    seen: list[tuple[int, int]] = []
    wanted = entry(url=f"{server}/here", sha256=DIGEST, size=len(CONTENT))
    path = fetch("a", tmp_path, entries=wanted, hosts=HOSTS, progress=lambda *both: seen.append(both))
    assert path.read_bytes() == CONTENT
    assert seen[-1] == (len(CONTENT), len(CONTENT))
    assert files(tmp_path) == ["a.onnx"]


def test_a_file_without_published_checksum_is_recorded_and_binds(server: str, tmp_path: Path) -> None:
    fields = {"name": "x", "file": "vit-face-expression.onnx", "url": f"{server}/file", "sha256": DIGEST[:8]}
    path = fetch("x", tmp_path, entries=entry(**fields), hosts=HOSTS)
    assert DIGEST in (tmp_path / "checksums.json").read_text()
    open_zoo(tmp_path)
    path.write_bytes(b"changed")
    with pytest.raises(ModelError, match="has sha256"):
        open_zoo(tmp_path)


def test_a_member_of_a_pack(server: str, tmp_path: Path) -> None:
    archive = {
        "url": f"{server}/zip",
        "sha256": hashlib.sha256(packed()).hexdigest(),
        "member": "vit-face-expression.onnx",
    }
    path = fetch("a", tmp_path, entries=entry(archive=archive, sha256=DIGEST), hosts=HOSTS)
    assert path.read_bytes() == CONTENT
    assert files(tmp_path) == ["a.onnx"]


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"url": "/file", "sha256": "0" * 64}, "wrong sha256, nothing kept"),
        ({"url": "/file", "sha256": "0" * 8}, "nothing kept"),
        ({"url": "/file", "sha256": DIGEST, "size": 7}, "bytes announced, expected 7"),
        ({"url": "/nolength", "sha256": DIGEST}, "does not say how large"),
        ({"url": "/nolength", "sha256": DIGEST, "size": 100}, "sends more than the 100 bytes"),
        ({"url": "/short", "sha256": DIGEST, "size": len(CONTENT)}, "broke off|cannot be fetched"),
        ({"url": "/away", "sha256": DIGEST}, "https://evil.org/x: refused"),
        ({"url": "/loop", "sha256": DIGEST}, "redirections"),
        ({"url": "/missing", "sha256": DIGEST}, "cannot be fetched"),
        ({"archive": {"url": "/zip", "sha256": "0" * 64, "member": "other.onnx"}}, "wrong sha256"),
        ({"archive": {"url": "/zip", "member": "other.onnx"}, "sha256": DIGEST}, "nothing kept"),
    ],
)
def test_nothing_is_kept_of_a_bad_transfer(server: str, tmp_path: Path, fields: dict[str, Any], message: str) -> None:
    if "url" in fields:
        fields = fields | {"url": server + fields["url"]}
    else:
        fields = fields | {"archive": fields["archive"] | {"url": server + fields["archive"]["url"]}}
    with pytest.raises(ModelError, match=message):
        fetch("a", tmp_path, entries=entry(**fields), hosts=HOSTS)
    assert files(tmp_path) == []


def test_a_server_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="cannot be fetched"):
        fetch("a", tmp_path, entries=entry(url="http://127.0.0.1:9/x", sha256=DIGEST), hosts=HOSTS)


def asked() -> list[tuple[str, str | None]]:
    """What the server was asked for since the last call of `asked().clear()`."""
    return _Handler.asked  # type: ignore[attr-defined, no-any-return]


def test_a_transfer_that_broke_off_goes_on_where_it_stopped(server: str, tmp_path: Path) -> None:
    asked().clear()
    wanted = entry(url=f"{server}/tagged/same", sha256=hashlib.sha256(LARGE).hexdigest(), size=len(LARGE))
    with pytest.raises(ModelError, match=r"broke off|cannot be fetched"):
        fetch("a", tmp_path, entries=wanted, hosts=HOSTS)
    left = [path for path in tmp_path.iterdir() if path.suffix != ".validator"]
    assert [path.name.startswith(".partial-") for path in left] == [True]
    there = left[0].stat().st_size
    assert BREAK - 2**16 < there <= BREAK
    path = fetch("a", tmp_path, entries=wanted, hosts=HOSTS)
    assert path.read_bytes() == LARGE
    assert asked() == [("/tagged/same", None), ("/tagged/same", f"bytes={there}-")]
    assert files(tmp_path) == ["a.onnx"]


def test_a_file_that_changed_meanwhile_is_fetched_whole(server: str, tmp_path: Path) -> None:
    asked().clear()
    wanted = entry(url=f"{server}/tagged/changed", size=len(LARGE))
    for _ in range(2):
        with pytest.raises(ModelError, match=r"broke off|cannot be fetched"):
            fetch("a", tmp_path, entries=wanted, hosts=HOSTS)
    assert fetch("a", tmp_path, entries=wanted, hosts=HOSTS).read_bytes() == LARGE
    places = [int((place or "bytes=0-")[6:-1]) for _, place in asked()]
    assert 0 == places[0] < places[1] < places[2]
    assert files(tmp_path) == ["a.onnx", "checksums.json"]


def test_the_members_of_a_pack_share_one_download(server: str, tmp_path: Path) -> None:
    asked().clear()
    archive = {"url": f"{server}/zip", "sha256": hashlib.sha256(packed()).hexdigest()}
    both = [
        {"name": name, "task": "embedder", "file": file, "licence": "MIT", "format": "onnx", "archive": archive}
        for name, file in (("a", "vit-face-expression.onnx"), ("b", "other.onnx"))
    ]
    entries = parse_entries({"entries": both}, "test")
    assert [item.name for item in resolve("zip", entries)] == ["a", "b"]
    (tmp_path / "archives").mkdir()
    (tmp_path / "weights").mkdir()
    for item in resolve("zip", entries):
        fetch(item.name, tmp_path / "weights", entries=entries, hosts=HOSTS, archives=tmp_path / "archives")
    assert len(asked()) == 1
    assert "vit-face-expression.onnx" in files(tmp_path / "weights")
