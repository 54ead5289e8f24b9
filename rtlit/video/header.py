"""A file's header completed where libavformat's muxer leaves something out, or says too much."""

from __future__ import annotations

import mmap
import re
import struct
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path
from typing import BinaryIO, TypeAlias

from rtlit.video import matroska

# Takes the beginning of a file and gives it as long as it was, completed; None where more of it is needed.
Completion: TypeAlias = Callable[[bytes | mmap.mmap], bytes | None]

# libavformat's `strict -1` writes Apple's box beside Google's st3d and sv3d, which says less: neither how two views are
# packed nor the pose. Its own demuxer believes the later one.
_APPLES_BOX = re.compile(rb"vexu(?=....(?:eyes|proj))", re.DOTALL)


def completion_of(muxer: str) -> Completion | None:
    """How to complete what a muxer wrote; None where nothing is to be done."""
    return {"matroska": matroska.complete, "webm": matroska.complete, "mp4": without_apples_box}.get(muxer)


def without_apples_box(head: bytes | mmap.mmap) -> bytes | None:
    """The beginning of an MP4 file as far as its moov, with st3d and sv3d alone to describe a picture in space."""
    at = 0
    while at + 16 <= len(head):
        size = int.from_bytes(head[at : at + 4], "big")
        size = int.from_bytes(head[at + 8 : at + 16], "big") if size == 1 else size
        if head[at + 4 : at + 8] == b"moov":
            moov = head[at : at + size]
            if len(moov) < size:
                return None
            return head[:at] + (_APPLES_BOX.sub(b"free", moov) if b"st3d" in moov or b"sv3d" in moov else moov)
        at += size or len(head)
    return None


def avi_with_starts(head: bytes | mmap.mmap, starts: dict[int, Fraction]) -> bytes:
    """The headers of an AVI file, with the seconds at which its streams begin: libavformat writes 0, and reads them.

    AVISTREAMHEADER: dwScale, dwRate and dwStart are 20, 24 and 28 bytes behind `fccType`.
    """
    data, at = bytearray(head[: head.find(b"movi")]), 0
    for index in range(max(starts, default=-1) + 1):
        at = data.index(b"strh", at) + 8
        scale, rate = struct.unpack_from("<2I", data, at + 20)
        struct.pack_into("<I", data, at + 28, max(0, round(starts.get(index, Fraction(0)) * rate / scale)))
    return bytes(data)


def complete_file(path: Path, completion: Completion) -> None:
    """Complete the header of a finished file where it lies."""
    with path.open("r+b") as file, mmap.mmap(file.fileno(), 0) as data:
        head = completion(data)
        if head is not None:
            data[: len(head)] = head


class Headed:
    """A binary stream to write to, whose header is completed on the way, or at the end where it can be gone back to."""

    def __init__(self, file: BinaryIO, completion: Completion) -> None:
        """Nothing is written yet."""
        self._file, self._completion = file, completion
        self._seekable = hasattr(file, "seek") and hasattr(file, "tell") and getattr(file, "seekable", lambda: True)()
        self._head = bytearray()
        self._length: int | None = None  # of the header, once all of it was there

    def seekable(self) -> bool:
        """Whether what is written can be gone back to."""
        return self._seekable

    def seek(self, offset: int, whence: int = 0) -> int:
        """As the stream's."""
        return self._file.seek(offset, whence)

    def tell(self) -> int:
        """As the stream's."""
        return self._file.tell()

    def write(self, data: bytes) -> int:
        """Write, or hold back until the header is whole."""
        at = self._file.tell() if self._seekable else len(self._head)
        if self._length is not None and at >= self._length:
            return self._file.write(data)
        self._head[at : at + len(data)] = data
        head = self._completion(bytes(self._head))
        self._length = len(head) if head is not None else None
        if self._seekable:
            return self._file.write(data)
        if head is not None:
            self._file.write(head + self._head[len(head) :])
        return len(data)

    def finish(self) -> None:
        """Write what is held back, or the header once more."""
        head = self._completion(bytes(self._head))
        if self._seekable and head is not None:
            self._file.seek(0)
            self._file.write(head)
            self._file.seek(0, 2)
        elif self._length is None and not self._seekable:
            self._file.write(self._head)
