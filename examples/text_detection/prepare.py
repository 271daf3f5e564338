"""Copies the detection model and a photo out of installed packages (rapidocr, scikit-image) into this example."""

import importlib.util
import shutil
import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent
FILES = {
    "rapidocr": ("models/PP-OCRv6_det_small.onnx", HERE / "flowunit/text_det/PP-OCRv6_det_small.onnx"),
    "skimage": ("data/page.png", HERE / "page.png"),
}


def main():
    for package, (name, target) in FILES.items():
        if target.exists():
            continue
        spec = importlib.util.find_spec(package)
        source = Path(spec.origin).parent / name if spec and spec.origin else None
        if source is None or not source.exists():
            sys.exit(f"prepare.py: {name} of package {package} is not there; run `make setup`")
        shutil.copy(source, target)


if __name__ == "__main__":
    main()
