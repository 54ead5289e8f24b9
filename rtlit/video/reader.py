"""Demultiplex and decode: one stream of frames to enhance, in order, among the packets that are only copied."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO, TypeAlias

import av

from rtlit.errors import InputError
from rtlit.video import probe
from rtlit.video.settings import VideoSettings

if TYPE_CHECKING:
    from av.codec.hwaccel import HWAccel
    from av.packet import Packet
    from av.stream import Stream

Item: TypeAlias = "av.VideoFrame | Packet[Stream]"
# Sound and subtitles of the last kept frames can lie this far behind them in the file.
_TAIL_SECONDS = 10


class Reader:
    """An input, read once.

    `prime` decodes as far as the first frame; `items` then yields everything from the beginning:
    frames with the timestamps they will have in the output, and packets of all other streams.

    Attributes:
        container, stream: PyAV's input and the stream to enhance.
        origin: seconds on the input's clock at which its video starts.
        shift: seconds to take from the input's clock for the output's; 0 unless `start` cuts.
        skipped: packets that could not be decoded.
        seconds: time spent reading and decoding.
        frame_bytes: size of a decoded frame.
        abandoned: a thread still reads and can't be stopped.
    """

    def __init__(
        self,
        source: str | Path | BinaryIO,
        video: VideoSettings,
        warn: Callable[[str], None],
        hwaccel: HWAccel | None = None,
    ) -> None:
        """Open it, to be decoded by `hwaccel` as far as that can.

        Raises:
            InputError: it can't be opened or holds no video.
        """
        self.name = probe.name_of(source)
        self._source, self._video, self._warn = source, video, warn
        self.container = probe.open_input(source, hwaccel)
        try:
            self.stream = probe.choose_video(self.container, self.name)
        except BaseException:
            self.container.close()
            raise
        self._decoder = probe.decoder_of(self.stream)
        context = self.stream.codec_context
        self._aspects = {(context.width, context.height): self.stream.sample_aspect_ratio}
        assert self.stream.time_base is not None
        self.time_base: Fraction = self.stream.time_base
        self.origin = probe.origin_of(self.container, self.stream)
        self.start = self.origin + Fraction(video.start).limit_denominator(1_000_000)
        self.end = self.start + Fraction(video.duration).limit_denominator(1_000_000) if video.duration else None
        self.shift = self.start if video.start else Fraction(0)
        self.skipped = self.damaged = self.retimed = 0
        self.seconds = 0.0
        self.frame_bytes = 0
        self.abandoned = False
        self._last: int | None = None
        self._ends = {stream.index: probe.end_of(stream) for stream in self.container.streams}
        self._step = self._frame_step()
        self._first: list[Item] = []
        self._source_items = self._decode()

    @property
    def trimmed(self) -> bool:
        """Part of the input is left out."""
        return self._video.start > 0 or self.end is not None

    def close(self) -> None:
        """Close the input, unless a thread still waits for data in it: FFmpeg would crash."""
        if not self.abandoned:
            self.container.close()

    def prime(self) -> av.VideoFrame:
        """Read as far as the first frame to keep, and give it.

        Raises:
            InputError: nothing decodes, or `start` lies behind the end.
        """
        for item in self._timed():
            self._first.append(item)
            if isinstance(item, av.VideoFrame):
                self.frame_bytes = sum(plane.buffer_size for plane in item.planes)
                return item
        raise InputError(f"{self.name}: {self._why_nothing()}")

    def items(self) -> Iterator[Item]:
        """Everything, from the beginning."""
        yield from self._first
        self._first.clear()
        yield from self._timed()
        if self.skipped:
            self._warn(f"damaged packets of the video that were skipped: {self.skipped}")
        if self.damaged:
            self._warn(f"frames damaged in the input, which the decoder patched up: {self.damaged}")
        if self.retimed:
            self._warn(f"frames without a timestamp, or with one out of order, put behind the last: {self.retimed}")

    def aspect_of(self, width: int, height: int) -> Fraction:
        """The aspect ratio of the pixels of frames of a size that was decoded."""
        return self._aspects.get((width, height)) or Fraction(1)

    def pictures(self) -> dict[int, bytes]:
        """Cover pictures by stream index; containers deliver them ahead of the first frame."""
        from av.stream import Disposition

        covers = [s.index for s in self.container.streams.video if s.disposition & Disposition.attached_pic]
        packets = [p for p in self._first if not isinstance(p, av.VideoFrame) and p.stream_index in covers]
        return {packet.stream_index: bytes(packet) for packet in packets}

    def frames_total(self) -> int | None:
        """Frames to expect, from the container's count or its duration and average rate."""
        seconds = self.seconds_total()
        if not self.trimmed and self.stream.frames:
            return self.stream.frames
        return round(seconds * float(self.stream.average_rate)) if seconds and self.stream.average_rate else None

    def seconds_total(self) -> float | None:
        """Seconds of video to expect."""
        whole = probe.seconds_total(self.container, self.stream)
        rest = max(0.0, whole - self._video.start) if whole is not None else None
        return rest if self._video.duration is None else min(rest or self._video.duration, self._video.duration)

    def _frame_step(self) -> int:
        rate = self.stream.average_rate or self.stream.guessed_rate
        return max(1, round(1 / (rate * self.time_base))) if rate else 1

    def _timed(self) -> Iterator[Item]:
        while True:
            begin = time.perf_counter()
            item = next(self._source_items, None)
            self.seconds += time.perf_counter() - begin
            if item is None:
                return
            yield item

    def _decode(self) -> Iterator[Item]:
        self._seek()
        done, held = False, None  # a frame is held back until the next one tells how long it is shown
        for packet in self._packets():
            if packet.stream is not self.stream:
                packet.duration = self._within(packet.stream, packet.pts, packet.duration)
                if packet.size and self._keep(packet):
                    yield packet
            elif not done:
                for frame in self._frames(packet):
                    done = self.end is not None and self._at(frame) >= self.end - self.time_base / 2
                    if held is not None:
                        yield self._finished(held, frame.pts)
                    held = None if done else frame
                    if done:
                        break
            if done and self.end is not None and self._past(packet, self.end):
                return
        if held is not None:
            yield self._finished(held, None)

    def _seek(self) -> None:
        if self._video.start <= 0:
            return
        with suppress(av.error.FFmpegError):  # a pipe: read and drop up to there
            self.container.seek(int(self.start / self.time_base), stream=self.stream)

    def _packets(self) -> Iterator[Packet[Stream]]:
        read = False
        try:
            for packet in self.container.demux():
                yield packet
                read = True
        except av.error.FFmpegError as error:
            if not read:
                raise InputError(f"{self.name}: can't be read: {probe.reason(error)}") from None
            self._warn(f"the input breaks off early: {probe.reason(error)}")
            yield from self._drain()

    def _drain(self) -> Iterator[Packet[Stream]]:
        packet: Packet[Stream] = av.Packet()
        packet.stream = self.stream
        packet.time_base = self.time_base
        yield packet

    def _frames(self, packet: Packet[Stream]) -> Iterator[av.VideoFrame]:
        if packet.has_sidedata("encryption_info"):  # now and then a decoder makes a frame of the noise
            raise InputError(f"{self.name}: is encrypted; rtlit can't read protected video")
        try:
            frames = self._decoder.decode(packet)
        except av.error.MemoryError:
            raise
        except (av.error.FFmpegError, EOFError):
            self.skipped += 1
            return
        for frame in frames:
            assert isinstance(frame, av.VideoFrame)
            self.damaged += frame.is_corrupt
            self._fix_time(frame)
            # PyAV's frames don't tell; a container's own ratio holds for the size that it tells.
            self._aspects.setdefault((frame.width, frame.height), self._decoder.sample_aspect_ratio)
            if not self._video.start or self._at(frame) >= self.start - self.time_base / 2:
                yield frame

    def _within(self, stream: Stream, pts: int | None, duration: int | None) -> int:
        """A duration that ends no later than its stream."""
        end = self._ends.get(stream.index)
        length = duration or 0
        return end - pts if end is not None and pts is not None and 0 < end - pts < length else length

    def _at(self, frame: av.VideoFrame) -> Fraction:
        assert frame.pts is not None  # `_fix_time` has seen to it
        return frame.pts * self.time_base

    def _fix_time(self, frame: av.VideoFrame) -> None:
        """Give a frame a timestamp in the stream's time base, behind the last one's."""
        if frame.pts is not None and frame.time_base not in (None, self.time_base):
            frame.pts = round(frame.pts * frame.time_base / self.time_base)
            frame.duration = round(frame.duration * frame.time_base / self.time_base)
        frame.time_base = self.time_base
        if frame.pts is None:
            first = round(self.origin / self.time_base)
            frame.pts = first if self._last is None else self._last + self._step
            self.retimed += 1
        elif self._last is not None and frame.pts <= self._last:
            frame.pts = self._last + 1
            self.retimed += 1
        self._last = frame.pts

    def _finished(self, frame: av.VideoFrame, next_pts: int | None) -> av.VideoFrame:
        """Set how long a frame is shown, and when.

        A decoded frame's own duration is that of a packet, which is the step to the next packet in decoding order.
        """
        assert frame.pts is not None
        end = self._ends.get(self.stream.index) if next_pts is None else next_pts
        length = end - frame.pts if end is not None and end > frame.pts else frame.duration or self._step
        if self.end is not None:
            length = min(length, max(1, round(self.end / self.time_base) - frame.pts))
        frame.duration = length
        frame.pts -= round(self.shift / self.time_base)
        return frame

    def _keep(self, packet: Packet[Stream]) -> bool:
        """Cut and shift a packet that is only copied; False for one outside the part to keep."""
        from av.stream import Disposition

        stamp = packet.dts if packet.pts is None else packet.pts
        if not self.trimmed or stamp is None or packet.stream.disposition & Disposition.attached_pic:
            return not self.trimmed or stamp is not None
        begin, length = stamp * packet.time_base, (packet.duration or 0) * packet.time_base
        subtitle = packet.stream.type == "subtitle"
        if self._video.start and begin < self.start:
            if not subtitle or begin + length <= self.start:
                return False
            length -= self.start - begin
            begin = self.start
        if self.end is not None:
            if begin >= self.end:
                return False
            length = min(length, self.end - begin) if subtitle else length
        ticks = round((begin - self.shift) / packet.time_base)
        # A subtitle whose beginning was cut off moves alone; all else keeps its decoding delay.
        packet.dts = ticks if packet.dts is None or subtitle else packet.dts + ticks - stamp
        packet.pts, packet.duration = ticks, round(length / packet.time_base)
        return True

    def _past(self, packet: Packet[Stream], end: Fraction) -> bool:
        """Whether nothing more is to come from before `end`."""
        others = any(s.type in ("audio", "subtitle") for s in self.container.streams)
        limit = end + (_TAIL_SECONDS if others else 0)
        return packet.dts is not None and packet.dts * packet.time_base >= limit

    def _why_nothing(self) -> str:
        if self._last is not None:
            return f"has no frame at or after {self._video.start:g} s; it is shorter than --start"
        if probe.is_encrypted(self._source):
            return "is encrypted; rtlit can't read protected video"
        if self.skipped:
            return f"none of its {self.skipped} video packets can be decoded; it is damaged or encrypted"
        return "holds no video frames"
