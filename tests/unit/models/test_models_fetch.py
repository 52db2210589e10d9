from __future__ import annotations

import stat
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from raysweep.cli import main
from raysweep.errors import ModelError
from raysweep.models.entry import parse_entries
from raysweep.models.fetch import check_url, describe, extract_member, fetch, resolve, verify


def entries(**fields: Any) -> Any:
    base = {
        "name": "a",
        "task": "embedder",
        "file": "a.onnx",
        "licence": "MIT",
        "format": "onnx",
        "url": "https://github.com/x/a.onnx",
    }
    return parse_entries({"entries": [base | fields]}, "test")


class TestAddresses:
    @pytest.mark.parametrize(
        "url",
        [
            "http://github.com/x",
            "https://github.com.evil.org/x",
            "https://evil.org/github.com",
            "https://github.com@evil.org/x",
            "https://user:word@github.com/x",
            "file:///etc/passwd",
            "ftp://github.com/x",
            "http://127.0.0.1/x",
            "",
        ],
    )
    def test_others_are_refused(self, url: str) -> None:
        with pytest.raises(ModelError, match="refused"):
            check_url(url)

    def test_known_hosts_pass(self) -> None:
        check_url("https://github.com/deepinsight/insightface/releases/download/v0.7/buffalo_l.zip")


