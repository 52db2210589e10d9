"""Download weights: from known hosts only, of known size, checked before they get their name. And check what is there."""

from __future__ import annotations

import hashlib
import json
import logging
import os
import shutil
import stat
import tempfile
import zipfile
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Literal
from urllib.parse import urljoin, urlsplit

from raysweep.errors import ModelError, nearest
from raysweep.models.entry import Archive, Entry, catalogue
from raysweep.models.loading import file_digest
from raysweep.models.zoo import CHECKSUMS, open_zoo, weights_folder
from raysweep.storage.files import write_whole

if TYPE_CHECKING:
    import requests

__all__ = ["HOSTS", "Checked", "check_url", "describe", "extract_member", "fetch", "resolve", "verify"]

log = logging.getLogger(__name__)

HOSTS = frozenset(
    {
        "github.com",
        "raw.githubusercontent.com",
        "objects.githubusercontent.com",
        "release-assets.githubusercontent.com",
        "media.githubusercontent.com",
        "download.pytorch.org",
        "huggingface.co",
        "cdn-lfs.huggingface.co",
        "cdn-lfs-us-1.hf.co",
        "cas-bridge.xethub.hf.co",
        "storage.googleapis.com",
        "mediastore.rz.uni-augsburg.de",
    }
)
"""Hosts that weights may come from, redirections included; https only."""
MAX_BYTES = 2 * 2**30
MAX_MEMBERS = 1000
MAX_RATIO = 200
"""A zip member may unpack to this many times its packed size: weights hardly shrink, bombs do."""
TIMEOUT_S = 30
BLOCK = 2**16
"""Bytes read at once: what a broken transfer loses at most."""
REDIRECTS = 5


def check_url(url: str, hosts: Collection[str] = HOSTS) -> None:
    """Refuse an address that is not https to a known host.

    Raises:
        ModelError: names host and scheme.
    """
    parts = urlsplit(url)
    host = parts.hostname or ""
    loopback = host in ("127.0.0.1", "localhost") and host in hosts
    if host not in hosts or (parts.scheme != "https" and not loopback) or parts.username or parts.password:
        raise ModelError(f"{url}: refused: weights are fetched by https from {', '.join(sorted(hosts))} only")


def resolve(name: str, entries: tuple[Entry, ...] | None = None) -> tuple[Entry, ...]:
    """What a word on the command line stands for.

    Args:
        name: an entry; a pack (the name of its archive, such as `buffalo_l`): everything of it; or a family (`ganonymization`): its preferred
            entry that can be fetched, else the preferred one.
        entries: of the zoo; those that come with raysweep by default.

    Raises:
        ModelError: neither; names the nearest.
    """
    entries = catalogue() if entries is None else entries
    named = [entry for entry in entries if entry.name == name]
    if named:
        return tuple(named)
    pack = [entry for entry in entries if entry.archive is not None and _pack(entry.archive) == name]
    if pack:
        return tuple(pack)
    family = sorted((entry for entry in entries if entry.family == name and not entry.builtin), key=_preference)
    if family:
        return (family[0],)
    packs = {_pack(entry.archive) for entry in entries if entry.archive is not None}
    known = sorted({entry.name for entry in entries} | {entry.family for entry in entries if entry.family} | packs)
    raise ModelError(f"unknown model {name!r}{nearest(name, known)}; `raysweep ls models` lists them")


def _pack(archive: Archive) -> str:
    return PurePosixPath(urlsplit(archive.url).path).stem


def _preference(entry: Entry) -> tuple[bool, int, str]:
    return bool(entry.hand) or not (entry.url or entry.archive), entry.rank, entry.name


def describe(entry: Entry) -> str:
    """One line: size, licence, checksum and source of what would be fetched."""
    size = "size not published" if entry.size is None else f"{entry.size / 2**20:,.1f} MiB"
    checked = "sha256 published" if entry.sha256 else "no published sha256: recorded now, binding from then on"
    terms = f"{entry.licence}{' (non-commercial)' if entry.non_commercial else ''}"
    source = entry.url or (entry.archive.url if entry.archive else "")
    return f"{entry.name}: {entry.file}, {size}; {checked}; licence: {terms}; {source or 'by hand'}"


