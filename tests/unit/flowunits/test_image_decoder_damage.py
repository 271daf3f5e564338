"""image_decoder on data that is damaged, lies or is no image: an error buffer each, and no harm to what comes next."""

from __future__ import annotations

import struct
import threading
from typing import Any

import cv2
import numpy as np
import pytest

from modelbox._core.memory import Pool
from tests.unit.flowunits.host import Unit, opened
from tests.unit.flowunits.images import (
    data_buffer,
    decode,
    encode,
    failure,
    picture,
    reference,
    with_exif,
    with_size,
    without_tables,
)


@pytest.mark.parametrize(
    ("data", "words"),
    [
        pytest.param(b"", "no data", id="empty"),
        pytest.param(b"\0" * 100, "no image", id="zeros"),
        pytest.param(b'{"not": "an image"}', "no image", id="json"),
        pytest.param(b"\xff\xd8\xff", "header", id="three bytes of jpeg"),
        pytest.param(encode(picture(40, 40))[:200], "header", id="jpeg header cut"),
        pytest.param(encode(picture(40, 40))[:-2], "cut off", id="jpeg without its end marker"),
        pytest.param(encode(picture(40, 40))[:800], "cut off", id="jpeg cut in the middle"),
        pytest.param(
            encode(picture(40, 40), ".jpg", cv2.IMWRITE_JPEG_PROGRESSIVE, 1)[:800], "cut off", id="progressive, cut"
        ),
        pytest.param(with_exif(encode(picture(40, 40)), 6)[:-100], "cut off", id="turned, cut"),
        pytest.param(encode(picture(40, 40), ".png")[:-200], "damaged", id="png cut"),
        pytest.param(encode(picture(40, 40), ".png")[:20], "claims", id="png header cut"),
        pytest.param(encode(picture(40, 40), ".webp")[:60], "damaged", id="webp cut"),
        pytest.param(encode(picture(40, 40), ".bmp")[:100], "damaged", id="bmp cut"),
        pytest.param(encode(picture(40, 40), ".tiff")[:100], "claims", id="tiff cut"),
        pytest.param(b"GIF89a" + b"\0" * 60, "known format", id="gif"),
    ],
)
def test_damaged_data(bgr: Unit, data: bytes, words: str) -> None:
    assert words in failure(decode(bgr, data))


def lying(width: int, height: int) -> list[Any]:
    little, big = struct.pack("<II", width, height), struct.pack(">II", width, height)
    small = picture(64, 64)
    png, bmp, jp2 = encode(small, ".png"), encode(small, ".bmp"), encode(small, ".jp2")
    siz = jp2.index(b"\xff\x4f\xff\x51") + 8
    tiff = struct.pack("<2sHIH", b"II", 42, 8, 2) + b"".join(
        struct.pack("<HHII", tag, 4, 1, value) for tag, value in ((256, width), (257, height))
    )
    text = f"{width} {height}\n255\n".encode()
    vp8x = b"RIFF" + struct.pack("<I", 22) + b"WEBPVP8X" + struct.pack("<II", 10, 0)
    return [
        pytest.param(png[:16] + big + png[24:], id="png"),
        pytest.param(bmp[:18] + little + bmp[26:], id="bmp"),
        pytest.param(bmp[:18] + struct.pack("<ii", width, -height) + bmp[26:], id="bmp, top row first"),
        pytest.param(jp2[:siz] + big + jp2[siz + 8 :], id="jpeg 2000"),
        pytest.param(tiff, id="tiff"),
        pytest.param(b"P6\n# a comment 1 1\n" + text, id="ppm"),
        pytest.param(
            f"P7\nWIDTH {width}\nHEIGHT {height}\nDEPTH 3\nMAXVAL 255\nTUPLTYPE RGB\nENDHDR\n".encode(), id="pam"
        ),
        pytest.param(b"\x59\xa6\x6a\x95" + big + struct.pack(">IIIII", 24, 0, 1, 0, 0), id="sun raster"),
        pytest.param(f"#?RADIANCE\nFORMAT=32-bit_rle_rgbe\n\n-Y {height} +X {width}\n".encode(), id="hdr"),
        pytest.param(
            vp8x + struct.pack("<I", (width - 1) % 2**24)[:3] + struct.pack("<I", (height - 1) % 2**24)[:3], id="webp"
        ),
        pytest.param(with_size(encode(small), width & 0xFFFF, height & 0xFFFF), id="jpeg"),
        pytest.param(with_size(with_exif(encode(small), 6), width & 0xFFFF, height & 0xFFFF), id="turned jpeg"),
    ]


@pytest.mark.parametrize("data", lying(60000, 50000))
def test_a_lying_header_is_found_before_memory_is_taken(data: bytes) -> None:
    memory = Pool(guard_all=True)
    with opened("image_decoder", memory) as unit:
        buffer = data_buffer(data)
        before = memory.stats().peak_bytes
        message = failure(decode(unit, buffer.as_bytes()))
        assert "60000 x 50000" in message and "max_pixels" in message
        assert memory.stats().peak_bytes - before < 1 << 20


