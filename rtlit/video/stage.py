"""The enhancing stage of the pipeline: a decoded frame in, the frame to encode out."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from fractions import Fraction
from typing import TYPE_CHECKING, TypeVar

import av

from rtlit.avframe import (
    alpha_of,
    color_of,
    copy_tags,
    copy_time,
    frame_of,
    is_transparent,
    new_like,
    planar_name,
    planes_of,
    quarter_turns_of,
    software_format,
    tensors_of,
)
from rtlit.frame import Color, PixelFormat
from rtlit.video import probe
from rtlit.video.convert import convert, yuv_of_rgb
from rtlit.video.formats import EncoderPlan
from rtlit.video.hardware import stays_on_device
from rtlit.video.pixels import opaque_format

if TYPE_CHECKING:
    from torch import Tensor

    from rtlit.backends.choose import Plane
    from rtlit.enhancer import Enhancer
    from rtlit.video.reader import Item

Result = TypeVar("Result")


class Layout:
    """Where the picture stands in the encoded frame: all of it, or half of a comparison.

    Attributes:
        size: (width, height) of the picture.
        color: what its codes mean.
        coded_size: (width, height) to encode.
        compare: the frame is before | after, as it is shown.
        quarter_turns: how the picture is turned when it is shown, as for `Enhancer`.
    """

    def __init__(self, first: av.VideoFrame, compare: bool) -> None:
        """Lay out for frames like `first`."""
        self.size = self.coded_size = (first.width, first.height)
        self.color = color_of(first)
        self.compare = compare
        self.quarter_turns = quarter_turns_of(first)
        matrix = probe.display_matrix(first)
        # Shown x = matrix[0]·x + matrix[3]·y: a turned video is stacked along y, a mirrored one the other way round.
        self.axis = 1 if probe.is_transposed(matrix) else 0
        self._mirrored = matrix is not None and matrix[3 * self.axis] < 0
        if compare:
            pixels = opaque_format(planar_name(software_format(first)))
            unit = 1 << (pixels.shift_y if self.axis else pixels.shift_x)
            self._half = -(-self.size[self.axis] // unit) * unit
            self.coded_size = (first.width, 2 * self._half) if self.axis else (2 * self._half, first.height)

    def halves(self, planes: tuple[Plane, ...], pixels: PixelFormat) -> tuple[tuple[Plane, ...], tuple[Plane, ...]]:
        """(before, after): views of a coded frame's planes, each with the picture's size."""
        sides: list[tuple[Plane, ...]] = []
        for begin in (self._half, 0) if self._mirrored else (0, self._half):
            views = []
            for index, plane in enumerate(planes):
                shift = (pixels.shift_y if self.axis else pixels.shift_x) if index else 0
                rows, columns = pixels.plane_size(index, self.size[1], self.size[0])
                at = begin >> shift
                views.append(plane[at : at + rows] if self.axis else plane[:, at : at + columns])
            sides.append(tuple(views))
        return sides[0], sides[1]

    def pad(self, planes: tuple[Plane, ...], pixels: PixelFormat) -> None:
        """Repeat the last row or column where the halves are rounded up to whole chroma samples."""
        if self._half == self.size[self.axis]:
            return
        for plane, views in zip(planes, zip(*self.halves(planes, pixels), strict=True), strict=True):
            length = views[0].shape[1 - self.axis]
            lines = plane if self.axis else plane.T
            half = lines.shape[0] // 2
            for begin in (0, half):
                lines[begin + length : begin + half] = lines[begin + length - 1]


class Stage:
    """Enhances frames and lets packets pass, in order; as many frames are under way as the enhancer takes.

    Attributes:
        seconds: time spent on frames, conversions included.
    """

    def __init__(
        self,
        enhancer: Enhancer,
        plan: EncoderPlan,
        layout: Layout,
        warn: Callable[[str], None],
        aspect_of: Callable[[int, int], Fraction] = lambda width, height: Fraction(1),
    ) -> None:
        """Frames are brought to `plan.work_format`, a planar one, and the layout's size; those in a GPU's memory stay
        there as far as enhancer and plan allow.

        Args:
            aspect_of: the aspect ratio of the pixels of frames of (width, height).
        """
        self._enhancer, self._layout, self._warn = enhancer, layout, warn
        self._plan, self._drops_alpha = plan, plan.drops_alpha
        self._format = plan.work_format
        self._sizes = {layout.size}
        self._formats: set[str] = set()
        self._aspect_of = aspect_of
        self._pixels = opaque_format(plan.work_format)
        self._stored: Color | None = layout.color
        if layout.color.matrix == "rgb":
            self._stored = None if self._pixels.is_rgb else yuv_of_rgb(layout.size[1])
        self._on_device = plan.on_device
        self._takes_device_frames = enhancer.on_device and not layout.compare
        self._context: av.video.frame.CudaContext | None = None
        self.seconds = 0.0

    def items(self, source: Iterable[Item]) -> Iterator[Item]:
        """The source's items, frames enhanced."""
        waiting: deque[Item | Callable[[], av.VideoFrame]] = deque()
        frames = 0
        for item in source:
            if isinstance(item, av.VideoFrame):
                waiting.append(self._timed(self._begin, item))
                frames += 1
            else:
                waiting.append(item)
            while waiting and (frames > self._enhancer.depth or not callable(waiting[0])):
                first = waiting.popleft()
                frames -= callable(first)
                yield self._timed(first) if callable(first) else first
        for rest in waiting:
            yield self._timed(rest) if callable(rest) else rest

    def _timed(self, work: Callable[..., Result], *arguments: object) -> Result:
        begin = time.perf_counter()
        result = work(*arguments)
        self.seconds += time.perf_counter() - begin
        return result

    def _begin(self, frame: av.VideoFrame) -> Callable[[], av.VideoFrame]:
        """Begin to enhance a frame; what is returned waits for it."""
        size = frame.width, frame.height
        if size not in self._sizes:
            self._sizes.add(size)
            old, new = ("×".join(map(str, each)) for each in (self._layout.size, size))
            self._warn(f"the frame size changes at {frame.time:.3f} s; frames of {new} are fitted into {old}")
        layout = planar_name(software_format(frame)).replace("yuvj", "yuv")
        if layout not in self._formats and self._formats:
            self._warn(f"the pixel format changes to {layout} at {frame.time:.3f} s; it is stored as {self._format}")
        self._formats.add(layout)
        if size != self._layout.size:
            frame = self._fitted(frame)
        elif self._takes_device_frames and stays_on_device(frame):
            stored = software_format(frame)
            if self._on_device:
                return self._kept_on_device(frame, stored.name)
            if planar_name(stored) == self._format:
                return self._submitted(frame, tensors_of(frame), new_like(frame, self._format))
        if self._drops_alpha and is_transparent(frame):
            self._drops_alpha = False
            self._warn(f"transparency is lost: {self._plan.name} can't hold it here; .mkv and .mov keep it")
        color, here = self._layout.color, color_of(frame)
        moved = (here.matrix, here.full_range) != (color.matrix, color.full_range)
        if frame.format.name != self._format or moved:
            frame = convert(frame, self._format, color=self._stored)
        return self._compared(frame) if self._layout.compare else self._in_place(frame)

    def _fitted(self, frame: av.VideoFrame) -> av.VideoFrame:
        """A frame of another size, scaled into the layout's with black or transparent borders."""
        layout = self._layout
        wide, high = layout.size
        aspect = self._aspect_of(frame.width, frame.height) / self._aspect_of(wide, high)
        scale = min(wide / (frame.width * aspect), Fraction(high, frame.height))
        units = 1 << self._pixels.shift_x, 1 << self._pixels.shift_y
        inner = [
            min(whole, max(1, round(length * scale / unit)) * unit)
            for length, whole, unit in ((frame.width * aspect, wide, units[0]), (frame.height, high, units[1]))
        ]
        inside = convert(frame, self._format, (inner[0], inner[1]), self._stored)
        canvas = av.VideoFrame(wide, high, self._format)
        copy_time(frame, canvas)
        copy_tags(inside, canvas)
        (black, _), (middle, _) = (self._stored or layout.color).scales(self._pixels.depth)
        left, top = ((whole - part) // 2 // unit for whole, part, unit in zip(layout.size, inner, units, strict=True))
        for index, (whole, part) in enumerate(zip(planes_of(canvas), planes_of(inside), strict=True)):
            whole[:] = int(middle if index else black)
            x, y = (left, top) if index else (left * units[0], top * units[1])
            whole[y : y + part.shape[0], x : x + part.shape[1]] = part
        alpha, part_alpha = alpha_of(canvas), alpha_of(inside)
        if alpha is not None and part_alpha is not None:
            alpha[:] = 0
            x, y = left * units[0], top * units[1]
            alpha[y : y + part_alpha.shape[0], x : x + part_alpha.shape[1]] = part_alpha
        return canvas

    def _in_place(self, frame: av.VideoFrame) -> Callable[[], av.VideoFrame]:
        # In place, so that captions and field flags, which PyAV can't set on a new frame, stay with it.
        frame.make_writable()
        return self._submitted(frame, planes_of(frame), frame)

    def _submitted(
        self, frame: av.VideoFrame, planes: tuple[Plane, ...] | tuple[Tensor, ...], result: av.VideoFrame
    ) -> Callable[[], av.VideoFrame]:
        low_bits = PixelFormat(software_format(frame).name).low_bits if frame is not result else None
        color, turns = color_of(frame), self._layout.quarter_turns
        ticket = self._enhancer.submit(planes, self._pixels, color, frame.time, planes_of(result), turns, low_bits)

        def finish() -> av.VideoFrame:
            ticket.wait()
            return result

        return finish

    def _kept_on_device(self, frame: av.VideoFrame, name: str) -> Callable[[], av.VideoFrame]:
        color, turns = color_of(frame), self._layout.quarter_turns
        ticket = self._enhancer.submit(tensors_of(frame), PixelFormat(name), color, frame.time, None, turns)

        def finish() -> av.VideoFrame:
            planes = tuple(ticket.wait())
            if self._context is None and planes[0].is_cuda:
                # One for all frames: NVENC keeps the first frame's. This thread's is torch's, the primary one;
                # asked for that by name, FFmpeg refuses where torch was there first.
                index = planes[0].device.index
                self._context = av.video.frame.CudaContext(index, primary_ctx=False, current_ctx=True)
            return frame_of(planes, name, frame, self._context)

        return finish

    def _compared(self, frame: av.VideoFrame) -> Callable[[], av.VideoFrame]:
        both = av.VideoFrame(*self._layout.coded_size, self._format)
        both.pts, both.time_base, both.duration = frame.pts, frame.time_base, frame.duration
        both.color_range, both.colorspace = frame.color_range, frame.colorspace
        both.color_primaries, both.color_trc = frame.color_primaries, frame.color_trc
        planes, canvas, turns = planes_of(frame), planes_of(both), self._layout.quarter_turns
        before, after = self._layout.halves(canvas, self._pixels)
        if (alpha := alpha_of(frame)) is not None:
            both_alpha = alpha_of(both)
            assert both_alpha is not None
            both_alpha[:] = 0  # what rounding adds
            for (view,) in self._layout.halves((both_alpha,), self._pixels):
                view[:] = alpha
        for view, plane in zip(before, planes, strict=True):
            view[:] = plane
        ticket = self._enhancer.submit(planes, self._pixels, color_of(frame), frame.time, after, turns)

        def finish() -> av.VideoFrame:
            ticket.wait()
            self._layout.pad(canvas, self._pixels)
            return both

        return finish
