"""What a scan remembers, and when it does not trust what it finds."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from modelboxd.drivers import scan as scan_module
from modelboxd.drivers.registry import Registry
from modelboxd.drivers.scan import LibraryScan
from tests.unit.drivers.test_registry import library, scan


@pytest.fixture(autouse=True)
def no_failures_remembered() -> Iterator[None]:
    LibraryScan._failed.clear()
    yield
    LibraryScan._failed.clear()


@pytest.fixture
def probed(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The files that were probed, in order."""
    seen: list[str] = []
    original = LibraryScan._probe

    def probe(self: LibraryScan, paths: list[str]) -> dict[str, dict[str, Any]]:
        seen.extend(Path(path).name for path in paths)
        return original(self, paths)

    monkeypatch.setattr(LibraryScan, "_probe", probe)
    return seen


@pytest.fixture
def units(tmp_path: Path) -> Path:
    folder = tmp_path / "units"
    folder.mkdir()
    return folder


@pytest.fixture
def cache(tmp_path: Path) -> Path:
    return tmp_path / "home/cache/drivers.json"


def test_nothing_is_probed_twice(units: Path, cache: Path, probed: list[str]) -> None:
    library(units, "modelbox_a.so")
    first = scan(units, cache)
    assert cache.parent.stat().st_mode & 0o777 == 0o700
    before = cache.stat().st_mtime_ns, cache.stat().st_ino
    assert scan(units, cache).units == first.units
    assert probed == ["modelbox_a.so"]
    assert (cache.stat().st_mtime_ns, cache.stat().st_ino) == before  # nothing new, nothing written
    assert [path.name for path in cache.parent.iterdir()] == ["drivers.json"]


def test_files_that_went_are_forgotten(units: Path, cache: Path) -> None:
    path = library(units, "modelbox_a.so")
    library(units, "modelbox_b.so", name="b")
    scan(units, cache)
    path.unlink()
    assert [unit.name for unit in scan(units, cache).units] == ["b"]
    assert list(json.loads(cache.read_text())["libraries"]) == [str(units / "modelbox_b.so")]


def test_two_folders_share_a_cache(tmp_path: Path, units: Path, cache: Path, probed: list[str]) -> None:
    (tmp_path / "more").mkdir()
    library(units, "modelbox_a.so")
    library(tmp_path / "more", "modelbox_b.so")
    for _ in range(2):
        scan(units, cache)
        scan(tmp_path / "more", cache)
    assert probed == ["modelbox_a.so", "modelbox_b.so"]


def entry(cache: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    data = json.loads(cache.read_text())
    (one,) = data["libraries"].values()
    return data, one


@pytest.mark.parametrize(
    "text",
    ["", "[", "null", "[]", "{}", '{"format": 2}', '{"format": 1, "libraries": {}}', "[" * 100_000, "\x00\xff"],
)
def test_a_damaged_cache_is_made_anew(units: Path, cache: Path, probed: list[str], text: str) -> None:
    library(units, "modelbox_a.so")
    scan(units, cache)
    cache.write_bytes(text.encode("latin-1"))
    assert [unit.name for unit in scan(units, cache).units] == ["mine"]
    scan(units, cache)
    assert probed == ["modelbox_a.so"] * 2


@pytest.mark.parametrize("damage", ["entry", "report", "units", "unit", "ports", "options", "key"])
def test_damaged_entries_are_probed_again(units: Path, cache: Path, probed: list[str], damage: str) -> None:
    library(units, "modelbox_a.so")
    scan(units, cache)
    data, one = entry(cache)
    unit = one["report"]["units"][0]
    if damage == "entry":
        data["libraries"] = dict.fromkeys(data["libraries"], 5)
    elif damage in ("report", "key"):
        del one[damage]
    elif damage == "units":
        one["report"] = {"error": "made up"}
    elif damage == "unit":
        del unit["flags"]
    elif damage == "ports":
        unit["inputs"] = [5]
    else:
        unit["options"] = [{"name": "x"}]
    cache.write_text(json.dumps(data))
    registry = scan(units, cache)
    assert ([one.name for one in registry.units], registry.problems) == (["mine"], [])
    assert probed == ["modelbox_a.so"] * 2


def test_another_build_of_the_core_probes_again(
    units: Path, cache: Path, probed: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    library(units, "modelbox_a.so")
    scan(units, cache)
    monkeypatch.setattr(scan_module, "_core", lambda: [1, 2, 3])
    scan(units, cache)
    assert probed == ["modelbox_a.so"] * 2


@pytest.mark.parametrize("what", ["folder", "file", "owner"])
def test_a_cache_that_others_can_write_is_not_used(
    units: Path,
    cache: Path,
    probed: list[str],
    what: str,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    library(units, "modelbox_a.so")
    scan(units, cache)
    data, one = entry(cache)
    one["report"]["units"][0]["name"] = "planted"
    cache.write_text(json.dumps(data))
    if what == "owner":
        monkeypatch.setattr(os, "geteuid", lambda: 54321)
    else:
        (cache if what == "file" else cache.parent).chmod(0o777)
    registry = scan(units, cache)
    assert [unit.name for unit in registry.units] == ["mine"]
    assert "can be written by others, so the driver scan is not remembered" in caplog.text
    assert entry(cache)[1]["report"]["units"][0]["name"] == "planted"  # nor written


def test_a_place_that_cannot_be_written(units: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "file").touch()
    library(units, "modelbox_a.so")
    assert [unit.name for unit in scan(units, tmp_path / "file/cache/drivers.json").units] == ["mine"]
    assert "the driver scan cannot be remembered" in caplog.text


def test_failures_are_not_kept_on_disk(
    units: Path, cache: Path, probed: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A missing library gets installed; the unit's file stays as it was, and must work then."""

    def told(registry: Registry) -> list[str]:
        return [str(problem) for problem in registry.problems]

    source = units / "helper.c"
    source.write_text("int helper(void) { return 1; }")
    helper = units / "libhelper.so"
    subprocess.run(["cc", "-shared", "-fPIC", str(source), "-o", str(helper)], check=True)
    path = library(units, "modelbox_a.so", head="int helper(void);", extra="helper();", link=[str(helper)])
    away = units.parent / "libhelper.so"
    helper.rename(away)
    assert "libhelper.so: cannot open shared object file" in told(scan(units, cache))[0]
    assert "libhelper.so: cannot open shared object file" in told(scan(units, cache))[0]
    assert probed == ["modelbox_a.so"]  # within a minute, the same process does not try again
    away.rename(helper)
    monkeypatch.setattr(scan_module, "FAILURE_KEEP_S", 0.0)
    registry = scan(units, cache)
    assert ([unit.path for unit in registry.units], told(registry)) == ([str(path)], [])
    assert probed == ["modelbox_a.so"] * 2
