"""`make package`: source archive, debs, rpms and wheel, into dist/.

The same sources are meant to give the same bytes (test/reproducible.sh).

Everything is built from the archive, unpacked below build/package/, with the system's own Python (/usr/bin/python3).
All times are that of the topmost entry in packaging/debian/changelog.
"""

from __future__ import annotations

import argparse
import gzip
import os
import platform
import shutil
import subprocess
import sys
import tarfile
from pathlib import Path

import wheels

TOP = Path(__file__).resolve().parents[1]
OUT = TOP / "build/package"
DIST = TOP / "dist"
PYTHON = "/usr/bin/python3"
# What a build leaves behind; only looked at where there is no git to ask.
NOT_SOURCES = {"build", "dist", ".venv", "__pycache__", ".git", ".mypy_cache", ".ruff_cache", ".pytest_cache"}


def run(command: list[str], folder: Path, log: Path, **env: str) -> None:
    """Runs a command; what it prints goes to a file, of which the end is shown when it fails."""
    with log.open("ab") as file:
        code = subprocess.call(command, cwd=folder, env={**os.environ, **env}, stdout=file, stderr=file)
    if code:
        tail = log.read_text(errors="replace").splitlines()[-30:]
        sys.exit("\n".join([*tail, f"packaging/build.py: {command[0]} failed with {code}; all of it: {log}"]))


def field(name: str) -> str:
    command = ["dpkg-parsechangelog", "-l", str(TOP / "packaging/debian/changelog"), "-S", name]
    return subprocess.check_output(command, text=True).strip()


def sources() -> list[str]:
    """The files of the checkout, with changes that are not committed yet; of an unpacked archive, all files."""
    if (TOP / ".git").exists():
        command = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
        names = subprocess.check_output(command, cwd=TOP, text=True).split("\0")
        return sorted({name for name in names if name and (TOP / name).is_file()})
    found = []
    for folder, folders, files in os.walk(TOP):
        folders[:] = [name for name in folders if name not in NOT_SOURCES]
        found += [os.path.relpath(os.path.join(folder, name), TOP) for name in files]
    return sorted(name for name in found if not name.endswith((".so", ".d", ".o", ".onnx")))


def archive(target: Path, stem: str, epoch: int) -> None:
    """A .tar.gz whose bytes depend on names, contents and the executable bit only."""

    def plain(info: tarfile.TarInfo) -> tarfile.TarInfo:
        info.uid = info.gid = 0
        info.uname = info.gname = "root"
        info.mtime = epoch
        info.mode = 0o777 if info.issym() else 0o755 if info.mode & 0o100 else 0o644
        return info

    with (
        target.open("wb") as raw,
        gzip.GzipFile("", "wb", 9, raw, mtime=epoch) as packed,
        tarfile.open(fileobj=packed, mode="w", format=tarfile.GNU_FORMAT) as tar,
    ):
        for name in sources():
            tar.add(TOP / name, f"{stem}/{name}", recursive=False, filter=plain)


def onnx_wheel() -> Path | None:
    """onnxruntime's wheel; None on processors that it is not taken for."""
    return wheels.fetch(TOP / "packaging/onnxruntime.txt")[0] if platform.machine() == "x86_64" else None


def mypyc() -> str:
    """The folder of the mypyc that compiles the hot modules; empty on processors that it is not taken for."""
    if platform.machine() not in ("x86_64", "aarch64"):
        print(f"the hot modules are not compiled on {platform.machine()}: the .py files run, slower", file=sys.stderr)
        return ""
    return str(wheels.unpack(wheels.fetch(TOP / "packaging/mypyc.txt"), OUT / "mypyc"))


def unpack(source: Path, folder: Path, wheel: Path | None) -> Path:
    """The tree of the archive below `folder`, with the wheel where the builds look for it."""
    with tarfile.open(source) as tar:
        tar.extractall(folder, filter="fully_trusted")
    tree = folder / source.name.removesuffix(".tar.gz")
    if wheel is not None:
        (tree / "build/wheels").mkdir(parents=True)
        shutil.copy2(wheel, tree / "build/wheels")
    return tree


