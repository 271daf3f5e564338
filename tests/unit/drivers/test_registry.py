"""The driver registry: libraries that are fine, and libraries that are not."""

from __future__ import annotations

import json
import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path

import pytest

from modelbox.errors import UnitNotFoundError
from modelbox.spec import FlowType, UnitKind
from modelboxd.drivers.registry import Registry

TOP = Path(__file__).resolve().parents[3]
UNIT = """#include <modelbox/plugin.h>
#include <stdlib.h>
#include <unistd.h>
static int32_t process(const mb_host *h, void *s, mb_call *c) { (void)h; (void)s; (void)c; return 0; }
static const mb_port in_port[] = {{"in", NULL, NULL}}, out_port[] = {{"out", "image", NULL}};
static const mb_option options[] = {{"size", "int", "4", 0, "a size", "4|5"}};
static const mb_unit unit = {sizeof(mb_unit), FLAGS, "NAME", "cpu", "VERSION", "text", "Image",
  in_port, 1, out_port, 1, options, 1, 0, 3, NULL, NULL, process, NULL, NULL};
static const mb_unit *const units[] = {&unit};
static const mb_type types[] = {TYPES};
static const mb_plugin plugin = {SIZE, MAJOR, 0, "p", "1", units, 1, sizeof types / sizeof types[0], types};
MB_EXPORT const mb_plugin *mb_plugin_entry_v1(void) { EXTRA return &plugin; }
"""


def library(
    folder: Path,
    file: str,
    *,
    name: str = "mine",
    version: str = "1.0.0",
    major: str = "1",
    flags: str = "MB_UNIT_STREAM",
    types: str = '{"bgr", "image"}',
    size: str = "sizeof(mb_plugin)",
    extra: str = "",
    head: str = "",
    link: Sequence[str] = (),
) -> Path:
    source = folder / "unit.c"
    text = UNIT.replace("NAME", name).replace("VERSION", version).replace("MAJOR", major)
    text = text.replace("EXTRA", extra).replace("TYPES", types).replace("SIZE", size).replace("FLAGS", flags)
    source.write_text(f"{head}\n{text}")
    path = folder / file
    command = ["cc", "-shared", "-fPIC", "-pthread", "-I", str(TOP / "csrc/include"), str(source), "-o", str(path)]
    subprocess.run([*command, *link], check=True)
    source.unlink()
    return path


def scan(folder: Path, cache: Path | None = None, timeout_s: float = 10.0) -> Registry:
    registry = Registry([folder], builtin_dir=folder / "builtin", cache_file=cache, probe_timeout_s=timeout_s)
    registry.scan()
    return registry


def test_a_good_library(tmp_path: Path) -> None:
    library(tmp_path, "libmodelbox-unit-cpu-mine.so")
    library(tmp_path, "other-name.so", name="hidden")
    unit = scan(tmp_path).find("mine")
    assert (unit.kind, unit.flow_type, unit.max_batch_size) == (UnitKind.NATIVE, FlowType.STREAM, 3)
    assert unit.outputs[0].type == "image"
    assert unit.options[0].values == ("4", "5")
    assert len(scan(tmp_path).units) == 1


@pytest.mark.parametrize(
    ("flags", "role", "collapse_all", "flow_type"),
    [
        ("0", "normal", True, FlowType.NORMAL),
        ("MB_UNIT_CONDITION", "condition", True, FlowType.NORMAL),
        ("MB_UNIT_CONDITION | MB_UNIT_STREAM | MB_UNIT_LOOP", "condition", True, FlowType.NORMAL),
        ("MB_UNIT_EXPAND | MB_UNIT_CONDITION", "expand", True, FlowType.NORMAL),
        ("MB_UNIT_EXPAND | MB_UNIT_STREAM", "expand", True, FlowType.STREAM),
        ("MB_UNIT_COLLAPSE | MB_UNIT_LOOP", "collapse", True, FlowType.NORMAL),
        ("MB_UNIT_COLLAPSE | MB_UNIT_COLLAPSE_ANY", "collapse", False, FlowType.NORMAL),
        ("MB_UNIT_LOOP | MB_UNIT_STREAM", "loop", True, FlowType.NORMAL),
    ],
)
def test_kinds_of_native_units(tmp_path: Path, flags: str, role: str, collapse_all: bool, flow_type: FlowType) -> None:
    library(tmp_path, "modelbox_a.so", flags=flags)
    unit = scan(tmp_path).find("mine")
    assert (unit.role, unit.collapse_all, unit.flow_type) == (role, collapse_all, flow_type)


