"""padding against cv2: the image scaled to fit (as resize does) and placed in a filled frame."""

from __future__ import annotations

from typing import Any

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from modelbox._core.memory import Pool
from modelbox.dtypes import ModelBoxDataType
from modelbox.errors import ModelBoxError
from tests.unit.flowunits.host import Unit, image_buffer, image_meta, library_of, opened
from tests.unit.flowunits.test_resize import WORDS, noise, tolerance

PLACES = {"top": 0, "left": 0, "center": 1, "bottom": 2, "right": 2}


def expected_of(
    pixels: Any,
    width: int,
    height: int,
    *,
    vertical: str = "top",
    horizontal: str = "left",
    fill: tuple[float, ...] = (0, 0, 0),
    scale: bool = True,
    word: str = "inter_linear",
) -> Any:
    from_height, from_width, channels = pixels.shape
    to_width, to_height = from_width, from_height
    if scale:  # the side that is tighter fills the frame, the other one follows, rounded down
        if width * from_height <= height * from_width:
            to_width, to_height = width, max(1, width * from_height // from_width)
        else:
            to_width, to_height = max(1, height * from_width // from_height), height
    frame = np.empty((height, width, channels), pixels.dtype)
    frame[:] = np.array(fill[:channels], pixels.dtype)
    y = (height - to_height) * PLACES[vertical] // 2
    x = (width - to_width) * PLACES[horizontal] // 2
    inside = pixels
    if (to_height, to_width) != (from_height, from_width):
        inside = cv2.resize(pixels, (to_width, to_height), interpolation=WORDS[word]).reshape(
            to_height, to_width, channels
        )
    frame[y : y + to_height, x : x + to_width] = inside
    return frame


@pytest.mark.parametrize("horizontal", ["left", "center", "right"])
@pytest.mark.parametrize("vertical", ["top", "center", "bottom"])
@pytest.mark.parametrize("size", [(48, 64), (64, 48), (50, 50), (301, 7), (7, 301)])
def test_alignment(pool: Pool, size: tuple[int, int], vertical: str, horizontal: str) -> None:
    pixels = noise(*size, 3)
    options: dict[str, object] = {"image_width": 75, "image_height": 60, "padding_data": "7, 70, 200"}
    with opened("padding", pool, vertical_align=vertical, horizontal_align=horizontal, **options) as unit:
        answer = unit.one(image_buffer(pixels))
    expected = expected_of(pixels, 75, 60, vertical=vertical, horizontal=horizontal, fill=(7, 70, 200))
    np.testing.assert_array_equal(answer.array, expected)
    assert answer.meta == image_meta(60, 75, 3, "bgr") | {"type": ModelBoxDataType.UINT8}


@pytest.mark.parametrize("dtype", [np.uint8, np.float32])
@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("word", WORDS)
def test_interpolations(pool: Pool, word: str, channels: int, dtype: Any) -> None:
    pixels = noise(37, 53, channels, dtype)
    options: dict[str, object] = {"image_width": 40, "image_height": 41, "padding_data": "1,2,3", "interpolation": word}
    with opened("padding", pool, vertical_align="center", **options) as unit:
        answer = unit.one(image_buffer(pixels))
    expected = expected_of(pixels, 40, 41, vertical="center", fill=(1, 2, 3), word=word)
    np.testing.assert_allclose(answer.array.astype(np.float64), expected, rtol=0, atol=tolerance(word, dtype))
    assert answer.array.dtype == dtype


@settings(max_examples=100, deadline=None)
@given(
    size=st.tuples(st.integers(1, 80), st.integers(1, 80)),
    to=st.tuples(st.integers(1, 80), st.integers(1, 80)),
    vertical=st.sampled_from(["top", "center", "bottom"]),
    horizontal=st.sampled_from(["left", "center", "right"]),
    channels=st.sampled_from([1, 3]),
)
def test_any_size(
    pool: Pool, size: tuple[int, int], to: tuple[int, int], vertical: str, horizontal: str, channels: int
) -> None:
    pixels = noise(*size, channels)
    options: dict[str, object] = {"vertical_align": vertical, "horizontal_align": horizontal, "padding_data": "9,8,7"}
    with opened("padding", pool, image_width=to[1], image_height=to[0], **options) as unit:
        answer = unit.one(image_buffer(pixels))
    expected = expected_of(pixels, to[1], to[0], vertical=vertical, horizontal=horizontal, fill=(9, 8, 7))
    np.testing.assert_array_equal(answer.array, expected)


def test_a_side_that_fits_exactly_loses_no_pixel(pool: Pool) -> None:
    """(width / 49.0) * 49 is below width for many widths."""
    for width in range(1, 200):
        with opened("padding", pool, image_width=width, image_height=width, padding_data="255,255,255") as unit:
            answer = unit.one(image_buffer(np.zeros((49, 49, 3), np.uint8)))
        assert not answer.array.any(), width


@pytest.mark.parametrize("flag", ["false", "0"])
def test_without_scaling(pool: Pool, flag: str) -> None:
    pixels = noise(20, 31, 3)
    options: dict[str, object] = {"need_scale": flag, "vertical_align": "bottom", "horizontal_align": "center"}
    with opened("padding", pool, image_width=40, image_height=24, padding_data="5,6,7", **options) as unit:
        answer = unit.one(image_buffer(pixels))
        expected = expected_of(pixels, 40, 24, vertical="bottom", horizontal="center", fill=(5, 6, 7), scale=False)
        np.testing.assert_array_equal(answer.array, expected)
        code, message = unit.one(image_buffer(noise(25, 31, 3))).error
    assert code == "Padding.InvalidInput" and "31 x 25" in message and "need_scale" in message


def test_a_row_stride(pool: Pool) -> None:
    pixels = noise(20, 40, 3)
    view = image_buffer(pixels, width=31, channel=3, width_stride=120, shape=[20, 31, 3])
    with opened("padding", pool, image_width=62, image_height=62) as unit:
        answer = unit.one(view)
    np.testing.assert_array_equal(answer.array, expected_of(np.ascontiguousarray(pixels[:, :31]), 62, 62))


def test_fill_values_saturate_for_uint8_and_are_exact_for_float(pool: Pool) -> None:
    with opened("padding", pool, image_width=4, image_height=2, padding_data="-3.5, 300, 0.25") as unit:
        pixels = np.ones((2, 2, 3), np.float32)
        assert unit.one(image_buffer(pixels)).array[0, 3].tolist() == [-3.5, 300.0, 0.25]
        assert unit.one(image_buffer(pixels.astype(np.uint8))).array[0, 3].tolist() == [0, 255, 0]


def test_missing_meta_names_the_key(pool: Pool) -> None:
    with opened("padding", pool, image_width=4, image_height=2) as unit:
        code, message = unit.one(image_buffer(noise(4, 4, 3), height=None)).error
    assert code == "Padding.InvalidInput" and "'height'" in message


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"image_width": None}, ("image_width", "missing")),
        ({"image_height": "0"}, ("image_height", '"0"', "from 1 to")),
        ({"vertical_align": "left"}, ("vertical_align", "left", "top, center or bottom")),
        ({"horizontal_align": "middle"}, ("horizontal_align", "middle", "left, center or right")),
        ({"padding_data": "1,2"}, ("padding_data", "1,2", "3 finite numbers")),
        ({"padding_data": "1,2,3,4"}, ("padding_data", "1,2,3,4", "3 finite numbers")),
        ({"padding_data": "1,2,x"}, ("padding_data", "1,2,x", "3 finite numbers")),
        ({"padding_data": "1,2,nan"}, ("padding_data", "1,2,nan", "3 finite numbers")),
        ({"need_scale": "maybe"}, ("need_scale", "maybe", "true or false")),
        ({"interpolation": "linear"}, ("interpolation", "linear", "inter_linear")),
    ],
)
def test_bad_options(pool: Pool, options: dict[str, str | None], words: tuple[str, ...]) -> None:
    given_options = {"image_width": "8", "image_height": "8"} | options
    with pytest.raises(ModelBoxError) as caught:
        Unit(library_of("padding"), {key: value for key, value in given_options.items() if value is not None}, pool)
    assert all(word in str(caught.value) for word in words), str(caught.value)
