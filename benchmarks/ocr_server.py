"""The baseline of the OCR benchmark: rapidocr behind aiohttp, as one would write it by hand.

    ocr_server.py PORT WORKERS processes|threads INTRA

WORKERS recognisers work at once, each with its own RapidOCR object: in processes of their own, or in threads of this one.
INTRA is intra_op_num_threads of each, -1 = onnxruntime's default, one per core.
"""

from __future__ import annotations

import asyncio
import json
import sys
import threading
from concurrent.futures import Executor, ProcessPoolExecutor, ThreadPoolExecutor
from typing import Any

from aiohttp import web

local = threading.local()  # each worker's own RapidOCR object


def start(intra: int) -> None:
    import cv2
    from rapidocr import RapidOCR

    cv2.setNumThreads(1)
    local.ocr = RapidOCR(
        params={"Global.log_level": "critical", "EngineConfig.onnxruntime.intra_op_num_threads": intra}
    )


def read(data: bytes) -> str:
    import cv2
    import numpy as np

    image = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR)
    found: Any = local.ocr(image)
    lines = []
    if found.txts:
        for text, score, box in zip(found.txts, found.scores, found.boxes, strict=True):
            lines.append({"text": text, "score": score, "box": box.tolist()})
    return json.dumps({"width": image.shape[1], "height": image.shape[0], "lines": lines}, ensure_ascii=False)


def main() -> None:
    port, workers, kind, intra = int(sys.argv[1]), int(sys.argv[2]), sys.argv[3], int(sys.argv[4])
    pool_class: Any = ProcessPoolExecutor if kind == "processes" else ThreadPoolExecutor
    pool: Executor = pool_class(workers, initializer=start, initargs=(intra,))

    async def handle(request: web.Request) -> web.Response:
        body = await request.read()
        text = await asyncio.get_running_loop().run_in_executor(pool, read, body)
        return web.Response(text=text, content_type="application/json")

    app = web.Application(client_max_size=64 << 20)
    app.router.add_post("/v1/ocr", handle)
    web.run_app(app, host="127.0.0.1", port=port, access_log=None, print=None)
    pool.shutdown()


if __name__ == "__main__":
    main()
