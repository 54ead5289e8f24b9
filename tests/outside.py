"""Someone else's FFmpeg: the program of imageio-ffmpeg, which makes clips as a user would and reads results.

It is another version than the libraries inside PyAV, and knows nothing of rtlit.
"""

from __future__ import annotations

import subprocess
from fractions import Fraction
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

# The issue tracker's `V`: moving test picture; and a tone of the same length.
PICTURE = ("-f", "lavfi", "-i", "testsrc2=s=320x240:r=25:d=4")
SOUND = ("-f", "lavfi", "-i", "sine=d=4")
LONGEST = 120  # seconds; now and then the program spins for ever where it should refuse a codec


@cache
def program() -> str:
    """The path of the ffmpeg program."""
    import imageio_ffmpeg

    return str(imageio_ffmpeg.get_ffmpeg_exe())


def ffmpeg(*arguments: object) -> bytes:
    """Run it; returns standard output.

    Raises:
        AssertionError: it failed; with what it said.
    """
    command = [program(), "-hide_banner", "-nostdin", "-v", "error", "-y", *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, check=False, timeout=LONGEST)
    assert done.returncode == 0, done.stderr.decode(errors="replace")
    return done.stdout


def make(path: Path, *arguments: object) -> Path:
    """Write a file; returns its path."""
    ffmpeg(*arguments, path)
    return path


class Unit(NamedTuple):
    """A frame or packet: when it is shown and for how long, in seconds; its bytes' size and checksum."""

    at: Fraction
    length: Fraction
    size: int
    check: str


def _units(*arguments: object) -> list[Unit]:
    base, found = Fraction(1), []
    for line in ffmpeg(*arguments, "-f", "framecrc", "-").decode().splitlines():
        if line.startswith("#tb 0: "):
            base = Fraction(line.removeprefix("#tb 0: "))
        elif line.strip() and not line.startswith("#"):
            _, _, at, length, size, check = (part.strip() for part in line.split(",")[:6])
            found.append(Unit(int(at) * base, int(length) * base, int(size), check))
    return found


def frames(path: Path, stream: str = "v:0") -> list[Unit]:
    """The decoded frames of a stream in the order they are shown, on the file's own clock."""
    return _units("-copyts", "-i", path, "-map", f"0:{stream}", "-fps_mode", "passthrough", "-enc_time_base", "demux")


def sound(path: Path, stream: str = "a:0") -> list[Unit]:
    """The decoded blocks of sound of a stream, on the file's own clock."""
    return _units("-copyts", "-i", path, "-map", f"0:{stream}", "-enc_time_base", "demux")


def packets(path: Path, stream: str = "v:0") -> list[Unit]:
    """The packets of a stream as they are stored, on the file's own clock."""
    return _units("-copyts", "-i", path, "-map", f"0:{stream}", "-c", "copy")


def pixels(path: Path, name: str, stream: str = "v:0") -> NDArray[Any]:
    """All decoded frames of a stream in an 8-bit pixel format of FFmpeg's: [frames, bytes a frame]."""
    raw = ffmpeg("-i", path, "-map", f"0:{stream}", "-fps_mode", "passthrough", "-f", "rawvideo", "-pix_fmt", name, "-")
    return np.frombuffer(raw, np.uint8).reshape(len(frames(path, stream)), -1)


def psnr(one: NDArray[Any], other: NDArray[Any]) -> float:
    """Peak signal-to-noise ratio of two arrays of 8-bit codes, in dB; infinite where they are equal."""
    mean = float(np.mean((one.astype(np.float64) - other.astype(np.float64)) ** 2))
    return float("inf") if mean == 0 else 10 * float(np.log10(255**2 / mean))
