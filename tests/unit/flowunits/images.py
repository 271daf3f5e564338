"""Encoded images for tests: whole ones, and some made by hand."""

from __future__ import annotations

import base64
import struct
from typing import Any

import cv2
import numpy as np

from modelbox.buffer import Buffer
from tests.unit.flowunits.host import CPU, Answer, Unit

CMYK_JPEG = base64.b64decode(  # 24 x 16, made by Pillow
    "/9j/7gAOQWRvYmUAZAAAAAAA/9sAQwANCQoLCggNCwoLDg4NDxMgFRMSEhMnHB4XIC4pMTAuKS0sMzpKPjM2RjcsLUBXQUZMTlJT"
    "UjI+WmFaUGBKUVJP/8AAFAgAEAAYBEMRAE0RAFkRAEsRAP/EABkAAAMBAQEAAAAAAAAAAAAAAAAFBgcBA//EACYQAAEDAgYCAgMA"
    "AAAAAAAAAAEAAgQhMQMFERVBYhNREmGBodH/2gAOBEMATQBZAEsAAD8Auc05VdvfdWkyXeq0fHxvHrVRuaco3vukUyXeqXYuZlrg"
    "1pJcToALkqOzTlG990hmS71R55xaXOLMIaAj5uqfwNf2tjzTlZrvfdPpku9UZrilri1oJcToALkqNzTlG990hmS71XiAIYGHhND5"
    "Txo5zeedK2H8UdmnKN77pFMl3quFg1Ic0ycUEGlGt+vXu91//9k="
)


def picture(height: int, width: int, channels: int = 3, seed: int = 1) -> Any:
    """Smooth noise over the whole range of values: no two rows alike, and a JPEG of it is not all errors."""
    noise = np.random.default_rng(seed).integers(0, 256, (height // 4 + 2, width // 4 + 2, channels), dtype=np.uint8)
    return cv2.resize(noise, (width, height), interpolation=cv2.INTER_LINEAR).reshape(height, width, channels)


def encode(pixels: Any, form: str = ".jpg", *parameters: int) -> bytes:
    done, data = cv2.imencode(form, pixels, list(parameters))
    assert done
    return bytes(data.tobytes())


def reference(data: bytes) -> Any:
    return cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR)


def data_buffer(data: bytes) -> Buffer:
    return Buffer(CPU, data)


def decode(unit: Unit, data: bytes) -> Answer:
    return unit.one(data_buffer(data))


def failure(answer: Answer) -> str:
    code, message = answer.error
    assert code == "ImageDecoder.DecodeFailed"
    assert message and "\n" not in message
    return message


def with_exif(jpeg: bytes, orientation: int, little: bool = True) -> bytes:
    """The JPEG with an EXIF block that holds nothing but the orientation."""
    order = "<" if little else ">"
    entry = struct.pack(order + "HHIHH", 0x0112, 3, 1, orientation, 0)
    tiff = (b"II*\0" if little else b"MM\0*") + struct.pack(order + "IH", 8, 1) + entry + struct.pack(order + "I", 0)
    body = b"Exif\0\0" + tiff
    return jpeg[:2] + b"\xff\xe1" + struct.pack(">H", len(body) + 2) + body + jpeg[2:]


def with_size(jpeg: bytes, width: int, height: int) -> bytes:
    """The JPEG whose header lies about its size."""
    at = next(at for at in range(len(jpeg)) if jpeg[at] == 0xFF and jpeg[at + 1] in (0xC0, 0xC1, 0xC2))
    return jpeg[: at + 5] + struct.pack(">HH", height, width) + jpeg[at + 9 :]


def without_tables(jpeg: bytes) -> bytes:
    """The JPEG without its Huffman tables, as frames of a motion JPEG are."""
    made, at = jpeg[:2], 2
    while jpeg[at + 1] != 0xDA:
        end = at + 2 + int.from_bytes(jpeg[at + 2 : at + 4], "big")
        made += b"" if jpeg[at + 1] == 0xC4 else jpeg[at:end]
        at = end
    return made + jpeg[at:]
