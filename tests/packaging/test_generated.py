"""Manual pages, completions and unit files agree with the code that they are about."""

from __future__ import annotations

import argparse
import configparser
import dataclasses
import importlib.util
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest

from modelboxd import cli, debug, settings
from modelboxd.graph.attributes import ENGINE_ATTRS
from modelboxd.tool import main as tool

TOP = Path(__file__).resolve().parents[2]


def script(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(name, TOP / f"packaging/{name}.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


manpages, completion = script("manpages"), script("completion")


def plain(text: str) -> str:
    return re.sub(r"\\f.", "", text).replace("\\-", "-").replace("\\e", "\\")


def long_options(parser: argparse.ArgumentParser) -> list[str]:
    return [name for action in parser._actions for name in action.option_strings if name not in ("-h", "--help")]


# ---- manual pages -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", manpages.PARTS)
def test_pages_are_clean(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    path.write_text(manpages.page(name))
    assert "@" not in re.sub(r"@i|ann@", "", path.read_text()).replace("module@Class", "")
    ran = False
    for command in (["mandoc", "-T", "lint", "-W", "warning"], ["man", "--warnings=w", "-E", "UTF-8", "-l"]):
        if shutil.which(command[0]):
            env = {**os.environ, "MANPAGER": "cat", "MANWIDTH": "80"}
            done = subprocess.run([*command, str(path)], capture_output=True, text=True, env=env)
            said = done.stderr + (done.stdout if command[0] == "mandoc" else "")
            assert (done.returncode, said) == (0, ""), command
            ran = True
    if not ran:
        pytest.skip("neither mandoc nor man is installed")


def test_pages_name_every_option_key_and_command() -> None:
    for one, parser in (("modelbox.8", cli.parser()), ("modelbox-python-debug.1", debug.parser())):
        page = plain(manpages.page(one))
        for name in long_options(parser):
            assert re.search(rf"^(.*, )?{re.escape(name)}\b", page, re.M), name
    page = plain(manpages.page("modelbox-tool.1"))
    for command, _, parser in manpages.subparsers(tool._parser()):
        assert f".SS {command}\n" in page
        for name in long_options(parser):
            assert re.search(rf"^(.*, )?{re.escape(name.replace('--', '-'))}\b", page, re.M), name
    assert ".SS server log\n" in page and re.search("^-setlevel ", page, re.M)
    page = plain(manpages.page("modelbox.conf.5"))
    for section, kind in settings.SECTIONS.items():
        assert f".SS [{section}]\n" in page
        for item in dataclasses.fields(kind):
            assert f"\n{settings.file_key(item)} = " in page, item.name


def test_the_page_of_graphs_names_what_the_engine_reads() -> None:
    page = plain(manpages.page("modelbox-graph.5"))
    hidden = {"type", "label", "deviceid", "queue_size_external", "queue_size_event", "need_check_output"}
    for name in (ENGINE_ATTRS - hidden) - {"is_exception_visible"}:
        assert name in page, name


# ---- completions --------------------------------------------------------------------------------------------


def complete(tmp_path: Path, command: str, *words: str) -> set[str]:
    """What bash offers after these words; the last one is being typed."""
    subprocess.run([sys.executable, str(TOP / "packaging/completion.py"), str(tmp_path)], check=True)
    function = "_" + command.replace("-", "_")
    quoted = " ".join(f"'{word}'" for word in (command, *words))
    text = (
        f". {tmp_path}/{command}.bash\nCOMP_WORDS=({quoted}) COMP_CWORD={len(words)}\n{function} 2>/dev/null\n"
        'printf "%s\\n" "${COMPREPLY[@]}"'
    )
    shell = ["bash", "--norc", "-c", text]
    return set(subprocess.run(shell, check=True, capture_output=True, text=True, cwd=tmp_path).stdout.split())


def test_bash_offers_every_option(tmp_path: Path) -> None:
    assert set(long_options(cli.parser())) <= complete(tmp_path, "modelbox", "-")
    for name, _, parser in manpages.subparsers(tool._parser()):
        offered = complete(tmp_path, "modelbox-tool", name, "-")
        assert {option.replace("--", "-") for option in long_options(parser)} <= offered, name
    assert set(long_options(debug.parser())) <= complete(tmp_path, "modelbox-python-debug", "-")
    assert {"driver", "flow", "server"} <= complete(tmp_path, "modelbox-tool", "")
    assert {"log", "stack", "stat", "drain"} <= complete(tmp_path, "modelbox-tool", "server", "")
    assert {"-getlevel", "-setlevel"} <= complete(tmp_path, "modelbox-tool", "server", "log", "-")


def test_bash_offers_values(tmp_path: Path) -> None:
    (tmp_path / "a graph.toml").touch()
    (tmp_path / "graph.toml").touch()
    assert complete(tmp_path, "modelbox", "--log-format", "") == {"text", "json"}
    assert complete(tmp_path, "modelbox", "--graph", "gr") == {"graph.toml"}
    assert complete(tmp_path, "modelbox", "--check", "gr") == {"graph.toml"}
    assert complete(tmp_path, "modelbox-tool", "-log-level", "W") == {"WARN"}
    assert complete(tmp_path, "modelbox-tool", "flow", "-conf-convert", "-out-format", "t") == {"toml"}


@pytest.mark.skipif(shutil.which("zsh") is None, reason="zsh is not installed")
def test_zsh_takes_its_completions(tmp_path: Path) -> None:
    subprocess.run([sys.executable, str(TOP / "packaging/completion.py"), str(tmp_path)], check=True)
    for name in ("modelbox", "modelbox-tool", "modelbox-python-debug"):
        subprocess.run(["zsh", "-n", str(tmp_path / f"_{name}")], check=True)
        assert (tmp_path / f"_{name}").read_text().startswith(f"#compdef {name}\n")


# ---- systemd ------------------------------------------------------------------------------------------------


def unit(name: str) -> dict[tuple[str, str], list[str]]:
    """All values of each key; systemd allows a key to stand more than once."""
    found: dict[tuple[str, str], list[str]] = {}
    section = ""
    for line in (TOP / "systemd" / name).read_text().splitlines():
        if line.startswith("["):
            section = line.strip("[]")
        elif line and not line.startswith("#"):
            key, _, value = line.partition("=")
            found.setdefault((section, key), []).append(value)
    return found


def test_instances_are_as_the_service_is() -> None:
    one, several = unit("modelbox.service"), unit("modelbox@.service")
    assert several.pop(("Unit", "ConditionPathExists")) == ["/etc/modelbox/%i/modelbox.conf"]
    for key, values in several.items():
        text = [value.replace(" (instance %i)", "").replace("/%i", "").replace("-%i", "") for value in values]
        assert text == one.pop(key), key
    assert not one


@pytest.mark.parametrize("path", sorted((TOP / "systemd/examples").glob("*.conf")), ids=lambda path: path.stem)
def test_drop_ins_are_units_and_say_where_they_belong(path: Path) -> None:
    text = path.read_text()
    assert f"/etc/systemd/system/modelbox.service.d/{path.name}" in text.splitlines()[0]
    parsed = configparser.ConfigParser(strict=False, interpolation=None)
    parsed.read_string(text)
    assert parsed.sections() == ["Service"]


def test_stopping_fits_into_the_time_that_systemd_gives() -> None:
    stop = int(unit("modelbox.service")["Service", "TimeoutStopSec"][0])
    assert settings.Settings().server.drain_timeout + 15 <= stop  # and units and workers end after that
    start = unit("modelbox.service")["Service", "TimeoutStartSec"][0]
    assert start == "15min" and settings.Settings().server.init_timeout < 15 * 60


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="systemd-analyze is not installed")
@pytest.mark.parametrize("drop_in", ["", *sorted(path.name for path in (TOP / "systemd/examples").glob("*.conf"))])
def test_systemd_has_nothing_to_say(tmp_path: Path, drop_in: str) -> None:
    """Unknown keys are warnings of an exit code 0; so nothing may be said at all."""
    text = (TOP / "systemd/modelbox.service").read_text()
    command = shutil.which("true") or "/bin/true"
    text = re.sub(r"^(ExecStart=)\S+", rf"\g<1>{command}", text, flags=re.M)
    (tmp_path / "modelbox.service").write_text(text)
    if drop_in == "notify-reload.conf":
        pytest.skip("for systemd 253 and later")
    if drop_in:
        (tmp_path / "modelbox.service.d").mkdir()
        shutil.copy(TOP / "systemd/examples" / drop_in, tmp_path / "modelbox.service.d")
    done = subprocess.run(
        ["systemd-analyze", "verify", "--man=no", str(tmp_path / "modelbox.service")], capture_output=True, text=True
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="systemd-analyze is not installed")
@pytest.mark.parametrize("name", ["modelbox.service", "modelbox@.service"])
def test_the_sandbox_is_tight(name: str) -> None:
    command = ["systemd-analyze", "security", "--no-pager", "--offline=true", "--threshold=20"]
    done = subprocess.run([*command, str(TOP / "systemd" / name)], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-300:]
