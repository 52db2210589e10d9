"""The cache: what is listed, what is removed, and what never is."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import prepare_fakes as fakes
import pytest

from raysweep.cli import main
from raysweep.engine.cache import Entry, entries, hold, parse_age, purge
from raysweep.engine.references import ReferenceStore
from raysweep.errors import ConfigError, StoreError
from raysweep.pipeline import prepare_local
from raysweep.schema import Frame

FRAME = Frame(112, 0)


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A cache with one prepared data set that nobody holds."""
    root = tmp_path / "cache"
    monkeypatch.setenv("RAYSWEEP_CACHE", str(root))
    shards = fakes.write(fakes.mixed_rows(8), tmp_path / "source", name="fakes")
    store = ReferenceStore.at(shards, FRAME, fakes.FakeZoo())  # type: ignore[arg-type]
    prepare_local(shards, fakes.FakeZoo(), FRAME, store)  # type: ignore[arg-type]
    return root


def only(root: Path) -> Entry:
    (entry,) = entries(root)
    return entry


def test_an_entry_says_what_it_is(root: Path) -> None:
    entry = only(root)
    assert (entry.kind, entry.dataset, entry.rows) == ("references", "fakes", 8)
    assert entry.frame == "112 x 112, margin 0"
    assert entry.models == ("fields/a", "stripes")
    assert entry.size > 8 * 112 * 112 * 3
    assert not entry.held


def test_purge_removes_the_entry_and_what_it_frees_is_true(root: Path) -> None:
    entry = only(root)
    freed = purge(root, [entry])
    assert freed.removed == (entry,)
    assert freed.size == entry.size
    assert not entry.folder.exists()
    assert entries(root) == []
    assert not list(root.rglob("*.npy"))


def test_what_another_process_holds_stays(root: Path) -> None:
    entry = only(root)
    code = (
        "import sys, pathlib; from raysweep.engine.cache import hold\n"
        "hold(pathlib.Path(sys.argv[1]), pathlib.Path(sys.argv[2])); print('held', flush=True); sys.stdin.read()"
    )
    words = [sys.executable, "-c", code, str(entry.folder), str(root)]
    with subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "held\n"
        assert only(root).held
        freed = purge(root, entries(root))
        assert [why for _, why in freed.kept] == ["in use"]
        assert (entry.folder / "crop.npy").exists()
        process.kill()  # the lock falls with the process, however it ends
    assert not only(root).held
    assert len(purge(root, entries(root)).removed) == 1


def test_links_are_neither_listed_nor_followed(root: Path, tmp_path: Path) -> None:
    mine = tmp_path / "mine"
    mine.mkdir()
    (mine / "thesis.txt").write_text("mine")
    (root / "references" / "00000000aaaa").symlink_to(mine)
    entry = only(root)
    (entry.folder / "inner").symlink_to(mine)
    purge(root, [entry])
    assert (mine / "thesis.txt").read_text() == "mine"
    made_up = Entry("references", tmp_path / "mine", "", 0, "", (), 0, 0.0, False)
    with pytest.raises(StoreError, match="does not lie in the cache"):
        purge(root, [made_up])
    link = Entry("references", root / "references" / "00000000aaaa", "", 0, "", (), 0, 0.0, False)
    with pytest.raises(StoreError, match="does not lie in the cache"):
        purge(root, [link])
    assert (mine / "thesis.txt").exists()


def test_foreign_files_in_the_cache_are_passed_over(root: Path) -> None:
    (root / "references" / "notes").mkdir()
    (root / "other").mkdir()
    assert len(entries(root)) == 1


def test_what_a_killed_writer_left_can_be_removed(root: Path) -> None:
    left = root / "references" / ".0123456789abcdef.writing-x1"
    left.mkdir()
    (left / "0.part").write_bytes(bytes(5000))
    (entry,) = [entry for entry in entries(root) if entry.kind == "unfinished"]
    purge(root, [entry])
    assert not left.exists()


@pytest.mark.parametrize("damage", ["cut", "flipped", "gone"])
def test_a_damaged_entry_is_noticed_and_made_again(root: Path, tmp_path: Path, damage: str) -> None:
    shards = fakes.write(fakes.mixed_rows(8), tmp_path / "source", name="fakes")
    store = ReferenceStore.at(shards, FRAME, fakes.FakeZoo())  # type: ignore[arg-type]
    file = store.folder / "embedding.0.npy"
    whole = file.read_bytes()
    crop = np.load(store.folder / "crop.npy", allow_pickle=False).copy()
    if damage == "gone":
        file.unlink()
    else:
        file.write_bytes(whole[:-8] if damage == "cut" else whole[:-8] + b"\0" * 8)
    with pytest.raises(StoreError, match=r"embedding\.0\.npy"):
        store.verify()
    assert not store.exists()
    summary = prepare_local(shards, fakes.FakeZoo(), FRAME, store)  # type: ignore[arg-type]
    assert not summary.reused
    assert file.read_bytes() == whole
    np.testing.assert_array_equal(np.load(store.folder / "crop.npy", allow_pickle=False), crop)


def test_a_vanished_entry_costs_time_only(root: Path, tmp_path: Path) -> None:
    shards = fakes.write(fakes.mixed_rows(8), tmp_path / "source", name="fakes")
    purge(root, entries(root))
    store = ReferenceStore.at(shards, FRAME, fakes.FakeZoo())  # type: ignore[arg-type]
    assert not store.exists()
    assert not prepare_local(shards, fakes.FakeZoo(), FRAME, store).reused  # type: ignore[arg-type]
    assert prepare_local(shards, fakes.FakeZoo(), FRAME, store).reused  # type: ignore[arg-type]


def test_age_and_words_of_the_verb(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = only(root).folder
    assert main(["cache", "purge", "--older", "30d", "--yes"]) == 0
    assert folder.exists()
    past = time.time() - 40 * 86400
    os.utime(folder / "manifest.json", (past, past))
    assert main(["cache", "purge", "--older", "30d"]) == 0
    assert "nothing was removed" in capsys.readouterr().out
    assert folder.exists()
    assert main(["cache", "verify"]) == 0
    assert main(["cache", "purge", "--dataset", "fakse", "--yes"]) == 2
    assert "did you mean 'fakes'" in capsys.readouterr().err
    assert main(["cache", "purge", "--older", "30d", "--yes"]) == 0
    assert not folder.exists()
    with pytest.raises(ConfigError, match="30d or 12h"):
        parse_age("soon")


def test_nothing_is_held_outside_of_the_cache(tmp_path: Path) -> None:
    elsewhere = tmp_path / "data" / "mine" / "0123456789abcdef"
    elsewhere.mkdir(parents=True)
    hold(elsewhere, tmp_path / "cache")
    assert os.listdir(elsewhere.parent) == ["0123456789abcdef"]
    assert os.listdir(elsewhere) == []
