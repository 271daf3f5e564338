"""Copies the detection model and a photo out of installed packages (rapidocr, scikit-image) into this example."""

import importlib.util
import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent
FILES = {
    "rapidocr": ("models/PP-OCRv6_det_small.onnx", HERE / "flowunit/text_det/PP-OCRv6_det_small.onnx"),
    "skimage": ("data/page.png", HERE / "page.png"),
}


def main():
    for package, (name, target) in FILES.items():
        spec = importlib.util.find_spec(package)
        source = Path(spec.origin).parent / name if spec and spec.origin else None
        if source is None or not source.exists():
            if target.exists():
                continue
            sys.exit(f"prepare.py: {name} of package {package} is not there; run `make setup`")
        data = source.read_bytes()
        if target.suffix == ".png":
            data = without_profile(data)
        if not target.exists() or target.stat().st_size != len(data):
            target.write_bytes(data)


def without_profile(png):
    """The PNG without its colour profile: that of page.png is damaged, and libpng complains whenever it is read."""
    kept, at = [png[:8]], 8
    while at < len(png):
        size = 12 + int.from_bytes(png[at : at + 4], "big")
        if png[at + 4 : at + 8] != b"iCCP":
            kept.append(png[at : at + size])
        at += size
    return b"".join(kept)


if __name__ == "__main__":
    main()
