"""The pool and core lists as Python objects; core errors as exceptions."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, fields
from typing import Any

from modelbox._core import ffi, lib, objects
from modelbox.errors import (
    ConfigError,
    DriverError,
    InternalError,
    ModelBoxError,
    OutOfMemoryError,
    UnitError,
)
from modelbox.status import StatusCode

CData = Any

_EXCEPTIONS: dict[int, type[ModelBoxError]] = {
    StatusCode.STATUS_NOMEM: OutOfMemoryError,
    StatusCode.STATUS_NOBUFS: OutOfMemoryError,
    StatusCode.STATUS_BADCONF: ConfigError,
    StatusCode.STATUS_INVALID: DriverError,
    StatusCode.STATUS_NOENT: DriverError,
    StatusCode.STATUS_NOTSUPPORT: DriverError,
    StatusCode.STATUS_FAULT: UnitError,
}


def new_error() -> CData:
    """An empty mb_error *."""
    return ffi.new("mb_error *")


def check(status: int, error: CData) -> None:
    """Raises the exception that fits a negative `status`, with the text of `error`."""
    if status < 0 or error.status:
        raise_error(error, -status)


def raise_error(error: CData, status: int = 0) -> None:
    """Raises what `error` says."""
    raise_status(error.status or abs(status), ffi.string(error.message).decode(errors="replace"))


def raise_status(code: int, text: str) -> None:
    """Raises the exception that fits a status."""
    raise _EXCEPTIONS.get(code, InternalError)(text or f"status {code}")


objects.set_raiser(raise_status)


def address(pointer: CData) -> int:
    """Where a pointer points, for the functions of objects.c."""
    return int(ffi.cast(_UINTPTR, pointer))


def own_list(place: int) -> CData:
    """The mb_list * at an address that is ours, freed by the garbage collector."""
    return ffi.gc(ffi.cast(_LIST, place), lib.mb_list_free)


_UINTPTR = ffi.typeof("uintptr_t")
_LIST = ffi.typeof("mb_list *")


def new_list(capacity: int = 0) -> CData:
    """An empty mb_list * that the garbage collector frees. Raises OutOfMemoryError."""
    items = lib.mb_list_new(capacity)
    if items == ffi.NULL:
        raise OutOfMemoryError("out of memory")
    return ffi.gc(items, lib.mb_list_free)


@dataclass(frozen=True)
class PoolStats:
    """Counters of a pool; bytes where the name says so (see mb_pool_stats in core.h)."""

    arenas: int
    arena_bytes: int
    used_bytes: int
    block_bytes: int
    peak_bytes: int
    live_buffers: int
    allocations: int
    frees: int
    failures: int
    guard_faults: int
    fragmented_bytes: int


class Pool:
    """Host memory for buffers, in sealed memfd arenas that worker processes can read."""

    def __init__(
        self,
        arena_size: int = 64 << 20,
        max_bytes: int = 0,
        max_buffer: int = 0,
        keep_bytes: int = 64 << 20,
        guard_all: bool = False,
    ) -> None:
        """`arena_size` a multiple of 1 MiB; `max_bytes`, `max_buffer` 0 = no limit; all in bytes.

        Raises ModelBoxError when shared memory cannot be had.
        """
        config = ffi.new(
            "mb_pool_config *",
            {
                "arena_size": arena_size,
                "max_bytes": max_bytes,
                "max_buffer": max_buffer,
                "keep_bytes": keep_bytes,
                "guard_all": guard_all,
            },
        )
        error = new_error()
        handle = lib.mb_pool_new(config, error)
        if handle == ffi.NULL:
            raise_error(error)
        self.handle = ffi.gc(handle, lib.mb_pool_free)
        self.address = address(handle)  # for objects.c
        self.max_bytes = max_bytes

    def stats(self) -> PoolStats:
        """A snapshot of the counters."""
        raw = ffi.new("mb_pool_stats *")
        lib.mb_pool_get_stats(self.handle, raw)
        return PoolStats(**{item.name: getattr(raw, item.name) for item in fields(PoolStats)})

    def trim(self, keep_bytes: int = 0) -> int:
        """Gives empty arenas beyond `keep_bytes` back to the kernel; returns the bytes."""
        return int(lib.mb_pool_trim(self.handle, keep_bytes))

    def new(self, size: int) -> CData:
        """A new unsealed mb_buffer * of `size` bytes. Raises OutOfMemoryError."""
        error = new_error()
        buffer = lib.mb_buffer_new(self.handle, size, error)
        if buffer == ffi.NULL:
            raise_error(error)
        return ffi.gc(buffer, lib.mb_buffer_unref)

    def copy_of(self, data: Any) -> CData:
        """A new unsealed mb_buffer * with the bytes of `data` (any contiguous buffer)."""
        source = ffi.from_buffer(data)
        error = new_error()
        buffer = lib.mb_buffer_from(self.handle, source, len(source), error)
        if buffer == ffi.NULL:
            raise_error(error)
        return ffi.gc(buffer, lib.mb_buffer_unref)


def packed_list(pool: Pool, data: bytes | bytearray, kind: int, meta: bytes) -> CData:
    """A list of one sealed buffer with these bytes, kind and meta block. Raises OutOfMemoryError."""
    return own_list(objects.pack_list(pool.address, data, kind, meta))


_sink: Callable[[int, str], None] | None = None


@ffi.def_extern()  # type: ignore[untyped-decorator]
def mb_python_log(level: int, message: CData) -> None:
    if _sink is not None:
        _sink(level, ffi.string(message).decode(errors="replace"))


def set_log_sink(callback: Callable[[int, str], None] | None) -> None:
    """Sends log lines of native code to `callback(level, text)`; None = nowhere. Levels as in plugin.h."""
    global _sink
    _sink = callback
    lib.mb_log_set_sink(lib.mb_python_log if callback is not None else ffi.NULL)
