"""Strict ports while a graph runs: what types insist on, and what becomes of a session that breaks it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from modelbox._core import ffi, lib
from modelbox._core.memory import Pool, new_list
from modelbox.buffer import Buffer
from modelboxd.engine.strict import Strict
from modelboxd.graph.types import TypeTree
from tests.unit.engine.harness import CPU, Bench, spec, text_buffer, unit


def image(width: Any = 4, height: Any = 2, pix_fmt: str = "rgb", shape: tuple[int, ...] = (2, 4, 3)) -> Buffer:
    made = Buffer(CPU, np.zeros(shape, np.uint8))
    for key, value in (("width", width), ("height", height), ("pix_fmt", pix_fmt)):
        if value is not None:
            made.set(key, value)
    return made


def bytes_of(size: int, **meta: Any) -> Buffer:
    made = Buffer(CPU, np.zeros(size, np.uint8))
    for key, value in meta.items():
        made.set(key, value)
    return made


FITS: list[tuple[str, Callable[[], Buffer]]] = [
    ("raw", lambda: text_buffer("x")),
    ("buff", lambda: image()),
    ("string", lambda: text_buffer("")),
    ("tensor", lambda: Buffer(CPU, np.zeros((3, 0, 2), np.float32))),
    ("image", lambda: image()),
    ("image", lambda: image(pix_fmt="gray", shape=(2, 4, 1))),
    ("image", lambda: image(pix_fmt="nv12", shape=(3, 4, 1))),
    ("face", lambda: image()),
]
MISFITS: list[tuple[str, Callable[[], Buffer], str]] = [
    ("string", lambda: image(), "expected string, found no text, 24 bytes"),
    ("tensor", lambda: text_buffer("x"), "expected tensor, found text"),
    ("tensor", lambda: bytes_of(4, shape="x"), "expected tensor, found no meta 'shape' of whole numbers"),
    ("tensor", lambda: bytes_of(4, shape=[3]), "expected tensor, found 4 bytes, which 'shape' and 'type' do not make"),
    ("tensor", lambda: bytes_of(4, shape=[-4]), "expected tensor, found 4 bytes, which 'shape' and 'type' do not make"),
    ("tensor", lambda: bytes_of(4, type="x"), "expected tensor, found no meta 'type' of a number"),
    ("image", lambda: image(width=None), "expected image, found no meta 'width' above 0"),
    ("image", lambda: image(height=0), "expected image, found no meta 'height' above 0"),
    ("image", lambda: image(pix_fmt="cmyk"), "expected image, found pix_fmt 'cmyk'"),
    ("image", lambda: image(width=5), "expected image, found 24 bytes, which 5 x 2 pixels of rgb do not make"),
    ("image", lambda: image(shape=(24, 2)), "expected image, found 48 bytes, which 4 x 2 pixels of rgb do not make"),
    ("image", lambda: text_buffer("x"), "expected image, found text"),
    ("face", lambda: image(height=None), "expected face (below image), found no meta 'height' above 0"),
]


def check(kind: str, buffer: Buffer) -> str | None:
    tree = TypeTree()
    tree.add("face", "image")
    items = new_list(1)
    core = buffer.to_core(Pool())
    lib.mb_list_push(items, lib.mb_buffer_ref(core))
    error = Strict("n", "p", tree.line(kind)).misfit(items)
    return None if error is None else str(error)


@pytest.mark.parametrize(("kind", "make"), FITS)
def test_what_fits(kind: str, make: Callable[[], Buffer]) -> None:
    assert check(kind, make()) is None


@pytest.mark.parametrize(("kind", "make", "text"), MISFITS)
def test_what_does_not_fit(kind: str, make: Callable[[], Buffer], text: str) -> None:
    assert check(kind, make()) == f"node 'n' port 'p': {text}"


def test_errors_and_holes_fit() -> None:
    items = new_list(2)
    lib.mb_list_push(items, lib.mb_buffer_new_error(b"A", b"b"))
    lib.mb_list_push(items, ffi.NULL)
    assert Strict("n", "p", ["image", "tensor", "raw"]).misfit(items) is None


@pytest.mark.parametrize("side", ["in", "out"])
def test_a_misfit_fails_its_session_only(side: str) -> None:
    def work(call: Any) -> None:
        for item in call.input("in"):
            call.output("out").push_back(image() if str(item) == "image" else text_buffer(str(item)))

    units: dict[str, Any] = {
        "work": (spec("work", strict={"out": "string"} if side == "out" else None), unit(work)),
        "next": (spec("next", strict={"in": "string"} if side == "in" else None), unit(work)),
    }
    bench = Bench(units)
    job = bench.run(
        """digraph g { s [flowunit=source]; a [flowunit=work, batch_size=8]; b [flowunit=next]; t [flowunit=sink]
        s:out -> a:in; a:out -> b:in; b:out -> t:in }"""
    )
    good, bad, other = (bench.send(job, *items) for items in (("1", "2"), ("3", "image"), ("4",)))
    node, port = ("a", "out") if side == "out" else ("b", "in")
    assert str(bad.error()) == f"node '{node}' port '{port}': expected string, found no text, 24 bytes"
    assert (good.error(), good.got, other.error(), other.got) == (None, ["1", "2"], None, ["4"])
    bench.close()
