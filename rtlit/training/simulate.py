"""Backlight and under-exposure, simulated in linear light on well-lit photographs.

    photograph ─ decode ─ × 2^EV(x, y) × cast ─ + veiling glare ─ + sensor noise ─ encode ─ 8 bits

A camera encodes with a gamma and an S-curve, and is decoded by their inverses. The S-curve is what drowns shadows: in
real exposure brackets, codes 8 to 16 of the dark frame become 70 to 115 in the fusion.

EV(x, y) is one of five kinds, drawn for each picture: nothing (the picture must stay as it is), the
same everywhere, a mask that follows the picture's edges, another photograph as the bright view behind
(in windows, above a horizon, around somebody), or a contrast expansion of the picture's base layer, which
is what one dark frame of an exposure bracket looks like beside the fused bracket.
All tensors are [B, 3, H, W] or [B, 1, H, W], tones in 0 … 1.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from rtlit.errors import UsageError

_LUMA = (0.2126, 0.7152, 0.0722)


@dataclass(frozen=True)
class SimulationSettings:
    """Shares of the kinds of light, and the ranges that each is drawn from (uniformly, in EV unless said).

    Attributes:
        unchanged, under_exposed, masked, composed, expanded: shares of the pictures; they sum to 1.
        dull: share of the unchanged ones whose contrast and saturation are turned down a little first:
            hazy or flat pictures aren't backlit, and stay as they are too.
        under_exposure: EV of the whole picture.
        foreground, background: EV inside and outside the mask.
        expansion: factor on the base layer's log-luminance below its highlights; darkest EV is −6.
        toe: largest exponent of the camera's S-curve; 1 is straight.
        cast: largest per-channel gain of what is darkened, either way.
        glare: largest share of the light that is spread over the picture; drawn as a square.
        noise: log10 of the shot-noise variance at linear 1; the read-noise variance is its square.
    """

    unchanged: float = 0.22
    under_exposed: float = 0.15
    masked: float = 0.39
    composed: float = 0.12
    expanded: float = 0.12
    dull: float = 0.4
    under_exposure: tuple[float, float] = (-4.0, -0.8)
    foreground: tuple[float, float] = (-4.5, -1.5)
    background: tuple[float, float] = (-0.3, 0.1)
    expansion: tuple[float, float] = (1.3, 3.2)
    toe: float = 1.4
    cast: float = 0.25
    glare: float = 0.04
    noise: tuple[float, float] = (-5.0, -3.2)

    def __post_init__(self) -> None:
        shares = (self.unchanged, self.under_exposed, self.masked, self.composed, self.expanded)
        if min(shares) < 0 or abs(sum(shares) - 1) > 1e-6:
            raise UsageError(f"shares of light {shares} must be at least 0 and sum to 1")
        for name in ("under_exposure", "foreground", "background", "expansion", "noise"):
            low, high = getattr(self, name)
            if low > high:
                raise UsageError(f"{name} = {(low, high)} must be (low, high)")


def simulate(photos: Tensor, settings: SimulationSettings, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Put photographs into bad light.

    Args:
        photos: well-lit R'G'B' [B, 3, H, W] in 0 … 1.
        generator: the only source of randomness.

    Returns:
        (pictures, truths) of the same shape, quantised to 8 bits (multiples of 1/255). The truths are the
        photographs, but for composed ones, and for unchanged ones that were dulled.
    """
    count = len(photos)
    shares = (settings.unchanged, settings.under_exposed, settings.masked, settings.expanded, settings.composed)
    chances = torch.tensor(shares, dtype=torch.float32)
    kind = torch.multinomial(chances, count, replacement=True, generator=generator).to(photos.device)
    dulled = (kind == 0) & (torch.rand(count, generator=generator).to(photos) < settings.dull)
    truth, ev = photos.clone(), torch.zeros_like(photos[:, :1])
    if dulled.any():
        truth[dulled] = dull_look(photos[dulled], generator)
    for number, exposure in enumerate((_under_exposure, masked_exposure, expanded_exposure), start=1):
        chosen = kind == number
        if chosen.any():
            ev[chosen] = exposure(photos[chosen], settings, generator)
    composed = kind == 4
    if composed.any():
        truth[composed], ev[composed] = compose(photos[composed], photos.roll(1, 0)[composed], settings, generator)

    gamma = _uniform((1.9, 2.5), count, generator, photos)
    toe = _uniform((1.0, settings.toe), count, generator, photos)
    scene = s_curve(truth, 1 / toe).clamp(min=1e-4).pow(gamma)
    light = expose(scene, ev, _cast(ev, settings, generator))
    # Squared: most scenes have little, as blacks show.
    light = veil(light, settings.glare * _uniform((0.0, 1.0), count, generator, photos).square())
    light = add_noise(light, _uniform(settings.noise, count, generator, photos), generator)
    dark = s_curve(light.clamp(0, 1).pow(1 / gamma), toe)
    dark = (dark * 255).round() / 255
    return torch.where((kind == 0)[:, None, None, None], truth, dark), truth


