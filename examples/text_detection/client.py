"""Posts a picture to the text detection service, prints the boxes, and writes a picture with the boxes drawn."""

import argparse
import json
import sys
import urllib.error
import urllib.request
from pathlib import Path

HERE = Path(__file__).resolve().parent


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("picture", nargs="?", default=str(HERE / "page.png"))
    parser.add_argument("--url", default="http://127.0.0.1:7771/v1/text")
    parser.add_argument("--out", default="boxes.png")
    options = parser.parse_args()
    data = Path(options.picture).read_bytes()
    try:
        with urllib.request.urlopen(urllib.request.Request(options.url, data=data), timeout=30) as response:
            answer = json.load(response)
    except urllib.error.HTTPError as error:
        sys.exit(f"{error.code}: {error.read().decode()}")
    print(f"{options.picture}: {answer['width']} x {answer['height']}, {len(answer['boxes'])} lines of text")
    for box in answer["boxes"]:
        print(f"  score {box['score']:.3f}  corners {box['corners']}")
    draw(options.picture, answer["boxes"], options.out)
    print(f"drawn into {options.out}")


def draw(picture, boxes, out):
    import cv2
    import numpy as np

    image = cv2.imread(picture)
    for box in boxes:
        cv2.polylines(image, [np.array(box["corners"], np.int32)], True, (0, 0, 255), 2)
    cv2.imwrite(out, image)


if __name__ == "__main__":
    main()
