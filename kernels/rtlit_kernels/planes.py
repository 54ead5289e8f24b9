"""Views of planes as the kernels read them."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor


def as_words(plane: Tensor, out: Tensor, count: int) -> tuple[bool, Tensor, Tensor]:
    """Whether words of `count` (1 or 2) codes can be loaded from a plane and stored in `out`, and views of these if so.

    Args:
        plane, out: codes [rows, columns], uint8 or uint16.

    Returns:
        The views are of int16 or int32 words [rows, columns / 2], or `plane` and `out` as they are.
    """
    size = count * plane.element_size()
    whole = all(
        tensor.stride(1) == 1 and not (tensor.shape[1] % count or tensor.stride(0) % count or tensor.data_ptr() % size)
        for tensor in (plane, out)
    )
    if count != 2 or not whole:
        return count == 1, plane, out
    dtype = torch.int16 if size == 2 else torch.int32
    return True, plane.view(dtype), out.view(dtype)


def is_interleaved(planes: Sequence[Tensor]) -> bool:
    """Whether U and V of three planes alternate in memory, as in NV12."""
    blue, red = planes[1:]
    return blue.stride() == red.stride() and blue.stride(1) == 2 and red.data_ptr() - blue.data_ptr() == blue.itemsize


def as_pairs(blue: Tensor) -> Tensor:
    """Interleaved chroma as it lies in memory [rows, 2·columns], from its U [rows, columns]."""
    return blue.as_strided((blue.shape[0], 2 * blue.shape[1]), (blue.stride(0), 1))


def empty_like(planes: Sequence[Tensor]) -> list[Tensor]:
    """New planes of the same shapes; contiguous, or interleaved where the given ones are."""
    if len(planes) == 3 and is_interleaved(planes):
        both = torch.empty(*planes[1].shape, 2, dtype=planes[1].dtype, device=planes[1].device)
        return [torch.empty_like(planes[0], memory_format=torch.contiguous_format), both[..., 0], both[..., 1]]
    return [torch.empty_like(plane, memory_format=torch.contiguous_format) for plane in planes]


def check_filtered(filtered: Sequence[Tensor], planes: Sequence[Tensor]) -> Sequence[Tensor]:
    """The filtered planes of a frame, if they fit its planes.

    Raises:
        ValueError: other shapes, another device or type than uint16 or float32, columns that aren't adjacent, or chroma
        planes of different strides.
    """
    kinds = {(plane.dtype, plane.device, plane.stride(1)) for plane in filtered}
    if [plane.shape for plane in filtered] != [plane.shape for plane in planes] or kinds - {
        (dtype, planes[0].device, 1) for dtype in (torch.uint16, torch.float32)
    } or len(kinds) != 1 or filtered[1:] and filtered[1].stride() != filtered[2].stride():
        raise ValueError(f"filtered planes of {kinds}")
    return filtered
