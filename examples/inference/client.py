"""Asks the model text_map by one of Triton's clients: where is text in this picture?

client.py [--grpc] [--url HOST:PORT] [PICTURE]
"""

import argparse
from pathlib import Path

import cv2
import numpy as np

PAGE = Path(__file__).resolve().parents[1] / "text_detection/page.png"


def tensor_of(picture):
    """float32 [1, 3, height, width], sides a multiple of 32, -1 to 1."""
    height, width = (size // 32 * 32 for size in picture.shape[:2])
    scaled = cv2.resize(picture, (width, height)).astype(np.float32) / 127.5 - 1
    return np.ascontiguousarray(scaled.transpose(2, 0, 1)[np.newaxis])


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--grpc", action="store_true", help="over gRPC; the server needs [inference] grpc = true")
    parser.add_argument("--url", default="")
    parser.add_argument("picture", nargs="?", default=str(PAGE))
    args = parser.parse_args()
    if args.grpc:
        import tritonclient.grpc as triton

        client = triton.InferenceServerClient(args.url or "127.0.0.1:8001")
    else:
        import tritonclient.http as triton

        client = triton.InferenceServerClient(args.url or "127.0.0.1:1104", network_timeout=60)
    tensor = tensor_of(cv2.imread(args.picture))
    given = triton.InferInput("x", list(tensor.shape), "FP32")
    given.set_data_from_numpy(tensor)
    found = client.infer("text_map", [given]).as_numpy("fetch_name_0")
    print(f"{tuple(found.shape)}: {(found > 0.3).mean():.1%} of the pixels are text")
    client.close()


if __name__ == "__main__":
    main()
