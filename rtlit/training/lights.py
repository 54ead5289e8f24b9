"""Every photograph in four lights: as it is, backlit, under-exposed, and over-exposed or hazy.

    photograph ─ decode gamma ─ × 2^EV(x, y) × cast ─ + sun or lamp ─ + veiling glare ─ + noise ─ encode ─ 8 bits, JPEG

The same crop in every light is what teaches a contrastive loss to look at the light and not at the subject. Wider
ranges than `rtlit.training.simulate` draws for enhancement: down to −7 EV, backgrounds that are blown out, suns.
"""

from __future__ import annotations

from io import BytesIO

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from rtlit.training.captions import Light
from rtlit.training.simulate import (
    SimulationSettings,
    add_noise,
    compose,
    dull_look,
    expanded_exposure,
    expose,
    luminance,
    masked_exposure,
    s_curve,
    veil,
)

LIGHTS = 4
_BACKLIGHT = SimulationSettings(foreground=(-5.5, -1.2), background=(-0.4, 1.2), expansion=(1.5, 3.6))
_UNDER_EXPOSURE, _OVER_EXPOSURE = (-7.0, -0.8), (0.6, 3.0)  # EV
_DARK_MEAN = 0.22  # A photograph whose mean is below isn't called well-lit: it may be a night scene or low-key.
_DEGREES = (0.1, 0.2, 0.33)  # mean change of luma from which a light is moderate, bad and extreme
_LAMPS = (0.0, 0.4, 0.25, 0.05)  # share of the pictures with one in view, by light
_SEEN = 0.03  # below which it isn't named


def four_lights(photos: Tensor, generator: torch.Generator) -> tuple[Tensor, list[Light]]:
    """Photographs in every light.

    Args:
        photos: well-lit R'G'B' [B, 3, H, W] in 0 … 1.
        generator: the only source of randomness.

    Returns:
        (pictures [4·B, 3, H, W], multiples of 1/255; their lights). The four of a photograph stand B apart: well-lit,
        backlit, under-exposed, over-exposed or hazy.
    """
    count = len(photos)
    backlit_truth, backlit_ev = _backlight(photos, generator)
    under_ev = _under_exposure(photos, generator)
    hazy = torch.rand(count, generator=generator) < 0.4
    last = torch.where(hazy[:, None, None, None], _haze(photos, generator), photos)
    over_ev = _uniform(_OVER_EXPOSURE, count, generator) * ~hazy[:, None, None, None]
    truth = torch.cat([photos, backlit_truth, photos, last])
    slight = _uniform((-0.25, 0.25), count, generator).expand_as(backlit_ev)
    ev = torch.cat([slight, backlit_ev, under_ev, over_ev.expand_as(backlit_ev)])
    kinds = ["well-lit"] * count + ["backlit"] * count + ["under-exposed"] * count
    kinds += ["hazy" if each else "over-exposed" for each in hazy.tolist()]
    lamp = torch.rand(LIGHTS * count, generator=generator) < torch.tensor(_LAMPS).repeat_interleave(count)
    pictures, noise, warmth = _take(truth, ev, lamp, generator)
    return pictures, _lights(kinds, photos, truth, pictures, ev, noise, warmth)


