"""From the bytes of a photograph to upright RGB pixels, by stated rules, with limits before anything is allocated.

Rules of `decode`:

- The bytes decide the format, not the name: JPEG, PNG, GIF, BMP, WebP; anything else is `not_an_image`.
- At most `MAX_BYTES` bytes and `MAX_PIXELS` pixels (read from the header), at least `MIN_SIDE` pixels a side.
- Grey becomes three equal channels; CMYK is converted without a colour profile; 16-bit values are rounded to 8 bits
  when grey and cut to their high byte when colour (as Pillow does); alpha is put over black; of an animation the
  first frame counts; an EXIF orientation is applied. Points and masks of a source refer to the upright image.
- A truncated or damaged image is refused as a whole: no grey lower half.
"""

from __future__ import annotations

import io
import struct

import cv2
import numpy as np
from PIL import Image

from raysweep.schema import ByteArray

__all__ = [
    "ENCODINGS",
    "MAX_BYTES",
    "MAX_PIXELS",
    "MIN_SIDE",
    "ImageProblem",
    "decode",
    "decode_mask",
    "encode_mask",
    "image_size",
    "sniff",
]

ENCODINGS: tuple[str, ...] = ("jpeg", "png", "gif", "bmp", "webp", "raw")
"""Values of the column `encoding`."""

MAX_BYTES = 64 * 2**20
MAX_PIXELS = 50_000_000
MIN_SIDE = 8

_ORIENTATION = 0x0112  # EXIF tag
# Before 5.0 OpenCV returned a truncated JPEG with a grey rest in place of nothing.
_CV2_REFUSES_TRUNCATED = int(cv2.__version__.split(".")[0]) >= 5


class ImageProblem(Exception):  # noqa: N818 - a finding about one row, which is quarantined; no programme error
    """One image cannot be used.

    Args:
        reason_code: `empty`, `not_an_image`, `truncated`, `damaged`, `too_large`, `too_small`, or `wrong_length` (raw pixels).
        message: what was found, one line.
    """

    def __init__(self, reason_code: str, message: str) -> None:
        super().__init__(reason_code, message)
        self.reason_code = reason_code
        self.message = message

    def __str__(self) -> str:
        return f"{self.reason_code}: {self.message}"


def sniff(image: bytes) -> str | None:
    r"""The encoding that the first bytes announce, or None.

    >>> sniff(b"\xff\xd8\xff\xe0....JFIF"), sniff(b"<html>")
    ('jpeg', None)
    """
    if image.startswith(b"\xff\xd8\xff"):
        return "jpeg"
    if image.startswith(b"\x89PNG\r\n\x1a\n"):
        return "png"
    if image.startswith((b"GIF87a", b"GIF89a")):
        return "gif"
    if image.startswith(b"RIFF") and image[8:12] == b"WEBP":
        return "webp"
    if image.startswith(b"BM"):
        return "bmp"
    return None


def decode(image: bytes, encoding: str = "", height: int = 0, width: int = 0) -> ByteArray:
    """Decode one image by the rules on top of this module.

    Args:
        image: the bytes of the file, or raw pixels.
        encoding: `raw` for uint8 RGB pixels, row by row; any other value is only a hint, the bytes decide.
        height, width: pixels of a `raw` image; ignored otherwise.

    Returns:
        (H, W, 3) uint8 RGB, upright, C-contiguous and writeable.

    Raises:
        ImageProblem: with a reason code; nothing else escapes for whatever bytes.
    """
    if not image:
        raise ImageProblem("empty", "zero bytes")
    if len(image) > MAX_BYTES:
        raise ImageProblem("too_large", f"{len(image)} bytes, at most {MAX_BYTES} are read")
    if encoding == "raw":
        _check_size(width, height)
        if len(image) != height * width * 3:
            raise ImageProblem("wrong_length", f"{len(image)} bytes where {height} x {width} x 3 were announced")
        return np.frombuffer(image, dtype=np.uint8).reshape(height, width, 3).copy()
    with _open(image) as opened:
        _check_size(*opened.size)
        if opened.format in ("JPEG", "MPO") and opened.mode in ("RGB", "L") and _CV2_REFUSES_TRUNCATED:
            # The same pixels as Pillow's (both are libjpeg-turbo) at 1.6 to 2.1 times its rate.
            flags = cv2.IMREAD_COLOR_RGB | cv2.IMREAD_IGNORE_ORIENTATION
            pixels = cv2.imdecode(np.frombuffer(image, dtype=np.uint8), flags)
            if pixels is not None and pixels.shape[1::-1] == opened.size:
                return _upright(pixels, _orientation(opened))
        try:
            pixels = _to_rgb(opened)
        except Exception as error:  # hostile bytes raise anything: OSError, ValueError, SyntaxError, struct.error...
            reason = "truncated" if "truncated" in str(error).lower() else "damaged"
            raise ImageProblem(reason, _one_line(error)) from error
        return _upright(pixels, _orientation(opened))


def image_size(image: bytes) -> tuple[int, int]:
    """(height, width) of the upright image, from the header alone.

    Raises:
        ImageProblem: not an image, or beyond the limits.
    """
    with _open(image) as opened:
        _check_size(*opened.size)
        width, height = opened.size
        return (width, height) if _orientation(opened) >= 5 else (height, width)


