"""Posts a picture to the OCR service, prints the lines of text, and writes a picture with their boxes drawn."""

import argparse
import json
import sys
import urllib.error
import urllib.request
from pathlib import Path

HERE = Path(__file__).resolve().parent


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("picture", nargs="?", default=str(HERE.parent / "text_detection/page.png"))
    parser.add_argument("--url", default="http://127.0.0.1:7772/v1/ocr")
    parser.add_argument("--out", help="a picture to draw the boxes into")
    options = parser.parse_args()
    data = Path(options.picture).read_bytes()
    try:
        with urllib.request.urlopen(urllib.request.Request(options.url, data=data), timeout=60) as response:
            answer = json.load(response)
    except urllib.error.HTTPError as error:
        sys.exit(f"{error.code}: {error.read().decode()}")
    for line in answer["lines"]:
        print(f"{line['score']:.3f}  {line['text']}")
    if options.out:
        draw(options.picture, answer["lines"], options.out)


def draw(picture, lines, out):
    import cv2
    import numpy as np

    image = cv2.imread(picture)
    for line in lines:
        cv2.polylines(image, [np.array(line["box"], np.int32)], True, (0, 0, 255), 2)
    cv2.imwrite(out, image)


if __name__ == "__main__":
    main()
