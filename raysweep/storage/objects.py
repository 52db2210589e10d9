"""An object store (S3, Google Cloud Storage, Azure), through obstore: a few requests, with one kind of error.

Everything that the ledger's promises build on is one request here: `create` makes an object unless it is there, decided by the store
(`If-None-Match: *` and its like). That is why neither pyarrow.fs nor fsspec is used: their writes always replace.

Credentials come from the environment, as every tool of the clouds takes them (`AWS_ACCESS_KEY_ID`, `AWS_SECRET_ACCESS_KEY`,
`AWS_ENDPOINT_URL`, ...; a role of the machine needs none). An address that holds any is refused.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from raysweep.errors import ConfigError, StoreError
from raysweep.redaction import redacted
from raysweep.storage.files import replacing

__all__ = ["Found", "Objects", "UnreachableError", "is_url"]

SCHEMES = ("s3", "gs", "az")
ENDPOINTS = ("AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL", "AWS_ENDPOINT")
LOOPBACK = ("localhost", "127.0.0.1", "::1")
METADATA = ("169.254.169.254", "169.254.170.2", "metadata.google.internal")
"""Where the machines of clouds learn their role: asked when the environment holds no credentials."""
RETRIES = 3
RETRY_S, REQUEST_S, CONNECT_S = 20, 60, 5
PAGE = 1000


class UnreachableError(StoreError):
    """The store gives no answer, or not the one that was asked for; later it may."""


@dataclass(frozen=True)
class Found:
    """An object, without its bytes.

    Attributes:
        key: below the prefix of the `Objects` that was asked.
        size: bytes.
        modified_at: seconds since the epoch, by the clock of the store.
    """

    key: str
    size: int
    modified_at: float


def is_url(text: str) -> bool:
    """Whether a place is named by an address, not by a path."""
    return re.match(r"[A-Za-z][A-Za-z0-9+.-]*://", text) is not None


class Objects:
    """All objects below a prefix. May be used from several threads.

    Args:
        store: of obstore; `Objects.open` makes it from an address.
        url: for messages.
        prefix: below the store's own, with a slash at its end, or empty.
    """

    def __init__(self, store: Any, url: str, prefix: str = "") -> None:
        self._store, self._prefix = store, prefix
        self.url = url

    @classmethod
    def open(cls, url: str) -> Objects:
        """From an address such as `s3://bucket/prefix`; sends nothing yet.

        Raises:
            ConfigError: not such an address, credentials in it, or obstore is not installed.
        """
        parts = urlsplit(url)
        if parts.scheme not in SCHEMES or not parts.netloc:
            raise ConfigError(f"{redacted(url)}: not an object store; write s3://bucket/prefix, gs://... or az://...")
        if "@" in parts.netloc or parts.query or parts.fragment:
            raise ConfigError(
                f"{parts.scheme}://{parts.hostname}{parts.path}: an address must hold no credentials and no query; "
                "set them in the environment (AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY, ...)"
            )
        try:
            from obstore.store import from_url
        except ImportError as error:
            raise ConfigError(
                f"{url}: object stores need the extra: uv sync --extra storage (or pip install obstore)"
            ) from error
        seconds = {"timeout": timedelta(seconds=REQUEST_S), "connect_timeout": timedelta(seconds=CONNECT_S)}
        options: dict[str, Any] = {
            "client_options": {**seconds, **({"allow_http": True} if _plain_http(url) else {})},
            "retry_config": {"max_retries": RETRIES, "retry_timeout": timedelta(seconds=RETRY_S)},
        }
        if parts.scheme == "s3":
            # Not every store knows how to delete many at once, and nothing here deletes many.
            options["config"] = {"disable_bulk_delete": True}
        clean = url.rstrip("/")
        try:
            return cls(from_url(clean, **options), clean)
        except Exception as error:  # obstore's own, and ValueError
            hint = " (AZURE_STORAGE_ACCOUNT_NAME names it)" if parts.scheme == "az" else ""
            raise ConfigError(f"{url}: {_first_line(error)}{hint}") from error

    def at(self, prefix: str) -> Objects:
        """The objects below a further prefix."""
        return Objects(self._store, f"{self.url}/{prefix}", f"{self._prefix}{prefix}/")

    def create(self, key: str, content: bytes) -> bool:
        """Make an object; False when another one is there already.

        An answer may be lost and the request repeated by the client: an object with these very bytes counts as made by this call, so
        the content must tell its writer.

        Raises:
            StoreError: it cannot be written.
        """
        import obstore
        from obstore.exceptions import AlreadyExistsError, PreconditionError

        try:
            with self._errors(key, "written"):
                obstore.put(self._store, self._prefix + key, content, mode="create", use_multipart=False)
        except (AlreadyExistsError, PreconditionError):
            return self.read(key) == content
        return True

    def write(self, key: str, content: bytes | Path) -> None:
        """Make or replace an object, as a whole.

        Raises:
            StoreError: it cannot be written.
        """
        import obstore

        with self._errors(key, "written"):
            obstore.put(self._store, self._prefix + key, content)

    def read(self, key: str) -> bytes | None:
        """All bytes; None when there is no such object.

        Raises:
            StoreError: it cannot be read.
        """
        import obstore

        try:
            with self._errors(key, "read"):
                return bytes(obstore.get(self._store, self._prefix + key).bytes())
        except FileNotFoundError:
            return None

    def fetch(self, key: str, path: Path) -> bool:
        """Copy an object into a file, whole or not at all; False when there is no such object.

        Raises:
            StoreError: it cannot be read.
            OSError: the file cannot be written.
        """
        import obstore

        try:
            with self._errors(key, "read"):
                found = obstore.get(self._store, self._prefix + key)
                with replacing(path, private=True) as file:
                    for chunk in found.stream():
                        file.write(chunk)
        except FileNotFoundError:
            return False
        return True

    def look(self, key: str) -> Found | None:
        """Size and time of an object; None when there is no such object.

        Raises:
            StoreError: nobody knows.
        """
        import obstore

        try:
            with self._errors(key, "looked at"):
                found = obstore.head(self._store, self._prefix + key)
        except FileNotFoundError:
            return None
        return Found(key, int(found["size"]), found["last_modified"].timestamp())

    def find(self, prefix: str = "") -> list[Found]:
        """Every object below a folder (a prefix without its slash), sorted by key.

        Raises:
            StoreError: it cannot be read.
        """
        import obstore

        asked = f"{self._prefix}{prefix}".rstrip("/")
        found = []
        with self._errors(prefix, "listed"):
            for page in obstore.list(self._store, asked or None, chunk_size=PAGE):
                for item in page:
                    key = str(item["path"]).removeprefix(self._prefix)
                    found.append(Found(key, int(item["size"]), item["last_modified"].timestamp()))
        return sorted(found, key=lambda item: item.key)

    def folders(self) -> list[str]:
        """Names of the folders directly below the prefix.

        Raises:
            StoreError: it cannot be read.
        """
        import obstore

        with self._errors("", "listed"):
            found = obstore.list_with_delimiter(self._store, self._prefix.rstrip("/") or None)
        return sorted(str(path).rstrip("/").rpartition("/")[2] for path in found["common_prefixes"])

    def delete(self, key: str) -> None:
        """Remove an object; nothing happens when there is none.

        Raises:
            StoreError: it cannot be removed.
        """
        import obstore

        try:
            with self._errors(key, "removed"):
                obstore.delete(self._store, self._prefix + key)
        except FileNotFoundError:
            return

    @contextmanager
    def _errors(self, key: str, done: str) -> Iterator[None]:
        """Turn what obstore raises into our errors; what tells that an object is there, or is not, passes."""
        from obstore.exceptions import (
            AlreadyExistsError,
            BaseError,
            NotFoundError,
            PermissionDeniedError,
            PreconditionError,
            UnauthenticatedError,
        )

        where = f"{self.url}/{key}" if key else self.url
        try:
            yield
        except (AlreadyExistsError, PreconditionError):
            raise
        except (PermissionDeniedError, UnauthenticatedError) as error:
            raise _refused(where, done, error) from error
        except (NotFoundError, FileNotFoundError) as error:
            if "NoSuchBucket" in str(error):
                raise StoreError(f"{where} cannot be {done}: there is no such bucket; make it first") from error
            raise FileNotFoundError(where) from error
        except BaseError as error:
            if "NoSuchBucket" in str(error):
                raise StoreError(f"{where} cannot be {done}: there is no such bucket; make it first") from error
            without = any(host in str(error) for host in METADATA)
            if not without and re.search(r"40[13] (?:Forbidden|Unauthorized)", str(error)):  # a listing that is refused
                raise _refused(where, done, error) from error
            if without:
                raise UnreachableError(
                    f"{where} cannot be {done}: no credentials. Set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY (for gs:// "
                    "GOOGLE_APPLICATION_CREDENTIALS), or give the machine a role"
                ) from error
            raise UnreachableError(f"{where} cannot be {done}: {_first_line(error)}") from error


def _refused(where: str, done: str, error: BaseException) -> StoreError:
    return StoreError(
        f"{where} cannot be {done}: the store refuses these credentials ({_first_line(error)}). "
        "Check AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY (or the machine's role) and what they may do in the bucket"
    )


def _plain_http(url: str) -> bool:
    """Whether the endpoint may be spoken to without TLS: on this machine, or where the user says so.

    Raises:
        ConfigError: it would, and nobody allowed it.
    """
    if not url.startswith("s3:"):
        return False
    endpoint = next((os.environ[name] for name in ENDPOINTS if os.environ.get(name)), "")
    if not endpoint.startswith("http://"):
        return False
    if urlsplit(endpoint).hostname in LOOPBACK or os.environ.get("AWS_ALLOW_HTTP", "").lower() == "true":
        return True
    raise ConfigError(
        f"{url}: the endpoint {redacted(endpoint)} is not encrypted, and what is kept there is biometric data: "
        "use https://, or set AWS_ALLOW_HTTP=true where the network is your own"
    )


def _first_line(error: BaseException) -> str:
    """Of an error, without its debug output, the store's XML, passwords and paths."""
    text = str(error).split("\n\nDebug source:")[0]
    code = re.search(r"<Code>([^<]{1,80})</Code>", text)
    line = " ".join(re.split(r"<\?xml|\n", text)[0].split())
    line = re.sub(r" Object at location \S+ \w+:?| in [\d.]+(?:ms|µs|s)| for path \S+", "", line)
    return redacted(line)[:300] + (f" {code[1]}" if code else "")