def fetch(
    name: str,
    folder: str | Path | None = None,
    accept_licence: bool = False,
    *,
    progress: Callable[[int, int], None] | None = None,
    entries: tuple[Entry, ...] | None = None,
    hosts: Collection[str] = HOSTS,
    archives: Path | None = None,
) -> Path:
    """Bring the weights of one entry into the weights folder.

    The bytes go to a temporary file beside the target, are counted and hashed, and only then get their name by one rename. A file that is
    there and right is left alone. A transfer that broke off goes on where it stopped when the same call is made again, if the server
    vouches that its file is still the same.

    Args:
        name: of the entry.
        folder: target, None for `weights_folder()`.
        accept_licence: the user accepts non-commercial terms.
        progress: called with bytes so far and in all.
        entries: of the zoo; those that come with raysweep by default.
        hosts: allowed; only tests need others.
        archives: folder where a pack's archive stays for its next member; None downloads it for each.

    Raises:
        ModelError: unknown name, offline (`RAYSWEEP_OFFLINE=1`), licence not accepted, to be fetched by hand, wrong host, size or sha256.
    """
    entries = catalogue() if entries is None else entries
    by_name = {entry.name: entry for entry in entries}
    if name not in by_name:
        raise ModelError(f"unknown model {name!r}{nearest(name, list(by_name))}; `raysweep ls models` lists them")
    entry = by_name[name]
    target = Path(weights_folder() if folder is None else folder).expanduser() / entry.file
    if entry.builtin:
        raise ModelError(f"{name} comes with raysweep: nothing to fetch")
    if target.is_file():
        digest = file_digest(target)
        if digest.startswith(entry.sha256 or _records(target.parent).get(entry.file, "")):
            return target
        raise ModelError(f"{target}: has sha256 {digest}, {name} has {entry.sha256}; move it away first")
    if entry.hand or not (entry.url or entry.archive):
        raise ModelError(f"{name} cannot be fetched: {entry.where}. Then put {entry.file} into {target.parent}")
    if entry.non_commercial and not accept_licence:
        raise ModelError(f"{name}: licence: {entry.licence}. Fetch it with --accept-licence if your use allows it")
    if os.environ.get("RAYSWEEP_OFFLINE", "") not in ("", "0"):
        raise ModelError(
            f"{name}: offline (--offline or RAYSWEEP_OFFLINE). On a machine with a network: {entry.where}; then copy it to {target}"
        )
    target.parent.mkdir(parents=True, exist_ok=True)

    if entry.archive is not None:
        with tempfile.TemporaryDirectory(dir=target.parent, prefix=".fetch-") as scratch:
            name_of = hashlib.sha256(entry.archive.url.encode()).hexdigest()[:16]
            packed = Path(scratch) / "archive.zip" if archives is None else archives / f"{name_of}.zip"
            if not packed.is_file():
                fresh = Path(scratch) / "download.zip"
                _download(entry.archive.url, fresh, entry.archive, progress, hosts)
                shutil.move(fresh, packed)
            unpacked = Path(scratch) / "member"
            extract_member(packed, entry.archive.member or entry.file, unpacked, entry.size)
            _accept(entry, unpacked, target)
    elif entry.url is not None:
        with tempfile.TemporaryDirectory(dir=target.parent, prefix=".fetch-") as scratch:
            plain = Path(scratch) / "download"
            _download(entry.url, plain, entry, progress, hosts)
            _accept(entry, plain, target)
    log.info("%s: %s", name, target)
    return target


def _accept(entry: Entry, path: Path, target: Path) -> None:
    """Check size and sha256, then rename."""
    size = path.stat().st_size
    if entry.size is not None and size != entry.size:
        raise ModelError(f"{entry.name}: {entry.file} has {size} bytes, expected {entry.size}: nothing kept")
    digest = file_digest(path)
    if entry.sha256 is not None and not digest.startswith(entry.sha256):
        raise ModelError(f"{entry.name}: {entry.file} has sha256 {digest}, expected {entry.sha256}: nothing kept")
    if entry.sha256 is None or len(entry.sha256) < 64:
        records = _records(target.parent) | {entry.file: digest}
        write_whole(target.parent / CHECKSUMS, json.dumps(records, indent=1, sort_keys=True) + "\n", private=True)
        log.warning("%s: no published sha256; recorded %s in %s", entry.name, digest, target.parent / CHECKSUMS)
    os.replace(path, target)


def _records(folder: Path) -> dict[str, str]:
    path = folder / CHECKSUMS
    return dict(json.loads(path.read_text(encoding="utf-8"))) if path.is_file() else {}


