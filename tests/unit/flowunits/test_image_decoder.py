"""image_decoder against cv2.imdecode: JPEG to the bit, every other format too; damage becomes an error buffer.

cv2 in the tests is newer than the OpenCV that the unit links. They agree on every pixel here, except that the older
one does not turn WebP images by their EXIF orientation.
"""

from __future__ import annotations

import base64
import json
import struct
import threading
from collections.abc import Iterator
from typing import Any

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from modelbox._core.memory import Pool
from modelbox.buffer import Buffer
from modelbox.dtypes import ModelBoxDataType
from modelbox.errors import ModelBoxError
from tests.unit.flowunits.host import CPU, Answer, Unit, image_meta, library_of, opened

SAMPLINGS = {
    "444": cv2.IMWRITE_JPEG_SAMPLING_FACTOR_444,
    "422": cv2.IMWRITE_JPEG_SAMPLING_FACTOR_422,
    "440": cv2.IMWRITE_JPEG_SAMPLING_FACTOR_440,
    "420": cv2.IMWRITE_JPEG_SAMPLING_FACTOR_420,
    "411": cv2.IMWRITE_JPEG_SAMPLING_FACTOR_411,
}
CMYK_JPEG = base64.b64decode(  # 24 x 16, made by Pillow
    "/9j/7gAOQWRvYmUAZAAAAAAA/9sAQwANCQoLCggNCwoLDg4NDxMgFRMSEhMnHB4XIC4pMTAuKS0sMzpKPjM2RjcsLUBXQUZMTlJT"
    "UjI+WmFaUGBKUVJP/8AAFAgAEAAYBEMRAE0RAFkRAEsRAP/EABkAAAMBAQEAAAAAAAAAAAAAAAAFBgcBA//EACYQAAEDAgYCAgMA"
    "AAAAAAAAAAEAAgQhMQMFERVBYhNREmGBodH/2gAOBEMATQBZAEsAAD8Auc05VdvfdWkyXeq0fHxvHrVRuaco3vukUyXeqXYuZlrg"
    "1pJcToALkqOzTlG990hmS71R55xaXOLMIaAj5uqfwNf2tjzTlZrvfdPpku9UZrilri1oJcToALkqNzTlG990hmS71XiAIYGHhND5"
    "Txo5zeedK2H8UdmnKN77pFMl3quFg1Ic0ycUEGlGt+vXu91//9k="
)


