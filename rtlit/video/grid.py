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
# Several frames share a packet there, which has one time.
_PACKED_MUXERS = ("vob",)
_ROUNDED = Fraction(1, 1000)
_FASTEST = 250  # a guessed rate above that is a clock's


def rate_of(encoder: str, muxer: str, source: VideoStream) -> Fraction | None:
    """Frames a second of an encoder and container of constant rate; None where frames may come at any time."""
    if encoder not in (*_RATES, *_EVEN_ENCODERS) and muxer not in (*_EVEN_MUXERS, *_PACKED_MUXERS):
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
        moved: seconds by which a frame is shown earlier or later than it was, at most; 0 for what containers round by.
        step: seconds between two frames.
        origin: seconds at which step 0 is shown.
        late: seconds from 0 to the first frame that its container shows from 0 on.
        before: seconds by which the frames are shown earlier than they were, all alike.
    """

    def __init__(self, rate: Fraction, muxer: str, first: av.VideoFrame, delay: Fraction) -> None:
        """Make a grid for a video that begins with `first`.

        Args:
            delay: seconds by which the input's frames are shown later than their container has them.
        """
        assert first.pts is not None and first.time_base is not None
        self.repeated = self.dropped = 0
        self.moved = Fraction(0)
        self.step = 1 / rate
        self._first = self.origin = first.pts * first.time_base
        self._steps_before = 0
        self.before = Fraction(0)
        if muxer in _EVEN_MUXERS:
            # These count from 0. Not the nearer step: AVI would show the first frame for two.
            self._steps_before = max(0, math.floor((self._first - delay + _ROUNDED) / self.step))
            self.origin, self.before = Fraction(0), self._first - delay - self._steps_before * self.step
        self._input_base = first.time_base
        self._fills = muxer != "avi"
        self.late = Fraction(0) if self._fills else self._steps_before * self.step
        self._held: tuple[av.VideoFrame, int] | None = None
        self._away = self._end = Fraction(0)  # in steps: of the held frame from its own, and the last one's end

    def put(self, frame: av.VideoFrame) -> Iterator[av.VideoFrame]:
        """Take a frame; yields the one before, once for each step that it is shown, timed in steps."""
        assert frame.pts is not None and frame.time_base is not None
        exact = self._place(frame.pts * frame.time_base)
        slot = math.floor(exact + Fraction(1, 2))  # not to the even step: at twice the rate those would come in pairs
        self._end = exact + (frame.duration * frame.time_base / self.step if frame.duration else 1)
        if self._held is not None and slot <= self._held[1]:
            self.dropped += 1
            slot = self._held[1]
            if abs(exact - slot) >= self._away:  # the nearest is shown
                return
        elif self._held is not None:
            yield from self._steps(slot)
        self._held, self._away = (frame, slot), abs(exact - slot)
        away = self._away * self.step
        self.moved = max(self.moved, away if away > max(frame.time_base, _ROUNDED) else self.moved)

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
        _, slot = self._held
        if self.dropped and slot >= self._end:
            self.dropped += 1  # of more frames than there are steps, the last one has none
        else:
            yield from self._steps(max(slot + 1, round(self._end)))
        self._held = None

    def _place(self, time: Fraction) -> Fraction:
        """The step of a time in seconds, with what is between two."""
        return (time - self._first) / self.step + self._steps_before

    def changes(self) -> str:
        """What became of the frames, in words; empty where each has its own step at its own time."""
        if self.repeated or self.dropped:
            return f"{self.repeated} frames are repeated, {self.dropped} are dropped"
        return f"frames are moved by up to {float(self.moved * 1000):.3g} ms" if self.moved else ""

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