BAD = {
    "modelbox_crash.so": ({"extra": "abort();"}, "crashed with SIGABRT when it was loaded"),
    "modelbox_segv.so": ({"extra": "*(volatile int *)8 = 1;"}, "crashed with SIGSEGV when it was loaded"),
    "modelbox_exit.so": ({"extra": "_exit(0);"}, "ended the process with exit code 0 when it was loaded"),
    "modelbox_hang.so": ({"extra": "for (;;) pause();"}, "did not answer within 1 s when it was loaded"),
    "modelbox_abi.so": ({"major": "9"}, "was built for plugin ABI 9, this modelbox has 1; build it again"),
}


def test_bad_libraries_are_told_and_stop_nothing(tmp_path: Path) -> None:
    for file, (how, _) in BAD.items():
        library(tmp_path, file, **how)
    good = library(tmp_path, "modelbox_good.so")
    data = good.read_bytes()
    (tmp_path / "modelbox_cut.so").write_bytes(data[: len(data) // 2])
    (tmp_path / "modelbox_short.so").write_bytes(data[:20])
    (tmp_path / "modelbox_text.so").write_text("no library at all")
    (tmp_path / "modelbox_arm.so").write_bytes(data[:18] + (183).to_bytes(2, "little") + data[20:])
    shutil.copy("/lib/x86_64-linux-gnu/libm.so.6", tmp_path / "modelbox_libm.so")
    registry = scan(tmp_path, timeout_s=1.0)
    assert [unit.name for unit in registry.units] == ["mine"]
    told = {str(problem).split(": ")[0]: str(problem) for problem in registry.problems}
    expected = {file: text for file, (_, text) in BAD.items()} | {
        "modelbox_cut.so": "is truncated",
        "modelbox_short.so": "is truncated",
        "modelbox_text.so": "is no shared library",
        "modelbox_arm.so": "is for aarch64, this machine is x86-64",
        "modelbox_libm.so": "is no modelbox plugin: it does not export mb_plugin_entry_v1",
    }
    assert len(told) == len(expected)
    for file, text in expected.items():
        assert text in told[str(tmp_path / file)]
    with pytest.raises(UnitNotFoundError, match="crashed with SIGSEGV"):
        registry.find("segv")


def test_a_missing_unit_tells_of_what_may_hide_it(tmp_path: Path) -> None:
    bad = library(tmp_path, "modelbox_vendor.so", major="9")
    (tmp_path / "other.toml").write_text('[base]\nname = "other"\ntype = "python"\n')
    registry = Registry([tmp_path, tmp_path / "gone"], builtin_dir=tmp_path / "builtin", cache_file=None)
    registry.scan()
    with pytest.raises(UnitNotFoundError) as caught:
        registry.find("mine")
    text = str(caught.value)
    assert f"driver directory {tmp_path}/gone does not exist; {bad}: was built for plugin ABI 9" in text
    assert "other.toml" not in text  # it says itself that it is another unit
    for number in range(3):
        shutil.copy(bad, tmp_path / f"modelbox_{number}.so")
    registry = scan(tmp_path)
    with pytest.raises(UnitNotFoundError, match=r"modelbox_2\.so: was built for plugin ABI 9, .*; and 1 more \("):
        registry.find("mine")


def test_the_scan_is_remembered_and_noticed_changes_are_seen(tmp_path: Path) -> None:
    units, cache = tmp_path / "units", tmp_path / "cache/drivers.json"
    units.mkdir()
    path = library(units, "modelbox_a.so")
    scan(units, cache)
    entries = json.loads(cache.read_text())
    entries["libraries"][str(path)]["report"]["units"][0]["description"] = "from the cache"
    cache.write_text(json.dumps(entries))
    assert scan(units, cache).find("mine").description == "from the cache"
    library(units, "modelbox_a.so", version="1.2.0")
    assert scan(units, cache).find("mine").version == "1.2.0"
    cache.write_text("{damaged")
    assert scan(units, cache).find("mine").version == "1.2.0"
    assert cache.stat().st_mode & 0o077 == 0


def test_versions_and_what_exists(tmp_path: Path) -> None:
    for version in ("1.9.0", "1.10.0"):
        library(tmp_path, f"modelbox_{version}.so", version=version)
    registry = scan(tmp_path)
    assert registry.find("mine").version == "1.10.0"  # by number, not by letter
    assert registry.find("mine", version="1.9.0").version == "1.9.0"
    assert registry.find("mine", "cuda:0,1;cpu").device == "cpu"
    with pytest.raises(UnitNotFoundError) as caught:
        registry.find("mine", "cuda")
    assert "it exists for: cpu 1.10.0, cpu 1.9.0; check 'device'" in str(caught.value)
    with pytest.raises(UnitNotFoundError) as caught:
        registry.find("mime")
    assert f"did you mean mine? searched: {tmp_path}" in str(caught.value)


TOML = """[base]
name = "py"
type = "python"
device = "cpu"
version = "1.0.0"
description = "text"
entry = "py@Py"
[config]
list = [1, "a"]
[input]
[input.input1]
name = "in"
type = "uint8"
[output]
[output.output1]
name = "out"
"""


def test_python_toml(tmp_path: Path) -> None:
    (tmp_path / "deep/er").mkdir(parents=True)
    (tmp_path / "deep/er/py.toml").write_text(TOML)
    (tmp_path / "graph.toml").write_text('[graph]\nformat = "graphviz"\n')
    unit = scan(tmp_path).find("py")
    assert (unit.flow_type, unit.config, unit.inputs[0].type) == (FlowType.STREAM, {"list": "1,a"}, "raw")


@pytest.mark.parametrize(
    ("old", "new", "text"),
    [
        ('name = "py"', "", "py.toml: base.name is missing"),
        ('version = "1.0.0"', 'version = "1"', "py.toml:5: base.version = '1' is not of the form 1.0.0"),
        ('device = "cpu"', 'device = "npu"', "Python units run on cpu or cuda"),
        ("input.input1", "input.input2", "the key input.input1 is not found (ports count from 1 without gaps"),
        ('type = "python"', 'type = "builtin"', 'base.type = "builtin" is for units of modelbox itself'),
        ('entry = "py@Py"', 'entry = "py@Py"\nstream = "maybe"', "base.stream = 'maybe' is not true or false"),
        ('[input.input1]\nname = "in"', "[input.input1]", "input.input1.name is missing"),
        ("[base]", "[base", "py.toml:1:6: "),
    ],
)
def test_broken_tomls(tmp_path: Path, old: str, new: str, text: str) -> None:
    assert old in TOML
    (tmp_path / "py.toml").write_text(TOML.replace(old, new))
    registry = scan(tmp_path)
    assert not registry.units
    assert text in str(registry.problems[0])


def test_first_of_equal_units_wins_and_missing_places_are_told(tmp_path: Path) -> None:
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "py.toml").write_text(TOML.replace('"text"', f'"{name}"'))
    registry = Registry([tmp_path / "none", tmp_path / "a", tmp_path / "b"], builtin_dir=tmp_path, cache_file=None)
    registry.scan()
    assert registry.find("py").description == "a"
    assert [str(problem) for problem in registry.problems] == [
        f"driver directory {tmp_path / 'none'} does not exist",
        f"unit 'py' 1.0.0 for cpu in {tmp_path / 'b/py.toml'} is hidden by {tmp_path / 'a/py.toml'}",
    ]
