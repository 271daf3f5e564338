"""Runs one native unit in this process, as the engine would: load, open with options, run, close."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from modelbox._core import ffi, lib
from modelbox._core.memory import Pool, check, new_error, new_list, raise_error
from modelbox.buffer import Buffer, BufferList
from modelbox.device import Device

UNITS = Path(__file__).resolve().parents[3] / "flowunits"
CPU = Device("cpu", "0")
CData = Any


@dataclass(frozen=True)
class Answer:
    """One output buffer, or the error in its place."""

    buffer: Buffer

    @property
    def array(self) -> Any:
        assert not self.buffer.has_error(), self.buffer.get_error_msg()
        return self.buffer.numpy()

    @property
    def meta(self) -> dict[str, Any]:
        assert not self.buffer.has_error(), self.buffer.get_error_msg()
        return self.buffer.meta_dict()

    @property
    def error(self) -> tuple[str, str]:
        assert self.buffer.has_error(), f"an image came out: {self.buffer.meta_dict()}"
        return self.buffer.get_error_code(), self.buffer.get_error_msg()


class Unit:
    """A unit of a loaded library, opened as a node of one node's graph."""

    def __init__(self, library: Path, options: dict[str, object], pool: Pool, batch_size: int = 8) -> None:
        """Raises a ModelBoxError with the unit's own words when it does not load or open."""
        self.pool = pool
        error = new_error()
        loaded = lib.mb_library_open(str(library).encode(), error)
        if loaded == ffi.NULL:
            raise_error(error)
        self.description = lib.mb_library_plugin(loaded).units[0]
        words = [(key.encode(), str(value).encode()) for key, value in options.items()]
        keys = [ffi.new("char[]", key) for key, _ in words]
        values = [ffi.new("char[]", value) for _, value in words]
        self.node = lib.mb_node_open(
            pool.handle,
            self.description,
            b"tested",
            ffi.new("char *[]", keys or [ffi.NULL]),
            ffi.new("char *[]", values or [ffi.NULL]),
            len(words),
            batch_size,
            error,
        )
        if self.node == ffi.NULL:
            raise_error(error)
        self.segment = lib.mb_segment_new(ffi.new("mb_node *[]", [self.node]), 1, error)
        if self.segment == ffi.NULL:
            raise_error(error)

    def close(self) -> None:
        lib.mb_segment_free(self.segment)
        lib.mb_node_close(self.node)

    def run_list(self, items: CData) -> CData:
        """One run over an mb_list; the mb_list of outputs."""
        outputs = new_list(items.count)
        error = new_error()
        inputs, results = ffi.new("mb_list *[]", [items]), ffi.new("mb_list *[]", [outputs])
        check(lib.mb_segment_run(self.segment, inputs, 1, results, 1, error), error)
        return outputs

    def run(self, *buffers: Buffer) -> list[Answer]:
        """What comes out, one for each buffer."""
        outputs = self.run_list(BufferList(list(buffers)).to_core(self.pool))
        answers = [Answer(buffer) for buffer in BufferList.from_core(outputs)]
        assert len(answers) == len(buffers)
        return answers

    def one(self, buffer: Buffer) -> Answer:
        return self.run(buffer)[0]


def library_of(name: str) -> Path:
    return UNITS / name / f"libmodelbox-unit-cpu-{name}.so"


@contextmanager
def opened(name: str, pool: Pool, **options: object) -> Iterator[Unit]:
    """A unit of flowunits/ for one with block."""
    unit = Unit(library_of(name), options, pool)
    try:
        yield unit
    finally:
        unit.close()


def image_buffer(pixels: Any, pix_fmt: str | None = "auto", **meta: object) -> Buffer:
    """A packed image with the image meta; a value of None takes the key away, pix_fmt "auto" is gray or bgr."""
    pixels = np.ascontiguousarray(pixels)
    height, width = pixels.shape[:2]
    channels = pixels.shape[2] if pixels.ndim == 3 else 1
    made = Buffer(CPU, pixels.reshape(height, width, channels))
    values: dict[str, object] = {
        "shape": [height, width, channels],
        "type": made.get("type"),
        "width": width,
        "height": height,
        "width_stride": width * channels * pixels.itemsize,
        "height_stride": height,
        "channel": channels,
        "pix_fmt": ("gray" if channels == 1 else "bgr") if pix_fmt == "auto" else pix_fmt,
        "layout": "hwc",
    }
    values |= meta
    return with_meta(made, values)


def with_meta(buffer: Buffer, values: dict[str, object]) -> Buffer:
    """The data of `buffer` with exactly these meta values; None leaves a key out."""
    made = Buffer(CPU)
    made._data = buffer._data
    for key, value in values.items():
        if value is not None:
            made.set(key, value)
    return made


def image_meta(height: int, width: int, channels: int, pix_fmt: str, itemsize: int = 1) -> dict[str, object]:
    """The image set as a unit must write it, without `type`."""
    return {
        "width": width,
        "height": height,
        "width_stride": width * channels * itemsize,
        "height_stride": height,
        "channel": channels,
        "pix_fmt": pix_fmt,
        "layout": "hwc",
        "shape": [height, width, channels],
    }