def _download(
    url: str,
    target: Path,
    expected: Entry | Archive,
    progress: Callable[[int, int], None] | None,
    hosts: Collection[str],
) -> None:
    import pooch

    check_url(url, hosts)

    def transfer(address: str, output: str, _pooch: object, check_only: bool = False) -> None:
        _transfer(address, output, expected.size, progress, hosts)

    digest = expected.sha256
    known = f"sha256:{digest}" if digest is not None and len(digest) == 64 else None
    try:
        logger = pooch.get_logger()
        level = logger.level
        logger.setLevel("ERROR")  # it prints checksums for copying; ours are recorded
        try:
            # An archive's digest is checked here; a file's own again, with its size, before it gets its name.
            pooch.retrieve(url, known_hash=known, fname=target.name, path=target.parent, downloader=transfer)
        finally:
            logger.setLevel(level)
    except ValueError as error:
        raise ModelError(f"{url}: wrong sha256, nothing kept: {error}") from error
    except OSError as error:  # requests' errors are OSErrors
        raise ModelError(f"{url}: cannot be fetched: {error}") from error
    if digest is not None and known is None and not file_digest(target).startswith(digest):
        raise ModelError(f"{url}: has sha256 {file_digest(target)}, expected {digest}: nothing kept")


def _transfer(
    url: str, output: str, size: int | None, progress: Callable[[int, int], None] | None, hosts: Collection[str]
) -> None:
    """Stream to a file; every redirection is checked, and not a byte more than announced is taken.

    What a broken transfer left (`.partial-...` in the weights folder) is continued if the server still has the same file.
    """
    partial = Partial.of(url, Path(output))
    start = partial.usable()
    response = _request(url, partial, hosts)
    with response:
        response.raise_for_status()
        if response.status_code != 206:
            start = 0
        elif not str(response.headers.get("content-range", "")).startswith(f"bytes {start}-"):
            partial.forget()
            raise ModelError(f"{url}: the server continues at another place than asked; run it again")
        announced = int(response.headers.get("content-length", 0))
        if response.headers.get("content-encoding", "identity") != "identity":
            announced = 0  # the announced length is that of the compressed stream
        if announced:
            announced += start
        total = size or announced
        if not total:
            raise ModelError(f"{url}: the server does not say how large the file is, and the zoo does not know either")
        if total > MAX_BYTES or (size and announced and announced != size):
            partial.forget()
            raise ModelError(f"{url}: {announced} bytes announced, expected {size or f'at most {MAX_BYTES}'}")
        done = start
        partial.begin(response.headers, start)
        try:
            with open(partial.path, "ab") as file:
                for block in response.iter_content(BLOCK):
                    done += len(block)
                    if done > total:
                        partial.forget()
                        raise ModelError(f"{url}: sends more than the {total} bytes expected")
                    file.write(block)
                    if progress is not None:
                        progress(done, total)
            if done != total:
                keeps = "goes on there" if partial.usable() else "begins anew"
                raise ModelError(f"{url}: broke off after {done} of {total} bytes; the same command {keeps}")
        except (OSError, ModelError):
            if not partial.usable():
                partial.forget()
            raise
    os.replace(partial.path, output)
    partial.forget()


def _request(url: str, partial: Partial, hosts: Collection[str]) -> requests.Response:
    """The answer after all redirections, each of which is checked; from where `partial` ends."""
    import requests

    headers = {}
    if partial.usable():
        headers = {
            "Range": f"bytes={partial.usable()}-",
            "If-Range": partial.validator.read_text(encoding="utf-8"),
            "Accept-Encoding": "identity",
        }
    for _ in range(REDIRECTS):
        check_url(url, hosts)
        response = requests.get(url, stream=True, timeout=TIMEOUT_S, allow_redirects=False, headers=headers)
        if not response.is_redirect:
            return response
        url = urljoin(url, response.headers["location"])
        response.close()
    raise ModelError(f"{url}: more than {REDIRECTS} redirections")


