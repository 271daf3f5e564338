"""multipart/form-data: good, bad and random."""

from __future__ import annotations

import contextlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from modelboxd.api.accept import prefers_raw, quality
from modelboxd.api.multipart import parse
from modelboxd.api.problems import Problem

TYPE = "multipart/form-data; boundary=b0"


def body(*parts: bytes, end: bytes = b"--b0--\r\n") -> bytes:
    return b"".join(b"--b0\r\n" + part + b"\r\n" for part in parts) + end


def part(name: str, data: bytes, head: str = "") -> bytes:
    return f'Content-Disposition: form-data; name="{name}"{head}\r\n\r\n'.encode() + data


def test_parts() -> None:
    found = parse(
        body(
            part("a", b"one"),
            part("b", b"\r\n--b\r\n", '; filename="x.bin"\r\nContent-Type: Image/JPEG; dtype=uint8; shape="1,2"'),
            part('c"d', b"", "\r\nContent-Type: application/json").replace(b'c"d', rb"c\"d"),
        ),
        TYPE,
    )
    assert [(item.name, item.type, bytes(item.data)) for item in found] == [
        ("a", "text/plain", b"one"),
        ("b", "image/jpeg", b"\r\n--b\r\n"),
        ('c"d', "application/json", b""),
    ]
    assert found[1].params == {"dtype": "uint8", "shape": "1,2"}


def test_a_preamble_is_skipped_and_a_file_without_a_type_has_none() -> None:
    (found,) = parse(b"hello\r\n" + body(part("a", b"1", '; filename="x"')), TYPE)
    assert (found.type, bytes(found.data)) == ("", b"1")


@pytest.mark.parametrize(
    ("data", "kind", "text"),
    [
        (b"", TYPE, "does not occur"),
        (b"--b0", TYPE, "behind a boundary"),
        (body(part("a", b"1"), end=b""), TYPE, "last boundary is missing"),
        (b"--b0x\r\n" + part("a", b"1") + b"\r\n--b0--", TYPE, "behind a boundary"),
        (body(b"Content-Disposition: form-data\r\n\r\n1"), TYPE, "with a name"),
        (body(b"\r\n\r\n1"), TYPE, "no field"),
        (body(b'Content-Disposition: form-data; name="a"\r\n1'), TYPE, "too long or has no end"),
        (body(b"X: 1\r\nX: 2\r\n\r\n1"), TYPE, "twice"),
        (body(part("a", b"1", "\r\nContent-Transfer-Encoding: base64")), TYPE, "Transfer-Encoding"),
        (body(part("a", b"1", "\r\nX: " + "y" * 9000)), TYPE, "too long"),
        (body(b"X\xff: 1\r\n\r\n"), TYPE, "not UTF-8"),
        (body(*[part("a", b"")] * 1025), TYPE, "more than 1024"),
        (b"", "multipart/form-data", "no boundary"),
        (b"", "multipart/form-data; boundary=" + "x" * 71, "not allowed"),
        (b"", 'multipart/form-data; boundary="a\tb"', "not allowed"),
    ],
)
def test_what_is_not_well_formed(data: bytes, kind: str, text: str) -> None:
    with pytest.raises(Problem, check=lambda problem: problem.status == 400 and text in problem.detail):
        parse(data, kind)


@given(st.lists(st.binary(max_size=40).filter(lambda data: b"--b0" not in data), min_size=1, max_size=5))
def test_any_data(datas: list[bytes]) -> None:
    found = parse(body(*[part("a", data, "\r\nContent-Type: x/y") for data in datas]), TYPE)
    assert [bytes(item.data) for item in found] == datas


@given(st.lists(st.sampled_from([b"--b0", b"--b0--", b"\r\n", b"\r\n\r\n", b"a", b":", b'Content-Disposition: form-data; name="a"', b"\xff", b";"]), max_size=24))  # fmt: skip
def test_any_pieces(pieces: list[bytes]) -> None:
    with contextlib.suppress(Problem):  # which it may say, and nothing else
        parse(b"".join(pieces), TYPE)


@pytest.mark.parametrize(
    ("accept", "kinds", "raw"),
    [
        ("*/*", ("text/plain",), False),
        ("text/plain", ("text/plain",), True),
        ("text/*;q=0.5, application/json;q=0.4", ("text/plain",), True),
        ("application/json, text/plain;q=0.9", ("text/plain",), False),
        ("image/*", ("image/png", "application/octet-stream"), True),
        ("text/plain", ("application/octet-stream",), False),
        ("nonsense,,;q", ("text/plain",), False),
        ("application/octet-stream;q=0", ("application/octet-stream",), False),
        ("text/plain, */*;q=0.1", ("text/plain",), True),
    ],
)
def test_accept(accept: str, kinds: tuple[str, ...], raw: bool) -> None:
    assert prefers_raw(accept, *kinds) is raw


def test_the_most_exact_range_counts() -> None:
    assert quality("*/*, text/*;q=0.3, text/plain;q=0.2", "text/plain") == 0.2