def debs(tree: Path, compiler: str, epoch: int) -> None:
    shutil.copytree(tree / "packaging/debian", tree / "debian")
    run(["dpkg-buildpackage", "-b", "-us", "-uc"], tree, OUT / "deb.log", MYPYC=compiler, SOURCE_DATE_EPOCH=str(epoch))
    for path in sorted(tree.parent.glob("*.deb")):
        if "-dbgsym" not in path.name:
            shutil.move(path, DIST / path.name)


def wheel_of_ours(tree: Path, epoch: int) -> None:
    """From the tree in which the debs were built: the same objects, without what is only for debuggers."""
    units = sorted((tree / "flowunits").glob("*/*.so"))
    modules = sorted((tree / "build/package/lib").rglob("*.so"))
    run(["strip", "--strip-debug", *map(str, [*units, *modules])], tree, OUT / "wheel.log")
    command = [PYTHON, "setup.py", "-q", "build", "--build-base", "build/package", "--build-lib", "build/package/lib"]
    command += ["bdist_wheel", "--dist-dir", str(DIST)]
    run(command, tree, OUT / "wheel.log", SOURCE_DATE_EPOCH=str(epoch))


def rpms(source: Path, wheel: Path | None, compiler: str, epoch: int) -> None:
    top = OUT / "rpm"
    (top / "SOURCES").mkdir(parents=True)
    spec = TOP / "packaging/rpm/modelbox.spec"
    for path in (spec, source, wheel):
        if path is not None:  # with modes and times of our own: the source rpm keeps them
            copy = Path(shutil.copy(path, top / "SOURCES"))
            copy.chmod(0o644)
            os.utime(copy, (epoch, epoch))
    defines = {
        "_topdir": str(top),
        "_buildhost": "localhost",
        "use_source_date_epoch_as_buildtime": "1",
        "clamp_mtime_to_source_date_epoch": "1",
        "_source_payload": "w9.gzdio",
        "_binary_payload": "w9.gzdio",
    }
    command = ["rpmbuild", "-ba", "--nodeps", str(top / "SOURCES" / spec.name)]
    for name, value in defines.items():
        command += ["-D", f"{name} {value}"]
    if wheel is not None:
        command += ["-D", f"onnx_wheel {wheel.name}"]
    # Where the debs were built before, the modules are compiled already.
    compiled = OUT / "deb" / source.name.removesuffix(".tar.gz") / "build/package/lib/modelboxd/_compiled"
    there = {"COMPILED": str(compiled)} if compiled.exists() else {"MYPYC": compiler}
    run(command, TOP, OUT / "rpm.log", SOURCE_DATE_EPOCH=str(epoch), **there)
    for path in sorted(top.glob("*RPMS/**/*.rpm")):
        shutil.move(path, DIST / path.name)


def main() -> None:
    parser = argparse.ArgumentParser(description="Builds the packages into dist/.")
    parser.add_argument("kinds", nargs="*", help="deb, rpm, wheel; all of them if none is named")
    kinds = parser.parse_args().kinds or ["deb", "rpm", "wheel"]
    epoch = int(field("Timestamp"))
    version = field("Version").rpartition("-")[0]
    for folder in (OUT, DIST):
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
    os.umask(0o022)
    source = DIST / f"modelbox-{version}.tar.gz"
    archive(source, f"modelbox-{version}", epoch)
    wheel, compiler = onnx_wheel(), mypyc()
    if "deb" in kinds or "wheel" in kinds:
        tree = unpack(source, OUT / "deb", wheel)
        debs(tree, compiler, epoch)
        if "wheel" in kinds:
            wheel_of_ours(tree, epoch)
    if "rpm" in kinds:
        rpms(source, wheel, compiler, epoch)
    for path in sorted(DIST.iterdir()):
        print(f"{path.stat().st_size:>10} {path.name}")


if __name__ == "__main__":
    main()
