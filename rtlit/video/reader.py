"""Demultiplex and decode: one stream of frames to enhance, in order, among the packets that are only copied."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterator
from fractions import Fraction
from math import ceil
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO, TypeAlias

import av
from av.format import Flags

from rtlit.errors import InputError
from rtlit.video import clock, probe
from rtlit.video.promise import Promise
from rtlit.video.settings import VideoSettings

if TYPE_CHECKING:
    from av.codec.hwaccel import HWAccel
    from av.packet import Packet
    from av.stream import Stream

Item: TypeAlias = "av.VideoFrame | Packet[Stream]"
# Sound and subtitles of the last kept frames can lie this far behind them in the file.
_TAIL_SECONDS = 10
# Demuxers that find a key frame by an index. Others go by byte position and guess; those are read from the beginning.
_INDEXED = {probe.MP4, "matroska,webm", "avi", "flv", "nut", "asf"}
_SEEK_EARLIER = 1  # seconds; sound can stand before the picture that it belongs to
# MP4's demuxer says "end" at each sample that lies behind the end, though others may lie before it.
_EMPTY_READS = 100
_LONGEST_GROUP = 1000  # packets without a key frame that wait for the part to keep; more than that are decoded


class Reader:
    """An input, read once.

    `prime` decodes as far as the first frame; `items` then yields everything from the beginning:
    frames with the timestamps they will have in the output, and packets of all other streams.

    Attributes:
        container, stream: PyAV's input and the stream to enhance.
        base: seconds that the input's timestamps begin too late (or, negative, too early) for the target; `prime`
            decides. All other times are on the clock that is left when they are taken away.
        origin: seconds on that clock at which the video starts.
        delay: seconds by which frames are shown later than their container has them.
        shift: seconds to take from it for the output's; 0 unless `start` cuts.
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
        self.source, self._video, self._warn = source, video, warn
        self.container = probe.open_input(source, hwaccel)
        try:
            self.stream = probe.choose_video(self.container, self.name)
        except BaseException:
            self.container.close()
            raise
        self._decoder = probe.decoder_of(self.stream)
        context = self.stream.codec_context
        self.delay = probe.delay_of(self.container, self.stream)
        self._aspects = {(context.width, context.height): self.stream.sample_aspect_ratio}
        assert self.stream.time_base is not None
        self.time_base: Fraction = self.stream.time_base
        # An elementary stream has no times: of those that libavformat makes up, only the steps of decoding are even.
        self._raw = bool(Flags(self.container.format.flags) & Flags.no_timestamps)
        self._step = max(1, round(1 / (self.rate * self.time_base))) if self.rate else 1
        # A frame this much before the asked time is meant: people write milliseconds.
        self._near = min(self.time_base / 2, Fraction(1, 2000))
        self._set_base(Fraction(0))
        self.skipped = self.damaged = self.retimed = 0
        self._sent = self._got = 0  # packets given to the decoder, frames it gave back
        self._broken: list[str] = []  # why reading ended early
        self._cut = False  # the last packet isn't whole
        self.seconds = 0.0
        self.frame_bytes = 0
        self.abandoned = False
        self._times = clock.BestEffort()
        self._last: int | None = None
        self._first_dts: int | None = None
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

    def prime(self, keep_clock: bool = False) -> av.VideoFrame:
        """Read as far as the first frame to keep, and give it.

        Args:
            keep_clock: the target's timestamps may begin where the input's do, however late.

        Raises:
            InputError: nothing decodes, or `start` lies behind the end.
        """
        self._set_base(self._base_for(keep_clock))
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
        if jumps := [at for at in self._clock.jumps if self.start < at and (self.end is None or at < self.end)]:
            times = "once, at" if len(jumps) == 1 else f"{len(jumps)} times, first at"
            self._warn(f"timestamps jump {times} {float(jumps[0] - self.shift):.3f} s; each gap is closed to one frame")

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
        return round(seconds * float(self.rate)) if seconds and self.rate else None

    def seconds_total(self) -> float | None:
        """Seconds of video to expect."""
        whole = probe.seconds_total(self.container, self.stream)
        rest = max(0.0, whole - self._video.start) if whole is not None else None
        return rest if self._video.duration is None else min(rest or self._video.duration, self._video.duration)

    def _base_for(self, keep_clock: bool) -> Fraction:
        """What to take from all timestamps, so that the target begins at 0 where the input's beginning says nothing.

        A late start of a few seconds in MP4 or Matroska was meant; that of a transport stream is any number.
        """
        begin = clock.begin_of(self.container)
        if keep_clock:
            # libavformat makes what comes before a wrap of 33 bits negative; players see it there, at 26.5 hours.
            return -clock.WRAP if begin < 0 and clock.breaks(self.container) else Fraction(0)
        if clock.breaks(self.container):
            return begin
        if 0 <= begin <= clock.FARTHEST:
            return Fraction(0)
        self._warn(f"timestamps begin at {float(begin):.3f} s; in the result they begin at 0")
        return begin

    def _set_base(self, base: Fraction) -> None:
        video = self._video
        self.base = base
        self.origin = probe.origin_of(self.container, self.stream) - base
        # At a tick of the video's, so that sound and picture are moved alike.
        ticks = ceil((Fraction(video.start).limit_denominator(1_000_000) - self._near) / self.time_base)
        self.start = self.origin + ticks * self.time_base
        self.end = self.start + Fraction(video.duration).limit_denominator(1_000_000) if video.duration else None
        self.shift = self.start if video.start else Fraction(0)
        self._ends = {stream.index: probe.end_of(stream, base) for stream in self.container.streams}
        self._clock = clock.Clock(self.container, self.stream, base)
        step = self._step * self.time_base
        self._promise = Promise(self.container, self.stream, self.source, base, step, self.end)

    @property
    def rate(self) -> Fraction | None:
        """Frames a second on average; of an elementary stream, what the codec says, as the demuxer just says 25."""
        rates = (self.stream.average_rate, self.stream.guessed_rate)
        return next((rate for rate in (reversed(rates) if self._raw else rates) if rate), None)

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
        for packet in self._wanted_packets():
            if packet.stream is not self.stream:
                packet.duration = self._within(packet.stream, packet.pts, packet.duration)
                if packet.size and self._keep(packet):
                    yield packet
            elif not done:
                for frame in self._frames(packet):
                    done = self.end is not None and self._at(frame) >= self.end - self._near
                    if held is not None:
                        yield self._finished(held, frame.pts)
                    held = None if done else frame
                    if done:
                        break
            if done and self.end is not None and self._past(packet, self.end):
                return
        if held is not None:
            last = self._finished(held, None, whole=not self._promise.lacks)
            shown = self._at(last) + last.duration * self.time_base + self.shift
            if missing := [*self._broken, *self._promise.missing(self.start, shown, self._cut)]:
                self._warn(f"the input breaks off early: {', '.join(missing)}")
            yield last

    def _seek(self) -> None:
        """Go to a key frame that is certainly before `start`, where the container has an index to find it by."""
        indexed = self.container.format.name in _INDEXED and probe.is_seekable(self.source)
        if self._video.start <= 0 or not indexed:  # a pipe that is sought in is read to its end
            return
        late, begin = self.start + self.base, clock.begin_of(self.container)
        for seconds in (late - _SEEK_EARLIER, begin) if late - _SEEK_EARLIER > begin else ():
            place = int(seconds / self.time_base)
            try:
                self.container.seek(place, stream=self.stream)
                first = next(p for p in self.container.demux(self.stream) if p.is_keyframe or not p.size)
                self.container.seek(place, stream=self.stream)
            except av.error.FFmpegError:  # read and drop up to there
                return
            stamp = first.dts if first.pts is None else first.pts
            if stamp is not None and stamp * self.time_base <= late:
                return

    def _wanted_packets(self) -> Iterator[Packet[Stream]]:
        """All packets, but of the video only those that frames from `start` on can need.

        That is two groups of pictures: frames behind a key frame may need the group before it (open groups, gradual
        refresh).
        """
        packets = self._packets()
        groups: deque[list[Packet[Stream]]] = deque(maxlen=2)
        for packet in packets if self._video.start > 0 else ():
            if packet.stream is not self.stream:
                yield packet
                continue
            if packet.is_keyframe or not groups:
                groups.append([])
            groups[-1].append(packet)
            stamps = [stamp for stamp in (packet.pts, packet.dts) if stamp is not None]
            if not stamps or max(stamps) * self.time_base >= self.start or len(groups[-1]) > _LONGEST_GROUP:
                break
        for group in groups:
            yield from group
        yield from packets

    def _packets(self) -> Iterator[Packet[Stream]]:
        """What is read, on the clock; at the end an empty packet, which empties the decoder."""
        read, tries = False, 1
        try:
            while tries:
                tries -= 1
                for packet in self.container.demux():
                    if packet.size and packet.is_corrupt and not clock.breaks(self.container):
                        self._cut = True  # the file ends in it
                    elif packet.size:
                        read, tries = True, _EMPTY_READS
                        yield from self._promise.count(self._clock.put(packet))
                if self.container.format.name != probe.MP4 or not self._promise.lacks:
                    break
        except av.error.FFmpegError as error:
            if not read:
                raise InputError(f"{self.name}: can't be read: {probe.reason(error)}") from None
            self._broken.append(probe.reason(error))
        except IndexError:  # PyAV's, at the end: it doesn't know those streams
            self._warn("streams that begin later in the input are left out; make one file of each part to keep them")
        yield from self._promise.count(self._clock.rest())
        end: Packet[Stream] = av.Packet()
        end.stream, end.time_base = self.stream, self.time_base
        yield end

    def _frames(self, packet: Packet[Stream]) -> Iterator[av.VideoFrame]:
        if packet.has_sidedata("encryption_info"):  # now and then a decoder makes a frame of the noise
            raise InputError(f"{self.name}: is encrypted; rtlit can't read protected video")
        self._sent += bool(packet.size)
        try:
            frames = self._decoder.decode(packet)
        except av.error.MemoryError:
            raise
        except (av.error.FFmpegError, EOFError):
            # At the end the decoder's threads take what they still have with them.
            self.skipped += 1 if packet.size else max(1, self._sent - self._got - self.skipped)
            return
        self._got += len(frames)
        for frame in frames:
            assert isinstance(frame, av.VideoFrame)
            self.damaged += frame.is_corrupt
            self._fix_time(frame)
            # PyAV's frames don't tell; a container's own ratio holds for the size that it tells.
            self._aspects.setdefault((frame.width, frame.height), self._decoder.sample_aspect_ratio)
            if not self._video.start or self._at(frame) >= self.start - self._near:
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
        pts = self._times.choose(None if self._raw else frame.pts, frame.dts)
        if self._raw and pts is not None:
            self._first_dts = pts if self._first_dts is None else self._first_dts
            pts -= self._first_dts
        if pts is not None and frame.time_base not in (None, self.time_base):
            pts = round(pts * frame.time_base / self.time_base)
            frame.duration = round(frame.duration * frame.time_base / self.time_base)
        frame.time_base = self.time_base
        if pts is None:
            first = round(self.origin / self.time_base)
            pts = first if self._last is None else self._last + self._step
            self.retimed += self._times.shown  # elsewhere the rate alone tells, and tells exactly
        elif self._last is not None and pts <= self._last:
            pts = self._last + 1
            self.retimed += 1
        frame.pts = self._last = pts

    def _finished(self, frame: av.VideoFrame, next_pts: int | None, whole: bool = False) -> av.VideoFrame:
        """Set how long a frame is shown, and when; the last of a whole video as long as its container says.

        A decoded frame's own duration is that of a packet, which is the step to the next packet in decoding order.
        """
        assert frame.pts is not None
        end = self._ends.get(self.stream.index) if whole else next_pts
        length = end - frame.pts if end is not None and end > frame.pts else frame.duration or self._step
        if self.end is not None:
            length = min(length, max(self._step, round(self.end / self.time_base) - frame.pts))
        frame.duration = length
        frame.pts -= round(self.shift / self.time_base)
        return frame

    def _keep(self, packet: Packet[Stream]) -> bool:
        """Cut and shift a packet that is only copied; False for one outside the part to keep."""
        from av.stream import Disposition

        stamp = packet.dts if packet.pts is None else packet.pts
        cover = bool(packet.stream.disposition & Disposition.attached_pic)  # which belongs to every part
        if not self.trimmed or stamp is None or cover:
            return not self.trimmed or cover
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
        if self._last is not None and self.end is not None and self._last * self.time_base >= self.end - self._near:
            return f"has no frame that begins in the {self._video.duration:g} s from {self._video.start:g} s on"
        if self._last is not None:
            return f"has no frame at or after {self._video.start:g} s; it is shorter than --start"
        if probe.is_encrypted(self.source):
            return "is encrypted; rtlit can't read protected video"
        if self._sent and self.stream.codec_context.name == "webp":
            return "is a WebP that FFmpeg can't read, an animation or damaged; convert it to GIF or APNG first"
        if self._sent or self._cut:
            count = self._sent + self._cut
            return f"none of its {count} video packets can be decoded; it is damaged or encrypted"
        return "holds no video frames"