def _backlight(photos: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """(photographs or compositions, EV maps [B, 1, H, W])."""
    how = torch.multinomial(torch.tensor([0.4, 0.25, 0.35]), len(photos), True, generator=generator)
    truth, ev = photos.clone(), torch.zeros_like(photos[:, :1])
    masked, expanded, composed = (how == index for index in range(3))
    if masked.any():
        ev[masked] = masked_exposure(photos[masked], _BACKLIGHT, generator)
    if expanded.any():
        ev[expanded] = expanded_exposure(photos[expanded], _BACKLIGHT, generator)
    if composed.any():
        views = photos.roll(1, 0)
        truth[composed], ev[composed] = compose(photos[composed], views[composed], _BACKLIGHT, generator)
    return truth, ev


def _under_exposure(photos: Tensor, generator: torch.Generator) -> Tensor:
    """EV maps [B, 1, H, W]: the same everywhere, or with the contrast of a night."""
    even = _uniform(_UNDER_EXPOSURE, len(photos), generator).expand(-1, 1, *photos.shape[-2:])
    night = torch.rand(len(photos), 1, 1, 1, generator=generator) < 0.3
    deep = expanded_exposure(photos, _BACKLIGHT, generator) + 0.4 * even
    return torch.where(night, deep, even)


def _haze(photos: Tensor, generator: torch.Generator) -> Tensor:
    """Less contrast and colour than `dull_look` leaves, under a grey veil."""
    pale = dull_look(photos, generator)
    share = _uniform((0.15, 0.6), len(photos), generator)
    return pale * (1 - share) + share * _uniform((0.45, 0.85), len(photos), generator)


def _take(truth: Tensor, ev: Tensor, lamp: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor, Tensor]:
    """The camera: (pictures, noise as log10 of its variance [B], warmth of the cast [B])."""
    count = len(truth)
    gamma = _uniform((1.9, 2.5), count, generator)
    chosen = torch.rand(2, count, generator=generator)
    tinted = chosen[0] < 0.3
    warmth = (torch.rand(count, generator=generator) * 1.6 - 0.8) * tinted  # EV of red over blue
    green = 0.3 * (torch.rand(count, generator=generator) - 0.5) * tinted
    tint = torch.stack([warmth / 2, green, -warmth / 2], 1)
    light = expose(truth.clamp(min=1e-4).pow(gamma), ev, torch.exp2(tint)[:, :, None, None])
    light = _add_lamps(light, lamp, generator)
    light = veil(light.clamp(max=8), _uniform((0.0, 0.08), count, generator))
    noise = torch.where(chosen[1] < 0.35, _uniform((-3.4, -1.7), count, generator).flatten(), torch.tensor(-5.0))
    light = add_noise(light, noise[:, None, None, None], generator).clamp(0, 1)
    tones = s_curve(light.pow(1 / gamma), _uniform((1.0, 1.15), count, generator))
    return _jpeg((tones * 255).round() / 255, generator), noise, warmth


def _add_lamps(light: Tensor, lamp: Tensor, generator: torch.Generator) -> Tensor:
    """A sun or lamp [where `lamp`] with its glow, at the brightest place or anywhere."""
    if not lamp.any():
        return light
    light = light.clone()
    height, width = light.shape[-2:]
    y, x = torch.linspace(0, 1, height)[:, None], torch.linspace(0, 1, width)
    for index in lamp.nonzero().flatten().tolist():
        draw = torch.rand(7, generator=generator).tolist()
        smooth = F.avg_pool2d(luminance(light[index : index + 1]), 9, 1, 4)[0, 0]
        at = divmod(int(smooth.argmax()), width) if draw[0] < 0.6 else (draw[1] * height * 0.7, draw[2] * width)
        distance = (y - at[0] / height) ** 2 + (x - at[1] / width) ** 2
        radius = 0.01 + 0.05 * draw[3] ** 2
        disc = torch.sigmoid((radius - distance.sqrt()) / 0.01)
        glow = 10 ** (-1.6 + 1.6 * draw[4]) * torch.exp(-distance.sqrt() / (0.05 + 0.35 * draw[5]))
        color = torch.tensor([1.0, 0.95 - 0.35 * draw[6], 0.9 - 0.7 * draw[6]])[:, None, None]
        light[index] = light[index] + (4 * disc + glow) * color
    return light


def _jpeg(pictures: Tensor, generator: torch.Generator) -> Tensor:
    """A quarter of the pictures, through JPEG of quality 40 to 95."""
    pictures = pictures.clone()
    for index in (torch.rand(len(pictures), generator=generator) < 0.25).nonzero().flatten().tolist():
        quality = int(torch.randint(40, 96, (), generator=generator))
        codes = (pictures[index].permute(1, 2, 0) * 255).round().byte().numpy()
        Image.fromarray(codes).save(buffer := BytesIO(), "JPEG", quality=quality)
        pictures[index] = torch.from_numpy(np.array(Image.open(buffer))).permute(2, 0, 1) / 255
    return pictures


def _lights(
    kinds: list[str], photos: Tensor, truth: Tensor, pictures: Tensor, ev: Tensor, noise: Tensor, warmth: Tensor
) -> list[Light]:
    brighter = luminance(pictures) - luminance(truth)
    sign = torch.tensor([1.0 if kind == "over-exposed" else -1.0 for kind in kinds])[:, None, None, None]
    change = (sign * brighter).clamp(min=0).mean((1, 2, 3)).tolist()
    level = luminance(photos).mean((1, 2, 3)).repeat(LIGHTS).tolist()
    darkest = ev.flatten(1).quantile(0.2, dim=1).tolist()
    rows = zip(kinds, change, level, darkest, noise.tolist(), warmth.tolist(), strict=True)
    return [_light(*row) for row in rows]


def _light(kind: str, change: float, level: float, ev: float, noise: float, warmth: float) -> Light:
    dim = kind == "well-lit" and level < _DARK_MEAN
    unseen = kind in ("backlit", "under-exposed", "over-exposed") and change < _SEEN
    return Light(
        kind=None if dim or unseen else kind,
        stops=abs(ev),
        degree=sum(change > edge for edge in _DEGREES),
        noise=sum(noise > edge for edge in (-3.4, -2.8, -2.2)),
        warmth=warmth if abs(warmth) > 0.2 else 0.0,
    )


def _uniform(bounds: tuple[float, float], count: int, generator: torch.Generator) -> Tensor:
    low, high = bounds
    return low + (high - low) * torch.rand(count, 1, 1, 1, generator=generator)
