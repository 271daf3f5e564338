"""What is told of an exception in a unit: one line for the error, and a traceback of the user's own frames.

Runs in CPython from 3.9 on.
"""

from __future__ import annotations

import traceback
from pathlib import Path

import modelbox
from modelbox import log as unit_log
from modelbox.errors import said

OWN = (str(Path(__file__).resolve().parents[1]), str(Path(modelbox.__file__).resolve().parent), "<frozen importlib")
_last = ""  # the traceback that was told last


def is_users(file: str) -> bool:
    """Whether a frame is of the user's code, or of what that uses."""
    return not file.startswith(OWN) and "importlib" not in file


def describe(error: BaseException, toml: str = "") -> str:
    """One line: the exception and the innermost line of the user's own files."""
    text = said(error).replace("\n", " | ")
    if isinstance(error, SyntaxError) and error.filename:
        return f"{type(error).__name__}: {error.msg} ({error.filename}:{error.lineno})"
    frames = [frame for frame in traceback.extract_tb(error.__traceback__) if is_users(frame.filename)]
    if frames:
        return f"{text} ({frames[-1].filename}:{frames[-1].lineno})"
    return f"{text} ({toml})" if toml else text


def users_traceback(error: BaseException) -> list[str]:
    """The traceback without the frames that are not the user's, as lines."""
    told = traceback.TracebackException.from_exception(error)
    at: traceback.TracebackException | None = told
    while at is not None:  # and what it came of
        at.stack[:] = [frame for frame in at.stack if is_users(frame.filename)]
        at = at.__cause__ or at.__context__
    return "".join(told.format()).splitlines()


def tell(error: BaseException) -> None:
    """Logs the user's frames, where they are not those of the last time again, and at DEBUG all."""
    global _last
    lines = users_traceback(error)
    text = "\n".join(lines)
    if text != _last and len(lines) > 1 + text.count("\n\n"):
        _last = text
        for line in lines:
            unit_log.info(line)
    full = traceback.format_exception(type(error), error, error.__traceback__)
    for line in "".join(full).splitlines():
        unit_log.debug(line)
