"""resize against cv2.resize.

The unit links Debian's OpenCV 4.6, the tests a newer one. For uint8 they agree, except for cubic, whose rounding
changed (by one, in a few pixels of a hundred). For float they add in another order: linear and cubic differ by less
than 1e-4 of the range.
"""

from __future__ import annotations

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
from tests.unit.flowunits.host import Unit, image_buffer, image_meta, library_of, opened, with_meta

WORDS = {
    "inter_linear": cv2.INTER_LINEAR,
    "inter_nearest": cv2.INTER_NEAREST,
    "inter_cubic": cv2.INTER_CUBIC,
    "inter_area": cv2.INTER_AREA,
    "inter_lanczos4": cv2.INTER_LANCZOS4,
    "inter_max": cv2.INTER_LINEAR,
    "warp_fill_outliers": cv2.INTER_LINEAR,
    "warp_inverse_map": cv2.INTER_LINEAR,
}


def noise(height: int, width: int, channels: int, dtype: Any = np.uint8, seed: int = 3) -> Any:
    return np.random.default_rng(seed).integers(0, 256, (height, width, channels)).astype(dtype)


def tolerance(word: str, dtype: Any) -> float:
    if dtype == np.uint8:
        return 1.0 if word == "inter_cubic" else 0.0
    return 0.01


def expected_of(pixels: Any, width: int, height: int, word: str) -> Any:
    resized = cv2.resize(pixels, (width, height), interpolation=WORDS[word])
    return resized.reshape(height, width, pixels.shape[2])


@pytest.mark.parametrize("dtype", [np.uint8, np.float32])
@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("word", WORDS)
def test_interpolations(pool: Pool, word: str, channels: int, dtype: Any) -> None:
    for (height, width), (to_height, to_width) in (
        ((48, 64), (24, 32)),
        ((47, 61), (100, 33)),
        ((33, 20), (33, 20)),
        ((1, 1), (5, 7)),
        ((9, 13), (1, 1)),
        ((1, 90), (1, 31)),
    ):
        pixels = noise(height, width, channels, dtype)
        with opened("resize", pool, image_width=to_width, image_height=to_height, interpolation=word) as unit:
            answer = unit.one(image_buffer(pixels))
        expected = expected_of(pixels, to_width, to_height, word)
        np.testing.assert_allclose(answer.array.astype(np.float64), expected, rtol=0, atol=tolerance(word, dtype))
        assert answer.array.dtype == dtype
        kind = ModelBoxDataType.UINT8 if dtype == np.uint8 else ModelBoxDataType.FLOAT
        item = np.dtype(dtype).itemsize
        pix_fmt = "gray" if channels == 1 else "bgr"
        assert answer.meta == image_meta(to_height, to_width, channels, pix_fmt, item) | {"type": kind}


@settings(max_examples=80, deadline=None)
@given(
    size=st.tuples(st.integers(1, 70), st.integers(1, 70)),
    to=st.tuples(st.integers(1, 70), st.integers(1, 70)),
    channels=st.sampled_from([1, 3]),
    word=st.sampled_from(sorted(WORDS)),
    dtype=st.sampled_from([np.uint8, np.float32]),
    padding=st.integers(0, 17),
)
def test_any_size(
    pool: Pool, size: tuple[int, int], to: tuple[int, int], channels: int, word: str, dtype: Any, padding: int
) -> None:
    """Also with rows that are longer than their pixels."""
    pixels = noise(*size, channels, dtype)
    item = pixels.itemsize
    row = size[1] * channels
    padded = np.full((size[0], row + padding), 200, dtype)
    padded[:, :row] = pixels.reshape(size[0], row)
    buffer = image_buffer(padded)
    meta = image_meta(*size, channels, "gray" if channels == 1 else "rgb", item)
    buffer = with_meta(buffer, meta | {"width_stride": (row + padding) * item, "type": buffer.get("type")})
    with opened("resize", pool, width=to[1], height=to[0], interpolation=word) as unit:
        answer = unit.one(buffer)
    expected = expected_of(pixels, to[1], to[0], word)
    np.testing.assert_allclose(answer.array.astype(np.float64), expected, rtol=0, atol=tolerance(word, dtype))
    assert answer.meta["width_stride"] == to[1] * channels * item


@pytest.mark.parametrize("pix_fmt", ["rgb", "bgr"])
def test_pix_fmt_is_kept(pool: Pool, pix_fmt: str) -> None:
    with opened("resize", pool, image_width=8, image_height=6) as unit:
        assert unit.one(image_buffer(noise(9, 9, 3), pix_fmt)).meta["pix_fmt"] == pix_fmt


