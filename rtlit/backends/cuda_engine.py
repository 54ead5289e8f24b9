"""The engine of the CUDA backend: frames go up, through all stages and down again on three streams, some in flight.

    planes → staging ─ upload → slot ─ stages, in place ─ download → staging → out
    stages: analyze, estimate, restrain, follow, (denoise,) apply

A plan holds the static buffers of one kind of frame (size, pixel format, colour, turn) and a ring of slots. `enqueue`
launches a slot's stages, and nothing else: no allocation, no copy between host and device, no host that waits. The
first frame of a plan is enqueued as it is, which compiles the kernels; then each slot gets a CUDA graph of its own, as
a graph's addresses are fixed and slots are filled while others are computed. What varies from frame to frame (elapsed
time, strength, a fresh start) goes up with the frame, in front of its planes, so one copy carries it all; what a frame
leaves to the next stays on the device. Stills run without a graph and leave nothing.

`estimate_every`: the host can't know of a cut on the device without waiting, so the network runs on every frame, and
what it says is taken on every N-th and at cuts.
"""

from __future__ import annotations

import math
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import cast

import numpy as np
import torch
from torch import Tensor

from rtlit import hdr, reference
from rtlit.backends.choose import Plane, check_size
from rtlit.backends.slots import Packing, Slot
from rtlit.backends.streams import Mark, Streams
from rtlit.errors import DeviceError
from rtlit.frame import Color, PixelFormat
from rtlit.network import STRIDE, CurveNetwork
from rtlit.settings import EnhanceSettings
from rtlit_kernels.analyze import SCRATCH, analyze
from rtlit_kernels.apply import apply_curves, scratch_size as apply_scratch_size
from rtlit_kernels.denoise import filter_planes
from rtlit_kernels.estimate import estimate, pack_network, scratch_size as estimate_scratch_size
from rtlit_kernels.restrain import SCRATCH as RESTRAIN_SCRATCH, restrain
from rtlit_kernels.smooth import State, exponentiate, follow

SLOTS = 4  # one goes up, one is computed, one comes down, one waits; even, as the filter's state alternates
_PLANS = 4  # kept; videos of more sizes at once are rare, and at 8K a plan holds 0.3 GB
_RESET = 2  # of the controls


@dataclass(frozen=True)
class _Key:
    size: tuple[int, int]  # rows, columns
    pixel_format: PixelFormat
    color: Color
    quarter_turns: int
    still: bool


@dataclass
class _State:
    """What a frame leaves to the next, on the device."""

    smooth: State  # G and the histogram
    target: Tensor  # the estimate that is followed, [K, D, GH, GW]
    frames_since: Tensor  # it was taken, int32 scalar
    filtered: list[list[Tensor]]  # two sets of planes of codes · 2^(16 − depth), uint16: slots write them in turn


class Ticket:
    """A frame under way."""

    def __init__(
        self,
        engine: Engine,
        size: tuple[int, int],
        slot: Slot,
        marks: list[Mark],
        out: tuple[Plane, ...] | None,
        kept: list[Tensor],
        source: object,
    ) -> None:
        self._engine, self._size, self._slot, self._marks = engine, size, slot, marks
        self._out, self._kept = out, kept
        self._source: object = source  # what is copied from must live until it has been
        self._waiting = True

    def wait(self) -> list[Tensor]:
        """Hand the frame on: its result then lies in `out`, or is what this gives, planes on the device.

        Raises:
            DeviceError: the device gave up.
        """
        if self._waiting:
            with self._engine.guarded(self._size):
                self._marks[-1].wait()
                self._engine.count(self._marks)
            if self._out is not None:
                for source, target in zip(self._slot.host_planes(self._out), self._out, strict=True):
                    np.copyto(target, source)
            self._waiting, self._source, self._slot.ticket = False, None, None
        return self._kept