def encode_mask(labels: ByteArray) -> bytes:
    """A label map (H, W) uint8 as a lossless PNG, for the column `mask`."""
    done, encoded = cv2.imencode(".png", np.ascontiguousarray(labels, dtype=np.uint8))
    if not done:
        raise ValueError(f"a mask of shape {labels.shape} cannot be encoded as PNG")
    return bytes(encoded.tobytes())


def decode_mask(mask: bytes, height: int, width: int) -> ByteArray:
    """The column `mask` of an image of that size: raw labels or a PNG -> (height, width) uint8.

    Raises:
        ImageProblem: another size, or not a grey 8-bit PNG.
    """
    if len(mask) == height * width and sniff(mask) != "png":
        return np.frombuffer(mask, dtype=np.uint8).reshape(height, width).copy()
    if sniff(mask) != "png":
        raise ImageProblem("wrong_length", f"mask of {len(mask)} bytes for an image of {height} x {width}")
    with _open(mask) as opened:
        if opened.size != (width, height) or opened.mode not in ("L", "P"):
            found = f"mask of {opened.height} x {opened.width}, mode {opened.mode}"
            raise ImageProblem("wrong_length", f"{found}, for an image of {height} x {width}: 8-bit grey is needed")
        try:
            return np.array(opened, dtype=np.uint8)
        except Exception as error:
            raise ImageProblem("damaged", f"mask: {_one_line(error)}") from error


def _open(image: bytes) -> Image.Image:
    """Parse the header only."""
    found = sniff(image)
    if found is None:
        raise ImageProblem("not_an_image", f"starts with {image[:12]!r}; expected JPEG, PNG, GIF, BMP or WebP")
    if found == "webp":
        # Pillow allocates the canvas of a WebP while opening it.
        _check_size(*_webp_size(image))
    try:
        return Image.open(io.BytesIO(image), formats=(found.upper(),))
    except Image.DecompressionBombError as error:
        raise ImageProblem("too_large", _one_line(error)) from error
    except Exception as error:
        raise ImageProblem("damaged", f"{found} header: {_one_line(error)}") from error


def _check_size(width: int, height: int) -> None:
    if min(width, height) < MIN_SIDE:
        raise ImageProblem("too_small", f"{width} x {height} pixels, at least {MIN_SIDE} a side are needed")
    if width * height > MAX_PIXELS:
        raise ImageProblem("too_large", f"{width} x {height} pixels, at most {MAX_PIXELS} are decoded")


def _webp_size(image: bytes) -> tuple[int, int]:
    """(width, height) of the canvas (RFC 9649, sections 2.5 to 2.7)."""
    chunk, body = image[12:16], image[20:30]
    if len(body) < 10:
        raise ImageProblem("truncated", f"WebP of {len(image)} bytes")
    if chunk == b"VP8X":
        width, height = (int.from_bytes(body[at : at + 3], "little") + 1 for at in (4, 7))
        return width, height
    if chunk == b"VP8L":
        (bits,) = struct.unpack("<I", body[1:5])
        return (bits & 0x3FFF) + 1, (bits >> 14 & 0x3FFF) + 1
    if chunk == b"VP8 ":
        width, height = struct.unpack("<HH", body[6:10])
        return width & 0x3FFF, height & 0x3FFF
    raise ImageProblem("damaged", f"WebP with first chunk {chunk!r}")


def _to_rgb(opened: Image.Image) -> ByteArray:
    if opened.mode.startswith("I"):  # 16-bit grey
        grey = np.asarray(opened).astype(np.int64)
        rounded = np.clip((grey + 128) // 257, 0, 255).astype(np.uint8)
        return np.repeat(rounded[..., None], 3, axis=2)
    if opened.mode in ("RGBA", "LA", "PA", "La", "RGBa") or "transparency" in opened.info:
        front = opened.convert("RGBA")
        behind = Image.new("RGBA", front.size, (0, 0, 0, 255))
        return np.array(Image.alpha_composite(behind, front).convert("RGB"))
    return np.array(opened.convert("RGB"))


def _orientation(opened: Image.Image) -> int:
    try:
        value = opened.getexif().get(_ORIENTATION, 1)
    except Exception:  # a damaged EXIF block says nothing: the image stays as it is stored
        return 1
    return value if isinstance(value, int) and 1 <= value <= 8 else 1


def _upright(pixels: ByteArray, orientation: int) -> ByteArray:
    """Undo an EXIF orientation (1 to 8): 5 to 8 exchange the axes first, then the image is flipped."""
    if orientation == 1:
        return pixels
    if orientation >= 5:
        pixels = pixels.transpose(1, 0, 2)
    if orientation in (3, 4, 7, 8):
        pixels = pixels[::-1]
    if orientation in (2, 3, 6, 7):
        pixels = pixels[:, ::-1]
    return np.ascontiguousarray(pixels)


def _one_line(error: Exception) -> str:
    return " ".join(f"{type(error).__name__}: {error}".split())[:200]
