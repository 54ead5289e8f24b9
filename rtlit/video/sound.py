"""Sound that a container can't hold: decoded, fitted to what an encoder takes, and encoded at its own times."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from fractions import Fraction
from typing import TYPE_CHECKING, cast

import av

if TYPE_CHECKING:
    from collections.abc import Callable

    from av.audio.codeccontext import AudioCodecContext
    from av.audio.stream import AudioStream
    from av.container import OutputContainer
    from av.filter import Graph
    from av.packet import Packet
    from av.stream import Stream

# Where the times of two frames of sound are further apart than this many seconds from what lies between them,
# silence is put in or sound is left out. Containers round to milliseconds; a lost frame is 20 ms or more.
_SLACK = "0.01"
# Layouts to mix down to, the widest first, when an encoder doesn't take the input's own.
_NARROWER = ("7.1", "6.1", "5.1", "quad", "stereo", "mono")


@dataclass(frozen=True)
class SoundPlan:
    """What sound is encoded with: FFmpeg's encoder, samples a second, channel layout and sample format."""

    encoder: str
    rate: int
    layout: str
    format: str

    def open(self) -> AudioCodecContext:
        """An encoder set so.

        Raises:
            av.error.FFmpegError, ValueError: it doesn't take that.
        """
        context = cast("AudioCodecContext", av.CodecContext.create(self.encoder, "w"))
        self.set(context)
        context.open()
        return context

    def set(self, context: AudioCodecContext) -> None:
        """Set a closed encoder."""
        context.sample_rate, context.layout, context.format = self.rate, self.layout, self.format
        context.time_base = Fraction(1, self.rate)
        a_channel = 96_000 if self.rate >= 32_000 else 48_000 if self.rate >= 16_000 else 24_000
        context.bit_rate = a_channel * context.channels

    def described(self, stream: AudioStream) -> str:
        """The encoder, and what of a stream's sound it can't keep."""
        decoder, channels = stream.codec_context, av.AudioLayout(self.layout).nb_channels
        encoded = av.codec.Codec(self.encoder, "w").canonical_name
        changes = {
            "with loss": is_lossless(decoder.codec.canonical_name) and not is_lossless(encoded),
            f"{decoder.channels} channels mixed to {channels}": channels != decoder.channels,
            f"at {self.rate} Hz": self.rate < decoder.sample_rate,
        }
        return ", ".join([self.encoder, *(change for change, made in changes.items() if made)])


def named_layout(layout: av.AudioLayout) -> str:
    """A layout's name, FFmpeg's default for the number of channels where the file doesn't say."""
    named = not layout.name.split("(")[0].rstrip().endswith(" channels")
    return layout.name if named else av.AudioLayout(f"{layout.nb_channels}c").name


def plan_sound(stream: AudioStream, lossless: tuple[str, ...], lossy: tuple[str, ...]) -> SoundPlan | None:
    """The first encoder that takes a stream's channels as they are, or after that mixed down; None where none does.

    Args:
        lossless: encoders to try first where the input's codec is without loss.
        lossy: encoders to try then.
    """
    decoder = stream.codec_context
    if not decoder.channels or not decoder.sample_rate:
        return None
    with suppress(av.error.FFmpegError, ValueError):  # which tells the sample format
        decoder.open(strict=False)
    encoders = lossy
    if is_lossless(decoder.codec.canonical_name):
        encoders = (*sorted(lossless, key=lambda name: _loss(_format(name, decoder), decoder)), *lossy)
    own = named_layout(decoder.layout)
    plain = own.replace("(side)", "")  # the same speakers by the name that AAC has a number for
    whole = [name for name in dict.fromkeys((plain, own, f"{plain}(side)")) if _exists(name)]
    narrower = [name for name in _NARROWER if av.AudioLayout(name).nb_channels <= decoder.channels]
    tries = [(encoder, layout) for encoder in encoders for layout in whole]
    tries += [(encoder, layout) for layout in narrower for encoder in encoders]
    for encoder, layout in tries:
        plan = _fitted(encoder, decoder, layout)
        with suppress(av.error.FFmpegError, ValueError):
            plan.open()
            return plan
    return None


def is_lossless(codec: str) -> bool:
    """Whether a codec keeps every sample, as those of FFmpeg's that may do nearly always do; but DTS hardly ever."""
    try:
        return av.codec.Codec(codec, "r").lossless and codec != "dts"
    except ValueError:
        return False


def _exists(layout: str) -> bool:
    try:
        return bool(av.AudioLayout(layout).nb_channels)
    except ValueError:
        return False


