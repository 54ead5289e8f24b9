"""`analyze` against the reference: every format, sizes above and below the thumbnail's, any memory."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

import rtlit_kernels
from rtlit import reference
from rtlit.frame import Color, PixelFormat
from rtlit_kernels.analyze import SCRATCH
from tests.frames import COLORS, FORMATS, INTERLEAVED, color_for, random_planes

# Sums of up to a few hundred codes in float32, in another order. Tones are counted in 1/65536.
THUMBNAIL, HISTOGRAM = 3e-6, 2e-5


def on(device: torch.device, planes: list[Tensor]) -> list[Tensor]:
    """The planes on a device; those of interleaved chroma still views of one tensor."""
    if len(planes) == 3 and planes[1].stride(1) == 2:
        both = planes[1].as_strided((*planes[1].shape, 2), (*planes[1].stride(), 1)).to(device)
        return [planes[0].to(device), both[..., 0], both[..., 1]]
    return [plane.to(device) for plane in planes]


def check(planes: list[Tensor], name: str, color: Color, size: tuple[int, int], device: torch.device) -> Tensor:
    pixel_format = PixelFormat(name)
    thumbnail, histogram = rtlit_kernels.analyze(on(device, planes), pixel_format, color, size)
    wanted = reference.analyze([plane.contiguous() for plane in planes], pixel_format, color, size)
    torch.testing.assert_close(thumbnail.cpu(), wanted[0], atol=THUMBNAIL, rtol=0)
    torch.testing.assert_close(histogram.cpu(), wanted[1], atol=HISTOGRAM, rtol=0)
    return thumbnail


@pytest.mark.parametrize("name", FORMATS + INTERLEAVED)
def test_every_format(name: str, device: torch.device) -> None:
    color = color_for(PixelFormat(name), Color("bt601", full_range=name.startswith("yuvj")))
    check(random_planes(PixelFormat(name), (37, 53), seed=3), name, color, (8, 16), device)
