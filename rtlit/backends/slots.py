"""Slots of the engine: where a frame's controls and planes lie, on the host and on the device."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from rtlit.backends.choose import Plane
from rtlit.backends.streams import Streams
from rtlit.frame import PixelFormat

if TYPE_CHECKING:
    from rtlit.backends.cuda_engine import Ticket

_HEADER = 256  # bytes in front of the planes, for the controls
_PITCH = 128  # rows begin at multiples of a cache line, so that every width loads whole vectors


class Packing:
    """Where controls and planes lie in one buffer of bytes."""

    def __init__(self, pixel_format: PixelFormat, size: tuple[int, int]) -> None:
        self.interleaved, self.low_bits = pixel_format.interleaved, pixel_format.low_bits
        self._dtype = torch.uint8 if pixel_format.depth == 8 else torch.uint16
        item = self._dtype.itemsize
        self._places = []
        self.bytes = _HEADER
        for index in range(2 if pixel_format.interleaved else pixel_format.channels):
            rows, columns = pixel_format.plane_size(index, *size)
            samples = columns * (2 if index and pixel_format.interleaved else 1)
            pitch = -(-samples * item // _PITCH) * _PITCH
            self._places.append((self.bytes, rows, samples, pitch))
            self.bytes += rows * pitch

    def stored(self, buffer: Tensor) -> list[Tensor]:
        """Planes as they lie in memory [rows, samples]; interleaved chroma is one."""
        return [
            buffer[begin : begin + rows * pitch].view(self._dtype).view(rows, -1)[:, :samples]
            for begin, rows, samples, pitch in self._places
        ]

    def components(self, stored: Sequence[Tensor]) -> list[Tensor]:
        """Planes as the stages take them: interleaved chroma is two views of every other sample."""
        return [stored[0], stored[1][:, 0::2], stored[1][:, 1::2]] if self.interleaved else list(stored)


class Slot:
    """A frame's place: bytes on the host and on the device, and the graph that works on them."""

    def __init__(self, streams: Streams, packing: Packing) -> None:
        self._packing = packing
        self.host, self.device = streams.staging(packing.bytes), streams.buffer(packing.bytes)
        self._stored = packing.stored(self.device)
        self.planes = packing.components(self._stored)
        self.controls = self.device[:16].view(torch.float32)
        self.host_controls = self.host[:16].view(torch.float32).numpy()
        stored = packing.stored(self.host)
        self._host = [[plane.numpy() for plane in planes] for planes in (stored, packing.components(stored))]
        self.ticket: Ticket | None = None
        self.replay: Callable[[], None] | None = None

    def host_planes(self, like: Sequence[object]) -> list[Plane]:
        """The staged planes, as many of them as `like`: as they are stored, or as components."""
        return next(planes for planes in self._host if len(planes) == len(like))

    def upload(self) -> None:
        """Copy controls and planes to the device."""
        self.device.copy_(self.host, non_blocking=True)

    def download(self) -> list[Tensor]:
        """Copy the planes to the host; none stay on the device for others."""
        self.host.copy_(self.device, non_blocking=True)
        return []

    def fill(self, stored: Sequence[Tensor], low_bits: int | None) -> None:
        """Copy the controls to the device, and planes that are there already: interleaved chroma apart where the slot
        has it so, codes to their place in the word."""
        self.device[:_HEADER].copy_(self.host[:_HEADER], non_blocking=True)
        if self._packing.interleaved or len(stored) != 2:
            pairs = zip(self._stored, stored, strict=True)
        else:
            pairs = zip(self.planes, (stored[0], stored[1][:, 0::2], stored[1][:, 1::2]), strict=True)
        shift = low_bits - self._packing.low_bits if low_bits is not None else 0
        for target, source in pairs:
            if source.dtype == torch.uint16:  # of which torch can do little; the sign that int16 brings is masked off
                target, source = target.view(torch.int16), source.view(torch.int16)
                source = (source >> shift) & ((1 << (16 - shift)) - 1) if shift else source
            target.copy_(source)
