"""One file of a recording: pictures shown when they were captured, and sound in step with them."""

from __future__ import annotations

import os
import struct
from contextlib import suppress
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING

from rtlit.avframe import new_like, planes_of
from rtlit.files import url_of
from rtlit.video.convert import convert
from rtlit.video.formats import MP4_FAMILY, EncoderPlan

if TYPE_CHECKING:
    import av

    from rtlit.live.microphone import Microphone

_TICK = {"matroska": Fraction(1, 1000)}  # which holds none finer
_FINE_TICK = Fraction(1, 90000)
_NOMINAL_FPS = 30  # what an encoder is told; the timestamps say what is so
_FRAGMENT_SECONDS = 2  # a crash costs as much
_SOUND_RATE, _SOUND_BITS = 48000, 128_000
# Stretched by up to 0.2 % to follow the clock (a crystal is off by 0.02 % at most); silence where more is missing.
_IN_STEP = f"async={_SOUND_RATE // 500}:min_hard_comp=0.1:first_pts=0"


class Recording:
    """A file being recorded, under a name for the time being.

    Attributes:
        part: its name till it is whole. size: (width, height) of its frames.
        frames, seconds: encoded so far.
    """

    def __init__(
        self,
        part: Path,
        muxer: str,
        plan: EncoderPlan,
        first: av.VideoFrame,
        origin: float,
        microphone: Microphone | None,
    ) -> None:
        import av

        self.part, self.size, self.frames, self.seconds = part, (first.width, first.height), 0, 0.0
        self._plan, self._origin = plan, origin
        self._tick = _TICK.get(muxer, _FINE_TICK)
        self._held: av.VideoFrame | None = None
        self._gap = round(1 / (_NOMINAL_FPS * self._tick))
        options = {}
        if muxer in MP4_FAMILY:
            # Fragments on the way, and an ordinary file in the end.
            options = {"movflags": "+hybrid_fragmented+delay_moov", "frag_duration": str(_FRAGMENT_SECONDS * 1_000_000)}
            options |= {"video_track_timescale": str(_FINE_TICK.denominator)}
        self.container = av.open(url_of(part), "w", format=muxer, container_options=options)
        video = self.container.add_stream(plan.name, rate=_NOMINAL_FPS, options=dict(plan.options))
        assert isinstance(video, av.VideoStream)
        context = video.codec_context
        context.width, context.height, context.pix_fmt = *self.size, plan.pixel_format
        context.time_base = video.time_base = self._tick
        context.flags |= av.codec.context.Flags.frame_duration
        context.max_b_frames = 0  # in order: no frame waits for a later one
        context.gop_size = _FRAGMENT_SECONDS * _NOMINAL_FPS
        context.color_range, context.colorspace = first.color_range, first.colorspace
        context.color_primaries, context.color_trc = first.color_primaries, first.color_trc
        self._video = video
        self._audio: av.AudioStream | None = None
        if microphone:
            audio = self.container.add_stream("aac", rate=_SOUND_RATE)
            assert isinstance(audio, av.AudioStream)
            audio.codec_context.layout, audio.codec_context.bit_rate = _sound_layout(microphone), _SOUND_BITS
            self._audio, self._rate, self._in_step = audio, microphone.rate, _in_step(microphone)

    def add_picture(self, frame: av.VideoFrame, captured: float) -> bool:
        """Encode the frame before this, whose duration is now known. False: it isn't newer than that."""
        pts = round((captured - self._origin) / self._tick)
        if self._held is not None:
            assert self._held.pts is not None
            if pts <= self._held.pts:
                return False
            self._gap = pts - self._held.pts
            self._encode(self._held)
        # Others show this frame, and another recorder may give it other times.
        copy = new_like(frame)
        for target, source in zip(planes_of(copy), planes_of(frame), strict=True):
            target[:] = source
        copy.pts, copy.time_base = pts, self._tick
        self._held = copy
        return True

    def add_sound(self, sound: av.AudioFrame, heard: float) -> None:
        """Encode sound; what was heard before the first picture is cut off."""
        sound.pts, sound.time_base = round((heard - self._origin) * self._rate), Fraction(1, self._rate)
        self._in_step.push(sound)
        self._pull_sound()

    def finish(self) -> None:
        """Write the last frame and close the file."""
        if self._held is not None:
            self._encode(self._held)
        self.container.mux(self._video.encode(None))
        if self._audio is not None:
            self._in_step.push(None)
            self._pull_sound()
            self.container.mux(self._audio.encode(None))
        self.container.close()

    def _encode(self, frame: av.VideoFrame) -> None:
        assert frame.pts is not None
        frame.duration = self._gap
        self.seconds = float((frame.pts + self._gap) * self._tick)
        if frame.format.name != self._plan.pixel_format:
            frame = convert(frame, self._plan.pixel_format)
        self.container.mux(self._video.encode(frame))
        self.frames += 1

    def _pull_sound(self) -> None:
        import av

        assert self._audio is not None
        with suppress(av.error.BlockingIOError, av.error.EOFError):
            while True:
                sound = self._in_step.pull()
                assert isinstance(sound, av.AudioFrame)
                self.container.mux(self._audio.encode(sound))


def _in_step(microphone: Microphone) -> av.filter.Graph:
    """Resamples to the encoder's rate so that the sound keeps to its timestamps, from 0 on."""
    import av

    graph = av.filter.Graph()
    rate, kind, layout = microphone.rate, microphone.format, microphone.layout
    source = graph.add_abuffer(sample_rate=rate, format=kind, layout=layout, time_base=Fraction(1, rate))
    steps = graph.add("aresample", f"{_SOUND_RATE}:{_IN_STEP}"), graph.add("aformat", f"cl={_sound_layout(microphone)}")
    graph.link_nodes(source, *steps, graph.add("abuffersink")).configure()
    return graph


def _sound_layout(microphone: Microphone) -> str:
    return "mono" if microphone.layout == "mono" else "stereo"


def cut_to_whole(path: Path, muxer: str) -> tuple[int, float]:
    """(frames, seconds) that can be shown of a file that broke off, with half a fragment at its end cut away."""
    import av

    if muxer in MP4_FAMILY:
        os.truncate(path, _end_of_fragments(path))
    frames, end = 0, 0.0
    with av.open(url_of(path)) as container:
        for packet in container.demux(video=0):
            if packet.pts is not None and packet.time_base is not None:
                frames, end = frames + 1, float((packet.pts + (packet.duration or 0)) * packet.time_base)
    return frames, end


def _end_of_fragments(path: Path) -> int:
    """Where the last whole fragment of an MP4 ends: a box of samples (mdat) after one that describes them."""
    length, at, end = path.stat().st_size, 0, 0
    with path.open("rb") as file:
        while at + 16 <= length:
            file.seek(at)
            size, kind, large = struct.unpack(">I4sQ", file.read(16))
            at += large if size == 1 else size or length
            if kind == b"mdat" and at <= length:
                end = at
    return end
