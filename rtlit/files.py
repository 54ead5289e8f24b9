"""Targets: what may be written, and a file that appears at its name only when it is complete."""

from __future__ import annotations

import errno
import io
import os
import secrets
import stat
from contextlib import suppress
from pathlib import Path
from typing import BinaryIO

from rtlit.errors import OutputError

_LONGEST_NAME = 255  # bytes, on nearly every file system
_LONGEST_PART = 140  # also on those that encrypt names (eCryptfs: 143)


def url_of(path: str | Path) -> str:
    """A path as FFmpeg opens it: as nothing else, whatever colons, commas or schemes are in its name."""
    return f"file:{path}"


def fitting(stem: str, end: str, longest: int = _LONGEST_NAME) -> str:
    """`stem` + `end` as a file name, with `stem` cut where it would have more bytes than a name may."""
    room = longest - len(os.fsencode(end))
    if len(os.fsencode(stem)) > room:
        stem = os.fsencode(stem)[:room].decode("utf-8", "ignore")
    return stem + end


def place(path: Path) -> Path:
    """Where a file of this name is: what a symbolic link points to, be it there or not."""
    return Path(os.path.realpath(path)) if path.is_symlink() else path


def is_stream(target: str | Path | BinaryIO) -> bool:
    """Whether it is written from front to back: an open stream, a named pipe or a character device."""
    if not isinstance(target, (str, Path)):
        return True
    mode = _mode(Path(target))
    return stat.S_ISFIFO(mode) or stat.S_ISCHR(mode)


def named(target: str | Path | BinaryIO) -> Path | None:
    """The path whose suffix says the format; None of a stream, also of a pipe or device without a suffix."""
    if not isinstance(target, (str, Path)):
        return None
    return Path(target) if Path(target).suffix or not is_stream(target) else None


def check_target(
    source: str | Path | BinaryIO,
    target: str | Path | BinaryIO,
    overwrite: bool,
    way_out: str = "choose another name or allow overwriting",
) -> None:
    """Refuse a target that can't or mustn't be written, before any work is done.

    A named pipe or a character device is no file that could be lost: it is written into, with or without `overwrite`.

    Raises:
        OutputError: it exists, is the input, is neither file, pipe nor character device, or its directory is missing
            or not writable.
    """
    if not isinstance(target, (str, Path)):
        return
    path = Path(target)
    mode = _mode(path)
    if stat.S_ISDIR(mode):
        raise OutputError(f"{path}: is a directory; name a file in it")
    if mode and not (stat.S_ISREG(mode) or is_stream(path)):
        raise OutputError(f"{path}: is neither a file, a pipe nor a character device; choose another name")
    if mode and isinstance(source, (str, Path)) and os.path.exists(source) and os.path.samefile(source, path):
        raise OutputError(f"{path}: is the input itself; give the result another name")
    if stat.S_ISREG(mode) and not overwrite:
        raise OutputError(f"{path}: exists; {way_out}")
    if mode and is_stream(path):
        if not os.access(path, os.W_OK):
            raise OutputError(f"{path}: can't be written: permission denied")
        return
    folder = place(path).parent
    if not folder.is_dir():
        raise OutputError(f"{path}: there is no directory {folder}; make it first")
    if not os.access(folder, os.W_OK | os.X_OK):
        raise OutputError(f"{path}: can't be written: permission denied in {folder}")


def _mode(path: Path) -> int:
    """The mode of what is there, or 0.

    Raises:
        OutputError: nothing could ever be.
    """
    try:
        return path.stat().st_mode
    except (FileNotFoundError, NotADirectoryError):
        return 0
    except OSError as error:
        if error.errno == errno.ENAMETOOLONG:
            raise OutputError(f"{path}: this name is too long for a file; give a shorter one (-o)") from None
        raise OutputError(f"{path}: can't be written: {error.strerror}") from None


class Output:
    """A target being written: a file that gets its name when it is complete, or a stream.

    Attributes:
        part: the file's path till then; None of a stream.
        stream: the stream, buffered; None of a file.
    """

    def __init__(self, target: str | Path | BinaryIO, source: str | Path | BinaryIO | None = None) -> None:
        """Make the file, or open the named pipe or device (a pipe waits for who reads it).

        Args:
            source: the input, whose permissions a new file gets, less the umask.

        Raises:
            OSError: it can't be made.
        """
        self.part: Path | None = None
        self.stream: BinaryIO | None = None
        self._ours = False
        if not isinstance(target, (str, Path)):
            self.stream = target
        elif is_stream(target):
            self.stream, self._ours = io.BufferedWriter(_FrontToBack(target, "w")), True
        else:
            self._place = place(Path(target))
            name = fitting(f".{self._place.name}", f".{secrets.token_hex(4)}.part", _LONGEST_PART)
            self._mode = _permissions(source)
            part = self._place.with_name(name)
            # Readable for no one else even while it is written; its owner must be able to write, whatever the input.
            os.close(os.open(part, os.O_CREAT | os.O_EXCL | os.O_WRONLY, self._mode | 0o600))
            self.part = part

    def keep(self) -> None:
        """Give the file its name, or the stream what is still in the buffer.

        Raises:
            OSError: it can't be done.
        """
        if self.stream is not None:
            getattr(self.stream, "close" if self._ours else "flush", lambda: None)()
        elif self.part is not None:
            if self._mode & 0o600 != 0o600:
                self.part.chmod(stat.S_IMODE(self.part.stat().st_mode) & self._mode)
            os.replace(self.part, self._place)

    def drop(self) -> None:
        """Leave nothing of the file, or close the pipe or device."""
        with suppress(OSError, ValueError):
            if self.part is not None:
                self.part.unlink(missing_ok=True)
            elif self._ours and self.stream is not None:
                self.stream.close()


class _FrontToBack(io.FileIO):
    """A pipe or device; the latter may say that it can seek, and doesn't."""

    def seekable(self) -> bool:
        return False


def _permissions(source: str | Path | BinaryIO | None) -> int:
    """Permission bits of a regular file, also of an open one; those of a new file else."""
    with suppress(OSError, AttributeError, ValueError, TypeError):
        found = os.stat(source) if isinstance(source, (str, Path)) else os.fstat(source.fileno())  # type: ignore[union-attr]
        if stat.S_ISREG(found.st_mode):
            return stat.S_IMODE(found.st_mode) & 0o777
    return 0o666


def write(target: str | Path | BinaryIO, data: bytes, source: str | Path | BinaryIO | None = None) -> None:
    """Write a stream, or a file that appears only when it is complete.

    Args:
        source: the input, whose permissions the file gets, less the umask.

    Raises:
        OutputError: it can't be written.
    """
    try:
        output = Output(target, source)
        try:
            if output.part is not None:
                output.part.write_bytes(data)
            elif output.stream is not None:
                output.stream.write(data)
            output.keep()
        except BaseException:
            output.drop()
            raise
    except BrokenPipeError:
        raise
    except OSError as error:
        name = target if isinstance(target, (str, Path)) else getattr(target, "name", "the stream")
        raise OutputError(f"{name}: can't be written ({error.strerror})") from None
