"""The ledger and its lease on bad disks: full, read-only, vanished, torn, altered, without locks, of another age."""

from __future__ import annotations

import errno
import fcntl
import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
import zlib
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest

from raysweep.engine import lease as lease_module
from raysweep.engine.lease import Lease, LeaseLostError, store_problems
from raysweep.engine.ledger import Ledger, read_ledger
from raysweep.engine.record import TrialRecord
from raysweep.engine.runs import Identity, choose_run
from raysweep.errors import StoreError

OLD = Path(__file__).with_name("assets") / "ledger-format-1.jsonl"


def record(number: int) -> TrialRecord:
    return TrialRecord(
        f"key{number}", number, "blur", {"kernel_size": 11 + 2 * number}, {}, "failed", "no \n such thing", ended_at=1.0
    )


def fill(path: Path, count: int, start: int = 0) -> bytes:
    with Ledger(path) as ledger:
        for number in range(start, start + count):
            assert ledger.append(record(number))
    return path.read_bytes()


def keys(path: Path) -> list[str]:
    return [item.key for item in read_ledger(path)]


# ------------------------------------------------------------------ F11: torn and altered
def test_a_flipped_byte_anywhere_is_never_accepted(tmp_path: Path) -> None:
    """Inside it is refused with its number; in the last record it costs that record, and is cut off."""
    path = tmp_path / "ledger"
    whole = fill(path, 3)  # every byte: 900 of them
    good = read_ledger(path)
    for place in range(len(whole)):
        damaged = bytearray(whole)
        damaged[place] ^= 1 << (place % 8)
        path.write_bytes(bytes(damaged))
        line = whole.count(b"\n", 0, place) + 1
        if place < whole.rindex(b"\n", 0, -1):
            with pytest.raises(StoreError, match=f"record {line} is damaged"):
                read_ledger(path)
        else:
            read = read_ledger(path)
            assert read == good[: len(read)]
            assert len(read) < 3


def test_a_checksum_of_another_length_is_no_record(tmp_path: Path) -> None:
    """`+12`, ` 12` and `012` are numbers to Python, but nothing that the ledger writes."""
    text = json.dumps(record(0).to_dict()).encode()
    sums = b"%08x" % zlib.crc32(text)
    for length in (b"%d" % len(text), b"+%d" % len(text), b"0%d" % len(text)):
        (tmp_path / "ledger").write_bytes(b"%s %s %s\n" % (length, sums, text))
        assert len(read_ledger(tmp_path / "ledger")) == (length == b"%d" % len(text))


# ------------------------------------------------------------------ F9, F10: disks
@pytest.fixture
def small_files() -> Iterator[None]:
    """No file may grow beyond 6,000 bytes: what a full disk does, without one."""
    import resource

    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (6000, before[1]))
    yield
    resource.setrlimit(resource.RLIMIT_FSIZE, before)
    signal.signal(signal.SIGXFSZ, handler)


def test_a_full_disk_leaves_whole_records_and_the_sweep_goes_on_when_it_is_freed(
    tmp_path: Path, small_files: None
) -> None:
    import resource

    path = tmp_path / "ledger"
    written = 0

    def fill_up(ledger: Ledger) -> None:
        nonlocal written
        while ledger.append(record(written)):
            written += 1

    with Ledger(path) as ledger:
        with pytest.raises(StoreError, match=r"cannot write the ledger .*ledger: File too large \(\d+ bytes"):
            fill_up(ledger)
        assert written > 3
        assert path.read_bytes().endswith(b"\n")
        assert len(read_ledger(path)) == written
        resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, resource.getrlimit(resource.RLIMIT_FSIZE)[1]))
        assert ledger.append(record(written))
    assert keys(path) == [f"key{number}" for number in range(written + 1)]


def test_a_failing_disk_is_not_taken_for_a_commit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with Ledger(tmp_path / "ledger") as ledger:
        ledger.append(record(0))
        real = os.fsync

        def fail(handle: int) -> None:
            if handle == ledger._handle:
                raise OSError(errno.EIO, "Input/output error")
            real(handle)

        monkeypatch.setattr(os, "fsync", fail)
        with pytest.raises(StoreError, match="Input/output error"):
            ledger.append(record(1))
        assert "key1" not in ledger.records
    assert keys(tmp_path / "ledger") == ["key0"]


