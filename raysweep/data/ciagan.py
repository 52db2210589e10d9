"""The layout that CIAGAN trains on: `clr/<id>/<file>` photographs, `lndm/` landmark pictures, `msk/` face masks.

Source: M. Maximov et al., "CIAGAN: Conditional Identity Anonymization Generative Adversarial Networks", CVPR 2020.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np

from raysweep.data.files import FileSource, Listing, image_row, is_image_name, list_files
from raysweep.data.images import ImageProblem, encode_mask, image_size
from raysweep.data.masks import read_grey, resize_labels
from raysweep.errors import DataError
from raysweep.schema import PARTS

__all__ = ["LICENCE", "CiaganFaces"]

LICENCE = "not stated (the sample that comes with CIAGAN is CelebA: non-commercial research only)"
FACE_BELOW = 204
"""Grey below which a mask pixel is face: the masks are JPEGs, 0 face and 255 rest, and CIAGAN takes 1 - x > 0.2."""


class CiaganFaces(FileSource):
    """Rows of `clr/<id>/<file>`; the mask has `skin` where `msk` is black and background elsewhere.

    The landmark pictures hold no coordinates; their path is kept as attribute `landmark_picture`.

    Raises:
        DataError: no `clr/<id>/` folders with images.
    """

    def __init__(self, root: Path) -> None:
        listing = list_files(root, is_image_name)
        names = set(listing.files)
        images = tuple(name for name in listing.files if name.startswith("clr/") and name.count("/") == 2)
        if not images:
            raise DataError(f"{root}: no images at clr/<id>/<file>; expected clr/, lndm/ and msk/, each <id>/<file>")
        self._masks = {name: mask for name in images if (mask := name.replace("clr/", "msk/", 1)) in names}
        self._pictures = {name: picture for name in images if (picture := name.replace("clr/", "lndm/", 1)) in names}
        notes = []
        if len(self._masks) < len(images):
            notes.append(f"{len(images) - len(self._masks)} photographs without a file in msk/: mask unknown")
        super().__init__(
            name=listing.root.name, kind="ciagan", licence=LICENCE, listing=Listing(listing.root, images, listing.notes),
            notes=notes, others=(*self._masks.values(), *self._pictures.values()),
        )  # fmt: skip

    def rows(self) -> Iterator[dict[str, object]]:
        """One row a photograph, sorted by path."""
        for name in self.listing.files:
            facts: dict[str, object] = {}
            if name in self._pictures:
                facts["landmark_picture"] = self._pictures[name]
            mask = None
            if name in self._masks:
                try:
                    grey = read_grey(self.listing.path(self._masks[name]))
                    labels = np.where(grey < FACE_BELOW, PARTS.index("skin"), 0).astype(np.uint8)
                    mask = encode_mask(resize_labels(labels, *image_size(self.listing.path(name).read_bytes())))
                except (ImageProblem, OSError) as problem:
                    facts["mask_problem"] = str(problem)
            yield image_row(self.listing, name, identity=name.split("/")[1], mask=mask, attributes=facts)
