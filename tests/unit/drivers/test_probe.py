"""Libraries that misbehave when they are loaded: found out by name, and nothing else suffers."""

from __future__ import annotations

import os
import resource
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from modelboxd.drivers.registry import Registry
from modelboxd.drivers.scan import LibraryScan
from tests.unit.drivers.test_registry import TOP, library, scan

LIMIT_S = 30.0


@pytest.fixture(autouse=True)
def no_failures_remembered() -> Iterator[None]:
    LibraryScan._failed.clear()
    yield
    LibraryScan._failed.clear()


def names(registry: Registry) -> list[str]:
    return [unit.name for unit in registry.units]


def problems(registry: Registry) -> list[str]:
    return [str(problem) for problem in registry.problems]


def gone(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] == "Z"
    except FileNotFoundError:
        return True


def test_noise_does_not_reach_the_report(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    noise = 'char b[9]; for (int i = 0; i < 99; i++) { (void)!write(1, "{}\\n", 3); (void)!write(2, "x", 1); } while (read(0, b, 9) > 0) {}'
    library(tmp_path, "modelbox_a.so", name="a", extra=noise)
    library(tmp_path, "modelbox_b.so", name="b")
    registry = scan(tmp_path)
    assert (names(registry), problems(registry)) == (["a", "b"], [])
    assert capfd.readouterr() == ("", "")


def test_a_library_that_writes_to_all_descriptors(tmp_path: Path) -> None:
    noise = 'for (int i = 3; i < 4096; i++) (void)!write(i, "][\\n", 3);'
    library(tmp_path, "modelbox_a.so", name="a", extra=noise)
    library(tmp_path, "modelbox_b.so", name="b")
    registry = scan(tmp_path)
    assert (names(registry), problems(registry)) == (["a", "b"], [])


def test_a_library_that_garbles_its_report(tmp_path: Path) -> None:
    noise = 'for (int i = 3; i < 4096; i++) (void)!write(i, "][", 2);'
    library(tmp_path, "modelbox_a.so", name="a", extra=noise)
    library(tmp_path, "modelbox_b.so", name="b")
    registry = scan(tmp_path)
    assert names(registry) == ["b"]
    assert problems(registry) == [f"{tmp_path}/modelbox_a.so: gave no answer when it was loaded"]


@pytest.mark.parametrize("then", ["", "for (;;) pause();"])
def test_a_library_that_closes_all_descriptors(tmp_path: Path, then: str) -> None:
    library(tmp_path, "modelbox_a.so", name="a", extra=f"for (int i = 0; i < 4096; i++) close(i); {then}")
    library(tmp_path, "modelbox_b.so", name="b")
    registry = scan(tmp_path, timeout_s=2.0)
    assert names(registry) == ["b"]
    (problem,) = problems(registry)
    reason = "did not answer within 2 s" if then else "ended the process with exit code"
    assert problem.startswith(f"{tmp_path}/modelbox_a.so: {reason}")


def test_a_library_that_leaves_a_process_behind(tmp_path: Path) -> None:
    pid_file = tmp_path / "pid"
    extra = f'if (fork() == 0) {{ FILE *f = fopen("{pid_file}", "w"); fprintf(f, "%d", getpid()); fclose(f); for (;;) pause(); }}'
    library(tmp_path, "modelbox_a.so", extra="extern int fork(void); " + extra, name="a", head="#include <stdio.h>")
    started = time.monotonic()
    registry = scan(tmp_path, timeout_s=60.0)
    assert names(registry) == ["a"]
    assert time.monotonic() - started < LIMIT_S  # it holds the pipe open; nobody waits for that
    deadline = time.monotonic() + LIMIT_S
    while not (pid_file.exists() and pid_file.read_text()) and time.monotonic() < deadline:
        pass
    os.kill(int(pid_file.read_text()), signal.SIGKILL)


def test_an_innocent_library_is_not_blamed(tmp_path: Path) -> None:
    """A thread of the first library kills the process while the second one is being loaded."""
    marker = tmp_path / "marker"
    thread = f'static void *run(void *x) {{ while (access("{marker}", F_OK) != 0) usleep(1000); abort(); return x; }}'
    library(
        tmp_path, "modelbox_a.so", name="a", head="#include <pthread.h>\n#define _DEFAULT_SOURCE\n#include <unistd.h>\n#include <stdlib.h>\nint usleep(unsigned);\n" + thread,
        extra="pthread_t t; pthread_create(&t, NULL, run, NULL);",
    )  # fmt: skip
    wait = f'int fd = open("{marker}", O_CREAT | O_EXCL, 0600); if (fd >= 0) for (;;) pause();'
    library(tmp_path, "modelbox_b.so", name="b", head="#include <fcntl.h>", extra=wait)
    registry = scan(tmp_path)
    assert (names(registry), problems(registry)) == (["a", "b"], [])


def test_libraries_that_cannot_be_linked(tmp_path: Path) -> None:
    library(tmp_path, "modelbox_a.so", name="a", head="int not_anywhere(void);", extra="not_anywhere();")
    registry = scan(tmp_path)
    assert "modelbox_a.so: cannot be loaded: " in problems(registry)[0]
    assert "not_anywhere" in problems(registry)[0]


@pytest.mark.parametrize(
    "name", [b"modelbox_a\nb.so", b"modelbox_caf\xe9.so", "modelbox_名.so".encode(), b"modelbox_a: b.so"]
)
def test_odd_file_names(tmp_path: Path, name: bytes) -> None:
    good = library(tmp_path, "modelbox_x.so")
    good.rename(tmp_path / os.fsdecode(name))
    registry = scan(tmp_path, tmp_path / "cache/drivers.json")
    assert (names(registry), problems(registry)) == (["mine"], [])
    assert names(scan(tmp_path, tmp_path / "cache/drivers.json")) == ["mine"]


def test_links_pipes_and_folders(tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "units/modelbox_folder.so").mkdir(parents=True)
    good = library(tmp_path / "elsewhere", "modelbox_good.so")
    (tmp_path / "units/modelbox_link.so").symlink_to(good)
    (tmp_path / "units/modelbox_none.so").symlink_to("nowhere")
    (tmp_path / "units/none.toml").symlink_to("nowhere")
    os.mkfifo(tmp_path / "units/modelbox_pipe.so")
    os.mkfifo(tmp_path / "units/pipe.toml")
    registry = scan(tmp_path / "units")
    assert names(registry) == ["mine"]
    assert sorted(problems(registry)) == [
        f"{tmp_path}/units/modelbox_none.so: is a link to a file that does not exist",
        f"{tmp_path}/units/modelbox_pipe.so: is no regular file",
        f"{tmp_path}/units/none.toml: is a link to a file that does not exist",
        f"{tmp_path}/units/pipe.toml: is no regular file",
    ]


def test_a_single_file_as_place(tmp_path: Path) -> None:
    good = library(tmp_path, "modelbox_a.so")
    other = tmp_path / "other.txt"
    other.touch()
    registry = Registry([good, other, good / "x"], builtin_dir=tmp_path, cache_file=None)
    registry.scan()
    assert names(registry) == ["mine"]
    assert problems(registry)[0].startswith(f"{other}: is no unit TOML, and not named libmodelbox-unit-*.so or")
    assert problems(registry)[1] == f"driver directory {good / 'x'} cannot be read: Not a directory"


@pytest.mark.skipif(os.geteuid() != 0, reason="the rule is for root")
def test_root_loads_nothing_that_everybody_can_change(tmp_path: Path) -> None:
    for number in (1, 2, 3):
        (tmp_path / str(number)).mkdir()
        library(tmp_path / str(number), "modelbox_a.so", version=f"1.0.{number}")
    scan(tmp_path, tmp_path / "cache/drivers.json")
    (tmp_path / "1/modelbox_a.so").chmod(0o757)
    (tmp_path / "2").chmod(0o777)
    (tmp_path / "3").chmod(0o1777)
    registry = scan(tmp_path, tmp_path / "cache/drivers.json")
    assert [unit.version for unit in registry.units] == ["1.0.3"]
    assert problems(registry) == [
        f"{tmp_path}/1/modelbox_a.so: everybody can change it, and this process is root; chmod o-w {tmp_path}/1/modelbox_a.so",
        f"{tmp_path}/2/modelbox_a.so: everybody can replace it, and this process is root; chmod o-w {tmp_path}/2",
    ]


@pytest.mark.parametrize(
    ("python", "text"),
    [
        ("/bin/false", "cannot be probed: the probing process ended the process with exit code 1"),
        ("/nowhere/python", "cannot be probed: /nowhere/python cannot be started: No such file or directory"),
    ],
)
def test_a_probing_process_that_does_not_start(tmp_path: Path, python: str, text: str) -> None:
    paths = [library(tmp_path, f"modelbox_{name}.so") for name in "ab"]
    units, told = LibraryScan(None, 1.0, python).scan(paths)
    assert (units, [str(one) for one in told]) == ([], [f"{path}: {text}" for path in paths])


def test_many_open_descriptors(tmp_path: Path) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard != resource.RLIM_INFINITY and hard < 2048:
        pytest.skip("the limit of descriptors is too low here")
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, 2048), hard))
    opened = [os.open(os.devnull, os.O_RDONLY) for _ in range(1100)]
    try:
        library(tmp_path, "modelbox_a.so")
        assert names(scan(tmp_path)) == ["mine"]
    finally:
        for fd in opened:
            os.close(fd)
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def test_a_scan_leaves_nothing_open(tmp_path: Path) -> None:
    library(tmp_path, "modelbox_a.so", name="a", extra="abort();")
    library(tmp_path, "modelbox_b.so")
    before = set(os.listdir("/proc/self/fd"))
    scan(tmp_path)
    assert set(os.listdir("/proc/self/fd")) == before


def test_a_hanging_probe_dies_with_the_server(tmp_path: Path) -> None:
    pid_file = tmp_path / "pid"
    extra = f'FILE *f = fopen("{pid_file}", "w"); fprintf(f, "%d\\n", getpid()); fclose(f); for (;;) pause();'
    library(tmp_path, "modelbox_a.so", head="#include <stdio.h>", extra=extra)
    code = f"from tests.unit.drivers.test_registry import *; scan(Path({str(tmp_path)!r}), timeout_s=60.0)"
    server = subprocess.Popen([sys.executable, "-c", code], cwd=TOP)
    deadline = time.monotonic() + LIMIT_S
    while not (pid_file.exists() and pid_file.read_text().endswith("\n")) and time.monotonic() < deadline:
        pass
    pid = int(pid_file.read_text())
    assert not gone(pid)
    server.kill()
    server.wait()
    while not gone(pid) and time.monotonic() < deadline:
        pass
    assert gone(pid)