def test_a_run_folder_that_vanishes_is_noticed_at_the_next_append(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    folder.mkdir()
    with Ledger(folder / "ledger.jsonl") as ledger:
        ledger.append(record(0))
        shutil.rmtree(folder)
        with pytest.raises(StoreError, match="vanished"):
            ledger.append(record(1))
    assert not folder.exists()


@pytest.mark.skipif(os.geteuid() == 0, reason="the administrator may write everywhere")
def test_a_read_only_run_folder_is_named(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    folder.mkdir(mode=0o500)
    with pytest.raises(StoreError, match=r"cannot write .*Permission denied"), Ledger(folder / "ledger.jsonl"):
        pass


def test_a_place_that_cannot_be_written_is_named_to_the_administrator_too(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with (
        pytest.raises(StoreError, match=r"cannot write the ledger .*Not a directory"),
        Ledger(tmp_path / "file" / "ledger.jsonl"),
    ):
        pass


# ------------------------------------------------------------------ F6, F7: fencing
def test_what_a_fenced_writer_appends_is_refused_and_passed_over(tmp_path: Path) -> None:
    path = tmp_path / "ledger.jsonl"
    first = Ledger(path, timeout_s=0.3)
    with first:
        assert first.append(record(0))
        first.lease._stop.set()  # as a suspended process: no further sign of life
        assert first.lease._thread is not None
        first.lease._thread.join()
        waiting: list[str] = []
        # The lock would tell that its holder is alive: this is what a newcomer on another machine sees.
        content = json.loads((tmp_path / "ledger.lease" / "000001").read_text())
        (tmp_path / "ledger.lease" / "000001").write_text(json.dumps({**content, "host": "another"}))
        with Ledger(path, timeout_s=0.3, tell=waiting.append) as second:
            assert waiting
            assert "watching" in waiting[0]
            assert list(second.records) == ["key0"]
            assert second.append(record(1))
            with pytest.raises(LeaseLostError, match="taken this sweep over"):
                first.append(record(2))
            # Suspended between the check and the write: the line gets in, and does not count.
            first.lease.check = lambda: None  # type: ignore[method-assign]
            first._opened = True
            assert first.append(record(3))
            assert second.append(record(4))
        assert keys(path) == ["key0", "key1", "key4"]
        with Ledger(path) as third:
            assert list(third.records) == ["key0", "key1", "key4"]
            assert third.passed_over == 1


def test_a_record_of_the_holder_before_is_seen_before_the_first_append(tmp_path: Path) -> None:
    """It came after the newcomer had read the file, and before its first line: it counts, and is not done twice."""
    path = tmp_path / "ledger.jsonl"
    whole = fill(path, 2)
    one = whole[: whole.rindex(b"\n", 0, -1) + 1]
    path.write_bytes(one)
    with Ledger(path) as ledger:
        assert list(ledger.records) == ["key0"]
        with path.open("ab") as late:
            late.write(whole[len(one) :])
        assert not ledger.append(record(1))
        assert ledger.append(record(2))
    assert keys(path) == ["key0", "key1", "key2"]


def test_the_number_grows_though_the_folder_of_leases_was_left_behind(tmp_path: Path) -> None:
    path = tmp_path / "ledger.jsonl"
    fill(path, 1)
    fill(path, 1, start=1)
    shutil.rmtree(tmp_path / "ledger.lease")
    fill(path, 1, start=2)
    assert keys(path) == ["key0", "key1", "key2"]
    assert os.listdir(tmp_path / "ledger.lease") == ["000003"]


def test_a_dead_holder_is_followed_at_once_and_a_live_one_is_not(tmp_path: Path) -> None:
    code = (
        "import sys, time\nfrom pathlib import Path\nfrom raysweep.engine.lease import Lease\n"
        "Lease(Path(sys.argv[1])).acquire()\nprint('held', flush=True)\ntime.sleep(600)\n"
    )
    holder = subprocess.Popen([sys.executable, "-c", code, str(tmp_path / "lease")], stdout=subprocess.PIPE, text=True)
    assert holder.stdout is not None
    assert holder.stdout.readline() == "held\n"
    with pytest.raises(StoreError, match=f"process {holder.pid}"):
        Lease(tmp_path / "lease").acquire()
    holder.kill()
    holder.wait()
    told: list[str] = []
    lease = Lease(tmp_path / "lease", tell=told.append)
    lease.acquire()
    assert lease.number == 2
    assert told == []
    lease.release()


# ------------------------------------------------------------------ F22: stores that are not as they should be
@pytest.mark.parametrize("kind", ["none", "for everybody"])
def test_without_locks_one_writer_is_told_by_signs_of_life(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    def flock(handle: int, how: int) -> None:
        if kind == "none":
            raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(fcntl, "flock", flock)
    monkeypatch.setattr(lease_module, "BEAT_S", 0.05)
    first = Lease(tmp_path / "lease", timeout_s=0.5)
    first.acquire()
    with pytest.raises(StoreError, match="another process"):
        Lease(tmp_path / "lease", timeout_s=0.5).acquire()
    first.release()
    second = Lease(tmp_path / "lease", timeout_s=0.5)
    second.acquire()  # at once: it was given back
    assert second.number == 2
    second.release()


def test_two_newcomers_one_lease(tmp_path: Path) -> None:
    """Many at once: one holds it, the others are told so."""
    taken: list[Lease] = []
    refused: list[StoreError] = []
    gate = threading.Barrier(8)

    def come() -> None:
        lease = Lease(tmp_path / "lease", timeout_s=0.2)
        gate.wait()
        try:
            lease.acquire()
            taken.append(lease)
        except StoreError as error:
            refused.append(error)

    threads = [threading.Thread(target=come) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    still = [lease for lease in taken if _holds(lease)]
    assert len(still) == 1
    assert len(taken) + len(refused) == 8
    for lease in taken:
        lease.release()


def _holds(lease: Lease) -> bool:
    try:
        lease.check()
    except LeaseLostError:
        return False
    return True


def test_an_ordinary_disk_has_nothing_against_it(tmp_path: Path) -> None:
    assert store_problems(tmp_path) == ([], [])
    assert not list(tmp_path.iterdir())


def test_a_place_that_breaks_its_promises_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real_open = os.open
    with monkeypatch.context() as shim:
        shim.setattr(os, "open", lambda path, how, *rest, **more: real_open(path, how & ~os.O_EXCL, *rest, **more))
        assert any("same file" in line for line in store_problems(tmp_path)[0])
    with monkeypatch.context() as shim:
        shim.setattr(os, "open", lambda path, how, *rest, **more: real_open(path, how & ~os.O_APPEND, *rest, **more))
        assert any("overwrites" in line for line in store_problems(tmp_path)[0])
    with monkeypatch.context() as shim:
        shim.setattr(os, "listdir", lambda *_: [])  # NFS with its attribute cache: a new name is seen later
        assert any("not visible at once" in line for line in store_problems(tmp_path)[0])
    with monkeypatch.context() as shim:
        shim.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=3 << 20))
        assert store_problems(tmp_path)[0] == ["only 3 MB are free"]
        shim.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=300 << 20))
        assert "300 MB free" in store_problems(tmp_path)[1][0]
    with monkeypatch.context() as shim:
        shim.setattr(time, "time", lambda real=time.time: real() - 3600)
        assert any("3600 s ahead of" in line for line in store_problems(tmp_path)[1])
    with monkeypatch.context() as shim:
        shim.setattr(lease_module.os, "replace", _refuse)
        assert any("cannot replace" in line for line in store_problems(tmp_path)[0])
    with monkeypatch.context() as shim:
        shim.setattr(fcntl, "flock", _refuse)
        wrong, notes = store_problems(tmp_path)
        assert not wrong
        assert "no locks" in notes[0]


def test_a_sweep_refuses_such_a_place_before_it_begins(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    runs = tmp_path / "not" / "made" / "yet"
    question = Identity({"seed": 0}, {})
    assert choose_run(runs, "blur", question).fresh == 0
    real_open = os.open
    monkeypatch.setattr(os, "open", lambda path, how, *rest, **more: real_open(path, how & ~os.O_EXCL, *rest, **more))
    with pytest.raises(StoreError, match=r"runs cannot be kept in .*two processes can make the same file.*--runs"):
        choose_run(runs, "blur", question)


def _refuse(*_: object) -> None:
    raise OSError(errno.EPERM, "Operation not permitted")


# ------------------------------------------------------------------ F21: other ages
def test_a_ledger_of_format_1_is_opened_and_continued(tmp_path: Path) -> None:
    path = tmp_path / "ledger.jsonl"
    shutil.copy(OLD, path)
    assert [item.number for item in read_ledger(path)] == [-1, 0, 1]
    assert read_ledger(path)[1].metrics["privacy"].ok
    with Ledger(path) as ledger:
        assert ledger.append(record(7))
    assert path.read_bytes().startswith(OLD.read_bytes())
    assert [item.number for item in read_ledger(path)] == [-1, 0, 1, 7]


def test_a_later_format_is_refused_with_what_to_do(tmp_path: Path) -> None:
    path = tmp_path / "ledger.jsonl"
    text = b'{"ledger_format":3,"lease":1}'
    path.write_bytes(b"%d %08x %s\n" % (len(text), zlib.crc32(text), text))
    with pytest.raises(StoreError, match=r"later raysweep.*--fresh"), Ledger(path):
        pass
    assert path.read_bytes().endswith(text + b"\n")
