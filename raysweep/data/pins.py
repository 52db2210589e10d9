"""Pins Face Recognition (Kaggle, Burak): 105 people, 17,534 crops collected from Pinterest."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from raysweep.data.files import FileSource, Listing, image_row, is_image_name, list_files
from raysweep.errors import DataError

__all__ = ["FOLDER", "LICENCE", "PREFIX", "PinsFaces", "find_pins"]

FOLDER = "105_classes_pins_dataset"
PREFIX = "pins_"
LICENCE = "Pins Face Recognition: photographs collected from Pinterest, rights with their owners; research use"


def find_pins(root: Path) -> Path | None:
    """The folder that holds `pins_<Name>` folders: the root itself or `105_classes_pins_dataset` in it, or None."""
    for folder in (root / FOLDER, root):
        try:
            if folder.is_dir() and any(path.is_dir() and path.name.startswith(PREFIX) for path in folder.iterdir()):
                return folder
        except OSError as error:
            raise DataError(f"{folder}: cannot be read ({error.strerror})") from error
    return None


class PinsFaces(FileSource):
    """Rows of `pins_<Name>/*.jpg`; the identity is the name.

    Raises:
        DataError: no `pins_<Name>` folder, or no images in them.
    """

    def __init__(self, root: Path) -> None:
        folder = find_pins(root)
        if folder is None:
            raise DataError(f"{root}: no folders pins_<Name>; expected {FOLDER}/pins_<Name>/*.jpg")
        listing = list_files(folder, is_image_name)
        images = tuple(name for name in listing.files if name.startswith(PREFIX) and name.count("/") == 1)
        if not images:
            raise DataError(f"{folder}: no images in its pins_<Name> folders ({'; '.join(listing.notes) or 'empty'})")
        others = len(listing.files) - len(images)
        notes = [f"{others} images outside the pins_<Name> folders left out"] if others else []
        super().__init__(
            name="pins", kind="pins", licence=LICENCE, listing=Listing(listing.root, images, listing.notes), notes=notes
        )

    def rows(self) -> Iterator[dict[str, object]]:
        """One row a file, sorted by path."""
        for name in self.listing.files:
            yield image_row(self.listing, name, identity=name.split("/", 1)[0].removeprefix(PREFIX))