@pytest.mark.parametrize("channels", [1, 2, 3, 4])
def test_channel_counts_without_pix_fmt(pool: Pool, channels: int) -> None:
    pixels = noise(11, 13, channels)
    buffer = with_meta(image_buffer(pixels), {"width": 13, "height": 11, "channel": channels})
    with opened("resize", pool, image_width=7, image_height=5) as unit:
        answer = unit.one(buffer)
    np.testing.assert_array_equal(answer.array, expected_of(pixels, 7, 5, "inter_linear"))
    assert answer.meta["channel"] == channels


def test_least_meta(pool: Pool) -> None:
    """What a user's Python unit sets: width, height and pix_fmt, with or without the rest."""
    pixels = noise(11, 13, 3)
    buffer = with_meta(image_buffer(pixels), {"width": 13, "height": 11, "pix_fmt": "rgb"})
    with opened("resize", pool, image_width=7, image_height=5) as unit:
        np.testing.assert_array_equal(unit.one(buffer).array, expected_of(pixels, 7, 5, "inter_linear"))


@pytest.mark.parametrize("stride", [0, 13, -5, 10**12])
def test_a_stride_that_cannot_be_is_not_believed(pool: Pool, stride: int) -> None:
    """Some units write pixels where bytes are meant."""
    pixels = noise(11, 13, 3)
    with opened("resize", pool, image_width=7, image_height=5) as unit:
        answer = unit.one(image_buffer(pixels, width_stride=stride))
    np.testing.assert_array_equal(answer.array, expected_of(pixels, 7, 5, "inter_linear"))


@pytest.mark.parametrize(
    ("meta", "words"),
    [
        ({"width": None}, ("width",)),
        ({"height": None}, ("height",)),
        ({"width": "13"}, ("width", "number")),
        ({"pix_fmt": None, "channel": None}, ("channel",)),
        ({"pix_fmt": "nv12"}, ("nv12", "rgb, bgr and gray")),
        ({"layout": "chw"}, ("layout", "hwc")),
        ({"type": ModelBoxDataType.DOUBLE}, ("UINT8 or FLOAT",)),
        ({"width": 14}, ("429 bytes", "462")),
        ({"height": 10**9}, ("1000000000",)),
        ({"width": 0}, ("0",)),
        ({"height": -1}, ("-1",)),
        ({"width": 2**40}, (str(2**40),)),
        ({"pix_fmt": None, "channel": 5}, ("5",)),
        ({"pix_fmt": None, "channel": 0}, ("0",)),
        ({"type": ModelBoxDataType.FLOAT}, ("429 bytes",)),
    ],
)
def test_wrong_meta_is_an_error_of_this_image_alone(
    pool: Pool, meta: dict[str, object], words: tuple[str, ...]
) -> None:
    good = noise(11, 13, 3)
    with opened("resize", pool, image_width=7, image_height=5) as unit:
        first, wrong, last = unit.run(image_buffer(good), image_buffer(good, **meta), image_buffer(good))
    assert first.array.shape == last.array.shape == (5, 7, 3)
    code, message = wrong.error
    assert code == "Resize.InvalidInput"
    assert all(word in message for word in words), message


def test_an_empty_buffer(pool: Pool) -> None:
    with opened("resize", pool, image_width=7, image_height=5) as unit:
        assert "0 bytes" in unit.one(with_meta(Buffer(), {"width": 1, "height": 1, "pix_fmt": "rgb"})).error[1]


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"image_height": "3"}, ("image_width", "missing")),
        ({"width": "3"}, ("image_height", "missing")),
        ({"image_width": "0", "image_height": "3"}, ("image_width", '"0"', "from 1 to 65536")),
        ({"width": "-4", "height": "3"}, ("width", '"-4"', "from 1 to 65536")),
        ({"image_width": "3", "image_height": "3.5"}, ("image_height", '"3.5"', "from 1 to 65536")),
        ({"image_width": "3", "image_height": "99999"}, ("image_height", '"99999"', "from 1 to 65536")),
        (
            {"image_width": "3", "image_height": "3", "interpolation": "cubic"},
            ("interpolation", "cubic", "inter_cubic"),
        ),
    ],
)
def test_bad_options(pool: Pool, options: dict[str, str], words: tuple[str, ...]) -> None:
    with pytest.raises(ModelBoxError) as caught:
        Unit(library_of("resize"), dict(options), pool)
    assert all(word in str(caught.value) for word in words), str(caught.value)
