"""What is told of an exception in a unit: one line for the error, and a traceback of the user's own frames.

Runs in CPython from 3.9 on.
"""

from __future__ import annotations

import traceback
from pathlib import Path

import modelbox
from modelbox import log as unit_log
from modelbox.errors import said

OURS = (f"{Path(__file__).resolve().parents[1]}/", f"{Path(modelbox.__file__).resolve().parent}/", "<frozen")
_last = ""  # the traceback that was told last


def is_ours(file: str) -> bool:
    """Whether a source file is of modelbox, or of what loads modules."""
    return file.startswith(OURS) or "importlib" in file


def is_users(file: str) -> bool:
    """Whether a source file is neither modelbox's nor that of an installed library."""
    return not is_ours(file) and "/lib/python" not in file


def _users_frames(frames: traceback.StackSummary) -> list[traceback.FrameSummary]:
    """The user's own; where there are none, those of the libraries."""
    own = [frame for frame in frames if is_users(frame.filename)]
    return own or [frame for frame in frames if not is_ours(frame.filename)]


def describe(error: BaseException, toml: str = "") -> str:
    """One line: the exception and the innermost line of the user's own files."""
    text = said(error).replace("\n", " | ")
    if isinstance(error, SyntaxError) and error.filename:
        return f"{type(error).__name__}: {error.msg} ({error.filename}:{error.lineno})"
    frames = _users_frames(traceback.extract_tb(error.__traceback__))
    if frames:
        return f"{text} ({frames[-1].filename}:{frames[-1].lineno})"
    return f"{text} ({toml})" if toml else text


def users_traceback(error: BaseException) -> list[str]:
    """The traceback with the user's own frames, as lines."""
    told = traceback.TracebackException.from_exception(error)
    at: traceback.TracebackException | None = told
    while at is not None:  # and what it came of
        at.stack[:] = _users_frames(at.stack)
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