def s_curve(tones: Tensor, exponent: Tensor) -> Tensor:
    """A camera's contrast curve xᵖ / (xᵖ + (1 − x)ᵖ): logit x times p, fixed at 0, ½ and 1."""
    toe = tones.pow(exponent)
    return toe / (toe + (1 - tones).pow(exponent))


def dull_look(photos: Tensor, generator: torch.Generator) -> Tensor:
    """Photographs as a flat camera profile or haze shows them: less contrast and colour; 8-bit codes.

    What it takes of the contrast goes more to the blacks than to the whites: without whites it would be under-exposed.
    """
    count = len(photos)
    gamma = torch.exp2(_uniform((-0.3, 0.3), count, generator, photos))
    contrast = _uniform((0.5, 1.0), count, generator, photos)
    black = _uniform((0.4, 1.0), count, generator, photos) * (1 - contrast)
    saturation = _uniform((0.5, 1.1), count, generator, photos)
    luma = luminance(photos)
    toned = (luma + saturation * (photos - luma)).clamp(0, 1).pow(gamma)
    return ((black + contrast * toned) * 255).round().clamp(0, 255) / 255


def expose(light: Tensor, ev: Tensor, gains: Tensor | float = 1.0) -> Tensor:
    """Linear light [B, 3, H, W] at another exposure: × 2^EV × gains."""
    return light * torch.exp2(ev) * gains


def _under_exposure(photos: Tensor, settings: SimulationSettings, generator: torch.Generator) -> Tensor:
    return _uniform(settings.under_exposure, len(photos), generator, photos).expand(-1, 1, *photos.shape[-2:])


def masked_exposure(photos: Tensor, settings: SimulationSettings, generator: torch.Generator) -> Tensor:
    """EV map [B, 1, H, W]: a foreground darker than its background, parted along the picture's edges.

    The mask is a threshold on a random mix of a smooth random field and of the picture's own colours, so
    that it covers places, things and dark or bright parts alike; a guided filter fits it to the edges.
    """
    count = len(photos)
    mask = edge_mask(photos, generator)
    foreground = _uniform(settings.foreground, count, generator, photos)
    background = _uniform(settings.background, count, generator, photos)
    return background + mask * (foreground - background)


