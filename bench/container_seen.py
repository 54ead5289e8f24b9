"""What a file holds, as the ffmpeg program of imageio-ffmpeg reads it, which is no part of rtlit."""

from __future__ import annotations

import re
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from tests.outside import LONGEST, Unit, make, packets, program, sound

_FAR = 10**9  # seconds; what the program prints for no timestamp is further away
# FFmpeg's native decoders drop the alpha of these.
_WITH_ALPHA = {"vp8": "libvpx", "vp9": "libvpx-vp9"}
_SHOWN = re.compile(
    r"n: *\d+ pts: *(\S+) .* duration: *(\d+) .* fmt:(\S+) .*sar:(\d+)/(\d+) s:(\d+)x(\d+)", re.ASCII
)
_STREAM = re.compile(r"^  Stream #0:\d+\S*: (\w+): (\w+)(.*)$", re.M)
_CHAPTER = re.compile(r"Chapter #0:\d+: start (\S+), end (\S+)\n(?:.*Metadata:\n +title +: (.*)\n)?")
_FORMAT = re.compile(r"<[^>]*>|\{[^}]*\}")
_UNTOLD = {"unknown", "unspecified", "reserved"}


class Sound(NamedTuple):
    """A stream of sound: its codec, packets and decoded blocks."""

    codec: str
    packets: list[Unit]
    blocks: list[Unit]

    @property
    def length(self) -> Fraction:
        """Seconds from the first block to the last one's end."""
        return self.blocks[-1].at + self.blocks[-1].length - self.blocks[0].at if self.blocks else Fraction(0)


class Cue(NamedTuple):
    """A caption, counted from the first frame, or a chapter: seconds and text."""

    begin: float
    end: float
    text: str


@dataclass
class Seen:
    """A file's video, and what stands beside it; times in seconds on the file's own clock."""

    codec: str
    pixel_format: str
    times: list[Fraction]
    length: Fraction | None
    size: tuple[int, int]
    pixels: NDArray[np.uint8]  # RGBA [frames, rows, columns], of large pictures every second, third… of them
    aspect: Fraction
    rotation: str
    range: str
    colour: str
    hdr: list[float]
    spherical: list[str]
    chapters: list[Cue]
    sounds: list[Sound]
    captions: list[tuple[str, list[Cue]]]
    extras: list[str]
    says_alpha: bool

    @property
    def start(self) -> Fraction:
        """When the first picture or sound is due."""
        return min([self.times[0], *(each.packets[0].at for each in self.sounds if each.packets)])

    @property
    def late(self) -> Fraction | None:
        """How much later than the sound the picture begins."""
        blocks = [each.blocks[0].at for each in self.sounds if each.blocks]
        return self.times[0] - min(blocks) if blocks else None

    @property
    def has_alpha(self) -> bool:
        return bool(self.pixels[..., 3].min() < 250)


