"""The example unit and the page about native units: built by plain compilers from the header alone, loaded, run."""

from __future__ import annotations

import re
import shutil
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from modelbox._core import ffi, lib
from modelbox._core.memory import Pool, check, new_error, new_list
from modelbox.buffer import Buffer, BufferList
from modelbox.errors import ModelBoxError
from modelboxd.drivers.probe import probe
from tests.unit.flowunits.host import CPU, Unit

ROOT = Path(__file__).resolve().parents[2]
EXAMPLE = ROOT / "csrc/template/example_unit.c"
PAGE = (ROOT / "docs/native-units.md").read_text()
COMPILERS = {"c": ["cc", "-std=c11", "-x", "c"], "c++": ["c++", "-std=c++17", "-x", "c++"]}
WARNINGS = ["-pedantic", "-Wall", "-Wextra", "-Werror"]
Builder = Callable[[str, str], Path]


def c_blocks() -> list[str]:
    return re.findall(r"^```c\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL)


@pytest.fixture
def build(tmp_path: Path) -> Builder:
    """Compiles a source in a directory that has the header and nothing else of modelbox."""

    def compile_(source: str, language: str) -> Path:
        place = tmp_path / language
        (place / "include/modelbox").mkdir(parents=True)
        shutil.copy(ROOT / "csrc/include/modelbox/plugin.h", place / "include/modelbox")
        (place / "unit.c").write_text(source)
        flags = ["-O2", "-fPIC", "-shared", "-fvisibility=hidden", "-Iinclude", *WARNINGS]
        command = [*COMPILERS[language], *flags, "unit.c", "-o", "libmodelbox-unit-cpu-example.so"]
        done = subprocess.run(command, cwd=place, capture_output=True, text=True, timeout=60)
        assert done.returncode == 0, done.stderr
        return place / "libmodelbox-unit-cpu-example.so"

    return compile_


def test_the_page_shows_the_template() -> None:
    assert c_blocks()[0] == EXAMPLE.read_text()


def test_the_commands_of_the_page_work(tmp_path: Path) -> None:
    commands = re.findall(r"^(?:cc|c\+\+) .*$", PAGE, re.MULTILINE)
    assert len(commands) == 2
    for command in commands:
        words = command.split()
        target = tmp_path / words[-1]
        subprocess.run([*words[:-1], str(target)], cwd=ROOT, check=True, timeout=60)
        assert probe(str(target))["units"][0]["name"] == "invert"
        target.unlink()


@pytest.mark.parametrize("language", COMPILERS)
def test_the_example_runs(build: Builder, language: str) -> None:
    library = build(EXAMPLE.read_text(), language)
    listing = subprocess.run(["nm", "-D", "--defined-only", str(library)], capture_output=True, text=True, check=True)
    assert [line.split()[-1] for line in listing.stdout.splitlines()] == ["mb_plugin_entry_v1"]
    needed = subprocess.run(["readelf", "-d", str(library)], capture_output=True, text=True, check=True).stdout
    assert "modelbox" not in needed

    pool = Pool(guard_all=True)
    unit = Unit(library, {}, pool)
    data = np.arange(256, dtype=np.uint8).reshape(8, 32)
    first, second, empty = unit.run(Buffer(CPU, data), Buffer(CPU, "text"), Buffer(CPU))
    np.testing.assert_array_equal(first.array, 255 - data)
    assert first.meta["shape"] == [8, 32]
    assert second.buffer.as_bytes() == bytes(255 - letter for letter in b"text")
    assert empty.buffer.get_bytes() == 0 and not empty.buffer.has_error()
    unit.close()
    del first, second, empty
    assert pool.stats().guard_faults == 0


@pytest.mark.parametrize("language", COMPILERS)
def test_the_example_stands_a_memory_limit(build: Builder, language: str) -> None:
    unit = Unit(build(EXAMPLE.read_text(), language), {}, Pool(max_buffer=1000))
    answer = unit.one(Buffer(CPU, np.zeros(900, np.uint8)))
    assert not answer.buffer.has_error()
    unit.pool = Pool()  # the input may be larger than what the unit may have
    code, message = unit.one(Buffer(CPU, np.zeros(2000, np.uint8))).error
    assert code == "invert.ProcessError" and "1000" in message
    unit.close()


# ---- the second example: options and streams -------------------------------------------------------------------


@contextmanager
def opened_node(library: Path, pool: Pool, options: dict[str, str]) -> Iterator[Any]:
    error = new_error()
    loaded = lib.mb_library_open(str(library).encode(), error)
    check(0, error)
    keys = [ffi.new("char[]", key.encode()) for key in options]
    values = [ffi.new("char[]", value.encode()) for value in options.values()]
    node = lib.mb_node_open(
        pool.handle,
        lib.mb_library_plugin(loaded).units[0],
        b"numbers",
        ffi.new("char *[]", keys or [ffi.NULL]),
        ffi.new("char *[]", values or [ffi.NULL]),
        len(options),
        4,
        error,
    )
    check(0, error)
    yield node
    lib.mb_node_close(node)


@pytest.mark.parametrize("language", COMPILERS)
def test_the_stream_example_runs(build: Builder, language: str) -> None:
    pool = Pool(guard_all=True)
    error = new_error()
    with opened_node(build(c_blocks()[1], language), pool, {"first": "5"}) as node:
        outputs = [new_list(), new_list()]
        ports = [ffi.new("mb_list *[]", [output]) for output in outputs]
        streams = [lib.mb_stream_begin(node, 1, port, 1, error) for port in ports]
        check(0, error)
        for data in ([b"a", b"b"], [b"", b"c"]):
            inputs = BufferList([Buffer(CPU, item) for item in data]).to_core(pool)
            for stream, port in zip(streams, ports, strict=True):
                check(lib.mb_stream_run(stream, ffi.new("mb_list *[]", [inputs]), 1, port, 1, error), error)
        for stream, port in zip(streams, ports, strict=True):
            lib.mb_stream_end(stream, port, 1)
        for output in outputs:
            got = list(BufferList.from_core(output))
            assert [item.get("number") for item in got if not item.has_error()] == [5, 6, 7]
            assert [item.get_error_code() for item in got] == ["", "", "Number.Empty", ""]


@pytest.mark.parametrize(("value", "words"), [("-1", "0 or more"), ("x", 'first = "x"')])
def test_the_stream_example_checks_its_option(build: Builder, value: str, words: str) -> None:
    library = build(c_blocks()[1], "c")
    with pytest.raises(ModelBoxError, match=words), opened_node(library, Pool(), {"first": value}):
        pass
