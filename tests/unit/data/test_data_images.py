"""Decoding by stated rules: every odd file is either decoded as documented or named with a reason code."""

from __future__ import annotations

import io
import struct
import zlib

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageOps

from raysweep.data import images
from raysweep.data.images import ImageProblem, decode, decode_mask, encode_mask, image_size, sniff


def picture(height: int = 40, width: int = 30) -> np.ndarray:
    y, x = np.mgrid[0:height, 0:width]
    return np.stack([x * 255 // width, y * 255 // height, (x + y) * 255 // (height + width)], axis=-1).astype(np.uint8)


def encoded(image: Image.Image, kind: str, **options: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def reason(data: bytes, **options: object) -> str:
    with pytest.raises(ImageProblem) as problem:
        decode(data, **options)  # type: ignore[arg-type]
    assert problem.value.message
    return problem.value.reason_code


@pytest.mark.parametrize("kind", ["png", "bmp", "webp"])
def test_lossless_formats_come_back_exactly(kind: str) -> None:
    data = encoded(Image.fromarray(picture()), kind, **({"lossless": True} if kind == "webp" else {}))
    assert sniff(data) == kind
    decoded = decode(data, "jpeg")
    assert decoded.dtype == np.uint8
    np.testing.assert_array_equal(decoded, picture())


@pytest.mark.parametrize("options", [{}, {"progressive": True}, {"subsampling": 0}, {"quality": 30}])
@pytest.mark.parametrize("mode", ["RGB", "L"])
def test_jpeg_equals_pillow(options: dict[str, object], mode: str) -> None:
    data = encoded(Image.fromarray(picture(203, 301)).convert(mode), "jpeg", **options)
    expected = np.asarray(Image.open(io.BytesIO(data)).convert("RGB"))
    np.testing.assert_array_equal(decode(data), expected)


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("kind", ["jpeg", "png"])
def test_exif_orientation_is_applied(orientation: int, kind: str) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    data = encoded(Image.fromarray(picture()), kind, exif=exif)
    expected = np.asarray(ImageOps.exif_transpose(Image.open(io.BytesIO(data))).convert("RGB"))
    np.testing.assert_array_equal(decode(data), expected)
    assert image_size(data) == expected.shape[:2]


def test_cmyk_grey_and_palette_become_rgb() -> None:
    red = Image.new("RGB", (16, 16), (255, 0, 0))
    cmyk = decode(encoded(red.convert("CMYK"), "jpeg", quality=100))
    assert np.abs(cmyk.astype(int) - np.array([255, 0, 0])).max() <= 3
    grey = decode(encoded(Image.new("L", (16, 16), 77), "png"))
    np.testing.assert_array_equal(grey, np.full((16, 16, 3), 77))
    palette = decode(encoded(red.convert("P"), "png"))
    np.testing.assert_array_equal(palette[0, 0], [255, 0, 0])


def test_sixteen_bit_grey_is_rounded_to_eight() -> None:
    values = np.array([0, 128, 129, 257, 32768, 65535] * 16, dtype=np.uint16).reshape(8, 12)
    decoded = decode(encoded(Image.fromarray(values), "png"))
    np.testing.assert_array_equal(decoded[..., 0], np.round(values / 257).astype(np.uint8))


@pytest.mark.parametrize("mode", ["RGBA", "LA", "P"])
def test_alpha_is_put_over_black(mode: str) -> None:
    image = Image.new("RGBA", (16, 16), (200, 200, 200, 255))
    image.paste((200, 200, 200, 0), (0, 0, 8, 16))
    if mode == "P":
        grey = Image.new("P", (16, 16), 1)
        grey.putpalette([0, 0, 0, 200, 200, 200, 9, 9, 9])
        grey.paste(2, (0, 0, 8, 16))
        data = encoded(grey, "png", transparency=2)
    else:
        data = encoded(image.convert(mode), "png")
    decoded = decode(data)
    assert (decoded[:, :8] == 0).all()
    assert (decoded[:, 8:] == 200).all()


def test_half_transparent_is_half_as_bright() -> None:
    decoded = decode(encoded(Image.new("RGBA", (8, 8), (200, 100, 50, 128)), "png"))
    assert np.abs(decoded[0, 0].astype(int) - np.array([100, 50, 25])).max() <= 1


@pytest.mark.parametrize("kind", ["gif", "webp", "png"])
def test_of_an_animation_the_first_frame_counts(kind: str) -> None:
    frames = [Image.new("RGB", (16, 16), colour) for colour in ((255, 0, 0), (0, 255, 0))]
    options = {"lossless": True} if kind == "webp" else {}
    data = encoded(frames[0], kind, save_all=True, append_images=frames[1:], **options)
    assert (decode(data) == [255, 0, 0]).all()


def test_raw_pixels() -> None:
    pixels = picture(48, 48)
    decoded = decode(pixels.tobytes(), "raw", 48, 48)
    np.testing.assert_array_equal(decoded, pixels)
    assert decoded.flags.writeable
    assert reason(pixels.tobytes()[:-1], encoding="raw", height=48, width=48) == "wrong_length"
    assert reason(b"x", encoding="raw") == "too_small"


def test_files_that_are_no_images() -> None:
    assert reason(b"") == "empty"
    assert reason(b"<!DOCTYPE html><html><body>404</body></html>") == "not_an_image"
    assert reason(b"II*\x00" + bytes(100)) == "not_an_image"  # TIFF
    assert reason(b"BM") == "damaged"


@pytest.mark.parametrize("kind", ["jpeg", "png", "gif", "bmp", "webp"])
def test_truncated_files_are_refused_at_every_length(kind: str) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    data = encoded(Image.fromarray(noise), kind)
    for keep in range(1, len(data) - 12, max(1, len(data) // 60)):
        assert reason(data[:keep]) in {"truncated", "damaged", "not_an_image", "too_small"}
    if kind in ("jpeg", "png"):
        assert reason(data[: len(data) // 2]) == "truncated"


def test_one_pixel_is_too_small() -> None:
    for kind in ("jpeg", "png", "gif", "bmp", "webp"):
        assert reason(encoded(Image.new("RGB", (1, 1)), kind)) == "too_small"


def bomb_png(width: int, height: int) -> bytes:
    def chunk(name: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(bytes(1000))) + chunk(b"IEND", b"")
    )


def test_size_is_refused_before_pixels_are_allocated(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("pixels were allocated")

    monkeypatch.setattr(images, "_to_rgb", refuse)
    monkeypatch.setattr("cv2.imdecode", refuse)
    assert reason(bomb_png(8000, 8000)) == "too_large"
    assert reason(bomb_png(20000, 20000)) == "too_large"
    jpeg = bytearray(encoded(Image.new("RGB", (64, 64)), "jpeg"))
    at = jpeg.index(b"\xff\xc0")
    jpeg[at + 5 : at + 9] = struct.pack(">HH", 20000, 20000)
    assert reason(bytes(jpeg)) == "too_large"
    canvas = (16382).to_bytes(3, "little") * 2
    webp = b"RIFF" + struct.pack("<I", 30) + b"WEBPVP8X" + struct.pack("<I", 10) + bytes(4) + canvas + bytes(20)
    assert reason(webp) == "too_large"


def test_bytes_are_limited(monkeypatch: pytest.MonkeyPatch) -> None:
    data = encoded(Image.fromarray(picture()), "png")
    monkeypatch.setattr(images, "MAX_BYTES", len(data) - 1)
    assert reason(data) == "too_large"


@settings(max_examples=150, deadline=None)
@given(
    kind=st.sampled_from(["jpeg", "png", "gif", "bmp", "webp"]),
    edits=st.lists(st.tuples(st.integers(0, 10**6), st.integers(0, 255)), min_size=1, max_size=8),
)
def test_damaged_bytes_decode_or_name_a_reason(kind: str, edits: list[tuple[int, int]]) -> None:
    data = bytearray(encoded(Image.fromarray(picture(24, 24)), kind))
    for place, value in edits:
        data[place % len(data)] = value
    try:
        decoded = decode(bytes(data))
    except ImageProblem:
        return  # anything else that is raised fails the test
    assert decoded.ndim == 3
    assert decoded.shape[2] == 3


def test_masks_come_back_exactly_and_other_sizes_are_refused() -> None:
    labels = (np.arange(20 * 12) % 19).astype(np.uint8).reshape(20, 12)
    np.testing.assert_array_equal(decode_mask(encode_mask(labels), 20, 12), labels)
    np.testing.assert_array_equal(decode_mask(labels.tobytes(), 20, 12), labels)
    for wrong in (encode_mask(labels), labels.tobytes()):
        with pytest.raises(ImageProblem, match="wrong_length"):
            decode_mask(wrong, 12, 12)


@pytest.mark.real
def test_real_photographs_decode_as_pillow_does(real_root) -> None:
    files = (
        sorted((real_root / "faces_id" / "lfw").rglob("*.jpg"))[::40]
        + sorted((real_root / "faces_expr").rglob("*.*"))[::40]
    )
    for file in files:
        data = file.read_bytes()
        np.testing.assert_array_equal(decode(data), np.asarray(Image.open(io.BytesIO(data)).convert("RGB")))