def picture(height: int, width: int, channels: int = 3, seed: int = 1) -> Any:
    """Smooth noise over the whole range of values: no two rows alike, and a JPEG of it is not all errors."""
    noise = np.random.default_rng(seed).integers(0, 256, (height // 4 + 2, width // 4 + 2, channels), dtype=np.uint8)
    return cv2.resize(noise, (width, height), interpolation=cv2.INTER_LINEAR).reshape(height, width, channels)


def encode(pixels: Any, form: str = ".jpg", *parameters: int) -> bytes:
    done, data = cv2.imencode(form, pixels, list(parameters))
    assert done
    return bytes(data.tobytes())


def reference(data: bytes) -> Any:
    return cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR)


def data_buffer(data: bytes) -> Buffer:
    return Buffer(CPU, data)


def decode(unit: Unit, data: bytes) -> Answer:
    return unit.one(data_buffer(data))


def failure(answer: Answer) -> str:
    code, message = answer.error
    assert code == "ImageDecoder.DecodeFailed"
    assert message and "\n" not in message
    return message


def with_exif(jpeg: bytes, orientation: int, little: bool = True) -> bytes:
    """The JPEG with an EXIF block that holds nothing but the orientation."""
    order = "<" if little else ">"
    entry = struct.pack(order + "HHIHH", 0x0112, 3, 1, orientation, 0)
    tiff = (b"II*\0" if little else b"MM\0*") + struct.pack(order + "IH", 8, 1) + entry + struct.pack(order + "I", 0)
    body = b"Exif\0\0" + tiff
    return jpeg[:2] + b"\xff\xe1" + struct.pack(">H", len(body) + 2) + body + jpeg[2:]


def with_size(jpeg: bytes, width: int, height: int) -> bytes:
    """The JPEG whose header lies about its size."""
    at = next(at for at in range(len(jpeg)) if jpeg[at] == 0xFF and jpeg[at + 1] in (0xC0, 0xC1, 0xC2))
    return jpeg[: at + 5] + struct.pack(">HH", height, width) + jpeg[at + 9 :]


def without_tables(jpeg: bytes) -> bytes:
    """The JPEG without its Huffman tables, as frames of a motion JPEG are."""
    made, at = jpeg[:2], 2
    while jpeg[at + 1] != 0xDA:
        end = at + 2 + int.from_bytes(jpeg[at + 2 : at + 4], "big")
        made += b"" if jpeg[at + 1] == 0xC4 else jpeg[at:end]
        at = end
    return made + jpeg[at:]


@pytest.fixture(scope="module")
def bgr(pool: Pool) -> Iterator[Unit]:
    with opened("image_decoder", pool) as unit:
        yield unit


# ---- what is decoded ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("progressive", [0, 1])
@pytest.mark.parametrize("sampling", SAMPLINGS)
@pytest.mark.parametrize("quality", [20, 90, 100])
def test_jpeg_is_bit_identical_to_cv2(bgr: Unit, sampling: str, quality: int, progressive: int) -> None:
    for height, width in ((121, 167), (64, 64), (33, 1), (1, 33), (1, 1)):
        data = encode(
            picture(height, width),
            ".jpg",
            *(cv2.IMWRITE_JPEG_SAMPLING_FACTOR, SAMPLINGS[sampling]),
            *(cv2.IMWRITE_JPEG_QUALITY, quality, cv2.IMWRITE_JPEG_PROGRESSIVE, progressive),
        )
        answer = decode(bgr, data)
        np.testing.assert_array_equal(answer.array, reference(data))
        assert answer.meta == image_meta(height, width, 3, "bgr") | {"type": ModelBoxDataType.UINT8}


@settings(max_examples=60, deadline=None)
@given(
    height=st.integers(1, 90),
    width=st.integers(1, 90),
    quality=st.integers(1, 100),
    form=st.sampled_from([".jpg", ".png", ".webp"]),
)
def test_any_size_and_quality(bgr: Unit, height: int, width: int, quality: int, form: str) -> None:
    key = {".jpg": cv2.IMWRITE_JPEG_QUALITY, ".webp": cv2.IMWRITE_WEBP_QUALITY}.get(form)
    data = encode(picture(height, width, seed=height * 91 + width), form, *((key, quality) if key else ()))
    np.testing.assert_array_equal(decode(bgr, data).array, reference(data))


@pytest.mark.parametrize(
    "form", [".png", ".bmp", ".webp", ".tiff", ".ppm", ".pgm", ".pam", ".pfm", ".jp2", ".ras", ".hdr", ".jpg"]
)
@pytest.mark.parametrize("channels", [1, 3])
def test_every_format(bgr: Unit, form: str, channels: int) -> None:
    for height, width in ((31, 47), (1, 1)) if form != ".jp2" else ((64, 65),):
        pixels = picture(height, width, channels)
        if form in (".pgm", ".ppm", ".pfm"):  # each holds only one number of channels, or is read only with three
            pixels = picture(height, width, 1 if form == ".pgm" else 3)
        if form in (".pfm", ".hdr"):
            pixels = pixels.astype(np.float32)
        data = encode(pixels, form)
        answer = decode(bgr, data)
        np.testing.assert_array_equal(answer.array, reference(data))
        assert answer.meta["shape"] == [height, width, 3]


@pytest.mark.parametrize(
    "data",
    [
        pytest.param(encode(picture(20, 30, 4), ".png"), id="png with alpha"),
        pytest.param(encode(picture(20, 30, 4), ".webp"), id="webp with alpha"),
        pytest.param(encode(picture(20, 30).astype(np.uint16) * 257, ".png"), id="16-bit png"),
        pytest.param(encode(picture(20, 30).astype(np.uint16) * 257, ".tiff"), id="16-bit tiff"),
        pytest.param(encode(picture(20, 30), ".webp", cv2.IMWRITE_WEBP_QUALITY, 101), id="lossless webp"),
        pytest.param(encode(picture(20, 30, 1), ".png", cv2.IMWRITE_PNG_BILEVEL, 1), id="1-bit png"),
        pytest.param(encode(picture(20, 30, 1), ".pbm"), id="pbm"),
        pytest.param(CMYK_JPEG, id="cmyk jpeg"),
        pytest.param(encode(picture(20, 30)) + b"more after the end", id="jpeg with a tail"),
        pytest.param(without_tables(encode(picture(20, 30))), id="jpeg without tables"),
    ],
)
def test_unusual_files(bgr: Unit, data: bytes) -> None:
    np.testing.assert_array_equal(decode(bgr, data).array, reference(data))


@pytest.mark.parametrize("little", [True, False])
@pytest.mark.parametrize("orientation", range(10))
def test_exif_orientation_is_followed(bgr: Unit, orientation: int, little: bool) -> None:
    data = with_exif(encode(picture(40, 56)), orientation, little)
    expected = reference(data)
    assert expected.shape == ((56, 40, 3) if 5 <= orientation <= 8 else (40, 56, 3))
    answer = decode(bgr, data)
    np.testing.assert_array_equal(answer.array, expected)
    assert answer.meta["width"] == expected.shape[1]


def test_rgb_is_bgr_turned_around(pool: Pool) -> None:
    with opened("image_decoder", pool, pix_fmt="rgb") as unit:
        jpeg = encode(picture(37, 53))
        for data in (jpeg, with_exif(jpeg, 6), with_exif(jpeg, 3), encode(picture(37, 53), ".png"), CMYK_JPEG):
            answer = decode(unit, data)
            np.testing.assert_array_equal(answer.array, reference(data)[:, :, ::-1])
            assert answer.meta["pix_fmt"] == "rgb"


@pytest.mark.parametrize("form", [".jpg", ".png"])
@pytest.mark.parametrize(("height", "width"), [(40, 64), (41, 64), (40, 65), (41, 65), (2, 2), (3, 3)])
def test_nv12(pool: Pool, form: str, height: int, width: int) -> None:
    data = encode(picture(height, width), form)
    even_height, even_width = height // 2 * 2, width // 2 * 2
    planes = cv2.cvtColor(reference(data)[:even_height, :even_width], cv2.COLOR_BGR2YUV_I420).reshape(-1)
    luma, quarter = even_height * even_width, even_height * even_width // 4
    expected = np.concatenate(
        [planes[:luma], np.stack([planes[luma : luma + quarter], planes[luma + quarter :]], -1).reshape(-1)]
    )
    with opened("image_decoder", pool, pix_fmt="nv12") as unit:
        answer = decode(unit, data)
    np.testing.assert_array_equal(answer.array.reshape(-1), expected)
    assert answer.meta == {
        "width": even_width,
        "height": even_height,
        "width_stride": even_width,
        "height_stride": even_height,
        "channel": 1,
        "pix_fmt": "nv12",
        "layout": "hwc",
        "shape": [even_height * 3 // 2, even_width, 1],
        "type": ModelBoxDataType.UINT8,
    }


@pytest.mark.parametrize("form", [".jpg", ".png"])
def test_nv12_of_a_single_row_is_an_error(pool: Pool, form: str) -> None:
    with opened("image_decoder", pool, pix_fmt="nv12") as unit:
        assert "nv12" in failure(decode(unit, encode(picture(1, 8), form)))


# ---- what is not ----------------------------------------------------------------------------------------------


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


# ---- base64 in JSON ---------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def keyed(pool: Pool) -> Iterator[Unit]:
    with opened("image_decoder", pool, key="image_base64") as unit:
        yield unit


PNG = encode(picture(23, 31), ".png")
TEXT = base64.b64encode(PNG).decode()


@pytest.mark.parametrize(
    "body",
    [
        pytest.param(json.dumps({"image_base64": TEXT}), id="plain"),
        pytest.param(json.dumps({"a": 1, "image_base64": TEXT, "b": [1, {"c": "d"}]}, indent=2), id="among others"),
        pytest.param(json.dumps({"field": "image_base64", "image_base64": TEXT}), id="a value that reads like the key"),
        pytest.param(json.dumps({"image_base64": "data:image/png;base64," + TEXT}), id="data url"),
        pytest.param(json.dumps({"image_base64": TEXT}).replace("/", "\\/"), id="escaped slashes"),
        pytest.param(
            json.dumps({"image_base64": TEXT}).replace("=", "\\u003d").replace("+", "\\u002B"), id="escapes by number"
        ),
        pytest.param(json.dumps({"image_base64": base64.encodebytes(PNG).decode()}), id="broken into lines"),
        pytest.param(
            json.dumps({"image_base64": TEXT.replace("+", "-").replace("/", "_").rstrip("=")}), id="url alphabet"
        ),
    ],
)
def test_key_takes_the_image_out_of_json(keyed: Unit, body: str) -> None:
    np.testing.assert_array_equal(decode(keyed, body.encode()).array, reference(PNG))


@settings(max_examples=50, deadline=None)
@given(tail=st.binary(max_size=50))
def test_base64_of_any_length(keyed: Unit, tail: bytes) -> None:
    data = encode(picture(5, 7)) + tail
    body = json.dumps({"image_base64": base64.b64encode(data).decode()})
    np.testing.assert_array_equal(decode(keyed, body.encode()).array, reference(data))


@pytest.mark.parametrize(
    ("body", "words"),
    [
        (b"", "no data"),
        (b"{}", "image_base64"),
        (PNG, "image_base64"),
        (b'{"image": "abcd"}', "image_base64"),
        (b'{"image_base64": 12}', "no string"),
        (b'{"image_base64": null}', "no string"),
        (b'{"image_base64": "ab', "image_base64"),
        (b'{"image_base64"', "image_base64"),
        (b'{"image_base64":', "image_base64"),
        (b'{"image_base64": ""}', "no data"),
        (b'{"image_base64": "!!!!"}', "no base64"),
        (b'{"image_base64": "\\u00e4"}', "no base64"),
        (b'{"image_base64": "\\', "image_base64"),
        (b'{"image_base64": "aGVsbG8="}', "no image"),
    ],
)
def test_json_without_an_image(keyed: Unit, body: bytes, words: str) -> None:
    assert words in failure(decode(keyed, body))


# ---- options ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"pix_fmt": "rgba"}, ("pix_fmt", "rgba", "bgr, rgb or nv12")),
        ({"max_pixels": "0"}, ("max_pixels", '"0"', "from 1 to")),
        ({"max_pixels": "many"}, ("max_pixels", "many", "whole number")),
        ({"max_pixels": "99999999999"}, ("max_pixels", "99999999999", "from 1 to")),
    ],
)
def test_bad_options(pool: Pool, options: dict[str, str], words: tuple[str, ...]) -> None:
    with pytest.raises(ModelBoxError) as caught:
        Unit(library_of("image_decoder"), dict(options), pool)
    assert all(word in str(caught.value) for word in words)