def _fitted(encoder: str, decoder: AudioCodecContext, layout: str) -> SoundPlan:
    codec = av.codec.Codec(encoder, "w")
    rates = sorted(codec.audio_rates or [decoder.sample_rate])
    rate = next((rate for rate in rates if rate >= decoder.sample_rate), rates[-1])
    if encoder == "libopus":
        rate = 48_000  # which its decoders give, whatever went in
    return SoundPlan(encoder, rate, layout, _format(encoder, decoder).name)


def _format(encoder: str, decoder: AudioCodecContext) -> av.AudioFormat:
    formats = av.codec.Codec(encoder, "w").audio_formats or [av.AudioFormat("s16")]
    return min(formats, key=lambda one: _loss(one, decoder))


def _loss(one: av.AudioFormat, decoder: AudioCodecContext) -> tuple[bool, int]:
    """How badly a sample format suits: whether it has too few bits, and by how many it differs."""
    bits = decoder.format.bits if decoder.format else 16
    return one.bits < bits, abs(one.bits - bits)


class SoundConverter:
    """Takes a stream's packets (None at the end) and gives those to write.

    Sound keeps its times: a pause, a lost or a damaged packet becomes silence of the same length, what overlaps is
    left out, and what comes in other channels or at another rate in mid-stream is made alike.
    """

    def __init__(
        self, stream: AudioStream, output: OutputContainer, plan: SoundPlan, label: str, warn: Callable[[str], None]
    ) -> None:
        """Add the stream to the output."""
        self._decoder, self._plan, self._label, self._warn = stream.codec_context, plan, label, warn
        self.copy = cast("AudioStream", output.add_stream(plan.encoder, rate=plan.rate))
        plan.set(self.copy.codec_context)
        self._base = stream.time_base or Fraction(1, plan.rate)
        self._graph: Graph | None = None
        self._shape: tuple[object, ...] = ()
        self._next: int | None = None  # sample that comes next
        self._damaged = 0

    def __call__(self, packet: Packet[Stream] | None) -> list[Packet[Stream]]:
        """Convert a packet.

        Raises:
            av.error.FFmpegError: the encoder fails.
        """
        packets: list[Packet[Stream]] = []
        for frame in self._decoded(packet):
            for fitted in self._fit(frame):
                packets.extend(self.copy.encode(fitted))
        if packet is None:
            for fitted in self._drain():
                packets.extend(self.copy.encode(fitted))
            if self._next is not None:  # an encoder that was given nothing has nothing to end
                packets.extend(self.copy.encode(None))
            if self._damaged:
                self._warn(f"{self._label}: damaged packets, silent in the output: {self._damaged}")
        return packets

    def _decoded(self, packet: Packet[Stream] | None) -> list[av.AudioFrame]:
        if packet is not None:
            self._base = packet.time_base
        try:
            frames = self._decoder.decode(packet)
        except av.error.MemoryError:
            raise
        except (av.error.FFmpegError, EOFError):
            self._damaged += packet is not None
            return []
        for frame in frames:
            frame.time_base = self._base  # PyAV leaves it out at the end
        return [frame for frame in frames if frame.samples]

    def _fit(self, frame: av.AudioFrame) -> Iterator[av.AudioFrame]:
        shape = (frame.sample_rate, frame.format.name, frame.layout.name, frame.time_base)
        if shape != self._shape:
            yield from self._drain()
            self._shape, self._graph = shape, self._chain(frame)
        assert self._graph is not None
        self._graph.push(frame)
        yield from self._ready()

    def _chain(self, frame: av.AudioFrame) -> Graph:
        graph = av.filter.Graph()
        source = graph.add(
            "abuffer",
            sample_rate=str(frame.sample_rate),
            sample_fmt=frame.format.name,
            channel_layout=frame.layout.name,
            time_base=str(frame.time_base),
        )
        follow = {} if self._next is None else {"first_pts": str(self._next)}
        resample = graph.add("aresample", **{"async": "1", "min_hard_comp": _SLACK, **follow})
        plan = self._plan
        shape = graph.add("aformat", sample_rates=str(plan.rate), sample_fmts=plan.format, channel_layouts=plan.layout)
        graph.link_nodes(source, resample, shape, graph.add("abuffersink")).configure()
        return graph

    def _drain(self) -> Iterator[av.AudioFrame]:
        if self._graph is not None:
            self._graph.push(None)
            yield from self._ready()
        self._graph = None

    def _ready(self) -> Iterator[av.AudioFrame]:
        assert self._graph is not None
        while True:
            try:
                frame = cast("av.AudioFrame", self._graph.pull())
            except (av.error.BlockingIOError, av.error.EOFError):
                return
            if self._next is None:
                self._next = frame.pts or 0
            frame.pts, frame.time_base = self._next, Fraction(1, self._plan.rate)
            self._next += frame.samples
            yield frame
