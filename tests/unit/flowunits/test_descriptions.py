"""What the libraries say about themselves, and the units one after the other as one segment."""

from __future__ import annotations

import subprocess
from contextlib import ExitStack

import cv2
import numpy as np
import pytest

from modelbox._core import ffi, lib
from modelbox._core.memory import Pool, check, new_error, new_list
from modelbox.buffer import BufferList
from modelbox.dtypes import ModelBoxDataType
from modelboxd.drivers.probe import probe
from tests.unit.flowunits.host import UNITS, Answer, library_of, opened
from tests.unit.flowunits.images import data_buffer, encode, picture

SIZE = {"image_width": None, "image_height": None, "width": None, "height": None}
OPTIONS: dict[str, dict[str, str | None]] = {
    "image_decoder": {"pix_fmt": "bgr", "max_pixels": "100000000", "key": ""},
    "resize": SIZE | {"interpolation": "inter_linear"},
    "padding": SIZE
    | {
        "vertical_align": "top",
        "horizontal_align": "left",
        "padding_data": "0,0,0",
        "need_scale": "true",
        "interpolation": "inter_linear",
    },
    "mean": {"mean": None},
    "normalize": {"standard_deviation_inverse": None},
    "packed_planar_transpose": {},
}
PORTS = {
    "image_decoder": ("in_encoded_image", "out_image"),
    "mean": ("in_data", "out_data"),
    "normalize": ("in_data", "out_data"),
}
INTERPOLATIONS = (
    "inter_linear inter_nearest inter_cubic inter_area inter_lanczos4 inter_max warp_fill_outliers warp_inverse_map"
)
VALUES = {
    "pix_fmt": ["bgr", "rgb", "nv12"],
    "interpolation": INTERPOLATIONS.split(),
    "vertical_align": ["top", "center", "bottom"],
    "horizontal_align": ["left", "center", "right"],
}


@pytest.mark.parametrize("name", OPTIONS)
def test_description(name: str) -> None:
    unit = probe(str(library_of(name)))["units"][0]
    assert (unit["name"], unit["device"], unit["group"]) == (name, "cpu", "Image")
    assert unit["flags"] == 2, "elementwise and nothing else"
    ports = PORTS.get(name, ("in_image", "out_image"))
    assert ([port["name"] for port in unit["inputs"]], [port["name"] for port in unit["outputs"]]) == (
        [ports[0]],
        [ports[1]],
    )
    options = {option["name"]: option for option in unit["options"]}
    assert {key: option["default"] for key, option in options.items()} == OPTIONS[name]
    assert [key for key, option in options.items() if option["required"]] == [
        key for key in options if key in ("mean", "standard_deviation_inverse")
    ]
    for key, option in options.items():
        assert option["values"] == VALUES.get(key, [])
        assert option["description"]


@pytest.mark.parametrize("name", OPTIONS)
def test_a_library_exports_its_entry_alone(name: str) -> None:
    listing = subprocess.run(
        ["nm", "-D", "--defined-only", str(library_of(name))], capture_output=True, text=True, check=True
    )
    functions = [line.split()[-1] for line in listing.stdout.splitlines() if line.split()[-2] == "T"]
    assert functions == ["mb_plugin_entry_v1"]


def test_every_source_has_its_library() -> None:
    for source in UNITS.glob("*/*.cc"):
        assert library_of(source.parent.name).exists()


def test_the_chain_of_an_image_graph(pool: Pool) -> None:
    """decode, pad, subtract, multiply, transpose in one segment, with a bad image among good ones."""
    chain: list[tuple[str, dict[str, object]]] = [
        ("image_decoder", {"pix_fmt": "rgb"}),
        ("padding", {"image_width": 96, "image_height": 64}),
        ("mean", {"mean": "127.5,127.5,127.5"}),
        ("normalize", {"standard_deviation_inverse": "0.5,0.25,0.125"}),
        ("packed_planar_transpose", {}),
    ]
    images = [picture(70 + at, 150) for at in range(5)]
    data = [encode(image, ".png") for image in images]
    data[2] = data[2][:100]
    with ExitStack() as stack:
        nodes = [stack.enter_context(opened(name, pool, **options)).node for name, options in chain]
        error = new_error()
        segment = lib.mb_segment_new(ffi.new("mb_node *[]", nodes), len(nodes), error)
        outputs = new_list()
        inputs = BufferList([data_buffer(item) for item in data]).to_core(pool)
        status = lib.mb_segment_run(
            segment, ffi.new("mb_list *[]", [inputs]), 1, ffi.new("mb_list *[]", [outputs]), 1, error
        )
        check(status, error)
        lib.mb_segment_free(segment)
        answers = [Answer(buffer) for buffer in BufferList.from_core(outputs)]
    for at, answer in enumerate(answers):
        if at == 2:
            assert answer.error[0] == "ImageDecoder.DecodeFailed"
            continue
        height = 70 + at
        frame = np.zeros((64, 96, 3), np.uint8)
        width = 64 * 150 // height if 96 * height > 64 * 150 else 96
        inner = (width, 64 if width < 96 else 96 * height // 150)
        frame[: inner[1], : inner[0]] = cv2.resize(images[at], inner)[:, :, ::-1]
        scaled = (frame.astype(np.float32) - 127.5) * np.array([0.5, 0.25, 0.125], np.float32)
        np.testing.assert_array_equal(answer.array, scaled.transpose(2, 0, 1))
        assert answer.meta["layout"] == "chw" and answer.meta["pix_fmt"] == "rgbp"
        assert answer.meta["type"] == ModelBoxDataType.FLOAT and answer.meta["shape"] == [3, 64, 96]