@pytest.mark.parametrize("data", lying(0, 0))
def test_no_pixels_at_all(bgr: Unit, data: bytes) -> None:
    failure(decode(bgr, data))


def test_a_jpeg_too_small_for_what_it_claims(bgr: Unit) -> None:
    data = with_size(encode(picture(64, 64)), 9000, 9000)
    assert "9000 x 9000" in failure(decode(bgr, data))


def test_plain_surfaces_are_no_lie(bgr: Unit) -> None:
    """The least data that a real image takes: one colour, worst quality, optimised tables, all kinds of scans."""
    flat = np.full((2000, 2000, 3), 90, np.uint8)
    for progressive in (0, 1):
        data = encode(
            flat,
            ".jpg",
            *(cv2.IMWRITE_JPEG_QUALITY, 1, cv2.IMWRITE_JPEG_OPTIMIZE, 1, cv2.IMWRITE_JPEG_PROGRESSIVE, progressive),
        )
        np.testing.assert_array_equal(decode(bgr, data).array, reference(data))


def test_max_pixels(pool: Pool) -> None:
    with opened("image_decoder", pool, max_pixels=40 * 30) as unit:
        for form in (".jpg", ".png", ".bmp", ".webp", ".tiff"):
            assert decode(unit, encode(picture(30, 40), form)).array.shape == (30, 40, 3)
            assert "41 x 30" in failure(decode(unit, encode(picture(30, 41), form)))


def test_a_bad_image_does_not_spoil_the_next(bgr: Unit) -> None:
    good = encode(picture(50, 70))
    expected = reference(good)
    at = good.index(b"\xff\xc4") + 5
    broken = good[:at] + b"\xff" * 16 + good[at + 16 :]  # an impossible Huffman table
    for bad in (broken, good[:100], good[:600], with_size(good, 0, 0), b"\xff\xd8\xff\xd9"):
        failure(decode(bgr, bad))
        np.testing.assert_array_equal(decode(bgr, good).array, expected)


def test_no_table_of_an_image_is_left_for_the_next(bgr: Unit) -> None:
    bare = without_tables(encode(picture(50, 70)))
    before = decode(bgr, bare).array
    decode(bgr, encode(picture(50, 70, seed=5), ".jpg", cv2.IMWRITE_JPEG_OPTIMIZE, 1))
    np.testing.assert_array_equal(decode(bgr, bare).array, before)


@pytest.mark.parametrize("form", [".jpg", ".png", ".webp", ".tiff", ".bmp", ".jp2", ".hdr", ".ppm"])
def test_random_damage(bgr: Unit, form: str) -> None:
    """An image or an error, never more; a damaged JPEG that cv2 decodes is decoded to the same pixels."""
    random = np.random.default_rng(7)
    pixels = picture(41, 57)
    good = encode(pixels.astype(np.float32) if form == ".hdr" else pixels, form)
    for round_ in range(120):
        data = bytearray(good)
        for _ in range(int(random.integers(1, 5))):
            data[int(random.integers(0, len(data) if round_ % 2 else 200))] = int(random.integers(0, 256))
        answer = decode(bgr, bytes(data))
        expected = reference(bytes(data)) if form == ".jpg" else None
        if answer.buffer.has_error() and "too many for its" in failure(answer):
            continue  # cv2 would make up what is not there
        if expected is not None:
            np.testing.assert_array_equal(answer.array, expected)
        elif answer.buffer.has_error():
            failure(answer)
        else:
            assert list(answer.array.shape) == answer.meta["shape"]
    np.testing.assert_array_equal(decode(bgr, good).array, reference(good))


def test_good_and_bad_in_one_batch_keep_their_places(bgr: Unit) -> None:
    good = [encode(picture(20 + at, 30)) for at in range(9)]
    data = [good[at] if at % 3 else b"no image" for at in range(9)]
    for at, answer in enumerate(bgr.run(*[data_buffer(item) for item in data])):
        if at % 3:
            np.testing.assert_array_equal(answer.array, reference(good[at]))
        else:
            failure(answer)


def test_a_result_over_the_memory_limit_fails_alone() -> None:
    memory = Pool(max_buffer=100_000, guard_all=True)
    with opened("image_decoder", memory) as unit:
        small, large = encode(picture(50, 50)), encode(picture(300, 300))
        answers = unit.run(*[data_buffer(item) for item in (small, large, small)])
        assert answers[0].array.shape == answers[2].array.shape == (50, 50, 3)
        code, message = answers[1].error
        assert code == "ImageDecoder.OutOfMemory" and "270000 bytes" in message


def test_several_threads_share_a_node(bgr: Unit) -> None:
    images = [encode(picture(60 + at, 90), form) for at in range(4) for form in (".jpg", ".png")]
    expected = [reference(item) for item in images]
    wrong: list[int] = []

    def work(first: int) -> None:
        for at in range(40):
            number = (first + at) % len(images)
            answer = decode(bgr, images[number])
            if answer.buffer.has_error() or not np.array_equal(answer.array, expected[number]):
                wrong.append(number)

    threads = [threading.Thread(target=work, args=(first,)) for first in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert not wrong
