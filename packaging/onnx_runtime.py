"""Unpacks the part of an onnxruntime wheel that runs models: onnx_runtime.py WHEEL PACKAGES DOC.

What is left out: tools for making and converting models, and what only training needs. Times of files are those of
SOURCE_DATE_EPOCH, so that the same wheel gives the same package.
"""

import os
import sys
import zipfile
from pathlib import Path

KEPT = ("onnxruntime/__init__.py", "onnxruntime/capi/")
# The C library is for programs in other languages; the Python module holds the runtime a second time.
LEFT_OUT = ("onnxruntime/capi/training/", "onnxruntime/capi/libonnxruntime")
TEXTS = {"LICENSE": "LICENSE", "ThirdPartyNotices.txt": "ThirdPartyNotices.txt"}


def main() -> None:
    wheel, packages, doc = (Path(name) for name in sys.argv[1:4])
    epoch = int(os.environ["SOURCE_DATE_EPOCH"])
    with zipfile.ZipFile(wheel) as archive:
        for name in archive.namelist():
            if name.endswith("/"):
                continue
            if (name.startswith(KEPT) and not name.startswith(LEFT_OUT)) or name.endswith(".dist-info/METADATA"):
                put(packages / name, archive.read(name), epoch)
            elif Path(name).name in TEXTS and name.count("/") == 1:
                put(doc / TEXTS[Path(name).name], archive.read(name), epoch)


def put(path: Path, data: bytes, epoch: int) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)
    path.chmod(0o644)
    os.utime(path, (epoch, epoch))


if __name__ == "__main__":
    main()
