"""CelebAMask-HQ: 30,000 photographs of CelebA at 1024 pixels with part masks drawn at 512.

Source: C.-H. Lee et al., "MaskGAN: Towards Diverse and Interactive Facial Image Manipulation", CVPR 2020.
Identities are those of CelebA (`identity_CelebA.txt`), reached through `CelebA-HQ-to-CelebA-mapping.txt`.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path, PurePosixPath

import numpy as np

from raysweep.data.files import FileSource, Listing, image_row, is_image_name, list_files, read_text
from raysweep.data.images import ImageProblem, encode_mask, image_size
from raysweep.data.masks import read_grey, resize_labels
from raysweep.errors import DataError
from raysweep.schema import PARTS

__all__ = ["IMAGES", "LICENCE", "CelebAMaskHQ", "merge_parts"]

IMAGES = "CelebA-HQ-img"
MASKS = "CelebAMask-HQ-mask-anno"
MAPPING = "CelebA-HQ-to-CelebA-mapping.txt"
IDENTITIES = "identity_CelebA.txt"
ATTRIBUTES = "CelebAMask-HQ-attribute-anno.txt"
LICENCE = "CelebAMask-HQ: non-commercial research and education only"


def merge_parts(parts: dict[str, Path]) -> np.ndarray[tuple[int, int], np.dtype[np.uint8]]:
    """Part pictures -> one label map; where parts overlap, the later one in `PARTS` wins.

    That is the order of the public BiSeNet's own preparation: brows over skin, hair over ears, a hat over hair.

    Args:
        parts: file by name of `PARTS`; white (above 127) is the part.

    Returns:
        (H, W) uint8 labels of `PARTS` at the size of the pictures.

    Raises:
        ImageProblem: a picture cannot be read, or sizes differ.
    """
    labels: np.ndarray[tuple[int, int], np.dtype[np.uint8]] | None = None
    for value, part in enumerate(PARTS):
        if part not in parts:
            continue
        picture = read_grey(parts[part])
        if labels is None:
            labels = np.zeros((picture.shape[0], picture.shape[1]), dtype=np.uint8)
        if picture.shape != labels.shape:
            raise ImageProblem(
                "wrong_length", f"part {part} is {picture.shape}, the parts before it are {labels.shape}"
            )
        labels[picture > 127] = value
    if labels is None:
        raise ImageProblem("empty", "no part pictures")
    return labels


class CelebAMaskHQ(FileSource):
    """Rows of the unpacked archive; mask, identity and the 40 attributes each only when their files are there.

    The mask is resized (nearest neighbour; 512 to 1024 repeats every label in a 2 x 2 block) to the photograph's size.

    Args:
        root: the folder that holds `CelebA-HQ-img`.

    Raises:
        DataError: no images, or a text file that is not what it should be.
    """

    def __init__(self, root: Path) -> None:
        root = root.resolve()
        if not (root / IMAGES).is_dir():
            raise DataError(f"{root}: no folder {IMAGES}; expected the unpacked CelebAMask-HQ archive")
        listing = list_files(root / IMAGES, is_image_name)
        images = tuple(f"{IMAGES}/{name}" for name in listing.files if PurePosixPath(name).stem.isdecimal())
        if not images:
            raise DataError(f"{root / IMAGES}: no images named <number>.jpg ({'; '.join(listing.notes) or 'empty'})")
        masks = list_files(root / MASKS, is_image_name).files if (root / MASKS).is_dir() else ()
        self._parts = _parts_by_image(root / MASKS, masks)
        self._identity, notes = _identities(root)
        self._attributes = _attributes(root / ATTRIBUTES) if (root / ATTRIBUTES).is_file() else {}
        if not masks:
            notes.append(f"no {MASKS}: masks unknown")
        texts = [name for name in (MAPPING, IDENTITIES, ATTRIBUTES) if (root / name).is_file()]
        super().__init__(
            name="celebamask-hq",
            kind="celebamask-hq",
            licence=LICENCE,
            listing=Listing(root, tuple(sorted(images, key=_number)), listing.notes),
            notes=notes,
            others=(*texts, *(f"{MASKS}/{name}" for name in masks)),
        )

    def rows(self) -> Iterator[dict[str, object]]:
        """One row a photograph, by number."""
        for name in self.listing.files:
            number = _number(name)
            facts: dict[str, object] = {}
            if number in self._attributes:
                facts["attributes"] = self._attributes[number]
            row = image_row(self.listing, name, identity=self._identity.get(number), attributes=facts)
            image = row["image"]
            if number in self._parts and isinstance(image, bytes):
                try:
                    labels = merge_parts(self._parts[number])
                    row["mask"] = encode_mask(resize_labels(labels, *image_size(image)))
                except ImageProblem as problem:
                    facts["mask_problem"] = str(problem)
                    row = image_row(self.listing, name, identity=self._identity.get(number), attributes=facts)
            yield row


def _number(name: str) -> int:
    return int(PurePosixPath(name).stem)


def _parts_by_image(folder: Path, names: tuple[str, ...]) -> dict[int, dict[str, Path]]:
    parts: dict[int, dict[str, Path]] = {}
    for name in names:
        number, _, part = PurePosixPath(name).stem.partition("_")
        if number.isdecimal() and part in PARTS:
            parts.setdefault(int(number), {})[part] = folder / name
    return parts


def _identities(root: Path) -> tuple[dict[int, str], list[str]]:
    mapping, identities = root / MAPPING, root / IDENTITIES
    missing = [path.name for path in (mapping, identities) if not path.is_file()]
    if missing:
        return {}, [f"no {' and no '.join(missing)}: identities unknown, privacy cannot be measured"]
    of_original: dict[str, str] = {}
    for number, line in enumerate(read_text(identities), start=1):
        fields = line.split()
        if len(fields) == 2:
            of_original[fields[0]] = fields[1]
        elif fields:
            raise DataError(f"{identities}, line {number}: {line.strip()!r}; expected `000001.jpg 2880`")
    known: dict[int, str] = {}
    for number, line in enumerate(read_text(mapping), start=1):
        fields = line.split()
        if number == 1 and fields and not fields[0].isdecimal():
            continue
        if len(fields) == 3 and fields[0].isdecimal():
            if fields[2] in of_original:
                known[int(fields[0])] = of_original[fields[2]]
        elif fields:
            raise DataError(f"{mapping}, line {number}: {line.strip()!r}; expected `0 119613 119614.jpg`")
    return known, []


def _attributes(path: Path) -> dict[int, dict[str, bool]]:
    """The 40 yes/no attributes: a count, a line of names, then `0.jpg -1 1 ...`."""
    lines = [line.split() for line in read_text(path)]
    if len(lines) < 2:
        raise DataError(f"{path}: {len(lines)} lines; expected a count, a line of names, then one line an image")
    names = lines[1]
    known: dict[int, dict[str, bool]] = {}
    for number, fields in enumerate(lines[2:], start=3):
        if not fields:
            continue
        if len(fields) != len(names) + 1 or not PurePosixPath(fields[0]).stem.isdecimal():
            raise DataError(f"{path}, line {number}: {len(fields)} fields; expected a file and {len(names)} values")
        known[_number(fields[0])] = {name: value == "1" for name, value in zip(names, fields[1:], strict=True)}
    return known
