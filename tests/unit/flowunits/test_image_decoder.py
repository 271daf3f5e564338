"""image_decoder against cv2.imdecode: JPEG to the bit, every other format too.

cv2 in the tests is newer than the OpenCV that the unit links. They agree on every pixel here, except that the older
one does not turn WebP images by their EXIF orientation.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Iterator

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from modelbox._core.memory import Pool
from modelbox.dtypes import ModelBoxDataType
from modelbox.errors import ModelBoxError
from tests.unit.flowunits.host import Unit, image_meta, library_of, opened
from tests.unit.flowunits.images import (
    CMYK_JPEG,
    decode,
    encode,
    failure,
    picture,
    reference,
    with_exif,
    without_tables,
)

SAMPLINGS = {
    "444": cv2.IMWRITE_JPEG_SAMPLING_FACTOR_444,
    "422": cv2.IMWRITE_JPEG_SAMPLING_FACTOR_422,
    "440": cv2.IMWRITE_JPEG_SAMPLING_FACTOR_440,
    "420": cv2.IMWRITE_JPEG_SAMPLING_FACTOR_420,
    "411": cv2.IMWRITE_JPEG_SAMPLING_FACTOR_411,
}


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
