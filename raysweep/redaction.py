"""Takes out of a text what is nobody else's business: passwords, tokens, and where on this machine something lies."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

__all__ = ["redacted", "redacted_all"]

HIDDEN = "***"
SECRET_NAMES = re.compile(r"TOKEN|SECRET|PASSW|PASSPHRASE|CREDENTIAL|API_?KEY|ACCESS_?KEY|PRIVATE_?KEY", re.IGNORECASE)
"""Environment variables whose values never appear in a record."""
SHORTEST_SECRET = 6
"""A shorter value may be any word, such as `1` or `true`."""

_USER_IN_ADDRESS = re.compile(r"(?<=://)[^\s/@'\"]+@")
_QUERY = re.compile(r"(\w+://[^\s?'\"]+)\?[^\s'\"]+")
# Two levels at least, not the middle of a relative path, of an address or of a name with a slash.
_ABSOLUTE = re.compile(r"(?<![\w./~*-])~?(?:/[^\s/'\":,;()\[\]<>]+)+/(?=[^\s/'\":,;()\[\]<>])")


def redacted(text: str) -> str:
    """The text without users and queries in addresses, values of secret environment variables, and folders of absolute paths.

    >>> redacted("cannot open /home/ann/faces/7.png at https://ann:pw@host/x?key=1")
    'cannot open 7.png at https://***@host/x?***'
    """
    for name, value in os.environ.items():
        if len(value) >= SHORTEST_SECRET and SECRET_NAMES.search(name):
            text = text.replace(value, HIDDEN)
    text = _USER_IN_ADDRESS.sub(f"{HIDDEN}@", text)
    text = _QUERY.sub(rf"\1?{HIDDEN}", text)
    text = _ABSOLUTE.sub("", text)
    home = str(Path.home())
    return text.replace(home, "~") if len(home) > 1 else text


def redacted_all(content: Any) -> Any:
    """The same structure of mappings and lists with every text in it redacted, keys included."""
    if isinstance(content, str):
        return redacted(content)
    if isinstance(content, Mapping):
        return {redacted(key) if isinstance(key, str) else key: redacted_all(value) for key, value in content.items()}
    if isinstance(content, list | tuple):
        return [redacted_all(item) for item in content]
    return content
