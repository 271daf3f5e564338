"""What is told of an exception in a unit."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np

from modelboxd.workers import trace


def of(function: object) -> BaseException:
    try:
        function()  # type: ignore[operator]
    except Exception as error:
        return error
    raise AssertionError("it does not fail")


def users_own() -> None:
    json.loads("{bad")


def library_in_library() -> None:
    np.stack([np.zeros(1), np.zeros(2)])


def test_the_users_own_line_is_told_not_the_librarys() -> None:
    for function, name in ((users_own, "JSONDecodeError"), (library_in_library, "ValueError")):
        error = of(function)
        line = function.__code__.co_firstlineno + 1
        said = trace.describe(error)
        assert said.startswith(f"{name}: ") and said.endswith(f" ({__file__}:{line})")
        frames = [text for text in trace.users_traceback(error) if text.startswith("  File ")]
        assert [frame.rpartition(" in ")[2] for frame in frames] == ["of", function.__name__]


def test_where_there_is_no_own_line_the_librarys_is_told() -> None:
    error = of(lambda: json.loads("{bad"))
    while error.__traceback__ is not None and trace.is_users(error.__traceback__.tb_frame.f_code.co_filename):
        error.__traceback__ = error.__traceback__.tb_next
    assert "json/decoder.py:" in trace.describe(error)
    assert any("json/decoder.py" in line for line in trace.users_traceback(error))


def test_whose_a_file_is() -> None:
    top = Path(trace.__file__).parents[2]
    assert trace.is_ours(f"{top}/modelboxd/workers/trace.py") and trace.is_ours(f"{top}/modelbox/buffer.py")
    assert not trace.is_ours(f"{top}/modelbox-units/face/face.py")
    assert trace.is_users("/usr/lib/modelbox/face.py") and trace.is_users("<posted>")
    for file in ("/usr/lib/python3/dist-packages/cv2/x.py", "/opt/venv/lib/python3.11/site-packages/torch/nn.py"):
        assert not trace.is_users(file)