class TestBeforeAnyByte:
    def test_unknown_name(self, tmp_path: Path) -> None:
        with pytest.raises(ModelError, match="did you mean 'buffalo_l-recognition'"):
            fetch("buffalo_l-recogniton", tmp_path)

    def test_licence_must_be_accepted(self, tmp_path: Path) -> None:
        with pytest.raises(ModelError, match=r"non-commercial research only. Fetch it with --accept-licence"):
            fetch("buffalo_l-recognition", tmp_path)

    def test_offline(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("RAYSWEEP_OFFLINE", "1")
        with pytest.raises(ModelError, match="offline"):
            fetch("lpips-alex", tmp_path)
        assert list(tmp_path.iterdir()) == []

    def test_by_hand(self, tmp_path: Path) -> None:
        with pytest.raises(ModelError, match=r"cannot be fetched: download id .* Then put 79999_iter.pth into"):
            fetch("bisenet", tmp_path)

    def test_built_in(self, tmp_path: Path) -> None:
        with pytest.raises(ModelError, match="nothing to fetch"):
            fetch("synthetic-id-a", tmp_path)

    def test_a_foreign_host_in_an_entry(self, tmp_path: Path) -> None:
        with pytest.raises(ModelError, match="refused"):
            fetch("a", tmp_path, entries=entries(url="https://evil.org/a.onnx"))

    def test_a_right_file_is_left_alone_and_a_wrong_one_not_overwritten(self, tmp_path: Path) -> None:
        import hashlib

        (tmp_path / "a.onnx").write_bytes(b"bytes")
        digest = hashlib.sha256(b"bytes").hexdigest()
        assert fetch("a", tmp_path, entries=entries(sha256=digest)) == tmp_path / "a.onnx"
        with pytest.raises(ModelError, match="move it away first"):
            fetch("a", tmp_path, entries=entries(sha256="0" * 64))
        assert (tmp_path / "a.onnx").read_bytes() == b"bytes"


def zip_of(path: Path, members: dict[str, bytes], change: Callable[[zipfile.ZipInfo], None] | None = None) -> Path:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as file:
        for name, content in members.items():
            info = zipfile.ZipInfo(name)
            info.compress_type = zipfile.ZIP_DEFLATED
            if change is not None:
                change(info)
            file.writestr(info, content)
    return path


class TestArchives:
    def test_one_member_by_its_base_name(self, tmp_path: Path) -> None:
        packed = zip_of(tmp_path / "p.zip", {"buffalo_l/det.onnx": b"one", "buffalo_l/rec.onnx": b"two"})
        extract_member(packed, "rec.onnx", tmp_path / "out", size=3)
        assert (tmp_path / "out").read_bytes() == b"two"
        assert sorted(path.name for path in tmp_path.iterdir()) == ["out", "p.zip"]

    @pytest.mark.parametrize("name", ["../x.onnx", "/x.onnx", "a/../../x.onnx", "a\\x.onnx", "C:x.onnx"])
    def test_climbing_names_are_refused(self, tmp_path: Path, name: str) -> None:
        packed = zip_of(tmp_path / "p.zip", {"good.onnx": b"1", name: b"2"})
        with pytest.raises(ModelError, match="refused: a member is named"):
            extract_member(packed, "good.onnx", tmp_path / "out")
        assert not (tmp_path / "out").exists()

    def test_links_are_refused(self, tmp_path: Path) -> None:
        def link(info: zipfile.ZipInfo) -> None:
            info.external_attr = (stat.S_IFLNK | 0o777) << 16

        with pytest.raises(ModelError, match="is a link"):
            extract_member(zip_of(tmp_path / "p.zip", {"x.onnx": b"/etc/passwd"}, link), "x.onnx", tmp_path / "out")

    def test_a_bomb_is_refused(self, tmp_path: Path) -> None:
        packed = zip_of(tmp_path / "p.zip", {"x.onnx": bytes(5_000_000)})
        with pytest.raises(ModelError, match="would unpack to 5000000 bytes"):
            extract_member(packed, "x.onnx", tmp_path / "out")

    def test_missing_double_and_other_size(self, tmp_path: Path) -> None:
        packed = zip_of(tmp_path / "p.zip", {"a/x.onnx": b"1", "b/x.onnx": b"2", "y.onnx": b"3"})
        for member, message in (("z.onnx", "0 members named"), ("x.onnx", "2 members named")):
            with pytest.raises(ModelError, match=message):
                extract_member(packed, member, tmp_path / "out")
        with pytest.raises(ModelError, match=r"y.onnx has 1 bytes, expected 9"):
            extract_member(packed, "y.onnx", tmp_path / "out", size=9)

    @pytest.mark.parametrize(
        "damage",
        [lambda raw: b"no zip", lambda raw: raw[: len(raw) // 2], lambda raw: raw.replace(b"hello" * 4, b"jello" * 4)],
    )
    def test_damage_is_told(self, tmp_path: Path, damage: Callable[[bytes], bytes]) -> None:
        with zipfile.ZipFile(tmp_path / "p.zip", "w") as file:
            file.writestr("x.onnx", b"hello" * 100)
        (tmp_path / "p.zip").write_bytes(damage((tmp_path / "p.zip").read_bytes()))
        with pytest.raises(ModelError, match="damaged zip"):
            extract_member(tmp_path / "p.zip", "x.onnx", tmp_path / "out")


def test_verify_lists_every_entry(tmp_path: Path) -> None:
    (tmp_path / "vit-face-expression.onnx").write_bytes(b"something")
    (tmp_path / "own.onnx").write_bytes(b"something")
    states = {line.name: line.state for line in verify(tmp_path)}
    assert states["fer-vit"] == "recorded"
    assert states["buffalo_l-recognition"] == "missing"
    assert states[str(tmp_path / "own.onnx")] == "unknown"


class TestResolve:
    def test_a_family_is_its_preferred_entry(self) -> None:
        assert [entry.name for entry in resolve("ganonymization")] == ["ganonymization-25"]
        assert [entry.name for entry in resolve("bisenet")] == ["bisenet"]
        assert resolve("deepprivacy2")[0].hand
        assert resolve("ciagan")[0].name == "ciagan"

    def test_a_pack_is_all_that_is_in_it(self) -> None:
        names = {entry.name for entry in resolve("buffalo_l")}
        assert "buffalo_l-detection" in names
        assert len(names) >= 4
        assert len({entry.archive.url for entry in resolve("buffalo_l") if entry.archive}) == 1

    def test_a_wrong_word_names_the_nearest(self) -> None:
        with pytest.raises(ModelError, match="did you mean 'ganonymization'"):
            resolve("ganonymisation")

    def test_size_licence_source_and_checksum_are_told(self) -> None:
        line = describe(resolve("ganonymization")[0])
        for part in (
            "655.3 MiB",
            "no published sha256",
            "MIT code",
            "(non-commercial)",
            "https://mediastore.rz.uni-augsburg.de/",
        ):
            assert part in line
        assert "by hand" in describe(resolve("ciagan")[0])

    def test_the_command_goes_through_all_and_tells_every_problem(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
    ) -> None:
        monkeypatch.setenv("RAYSWEEP_OFFLINE", "0")
        words = ["models", "fetch", "ganonymization", "ciagan", "yunet", "--offline", "--models", str(tmp_path)]
        assert main([*words, "--accept-licence"]) == 2
        out = capsys.readouterr()
        assert "ganonymization-25: GANonymization_25.ckpt" in out.out
        for part in ("ganonymization-25: offline", "1j5iT-SvvbC-JRy7qvY-eEP4sLzvoh8Ut", "yunet: offline"):
            assert part in out.err
        assert list(tmp_path.iterdir()) == []