def edge_mask(photos: Tensor, generator: torch.Generator) -> Tensor:
    """A random mask [B, 1, H, W] in 0 … 1 that covers 20 to 85 % of each picture and follows its edges.

    The score that is cut at a random quantile is a random mix of the edge-preserved colours and brightness
    (things and surfaces), of a place in the picture (somebody in the middle, the ground below) and of a little
    smooth noise; a guided filter then fits the mask to the edges.
    """
    count, _, height, width = photos.shape
    luma = luminance(photos)
    # From textures to whole things: shadow falls on leaves one by one, and on a room as a whole.
    radius = max(photos.shape[-2:]) // int(torch.randint(10, 40, (), generator=generator))
    colors = torch.cat([guided_filter(luma, photos[:, c : c + 1], radius, 0.02) for c in range(3)], 1)
    y = torch.linspace(-1, 1, height).to(photos)[:, None]
    x = torch.linspace(-1, 1, width).to(photos)
    center_x, center_y = (_uniform((-0.7, 0.7), count, generator, photos) for _ in range(2))
    near = torch.exp(-2 * ((x - center_x) ** 2 + (y - center_y) ** 2))
    noise = torch.randn(count, 1, 4, 4, generator=generator).to(photos)
    noise = F.interpolate(noise, (height, width), mode="bicubic", align_corners=False)
    tint = torch.randn(count, 3, 1, 1, generator=generator).to(photos)
    # Mostly, what is dark is foreground.
    backlit = torch.rand(count, 1, 1, 1, generator=generator).to(photos) < 0.75
    strong, weak = (_uniform(bounds, count, generator, photos) for bounds in ((-8.0, -3.0), (-3.0, 0.5)))
    score = (
        torch.where(backlit, strong, weak) * luminance(colors)
        + _uniform((0.0, 1.0), count, generator, photos) * (tint * colors).sum(1, keepdim=True)
        + _uniform((-0.3, 0.6), count, generator, photos) * y
        + _uniform((0.0, 0.6), count, generator, photos) * near
        + _uniform((0.0, 0.15), count, generator, photos) * noise
    )
    share = _uniform((0.15, 0.8), count, generator, photos).flatten()
    threshold = torch.stack([s.quantile(q) for s, q in zip(score.flatten(1), share, strict=True)])[:, None, None, None]
    softness = score.flatten(1).std(1)[:, None, None, None] * _uniform((0.02, 0.2), count, generator, photos)
    mask = torch.sigmoid((score - threshold) / softness.clamp(min=1e-4))
    return guided_filter(luma, mask, max(2, radius // 2), 1e-3).clamp(0, 1)


def compose(
    fronts: Tensor, views: Tensor, settings: SimulationSettings, generator: torch.Generator
) -> tuple[Tensor, Tensor]:
    """Put `fronts` before `views`, brightened by up to 1 EV: (truths [B, 3, H, W], EV maps [B, 1, H, W])."""
    count = len(fronts)
    front = torch.stack([_outline(fronts.shape[-2:], generator) for _ in range(count)])[:, None].to(fronts)
    gain = _uniform((0.0, 1.0), count, generator, fronts)
    bright = expose(views.pow(2.2), gain).clamp(0, 1).pow(1 / 2.2)
    truth = ((front * fronts + (1 - front) * bright) * 255).round() / 255
    foreground = _uniform(settings.foreground, count, generator, fronts)
    background = _uniform(settings.background, count, generator, fronts)
    return truth, background + front * (foreground - background)


def _outline(size: tuple[int, int] | torch.Size, generator: torch.Generator) -> Tensor:
    """What is in front, [H, W] in 0 … 1: a wall with one to three windows, ground below a horizon, or a person."""
    height, width = size
    y = torch.linspace(0, 1, height)[:, None].expand(height, width)
    x = torch.linspace(0, 1, width).expand(height, width)
    draw = torch.rand(16, generator=generator).tolist()
    softness = 0.4 / max(height, width)
    if draw[0] < 0.45:
        inside = torch.full((height, width), -1.0)
        for left, top, w, h in (draw[1:5], draw[5:9], draw[9:13])[: 1 + int(draw[13] * 3)]:
            left, top, right, bottom = left * 0.8, top * 0.6, left * 0.8 + 0.15 + 0.45 * w, top * 0.6 + 0.2 + 0.5 * h
            distance = torch.stack([x - left, right - x, y - top, bottom - y]).amin(0)
            inside = torch.maximum(inside, distance)
        return torch.sigmoid(-inside / softness)
    if draw[0] < 0.7:
        waves = 0.05 * torch.sin(x * (5 + 20 * draw[3]) + 6 * draw[4])
        horizon = 0.2 + 0.5 * draw[1] + (draw[2] - 0.5) * (x - 0.5) + waves
        return torch.sigmoid((y - horizon) / softness)
    scale, at = 0.5 + draw[1], 0.2 + 0.6 * draw[2]
    top = 0.1 + 0.3 * draw[3]
    head = 1 - (((x - at) / (0.13 * scale)) ** 2 + ((y - top - 0.17 * scale) / (0.17 * scale)) ** 2).sqrt()
    body = 1 - (((x - at) / (0.3 * scale)) ** 2 + ((y - top - 1.0 * scale) / (0.68 * scale)) ** 2).sqrt()
    return torch.sigmoid(torch.maximum(head, body) * 0.15 * scale / softness)


def expanded_exposure(photos: Tensor, settings: SimulationSettings, generator: torch.Generator) -> Tensor:
    """EV map [B, 1, H, W] that expands the contrast of the base layer below its highlights.

    EV = (c − 1)·(log₂ base − log₂ highlight) + global EV: tone mapping (exposure fusion) run backwards.
    """
    count = len(photos)
    light = luminance(photos).clamp(min=1e-3).pow(2.2)
    base = guided_filter(light.log2(), light.log2(), max(photos.shape[-2:]) // 8, 1.5)
    highlight = base.flatten(1).quantile(0.95, dim=1)[:, None, None, None]
    contrast = _uniform(settings.expansion, count, generator, photos)
    overall = _uniform((-0.8, 0.0), count, generator, photos)
    return ((contrast - 1) * (base - highlight) + overall).clamp(-6, 0.3)


def veil(light: Tensor, share: Tensor) -> Tensor:
    """Veiling glare: a share [B, 1, 1, 1] of the light is spread, half over the picture and half nearby."""
    near = _box(light, max(2, min(light.shape[-2:]) // 6))
    return light * (1 - share) + share * 0.5 * (near + light.mean((-2, -1), keepdim=True))


def add_noise(light: Tensor, log_variance: Tensor, generator: torch.Generator) -> Tensor:
    """Poisson-Gaussian sensor noise, as a Gaussian of variance a·light + a², a = 10^log_variance."""
    a = torch.pow(10.0, log_variance)
    normal = torch.randn(light.shape, generator=generator).to(light)
    return light + normal * (a * light.clamp(min=0) + a.square()).sqrt()


def luminance(rgb: Tensor) -> Tensor:
    """BT.709 luma [B, 1, H, W] of [B, 3, H, W]."""
    return (rgb * torch.tensor(_LUMA, dtype=rgb.dtype, device=rgb.device)[:, None, None]).sum(1, keepdim=True)


def guided_filter(guide: Tensor, source: Tensor, radius: int, epsilon: float) -> Tensor:
    """Edge-preserving smoothing of `source` along `guide`, both [B, 1, H, W] (He et al., ECCV 2010)."""
    mean_guide, mean_source = _box(guide, radius), _box(source, radius)
    covariance = _box(guide * source, radius) - mean_guide * mean_source
    variance = _box(guide * guide, radius) - mean_guide * mean_guide
    slope = covariance / (variance + epsilon)
    return _box(slope, radius) * guide + _box(mean_source - slope * mean_guide, radius)


def _box(x: Tensor, radius: int) -> Tensor:
    """Mean over a (2r + 1)² window, smaller at the borders, by running sums."""
    for dim in (-1, -2):
        length = x.shape[dim]
        sums = F.pad(x.cumsum(dim), (1, 0) if dim == -1 else (0, 0, 1, 0))
        at = torch.arange(length, device=x.device)
        low, high = (at - radius).clamp(min=0), (at + radius + 1).clamp(max=length)
        width = (high - low).to(x)
        x = (sums.index_select(dim, high) - sums.index_select(dim, low)) / (width if dim == -1 else width[:, None])
    return x


def _cast(ev: Tensor, settings: SimulationSettings, generator: torch.Generator) -> Tensor:
    """Per-channel gains [B, 3, H, W] of half the pictures, in proportion to the darkening (full at −2 EV)."""
    count = len(ev)
    chosen = (torch.rand(count, 1, 1, 1, generator=generator) < 0.5).to(ev)
    tint = (torch.rand(count, 3, 1, 1, generator=generator).to(ev) * 2 - 1) * settings.cast
    return torch.exp2((tint - tint.mean(1, keepdim=True)) * chosen * (-ev / 2).clamp(0, 1))


def _uniform(bounds: tuple[float, float], count: int, generator: torch.Generator, like: Tensor) -> Tensor:
    low, high = bounds
    return low + (high - low) * torch.rand(count, 1, 1, 1, generator=generator).to(like)
