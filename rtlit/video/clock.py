"""One clock for a whole file: where a container's timestamps begin, wrap and jump is taken out of them."""

from __future__ import annotations

from fractions import Fraction
from typing import TYPE_CHECKING

from av.format import Flags

if TYPE_CHECKING:
    from av.container import InputContainer
    from av.packet import Packet
    from av.stream import Stream

# MPEG systems count 33 bits of 90 kHz: 26.5 hours (ISO/IEC 13818-1, 2.4.3.7).
WRAP = Fraction(1 << 33, 90_000)
FARTHEST = 10  # seconds ahead of everything else that are still a gap
_JITTER = Fraction(1, 10)  # seconds by which sound may go back without a jump
_LINGER = 2  # seconds behind a jump in which packets from before it still come
_HELD_PACKETS = 100  # to wait for the video's first packet behind a jump that the sound shows first


def breaks(container: InputContainer) -> bool:
    """Whether a container's timestamps may wrap, jump and begin anywhere: MPEG transport and program streams, Ogg."""
    return bool(Flags(container.format.flags) & Flags.ts_discont)


def begin_of(container: InputContainer) -> Fraction:
    """Seconds at which the first of the sound and video streams begins."""
    starts = [
        stream.start_time * stream.time_base
        for stream in container.streams
        if stream.type in ("video", "audio") and stream.start_time is not None and stream.time_base
    ]
    return min(starts, default=Fraction(0))


class Clock:
    """Puts packets, in the order they are read, onto one clock.

    Wraps of 33 bits are unwrapped. Where the timestamps jump back, or ahead by more than `FARTHEST`, as where two
    recordings were joined, the video goes on one frame later and all else as far from it as it was.

    Attributes:
        jumps: seconds on the clock at which the timestamps jumped.
    """

    def __init__(self, container: InputContainer, video: Stream, base: Fraction) -> None:
        """Take `base` seconds from every timestamp."""
        self.jumps: list[Fraction] = []
        self._video, self._breaks = video, breaks(container)
        self._offsets = [-base]  # seconds from the container's time to the clock's; the newest first
        self._lingers = Fraction(0)  # until when the older ones are good
        self._own: dict[int, Fraction] = {}  # each stream's last offset,
        self._last: dict[int, Fraction] = {}  # the time of its last packet, and of the next
        self._due: dict[int, Fraction] = {}
        self._shown = -base  # until when the video's packets so far are shown
        self._held: list[Packet[Stream]] = []

    def put(self, packet: Packet[Stream]) -> list[Packet[Stream]]:
        """The packets whose time is certain with this one, on the clock."""
        if not self._held and (not self._breaks or self._fitting(packet) is not None):
            return [self._placed(packet)]
        self._held.append(packet)
        if packet.stream is self._video and self._fitting(packet) is None:
            self._jump(packet)
        elif len(self._held) < _HELD_PACKETS:
            return []
        return self.rest()

    def rest(self) -> list[Packet[Stream]]:
        """The packets whose time isn't certain yet."""
        held, self._held = self._held, []
        return [self._placed(packet) for packet in held]

    def _placed(self, packet: Packet[Stream]) -> Packet[Stream]:
        """Shift a packet, and remember where its stream stands."""
        offset = self._fitting(packet) if self._breaks else self._offsets[0]
        timed = packet.stream.type in ("video", "audio")
        if offset is None:
            offset = self._jump(packet) if timed else self._offsets[0]
        ticks = round(offset / packet.time_base)
        packet.pts = None if packet.pts is None else packet.pts + ticks
        packet.dts = None if packet.dts is None else packet.dts + ticks
        if timed and (time := _time(packet)) is not None:
            index = packet.stream_index
            self._own[index], self._last[index] = offset, time
            self._due[index] = time + (packet.duration or 0) * packet.time_base
        if packet.stream is self._video and packet.pts is not None:
            self._shown = max(self._shown, (packet.pts + (packet.duration or 0)) * packet.time_base)
        return packet

    def _fitting(self, packet: Packet[Stream]) -> Fraction | None:
        """The offset that puts a packet nearest to where the file stands; None if none puts it near."""
        time, index = _time(packet), packet.stream_index
        if time is None or not self._due:
            return self._offsets[0]
        newest = max(self._due.values())
        lingering = newest < self._lingers
        known = dict.fromkeys((*self._offsets[: None if lingering else 1], self._own.get(index, self._offsets[0])))
        back = Fraction(0) if packet.stream is self._video else Fraction(_LINGER) if lingering else _JITTER
        least = self._last[index] - back if index in self._last else newest - FARTHEST
        if packet.stream.type not in ("video", "audio"):  # a subtitle may lie ahead of the jump that it belongs behind
            least = newest - _LINGER
        near = [
            (abs(time + offset - newest), offset)
            for offset in (one + turn for one in known for turn in (0, WRAP, -WRAP))
            if least <= time + offset <= newest + FARTHEST
        ]
        if not near:
            return None
        offset = min(near, key=lambda one: one[0])[1]
        if offset not in known:  # a wrap
            self._add(offset, newest)
        return offset

    def _jump(self, packet: Packet[Stream]) -> Fraction:
        """Go on where the packet's stream stands, with an offset for what follows."""
        time = _time(packet)
        assert time is not None
        due = self._due.get(packet.stream_index, max(self._due.values()))
        late = Fraction(0) if packet.pts is None else packet.pts * packet.time_base - time
        if packet.stream is self._video:  # which may have had more B-frames before
            due = max(due, self._shown - late)
        self.jumps.append(due + late)
        return self._add(due - time, due)

    def _add(self, offset: Fraction, now: Fraction) -> Fraction:
        self._offsets = [offset, *self._offsets[:2]]
        self._lingers = now + _LINGER
        return offset


def _time(packet: Packet[Stream]) -> Fraction | None:
    stamp = packet.pts if packet.dts is None else packet.dts
    return None if stamp is None else stamp * packet.time_base


class BestEffort:
    """libavcodec's rule for a frame's time: when it is to be shown, until those times have gone back more often than
    those of decoding; then these. Containers without presentation times (AVI) give the latter alone."""

    def __init__(self) -> None:
        self.shown = False  # the container gives times of showing
        self._last: list[int | None] = [None, None]  # pts, dts
        self._faults = [0, 0]

    def choose(self, pts: int | None, dts: int | None) -> int | None:
        """The better one of a decoded frame's two times, in ticks."""
        self.shown |= pts not in (None, dts)
        for index, (stamp, other) in enumerate(((pts, dts), (dts, pts))):
            last = self._last[index]
            self._faults[index] += stamp is not None and last is not None and stamp <= last
            self._last[index] = other if stamp is None else stamp
        return dts if pts is None or (dts is not None and self._faults[0] > self._faults[1]) else pts