@dataclass(frozen=True)
class Partial:
    """What is there of a transfer that broke off, and what the server said to know its file by.

    Attributes:
        path: the bytes so far.
        validator: holds the server's ETag or date; without it bytes of two versions could be mixed, so then nothing is kept.
    """

    path: Path
    validator: Path

    @classmethod
    def of(cls, url: str, output: Path) -> Partial:
        """The one of an address, in the weights folder (the parent of the scratch folder that `output` lies in)."""
        name = f".partial-{hashlib.sha256(url.encode()).hexdigest()[:16]}"
        folder = output.parent.parent
        return cls(folder / name, folder / f"{name}.validator")

    def usable(self) -> int:
        """Bytes to go on from."""
        return self.path.stat().st_size if self.path.is_file() and self.validator.is_file() else 0

    def begin(self, headers: Mapping[str, str], start: int) -> None:
        """Keep the validator of this answer; drop old bytes when it begins at 0."""
        if start:
            return
        self.forget()
        tag, date = headers.get("etag", ""), headers.get("last-modified", "")
        chosen = tag if tag and not tag.startswith("W/") else date
        if chosen:
            self.validator.write_text(chosen, encoding="utf-8")

    def forget(self) -> None:
        """Remove both."""
        self.path.unlink(missing_ok=True)
        self.validator.unlink(missing_ok=True)


def extract_member(archive: Path, member: str, target: Path, size: int | None = None) -> None:
    """Unpack one file of a zip, found by its base name; nothing else of the zip is ever written.

    Args:
        archive: the zip.
        member: base name.
        target: where to write.
        size: bytes expected, None when not known.

    Raises:
        ModelError: damaged, absolute or climbing names, links, encrypted, absurd sizes, no such member or several.
    """
    try:
        with zipfile.ZipFile(archive) as packed:
            infos = packed.infolist()
            if len(infos) > MAX_MEMBERS:
                raise ModelError(f"{archive.name}: {len(infos)} members, at most {MAX_MEMBERS} are allowed")
            for info in infos:
                _check_member(archive, info)
            matching = [info for info in infos if not info.is_dir() and PurePosixPath(info.filename).name == member]
            if len(matching) != 1:
                raise ModelError(f"{archive.name}: {len(matching)} members named {member}, expected one")
            info = matching[0]
            if size is not None and info.file_size != size:
                raise ModelError(f"{archive.name}: {member} has {info.file_size} bytes, expected {size}")
            done = 0
            with packed.open(info) as source, open(target, "wb") as out:
                while block := source.read(2**20):
                    done += len(block)
                    if done > info.file_size:
                        raise ModelError(f"{archive.name}: {member} is larger than the zip says")
                    out.write(block)
    except (zipfile.BadZipFile, NotImplementedError, EOFError, RuntimeError) as error:
        raise ModelError(f"{archive.name}: damaged zip: {error}") from error


def _check_member(archive: Path, info: zipfile.ZipInfo) -> None:
    name = info.filename
    path = PurePosixPath(name)
    mode = info.external_attr >> 16
    if path.is_absolute() or ".." in path.parts or "\\" in name or ":" in name or "\x00" in name:
        raise ModelError(f"{archive.name}: refused: a member is named {name!r}")
    if stat.S_ISLNK(mode) or (stat.S_IFMT(mode) not in (0, stat.S_IFREG, stat.S_IFDIR)):
        raise ModelError(f"{archive.name}: refused: {name} is a link or a special file")
    if info.flag_bits & 0x1:
        raise ModelError(f"{archive.name}: {name} is encrypted")
    if info.file_size > MAX_BYTES or info.file_size > MAX_RATIO * max(info.compress_size, 1024):
        raise ModelError(f"{archive.name}: refused: {name} would unpack to {info.file_size} bytes")


@dataclass(frozen=True)
class Checked:
    """One line of `verify`.

    Attributes:
        name: of the entry, or the file's path when nothing describes it.
        path: of the file, empty when it is missing.
        state: `ok` (as published), `recorded` (no published sha256; as first fetched or as it is), `missing`, `unknown`.
        detail: sha256, or where to get it.
    """

    name: str
    path: str
    state: Literal["ok", "recorded", "missing", "unknown"]
    detail: str


def verify(folder: str | Path | None = None) -> list[Checked]:
    """Check every known file of a weights folder.

    Raises:
        ModelError: files with other bytes than they should have, all of them at once.
    """
    zoo = open_zoo(folder)
    lines = []
    for entry in zoo.entries:
        found = zoo.found.get(entry.name)
        if found is None:
            lines.append(Checked(entry.name, "", "missing", entry.where))
        else:
            published = entry.sha256 is not None and len(entry.sha256) == 64
            lines.append(Checked(entry.name, str(found.path), "ok" if published else "recorded", found.sha256))
    lines += [Checked(str(path), str(path), "unknown", "no entry describes it") for path in zoo.unknown]
    return lines
