"""Encode and multiplex; the output appears at its name only when it is complete."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from contextlib import suppress
from fractions import Fraction
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

import av

from rtlit import files
from rtlit.errors import OutputError, RtlitError
from rtlit.video import header, probe, streams
from rtlit.video.convert import convert
from rtlit.video.encoder import add_video
from rtlit.video.formats import MP4_FAMILY, EncoderPlan, refused
from rtlit.video.grid import Grid, rate_of
from rtlit.video.holds import holds, is_blu_ray
from rtlit.video.reader import Reader

if TYPE_CHECKING:
    from av.packet import Packet
    from av.stream import Stream

_LARGEST_MOVIE_TIMESCALE = 10_000_000
# Tags that MP4's own atoms hold; any other needs the QuickTime metadata atom, which replaces them.
_MP4_TAGS = {
    "title", "artist", "album_artist", "composer", "album", "date", "comment", "genre", "copyright", "grouping",
    "lyrics", "description", "synopsis", "show", "episode_id", "network", "keywords", "track", "disc", "encoder",
    "major_brand", "minor_version", "compatible_brands", "creation_time", "media_type", "hd_video", "timecode",
    "location",
}  # fmt: skip


class Writer:
    """One output file or stream. Use it as a context: leaving it with an error removes what was written.

    Attributes:
        frames: frames encoded so far.
        seconds: time spent encoding and writing.
        position: seconds of video so far.
    """

    def __init__(
        self,
        target: str | Path | BinaryIO,
        muxer: str,
        reader: Reader,
        first: av.VideoFrame,
        plan: EncoderPlan,
        size: tuple[int, int],
        warn: Callable[[str], None],
    ) -> None:
        """Lay out the streams and write the header (with NVENC's frames, the first packet writes it).

        Args:
            first: the first decoded frame, for colour tags, rotation and HDR metadata.
            size: (width, height) of the frames to come.

        Raises:
            OutputError: the file or the header can't be written. UsageError: the encoder refuses its settings.
        """
        self.name, self._named = probe.name_of(target), files.named(target)
        self._reader, self._plan, self._warn, self._muxer = reader, plan, warn, muxer
        self.frames, self.seconds, self.position = 0, 0.0, 0.0
        self._held: Packet[Any] | None = None
        self._first_dts: int | None = None
        self._shown_from = self._shown_to = Fraction(0)  # when the first frame is shown, and until when the last
        self._routes: dict[int, streams.Route | None] = {}
        self._starts: dict[int, Fraction] = {}  # of the streams of sound in an AVI file, against its video's first step
        self._completion = header.completion_of(muxer)
        self._headed: header.Headed | None = None
        rate = rate_of(plan.name, muxer, reader.stream)
        self._grid = Grid(rate, muxer, first, Fraction(0) if reader.shift else reader.delay) if rate else None
        if self._grid and self._grid.late:
            warn(f"{muxer} begins at 0: the first frame, of {float(self._grid.late):.2f} s, is shown from there on")
        try:
            self._output = files.Output(target, reader.source)
            try:
                with probe.listening():
                    self._container = av.open(self._file(), "w", format=muxer, container_options=self._options())
                    self._lay_out(first, size)
                    self._start()
            except BaseException as error:
                self.__exit__(type(error), error, None)
                raise
        except (av.error.FFmpegError, OSError) as error:
            raise self._error(error) from None

    def __enter__(self) -> Writer:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: object) -> None:
        if error is None:
            return
        with suppress(av.error.FFmpegError, OSError, ValueError, AttributeError):  # what matters is the error under way
            self._container.close()
        self._output.drop()

    def write(self, item: av.VideoFrame | Packet[Stream]) -> None:
        """Encode a frame, or pass a packet on.

        Raises:
            OutputError: encoding or writing fails.
        """
        begin = time.perf_counter()
        try:
            with probe.listening():
                if isinstance(item, av.VideoFrame):
                    self._encode(item)
                else:
                    route = self._routes.get(item.stream_index)
                    self._pass(route(item) if route else [])
        except RtlitError:
            raise
        except (av.error.FFmpegError, OSError, ValueError) as error:
            raise self._error(error) from None
        self.seconds += time.perf_counter() - begin

    def finish(self) -> None:
        """Flush, close, and give the file its name.

        Raises:
            OutputError: the rest can't be written.
        """
        begin = time.perf_counter()
        try:
            self._leave_grid()
            rest = self._timed(self._video.encode(None))
            self._mux(in_time(rest) if self._held is None and self._plan.name == "libx265" else rest)
            self._mux_last()
            for route in self._routes.values():
                self._pass(route(None) if route else [])
            with probe.listening():
                self._container.close()
            if self._starts and self._output.part is not None:
                header.complete_file(self._output.part, partial(header.avi_with_starts, starts=self._starts))
            if self._headed is not None:
                self._headed.finish()
            elif self._completion is not None and self._output.part is not None:
                header.complete_file(self._output.part, self._completion)
            self._output.keep()
        except (av.error.FFmpegError, OSError, ValueError) as error:
            raise self._error(error) from None
        self.seconds += time.perf_counter() - begin

    def _pass(self, packets: list[Packet[Any]]) -> None:
        """Write packets that aren't the enhanced video's."""
        grid = self._grid if self._muxer == "avi" else None
        for packet in packets if grid else ():
            stamp, index = packet.dts if packet.pts is None else packet.pts, packet.stream_index
            if grid is None or packet.stream.type != "audio" or stamp is None or index in self._starts:
                continue
            late = self._starts[index] = stamp * packet.time_base - grid.before
            if self._output.stream is not None and late > grid.step:
                self._warn(f"sound begins {float(late):.3f} s too early: AVI's head, already written, would tell")
        self._container.mux(packets)

    def _file(self) -> Any:
        """What libavformat writes to."""
        stream = self._output.stream
        if stream is None:
            return files.url_of(self._output.part or "")
        if self._muxer == "avi" and not getattr(stream, "seekable", lambda: False)():
            self._warn("this AVI gets neither an index nor its length, for a pipe can't be gone back in")
        if self._completion is not None:
            self._headed = header.Headed(stream, self._completion)
        return self._headed or stream

    def _start(self) -> None:
        """Write the header, unless NVENC waits for the first frame: what can't be written fails before any work."""
        if self._plan.on_device:
            return
        try:
            self._video.codec_context.open()
        except av.error.FFmpegError as error:
            raise refused(self._plan, probe.reason(error)) from None
        self._container.start_encoding()

    def _error(self, error: BaseException) -> OutputError:
        if isinstance(error, BrokenPipeError):
            return OutputError(f"{self.name}: the reading end was closed")
        return OutputError(f"{self.name}: can't be written: {probe.reason(error)}")

    def _options(self) -> dict[str, str]:
        if self._muxer in MP4_FAMILY:
            flags = "+faststart" if self._output.part is not None else "+frag_keyframe+empty_moov"
            flags += "+use_metadata_tags" if self._custom_tags() else ""
            # libavformat doubles a track's time scale up to 10,000 unless told.
            base = self._grid.time_base if self._grid else self._reader.time_base
            track = {"video_track_timescale": str(base.denominator)} if base.numerator == 1 else {}
            # Google's boxes for stereo and spheres, of copied streams as well, are in no standard of ISO's.
            space = {"strict": "-1"} if self._muxer == "mp4" else {}
            return {"movflags": flags, "movie_timescale": str(self._movie_timescale()), **track, **space}
        if self._muxer in ("matroska", "webm"):
            return {"default_mode": "passthrough"}
        if self._muxer == "mpegts":
            return {"mpegts_copyts": "1", "mpegts_m2ts_mode": str(int(is_blu_ray(self._named)))}
        if self._muxer == "avi":
            # An encoder's delay of 5 ms would move all streams, the video by a whole frame, from its second frame on.
            return {"avoid_negative_ts": "disabled"}
        return {"strict": "-1"} if self._muxer == "yuv4mpegpipe" else {}  # y4m above 8 bits is an extension

    def _custom_tags(self) -> bool:
        """Whether to write all tags into the QuickTime metadata atom; a cover picture can only stand in the other."""
        tags = {key.split("-")[0].lower() for key in streams.kept_tags(self._reader.container.metadata)} - _MP4_TAGS
        if tags and self._reader.pictures() and self._muxer != "mov":
            self._warn(f"tags that {self._muxer} can't hold beside a cover picture are lost: {', '.join(sorted(tags))}")
            return False
        return bool(tags)

    def _movie_timescale(self) -> int:
        """Start offsets are stored in the movie's time scale: one that all streams' ticks are whole in."""
        bases = [s.time_base for s in self._reader.container.streams if s.type in ("video", "audio") and s.time_base]
        offset = any(s.start_time for s in self._reader.container.streams) or self._reader.shift or self._reader.base
        scale = math.lcm(*(base.denominator for base in bases)) if offset else self._reader.time_base.denominator
        return scale if 1000 <= scale <= _LARGEST_MOVIE_TIMESCALE else 1000

    def _lay_out(self, first: av.VideoFrame, size: tuple[int, int]) -> None:
        source = self._reader.container
        covers = self._reader.pictures()
        self._warn_of_data()
        late = [s for s in source.streams if s.type == "attachment" or s.index in covers]
        for stream in [s for s in source.streams if s not in late] + late:
            if stream is self._reader.stream:
                self._video = add_video(self._container, self._reader, first, self._plan, size, self._warn)
            elif stream.type not in ("video", "audio", "subtitle", "attachment"):
                continue
            elif self._muxer == "yuv4mpegpipe":
                self._warn(f"{stream.type} stream {stream.index} is dropped: y4m holds one video alone")
            elif isinstance(stream, av.VideoStream) and stream.index not in covers:
                self._routes[stream.index] = streams.route_extra_video(stream, self._container, self._warn)
            else:
                cover = covers.get(stream.index)
                self._routes[stream.index] = streams.route(stream, self._container, cover, self._warn)
        self._container.metadata.update(streams.kept_tags(source.metadata))
        self._container.set_chapters(self._chapters())

    def _warn_of_data(self) -> None:
        # A timecode track is written anew from the video's `timecode` tag, a chapter track from the chapters.
        chapters = bool(self._reader.container.chapters())
        lost = [
            str(s.index)
            for s in self._reader.container.streams
            if s.type not in ("video", "audio", "subtitle", "attachment")
            and "timecode" not in s.metadata
            and not (chapters and getattr(s, "name", None) == "bin_data")
        ]
        if lost and self._muxer != "yuv4mpegpipe":
            self._warn(f"data streams that are not carried over: {', '.join(lost)}")

    def _chapters(self) -> list[Any]:
        """The input's chapters, moved and cut with the video."""
        reader, kept = self._reader, []
        for chapter in reader.container.chapters():
            base = chapter["time_base"] or Fraction(1, 1000)
            begin, end = (chapter[key] * base - reader.base for key in ("start", "end"))
            begin = max(begin, reader.start) if reader.shift else begin
            end = min(end, reader.end) if reader.end is not None else end
            if end > begin:
                ticks = [round((seconds - reader.shift) / base) for seconds in (begin, end)]
                kept.append({**chapter, "time_base": base, "start": ticks[0], "end": ticks[1]})
        if kept and not holds(self._container).chapters:
            self._warn(f"chapters are dropped: {self._muxer} holds none")
            return []
        return kept

    def _encode(self, frame: av.VideoFrame) -> None:
        if not self._plan.on_device and (self._plan.color or frame.format.name != self._plan.pixel_format):
            frame = convert(frame, self._plan.pixel_format, color=self._plan.color)
        frame.pict_type = 0  # the decoder's I, P or B would force the encoder's
        assert frame.pts is not None and frame.time_base is not None
        self.position = float((frame.pts + (frame.duration or 0)) * frame.time_base)
        try:
            for ready in self._grid.put(frame) if self._grid else (frame,):
                self._mux(self._timed(self._video.encode(ready)))
        except av.error.FFmpegError as error:
            if self._video.codec_context.is_open:
                raise
            raise refused(self._plan, probe.reason(error)) from None
        if not self.frames:
            self._shown_from = frame.pts * frame.time_base
        self._shown_to = (frame.pts + (frame.duration or 0)) * frame.time_base
        self.frames += 1

    def _timed(self, packets: list[Packet[Any]]) -> list[Packet[Any]]:
        return self._grid.timed(packets) if self._grid else packets

    def _leave_grid(self) -> None:
        """Encode the last frame, and say what the even steps changed."""
        grid = self._grid
        if grid is None:
            return
        for ready in grid.finish():
            self._mux(self._timed(self._video.encode(ready)))
        changes = grid.changes()
        if changes:
            rate = f"{float(1 / grid.step):.5g} frames a second at even steps"
            self._warn(f"{self._plan.name} in {self._muxer} holds {rate}: {changes}")

    def _mux(self, packets: list[Packet[Any]]) -> None:
        """Write all but the newest packet, which may turn out to be the last."""
        for packet in packets:
            if self._held is None:
                self._first_dts = packet.dts
            else:
                self._store(self._held)
            self._held = packet

    def _store(self, packet: Packet[Any]) -> None:
        """Write a packet of the video, and say so where the container can't hold its time."""
        assert packet.pts is not None
        exact = packet.pts * packet.time_base
        self._container.mux(packet)
        if abs(packet.pts * packet.time_base - exact) > self._reader.time_base / 2:
            unit = "milliseconds" if packet.time_base == Fraction(1, 1000) else f"{packet.time_base} s"
            self._warn(f"timestamps are rounded to {unit}: {self._muxer} holds none finer")

    def _mux_last(self) -> None:
        """Write the last packet so that the durations of all add up to the time that the video is shown.

        MP4 holds decoding steps, and readers take their sum for the length; with B-frames and variable frame rate
        the last one decoded isn't the last one shown.
        """
        last = self._held
        if last is None:
            return
        if self._muxer in MP4_FAMILY and last.dts is not None and self._first_dts is not None:
            shown = round((self._shown_to - self._shown_from) / last.time_base)
            last.duration = max(1, shown - (last.dts - self._first_dts))
        self._store(last)


def in_time(packets: list[Packet[Any]]) -> list[Packet[Any]]:
    """All packets of a video in the order of decoding, at the times of showing, all earlier by what that order asks.

    x265 makes up the decoding times of a video that is shorter than its delay, others in every run: now and then later
    than the frame is shown, which MP4 refuses.
    """
    shown = [packet.pts or 0 for packet in packets]
    early = max((due - pts for due, pts in zip(sorted(shown), shown, strict=True)), default=0)
    for due, packet in zip(sorted(shown), packets, strict=True):
        packet.dts = due - early
    return packets
