"""How long an input's header says that it is, and how much of that came."""

from __future__ import annotations

import os
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

import av

from rtlit.video import probe

if TYPE_CHECKING:
    from av.container import InputContainer
    from av.packet import Packet
    from av.stream import Stream
    from av.video.stream import VideoStream

# Demuxers that find the length written in the file. Others work it out from what is there.
_PROMISING = {probe.MP4, "matroska,webm", "avi", "flv", "asf", "mxf", "ivf"}
_HEAD, _TAIL = 8192, 1 << 17  # bytes; a page of Ogg has up to 64 KiB
_NUT_INDEX = b"NX\xdd\x67\x2f\x23\xe6\x4e"  # start code
_SHORT_SOUND = Fraction(1, 5)  # seconds; a packet or two may be left out at the end


class Promise:
    """When an input should end, and how far its packets came."""

    def __init__(
        self,
        container: InputContainer,
        video: VideoStream,
        source: str | Path | BinaryIO,
        base: Fraction,
        step: Fraction,
        end: Fraction | None,
    ) -> None:
        """Read the header's promise.

        Args:
            base: seconds that are taken from the container's time.
            step: seconds between two frames.
            end: seconds at which the part to keep ends; None keeps all.
        """
        self._container, self._video, self._source = container, video, source
        self._base, self._step, self._end = base, step, end
        self._reached = Fraction(0)  # how far packets came,
        self._heard: dict[int, Fraction] = {}  # and those of each stream of sound
        name = container.format.name
        # Of a file that was cut off, libavformat scales AVI's duration down, and passes over ASF's.
        ticks = video.frames if name == "avi" else video.duration
        length = (ticks or 0) * (step if name == "avi" else video.time_base or 0)
        self._alone = bool(length)  # it is the video's own; else the longest stream's
        if length:
            whole = probe.origin_of(container, video) - probe.delay_of(container, video) + length
        else:
            micros = container.duration or (probe.asf_duration(source) if name == "asf" else 0)
            whole = Fraction(micros, av.time_base)
        self._goal = whole - base if whole and name in _PROMISING else None
        if self._goal is not None and end is not None:
            self._goal = min(self._goal, end)

    def count(self, packets: list[Packet[Stream]]) -> list[Packet[Stream]]:
        """Note how far packets, which are given back, have come."""
        for packet in packets:
            stamps = [stamp for stamp in (packet.pts, packet.dts) if stamp is not None]
            if not stamps or packet.is_corrupt:
                continue
            end = (max(stamps) + (packet.duration or 0)) * packet.time_base
            if packet.stream is self._video or not self._alone:
                self._reached = max(self._reached, end)
            if packet.stream.type == "audio":
                self._heard[packet.stream_index] = end
        return packets

    @property
    def lacks(self) -> bool:
        """Whether more than a frame of what was promised, and is wanted, didn't come."""
        return self._goal is not None and self._goal - self._reached > 1.5 * self._step

    def missing(self, begin: Fraction, end: Fraction, cut: bool) -> list[str]:
        """What is missing, in words.

        Args:
            begin, end: seconds from which and until which the video was shown.
            cut: the last packet isn't whole.
        """
        parts = []
        if self.lacks and self._goal is not None:
            parts.append(f"the last {float(self._goal - end):.2f} s of {float(self._goal - begin):.2f} s are missing")
        for index, heard in self._heard.items() if self._container.format.name == probe.MP4 else ():
            # Of fragments without interleaving it is the sound that lies at the end.
            stream = self._container.streams[index]
            ticks = probe.end_of(stream, self._base) or 0
            short = min(ticks * (stream.time_base or 0), self._end or end) - heard
            if short > _SHORT_SOUND:
                parts.append(f"audio stream {index} lacks its last {float(short):.2f} s")
        if not parts and (self._end is None or end < self._end) and (cut or _is_cut(self._source, self._video)):
            parts.append("its end is cut off; how much is missing, nothing in it tells")
        return parts


def _is_cut(source: str | Path | BinaryIO, video: VideoStream) -> bool:
    """Whether a file of a container that doesn't tell its length lacks the end that such files have."""
    if not isinstance(source, (str, Path)) or not os.path.isfile(source):
        return False
    size, name = os.path.getsize(source), video.container.format.name
    with open(source, "rb") as file:
        head = file.read(_HEAD)
        file.seek(max(0, size - _TAIL))
        tail = file.read()
        if name == "nut":  # its last bytes say how far before the end the index begins
            file.seek(max(0, size - int.from_bytes(tail[-12:-4], "big")))
            return file.read(len(_NUT_INDEX)) != _NUT_INDEX
    if name == "gif":
        return not tail.rstrip(b"\0").endswith(b";")  # the trailer, GIF89a 27
    if name == "ogg":  # the last page of a stream has this flag, RFC 3533 section 6
        page = tail.rfind(b"OggS")
        return page >= 0 and not tail[page + 5] & 4
    if name == "mpegts":  # packets of 188 bytes, with a time of 4 bytes before or parity of 16 behind
        steps = [step for step, at in ((188, 0), (192, 4), (204, 0)) if set(head[at : 5 * step : step]) == {0x47}]
        return bool(steps) and size % steps[0] != 0
    if name == "mpeg":  # packets of one size, and perhaps an end code; ISO/IEC 13818-1, 2.5.3
        steps = [step for step in (2048, 2324) if all(head[step * i :][:3] == b"\0\0\1" for i in range(3))]
        return bool(steps) and size % steps[0] != 0 and not tail.endswith(b"\0\0\1\xb9")
    if name == "yuv4mpegpipe" and video.codec_context.format is not None:
        begin = head.find(b"\n") + 1
        line = head.find(b"\n", begin) + 1 - begin  # FRAME and its parameters
        planes = video.codec_context.format.components
        return (size - begin) % (line + sum(p.width * p.height * -(-p.bits // 8) for p in planes)) != 0
    return False
