"""Frames at even steps, for the encoders and containers that know no others: repeated, or dropped, as need be."""

from __future__ import annotations

import math
from collections.abc import Iterator
from fractions import Fraction
from typing import TYPE_CHECKING, Any

import av

if TYPE_CHECKING:
    from av.packet import Packet
    from av.video.stream import VideoStream

_NTSC = Fraction(30000, 1001)
# Rates in a table of the coded stream: ISO/IEC 13818-2 table 6-4; IEC 61834 and SMPTE 314M for DV.
_MPEG_RATES = (_NTSC * 4 / 5, 24, 25, _NTSC, 30, 50, _NTSC * 2, 60)
_RATES: dict[str, tuple[Fraction | int, ...]] = {
    "mpeg1video": _MPEG_RATES,
    "mpeg2video": _MPEG_RATES,
    "dvvideo": (25, _NTSC, 50, _NTSC * 2),
}
# These hold steps of any length, though of one length alone. AVI leaves steps empty, and shows the last frame on.
_EVEN_ENCODERS = ("dnxhd",)
_EVEN_MUXERS = ("avi", "yuv4mpegpipe")
_ROUNDED = Fraction(1, 1000)
_FASTEST = 250  # a guessed rate above that is a clock's


def rate_of(encoder: str, muxer: str, source: VideoStream) -> Fraction | None:
    """Frames a second of an encoder and container of constant rate; None where frames may come at any time."""
    if encoder not in (*_RATES, *_EVEN_ENCODERS) and muxer not in _EVEN_MUXERS:
        return None
    rate = source.guessed_rate or source.average_rate or Fraction(25)
    if rate > _FASTEST and source.average_rate:
        rate = source.average_rate
    known = [Fraction(each) for each in _RATES.get(encoder, (rate,))]
    own = av.Codec(encoder, "w").frame_rates or ()
    if source.codec_context.codec.canonical_name == encoder:  # it may have an extension's rate already
        known += [Fraction(each.num, each.den) for each in own]
    enough = sorted(each for each in known if each >= rate * Fraction(999, 1000))
    # Each frame as often as each other, if there is such a rate.
    even = [each for each in enough if abs(each / rate - round(each / rate)) < Fraction(1, 1000)]
    return min(even or enough or [max(known)])


class Grid:
    """Frames laid on even steps, the first one at its own time.

    Attributes:
        repeated, dropped: frames so far.
        moved: a frame is shown at another time than it was, by more than what containers round by.
        step: seconds between two frames.
        origin: seconds at which step 0 is shown.
        before: seconds by which the frames are shown earlier than they were, all alike.
    """

    def __init__(self, rate: Fraction, muxer: str, first: av.VideoFrame) -> None:
        """Make a grid for a video that begins with `first`."""
        assert first.pts is not None and first.time_base is not None
        self.repeated = self.dropped = 0
        self.moved = False
        self.step = 1 / rate
        # Steps from the first frame on, wherever it lies: from 0 on, two could fall into one. AVI and y4m count from 0.
        self._first, self.origin = first.pts * first.time_base, first.pts * first.time_base
        self._steps_before = 0
        if muxer in _EVEN_MUXERS:
            # Not the nearer one: AVI would show the first frame for two.
            self.origin, self._steps_before = Fraction(0), math.floor((self._first + _ROUNDED) / self.step)
        self.before = self._first - self._steps_before * self.step if muxer in _EVEN_MUXERS else Fraction(0)
        self._input_base = first.time_base
        self._fills = muxer != "avi"
        self._held: tuple[av.VideoFrame, int] | None = None

    def put(self, frame: av.VideoFrame) -> Iterator[av.VideoFrame]:
        """Take a frame; yields the one before, once for each step that it is shown, timed in steps."""
        assert frame.pts is not None and frame.time_base is not None
        exact = self._place(frame.pts * frame.time_base)
        slot = round(exact)
        self.moved |= abs(exact - slot) * self.step > max(frame.time_base, _ROUNDED)
        if self._held is not None:
            yield from self._steps(slot)
            self.dropped += slot <= self._held[1]
            slot = max(slot, self._held[1])
        self._held = frame, slot

    @property
    def time_base(self) -> Fraction:
        """What all steps are whole in, and the input's ticks."""
        return Fraction(1, math.lcm(*(f.denominator for f in (self.step, self.origin, self._input_base))))

    def timed(self, packets: list[Packet[Any]]) -> list[Packet[Any]]:
        """Packets timed in steps, on the video's clock."""
        for packet in packets:
            for name in ("pts", "dts"):
                steps = getattr(packet, name)
                if steps is not None:
                    setattr(packet, name, int((steps * self.step + self.origin) / self.time_base))
            packet.duration = int((packet.duration or 0) * self.step / self.time_base)
            packet.time_base = self.time_base
        return packets

    def finish(self) -> Iterator[av.VideoFrame]:
        """The last frame, once for each step until its end."""
        if self._held is None:
            return
        frame, slot = self._held
        assert frame.pts is not None and frame.time_base is not None
        end = self._place((frame.pts + (frame.duration or 0)) * frame.time_base)
        yield from self._steps(max(slot + 1, round(end)))
        self._held = None

    def _place(self, time: Fraction) -> Fraction:
        """The step of a time in seconds, with what is between two."""
        return (time - self._first) / self.step + self._steps_before

    def _steps(self, until: int) -> Iterator[av.VideoFrame]:
        assert self._held is not None
        frame, begin = self._held
        count = until - begin if self._fills else min(1, until - begin)
        for slot in range(begin, begin + count):
            self.repeated += slot > begin
            pts, base, duration = frame.pts, frame.time_base, frame.duration
            frame.pts, frame.time_base, frame.duration = slot, self.step, 1
            yield frame
            frame.pts, frame.time_base, frame.duration = pts, base, duration