def look(path: Path) -> Seen:
    """Read a file.

    Raises:
        AssertionError: there is no video in it that can be decoded.
    """
    about = _say("-i", path)[0].split("Stream mapping")[0]
    streams = [found.groups() for found in _STREAM.finditer(about)]
    codec = next((name for kind, name, rest in streams if kind == "Video" and "attached pic" not in rest), None)
    assert codec, f"no video: {about}"
    decoder = ("-c:v", _WITH_ALPHA[codec]) if codec in _WITH_ALPHA else ()
    plain = ("-map", "0:v:0", "-fps_mode", "passthrough", "-enc_time_base", "demux", "-pix_fmt", "rgba")
    decode = ("-vf", "showinfo=checksum=0", *plain, "-f", "rawvideo", "-")
    told, raw = _say("-noautorotate", "-copyts", *decoder, "-i", path, *decode)
    if "File exists" in told:  # the program stumbles over stereo data that container and stream both have
        bare = make(path.with_suffix(".bare.nut"), "-copyts", "-i", path, "-map", "0:v:0", "-c", "copy")
        told, raw = _say("-noautorotate", "-copyts", *decoder, "-i", bare, *decode)
    base, frames = re.search(r"config in time_base: (\S+),", told), _SHOWN.findall(told)
    assert base and frames, f"no frame: {told[-500:]}"
    times = [int(at) * Fraction(base[1]) for at, *_ in frames]
    pixel_format, wide, high, width, height = frames[0][2:]
    colours = re.search(r"color_range:(\S+) color_space:(\S+) color_primaries:(\S+) color_trc:(\S+)", told)
    assert colours
    step = max(1, int(height) // 96)
    sounds = [name for kind, name, _ in streams if kind == "Audio"]
    words = [name for kind, name, _ in streams if kind == "Subtitle"]
    return Seen(
        codec,
        pixel_format,
        times,
        _length(packets(path), times),
        (int(width), int(height)),
        np.frombuffer(raw, np.uint8).reshape(-1, int(height), int(width), 4)[:, ::step, ::step],
        Fraction(int(wide) or 1, int(high) if int(wide) else 1),
        " ".join(re.findall(r"Display Matrix: (.*)", about)),
        _range(colours[1], pixel_format),
        " ".join("unknown" if name in _UNTOLD else name for name in colours.groups()[1:]),
        _hdr(told.split("color_range:")[0]),
        sorted(re.findall(r"(Spherical Mapping: \w+|Stereo 3D: (?!unspec)[\w ]+)", about)),
        [Cue(float(begin), float(end), title) for begin, end, title in _CHAPTER.findall(about)],
        [Sound(name, packets(path, f"a:{i}"), sound(path, f"a:{i}")) for i, name in enumerate(sounds)],
        [(name, _cues(path, index, float(times[0]))) for index, name in enumerate(words)],
        sorted(f"{kind.lower()} {name}" for kind, name, rest in streams if kind == "Attachment" or "attached" in rest),
        bool(re.search(r"alpha_mode +: 1", about, re.I)),
    )


def _say(*arguments: object) -> tuple[str, bytes]:
    """What the program says, and its standard output."""
    command = [program(), "-hide_banner", "-nostdin", *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, check=False, timeout=LONGEST)
    return done.stderr.decode(errors="replace"), done.stdout


def _range(told: str, pixel_format: str) -> str:
    plain = "pc" if re.match(r"yuvj|rgb|bgr|gbr|argb|abgr|gray|pal8", pixel_format) else "tv"
    return plain if told in _UNTOLD or pixel_format.startswith("yuvj") else told


def _length(stored: Sequence[Unit], times: Sequence[Fraction]) -> Fraction | None:
    """From the first frame to the end of the last packet; None where packets lack timestamps."""
    if any(abs(unit.at) > _FAR for unit in stored):
        return None
    return max(unit.at + unit.length for unit in stored) - min(times)


def _hdr(told: str) -> list[float]:
    """Numbers of the first frame's HDR10 metadata, or the stream's."""
    lines = re.findall(r"(Mastering display|Content light level) metadata: (.*)", told)
    return [float(number) for _, line in sorted(dict(lines).items()) for number in re.findall(r"[\d.]*\d", line)]


def _cues(path: Path, index: int, since: float) -> list[Cue]:
    """A stream of text as SubRip, without its formatting."""
    text = _say("-copyts", "-i", path, "-map", f"0:s:{index}", "-f", "srt", "-")[1].decode(errors="replace")
    cues = re.findall(r"(\S+) --> (\S+)\n(.*)", text)
    return [Cue(_seconds(a) - since, _seconds(b) - since, _FORMAT.sub("", line)) for a, b, line in cues]


def _seconds(clock: str) -> float:
    hours, minutes, seconds = clock.replace(",", ".").split(":")
    return 3600 * int(hours) + 60 * int(minutes) + float(seconds)
