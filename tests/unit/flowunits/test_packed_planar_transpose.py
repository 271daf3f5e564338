"""packed_planar_transpose against numpy's transpose."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from modelbox._core.memory import Pool
from modelbox.dtypes import ModelBoxDataType
from tests.unit.flowunits.host import image_buffer, opened, with_meta
from tests.unit.flowunits.test_resize import noise

NAME = "packed_planar_transpose"


@pytest.mark.parametrize("dtype", [np.uint8, np.float32])
@pytest.mark.parametrize(
    ("channels", "pix_fmt", "planar"), [(3, "rgb", "rgbp"), (3, "bgr", "bgrp"), (1, "gray", "gray")]
)
def test_values_and_meta(pool: Pool, channels: int, pix_fmt: str, planar: str, dtype: Any) -> None:
    pixels = noise(17, 29, channels, dtype)
    with opened(NAME, pool) as unit:
        answer = unit.one(image_buffer(pixels, pix_fmt, frame=4))
    np.testing.assert_array_equal(answer.array, pixels.transpose(2, 0, 1))
    assert answer.meta == {
        "width": 29,
        "height": 17,
        "width_stride": 29 * pixels.itemsize,
        "height_stride": 17,
        "channel": channels,
        "pix_fmt": planar,
        "layout": "chw",
        "shape": [channels, 17, 29],
        "type": ModelBoxDataType.UINT8 if dtype == np.uint8 else ModelBoxDataType.FLOAT,
        "frame": 4,
    }


@settings(max_examples=80, deadline=None)
@given(
    height=st.integers(1, 40),
    width=st.integers(1, 200),
    channels=st.integers(1, 4),
    padding=st.integers(0, 9),
    dtype=st.sampled_from([np.uint8, np.float32]),
)
def test_any_size_and_stride(pool: Pool, height: int, width: int, channels: int, padding: int, dtype: Any) -> None:
    pixels = noise(height, width, channels, dtype)
    row = width * channels
    padded = np.full((height, row + padding), 77, dtype)
    padded[:, :row] = pixels.reshape(height, row)
    values = {"width": width, "height": height, "channel": channels, "width_stride": (row + padding) * padded.itemsize}
    buffer = image_buffer(padded)
    with opened(NAME, pool) as unit:
        answer = unit.one(with_meta(buffer, values | {"type": buffer.get("type")}))
    np.testing.assert_array_equal(answer.array, pixels.transpose(2, 0, 1))


def test_a_last_row_without_padding(pool: Pool) -> None:
    """A view into a larger image may end with its last pixel."""
    pixels = noise(6, 10, 3)
    cut = pixels.reshape(-1)[: 5 * 30 + 21]
    buffer = with_meta(
        image_buffer(cut.reshape(1, -1)), {"width": 7, "height": 6, "pix_fmt": "rgb", "width_stride": 30}
    )
    with opened(NAME, pool) as unit:
        np.testing.assert_array_equal(unit.one(buffer).array, pixels[:, :7].transpose(2, 0, 1))


@pytest.mark.parametrize(
    ("meta", "word"),
    [
        ({"width": None}, "'width'"),
        ({"height": None}, "'height'"),
        ({"layout": "chw"}, "layout"),
        ({"pix_fmt": "nv12"}, "nv12"),
        ({"type": ModelBoxDataType.INT64}, "UINT8 or FLOAT"),
        ({"height": 7}, "bytes"),
    ],
)
def test_wrong_meta(pool: Pool, meta: dict[str, object], word: str) -> None:
    with opened(NAME, pool) as unit:
        code, message = unit.one(image_buffer(noise(6, 10, 3), **meta)).error
    assert code == "PackedPlanarTranspose.InvalidInput" and word in message
