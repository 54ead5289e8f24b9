"""Frames on a device, and the memory that their planes may lie in."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor


def on(device: torch.device, planes: Sequence[Tensor]) -> list[Tensor]:
    """The planes on a device; those of interleaved chroma still views of one tensor."""
    if len(planes) == 3 and planes[1].stride(1) == 2:
        both = planes[1].as_strided((*planes[1].shape, 2), (*planes[1].stride(), 1)).to(device)
        return [planes[0].to(device), both[..., 0], both[..., 1]]
    return [plane.to(device) for plane in planes]


def padded(plane: Tensor) -> Tensor:
    """The same codes with other ones after every row, rows at multiples of 16 (as decoders have it)."""
    wide = plane.new_full((plane.shape[0], plane.shape[1] // 16 * 16 + 32), 77)
    wide[:, : plane.shape[1]] = plane
    return wide[:, : plane.shape[1]]


def odd_pitch(plane: Tensor) -> Tensor:
    """Rows at no multiple of anything, the first one not aligned."""
    wide = plane.new_full((plane.shape[0], plane.shape[1] + 7), 77)
    wide[:, 3 : plane.shape[1] + 3] = plane
    return wide[:, 3 : plane.shape[1] + 3]


def packed(plane: Tensor) -> Tensor:
    """Every third sample, as a channel of packed RGB."""
    wide = plane.new_full((*plane.shape, 3), 77)
    wide[..., 1] = plane
    return wide[..., 1]


def turned(plane: Tensor) -> Tensor:
    """Columns in memory."""
    return plane.T.contiguous().T


LAYOUTS = [padded, odd_pitch, packed, turned]