class _Plan:
    """Static buffers for one kind of frame."""

    def __init__(self, engine: Engine, key: _Key) -> None:
        self.key, self._engine = key, engine
        streams, config = engine.streams, engine.network.config
        self.packing = Packing(key.pixel_format, key.size)
        self.slots = [Slot(streams, self.packing) for _ in range(1 if key.still else SLOTS)]
        self.count = 0  # of frames so far
        h, w = config.thumbnail_size(*key.size)
        shape = (config.channels, config.bins, h // STRIDE, w // STRIDE)
        with streams.on("compute"):
            device = streams.device
            self._thumbnail, self._histogram = self._zeros(3, h, w), self._zeros(reference.HISTOGRAM_BINS)
            self._analyze_scratch = torch.zeros(SCRATCH, dtype=torch.int32, device=device)
            self._restrain_scratch = torch.zeros(RESTRAIN_SCRATCH, dtype=torch.int64, device=device)
            words = estimate_scratch_size(engine.packed, (h, w))
            self._estimate_scratch = torch.empty(words, dtype=torch.float16, device=device)
            self._apply_scratch = self._zeros(apply_scratch_size(key.size, shape, key.pixel_format, device))
            self._estimate, self._gain = self._zeros(*shape), self._zeros(*shape)
            filtered = [
                [
                    torch.zeros(plane.shape, dtype=torch.int16, device=device).view(torch.uint16)
                    for plane in self.slots[0].planes
                ]
                for _ in range(2 if engine.settings.denoise and not key.still else 0)
            ]
            since = torch.zeros((), dtype=torch.int32, device=device)
            self.state = _State(State.empty(shape, device), self._zeros(*shape), since, filtered)

    def _zeros(self, *shape: int) -> Tensor:
        return torch.zeros(shape, device=self._engine.streams.device)

    def next_slot(self) -> Slot:
        """The slot for the next frame; waits for the frame that is in it."""
        slot = self.slots[self.count % len(self.slots)]
        if slot.ticket is not None:
            slot.ticket.wait()
        return slot

    def finish(self) -> None:
        """Wait for the frames in all slots."""
        for slot in self.slots:
            if slot.ticket is not None:
                slot.ticket.wait()

    def launch(self, slot: Slot) -> None:
        """Put a slot's stages on "compute"."""
        if self._engine.graphs and not self.key.still and self.count:
            if slot.replay is None:
                slot.replay = self._engine.streams.capture(lambda: self.enqueue(slot))
            slot.replay()
        else:
            self.enqueue(slot)
        self.count += 1

    def enqueue(self, slot: Slot) -> None:
        """Launch all stages of a frame; its planes are lifted in place."""
        engine, state, key = self._engine, self.state, self.key
        pixel_format, color, thumbnail, histogram = key.pixel_format, key.color, self._thumbnail, self._histogram
        size = (thumbnail.shape[1], thumbnail.shape[2])
        analyze(slot.planes, pixel_format, color, size, out=(thumbnail, histogram), scratch=self._analyze_scratch)
        seen = hdr.to_sdr(thumbnail, color.transfer)
        target = estimate(
            seen,
            engine.packed,
            quarter_turns=key.quarter_turns,
            out=self._estimate,
            scratch=self._estimate_scratch,
        )
        restrain(target, seen, slot.controls, out=target, scratch=self._restrain_scratch)
        if engine.every > 1:
            target = self._held((slot.controls[_RESET] >= 0.5) | reference.is_cut(histogram, state.smooth.histogram))
        sdr = color.transfer == "sdr"
        gain = follow(target, histogram, state.smooth, slot.controls, out=self._gain, exponentiated=sdr)
        if not sdr:
            gain = exponentiate(hdr.convert_grid(gain, color.transfer), 1.0, out=gain)
        filtered = None
        if state.filtered:
            turn = self.slots.index(slot) % 2
            filtered, last = state.filtered[turn], state.filtered[1 - turn]
            amount, fresh = engine.settings.denoise, state.smooth.cut
            filter_planes(slot.planes, last, pixel_format, amount, out=filtered, fresh=fresh)
        apply_curves(
            slot.planes, gain, pixel_format, color, filtered=filtered, out=slot.planes, scratch=self._apply_scratch
        )

    def _held(self, afresh: Tensor) -> Tensor:
        """The estimate where it is due, or the frame is the first of its shot; elsewhere the last one taken."""
        state = self.state
        since = state.frames_since + 1
        due = afresh | (since >= self._engine.every)
        state.frames_since.copy_(since.masked_fill(due, 0))
        return state.target.copy_(torch.where(due, self._estimate, state.target))


class Engine:
    """One video's enhancement on a device; one thread at a time.

    Attributes:
        depth: tickets that may be left waiting while the next frame is submitted, without holding it up.
        seconds: time on the device so far, by lane; lanes overlap.
    """

    depth = SLOTS - 1

    def __init__(
        self,
        streams: Streams,
        network: CurveNetwork,
        settings: EnhanceSettings,
        *,
        graphs: bool = True,
    ) -> None:
        """
        Args:
            graphs: replay CUDA graphs; False enqueues every frame, with the same results to the bit.
        """
        self.streams, self.graphs = streams, graphs
        self.network, self.settings = network, settings
        self.every = settings.estimate_every or 1
        self.seconds = {"upload": 0.0, "compute": 0.0, "download": 0.0}
        self._plans: OrderedDict[_Key, _Plan] = OrderedDict()
        self._last: tuple[_Key, float] | None = None
        with torch.inference_mode(), streams.on("compute"):
            weights = {name: tensor.to(streams.device) for name, tensor in network.state_dict().items()}
            self.packed = pack_network(weights, network.config)

    def reset(self) -> None:
        """The next frame starts afresh."""
        self._last = None

    def submit(
        self,
        planes: Sequence[Plane] | Sequence[Tensor],
        pixel_format: PixelFormat,
        color: Color,
        pts: float | None,
        out: tuple[Plane, ...] | None,
        quarter_turns: int = 0,
        strength: float = 1.0,
        source_low_bits: int | None = None,
    ) -> Ticket:
        """Begin to enhance a frame.

        Args:
            planes: arrays on the host, or tensors on the device, which stay as they are until the ticket has been
                waited for. Interleaved chroma is one plane [rows, 2·columns], or two views of every other sample.
            pixel_format: what the result has, and `planes` have. Tensors with interleaved chroma may become planar.
            pts: when the frame is shown; None for a still.
            out: where the result goes, as soon as the ticket is waited for; None leaves it on the device.
            source_low_bits: `PixelFormat.low_bits` of tensors, where it differs from `pixel_format`'s.

        Raises:
            UsageError: the frame is too small. DeviceError: not enough memory, or the device gave up.
        """
        height, width = planes[0].shape
        check_size(height, width)
        key = _Key((height, width), pixel_format, color, quarter_turns % 4, pts is None)
        lanes = self.streams
        with torch.inference_mode(), self.guarded(key.size):
            plan = self._plan(key)
            slot = plan.next_slot()
            slot.host_controls[:3] = self._controls(key, pts, strength)
            marks = self._upload(slot, planes, source_low_bits)
            lanes.after("compute", marks[-1])
            marks.append(lanes.mark("compute"))
            with lanes.on("compute"):
                plan.launch(slot)
            marks.append(lanes.mark("compute"))
            lanes.after("download", marks[-1])
            if out is None:
                lanes.after_others("download")  # which may still read what was kept before, and lies free by now
            marks.append(lanes.mark("download"))
            with lanes.on("download"):
                kept = slot.download() if out is not None else plan.packing.stored(slot.device.clone())
            marks.append(lanes.mark("download"))
        slot.ticket = Ticket(self, key.size, slot, marks, out, kept, planes)
        return slot.ticket

    def count(self, marks: list[Mark]) -> None:
        """Add up a frame's time on the lanes, which have all reached its marks."""
        for lane, begin, end in zip(self.seconds, marks[0::2], marks[1::2], strict=True):
            self.seconds[lane] += end.elapsed_since(begin)

    @contextmanager
    def guarded(self, size: tuple[int, int]) -> Iterator[None]:
        """Says what a device's error means, and what to do."""
        try:
            yield
        except RuntimeError as error:
            said = _device_failure(error)
            if not said:
                raise
            self._plans.clear()
            self._last = None
            if "out of memory" in said:
                raise DeviceError(
                    f"device cuda: out of memory on a frame of {size[1]}×{size[0]}; "
                    "close what else uses the GPU, or use device cpu"
                ) from error
            raise DeviceError(
                f"device cuda: the GPU gave up ({said}); start again, and if it comes back update the driver, "
                "or use device cpu"
            ) from error

    def _plan(self, key: _Key) -> _Plan:
        plan = self._plans.pop(key, None) or _Plan(self, key)
        self._plans[key] = plan
        if len(self._plans) > _PLANS:
            # Not the video's, which stills in between would make forget.
            oldest = next(key for key in self._plans if self._last is None or key != self._last[0])
            self._plans.pop(oldest).finish()
        return plan

    def _controls(self, key: _Key, pts: float | None, strength: float) -> tuple[float, float, float]:
        """What the kernels are told: how much of the last grid is kept, the strength, and 1 for a fresh start."""
        if pts is None:
            return 0.0, strength, 1.0
        last, self._last = self._last, (key, pts)
        if last is None or last[0] != key or pts < last[1]:
            return 0.0, strength, 1.0
        tau = self.settings.smoothing
        return math.exp((last[1] - pts) / tau) if tau > 0 else 0.0, strength, 0.0

    def _upload(self, slot: Slot, planes: Sequence[Plane] | Sequence[Tensor], low_bits: int | None) -> list[Mark]:
        """Fill a slot; the lane's marks before and after."""
        tensors = [plane for plane in planes if isinstance(plane, Tensor)]
        if tensors:
            self.streams.after_others("upload")
        else:
            for target, source in zip(slot.host_planes(planes), planes, strict=True):
                np.copyto(target, cast(Plane, source))
        begin = self.streams.mark("upload")
        with self.streams.on("upload"):
            if tensors:
                slot.fill(tensors, low_bits)
            else:
                slot.upload()
        return [begin, self.streams.mark("upload")]


def _device_failure(error: RuntimeError) -> str:
    """An error of CUDA's in its first line; "" for any other."""
    said = str(error).partition("\n")[0]
    # AcceleratorError is younger than some torch; Triton's launcher raises plain RuntimeErrors.
    kinds = tuple(getattr(torch, name) for name in ("OutOfMemoryError", "AcceleratorError") if hasattr(torch, name))
    return said if isinstance(error, kinds) or "CUDA" in said else ""
