"""The four stages in plain, differentiable torch: the specification of every backend.

    planes ─ analyze → thumbnail ─ estimate → grid ─ smooth → grid ─ exponentiate → gain ┐
      └───────────────────────────────────────────────────────────────── apply_curves ───┴→ planes

Planes are tensors [..., H, W] of code values (any integer or float dtype); all arithmetic is float32
(float64 planes stay float64), and codes are rounded once, at the end. Formats such as `p010le` have words with
their codes at the top (`PixelFormat.low_bits`): they are shifted as they are read and back as they are written.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from rtlit.errors import UsageError
from rtlit.frame import Color, PixelFormat

_HISTOGRAM_TONES, _HISTOGRAM_REGIONS = 8, 4
_HISTOGRAM_LUMA = (0.2126, 0.7152, 0.0722)
HISTOGRAM_BINS = _HISTOGRAM_TONES * _HISTOGRAM_REGIONS**2
CUT_DISTANCE = 0.4  # docs/decisions.md, "Scene cuts"
MAX_LAG = 0.1  # of t; docs/decisions.md, "Smoothing over time"
# docs/decisions.md, "Restraint": what dark and bright pixels count beside the lift, where belief begins and is full,
# and how much lift needs no evidence.
DARK_WEIGHT, BRIGHT_WEIGHT, DOUBT, BELIEF, HARMLESS = 0.4, 0.3, 0.1, 0.3, 0.005
MIN_SIZE = 16


def lift(x: Tensor, gain: Tensor) -> Tensor:
    """The curve L(x; t) = x·eᵗ / (1 + x·(eᵗ − 1)), given gain = eᵗ.

    The flow of the logistic equation dx/ds = x(1 − x) for a time t, so logit L = logit x + t: monotone,
    0 → 0, 1 → 1, identity at gain 1 (bit for bit), inverse at 1/gain, composed by multiplying gains.
    Computed as x·g / (x·g + (1 − x)): sums of what is positive alone, so it never passes 1 and keeps float32's
    accuracy (within 1e-7) at every gain, where 1 + x·(g − 1) cancels at g « 1 (7e-5 at t = −8).

    Args:
        x: tones in 0 … 1, any shape.
        gain: eᵗ > 0, broadcastable to x.
    """
    lifted = x * gain
    return lifted / (lifted + (1 - x))


def planes_to_rgb(planes: Sequence[Tensor], pixel_format: PixelFormat, color: Color) -> Tensor:
    """R'G'B' of every pixel, unclamped (ITU-T H.273 §8.3; each chroma sample serves its whole block).

    Args:
        planes: code values, luma [..., H, W] and chroma [..., ⌈H/2^sy⌉, ⌈W/2^sx⌉]; grey: luma alone.

    Returns:
        [..., 3, H, W], 0 … 1 for colours inside the cube.
    """
    return _codes_to_rgb(codes_of(planes, pixel_format), pixel_format, color)


def codes_of(planes: Sequence[Tensor], pixel_format: PixelFormat) -> list[Tensor]:
    """Codes in float32 (float64 of such planes) of planes as they lie in memory: word >> `low_bits`."""
    codes = [_floating(plane) for plane in planes]
    unit = 2.0**-pixel_format.low_bits
    return [(code * unit).floor() for code in codes] if pixel_format.low_bits else codes


def _codes_to_rgb(codes: Sequence[Tensor], pixel_format: PixelFormat, color: Color) -> Tensor:
    components = _components(codes, pixel_format, color)
    luma = components[0]
    if pixel_format.channels == 1:
        return luma.unsqueeze(-3).expand(*luma.shape[:-2], 3, *luma.shape[-2:])
    height, width = luma.shape[-2:]
    full = [luma] + [_replicate(plane, pixel_format)[..., :height, :width] for plane in components[1:]]
    return _mix(color.to_rgb(), torch.stack(full, -3))


def analyze(
    planes: Sequence[Tensor], pixel_format: PixelFormat, color: Color, size: tuple[int, int]
) -> tuple[Tensor, Tensor]:
    """Reduce a frame to its thumbnail and the histogram of the thumbnail's tones.

    Every thumbnail pixel is the area mean of the part of each plane that it covers (fractional coverage
    at its borders); the matrix is linear, so the mean is taken before it. Enlarges frames smaller than
    the thumbnail in the same way.

    Args:
        planes: code values, as in `planes_to_rgb`; each side at least 16 pixels.
        size: (h, w) of the thumbnail.

    Returns:
        thumbnail [..., 3, h, w], R'G'B' in 0 … 1, and its `tone_histogram` [..., 128].
    """
    height, width = planes[0].shape[-2:]
    if min(height, width) < MIN_SIZE:
        raise UsageError(f"a frame of {width}×{height} is too small; each side must be at least {MIN_SIZE} pixels")
    components = _components(codes_of(planes, pixel_format), pixel_format, color)
    small = []
    for index, plane in enumerate(components):
        # A chroma plane of an odd-sized frame reaches past the picture: weigh what lies inside alone.
        shift_y, shift_x = (pixel_format.shift_y, pixel_format.shift_x) if index else (0, 0)
        rows = area_weights(height / (1 << shift_y), plane.shape[-2], size[0]).to(plane)
        columns = area_weights(width / (1 << shift_x), plane.shape[-1], size[1]).to(plane)
        small.append(rows @ plane @ columns.T)
    if pixel_format.channels == 1:
        thumbnail = torch.stack(small * 3, -3)
    else:
        thumbnail = _mix(color.to_rgb(), torch.stack(small, -3))
    thumbnail = thumbnail.clamp(0, 1)
    return thumbnail, tone_histogram(thumbnail)


def area_weights(extent: float, samples: int, cells: int) -> Tensor:
    """Weights [cells, samples] (float64) of the area mean: how much of each cell each sample covers; rows sum to 1.

    Args:
        extent: length of the picture in samples (not whole for the chroma of an odd-sized frame).
        samples: number of samples, ⌈extent⌉.
        cells: number of equal parts that the extent is cut into.
    """
    edges = torch.arange(cells + 1, dtype=torch.float64) * (extent / cells)
    left, right = edges[:-1, None], edges[1:, None]
    sample = torch.arange(samples, dtype=torch.float64)
    overlap = (torch.minimum(right, sample + 1) - torch.maximum(left, sample)).clamp(min=0)
    return overlap / overlap.sum(1, keepdim=True)


def tone_histogram(thumbnail: Tensor) -> Tensor:
    """Histogram of the luma of each of 4×4 regions of a thumbnail, over 8 tones, as one vector that sums to 1.

    A pixel counts for the two tones that it lies between, in proportion, so that noise moves it little.

    Args:
        thumbnail: [..., 3, h, w] in 0 … 1.

    Returns:
        [..., 128].
    """
    weights = thumbnail.new_tensor(_HISTOGRAM_LUMA)[:, None, None]
    luma = (thumbnail * weights).sum(-3, keepdim=True) * (_HISTOGRAM_TONES - 1)
    tones = torch.arange(_HISTOGRAM_TONES, device=luma.device, dtype=luma.dtype)[:, None, None]
    counts = (luma - tones).abs_().neg_().add_(1).clamp_(min=0)  # in place: fresh memory costs more than arithmetic
    regions = F.adaptive_avg_pool2d(counts.reshape(-1, *counts.shape[-3:]), _HISTOGRAM_REGIONS)
    return regions.reshape(*counts.shape[:-3], HISTOGRAM_BINS) / _HISTOGRAM_REGIONS**2


def restrain(grid: Tensor, thumbnail: Tensor, strength: float = 1.0) -> Tensor:
    """The estimate, as far as there is evidence of bad light: t times a factor of 0 to 1 for the whole picture.

    A network that is unsure lifts a good picture a little. But what is backlit has dark parts, most often before bright
    ones, and gains much. The factor rises linearly from 0 at s = `DOUBT` to 1 at s = `BELIEF`,
    s = lift + `DARK_WEIGHT`·dark + `BRIGHT_WEIGHT`·bright:

        lift    mean of L(z; t) − z over the thumbnail's tones z (brightest channel, in the grid's bins, cell by cell;
                t is the mean over the K curves)
        dark    share of the pixels whose brightest channel is below 1/7; it counts less from there, and not from 2/7 on
        bright  the same above 6/7, and 5/7

    A lift of up to `HARMLESS` on average passes without evidence: the factor is at least `HARMLESS` / lift. Who asks
    for a strength above 1 sees that it is too dark: what the factor lacks to 1 is made up in proportion, all at 2.

    Args:
        grid: t [..., K, D, GH, GW]. thumbnail: R'G'B' [..., 3, h, w] in 0 … 1, h and w multiples of GH and GW.
        strength: what t is multiplied by afterwards, elsewhere.

    Returns:
        t of the same shape.
    """
    tone = thumbnail.amax(-3)
    bins, rows, columns = grid.shape[-3:]
    z = torch.linspace(0, 1, bins, device=grid.device, dtype=grid.dtype)[:, None, None]
    counts = (tone.unsqueeze(-3) - z).abs_().mul_(1 - bins).add_(1).clamp_(min=0)
    counts = F.adaptive_avg_pool2d(counts, (rows, columns))
    gained = (counts * (lift(z, grid.mean(-4).exp()) - z)).sum(-3).mean((-2, -1))
    dark = (2 - 7 * tone).clamp(0, 1).mean((-2, -1))
    bright = (7 * tone - 5).clamp(0, 1).mean((-2, -1))
    evidence = gained + DARK_WEIGHT * dark + BRIGHT_WEIGHT * bright
    belief = ((evidence - DOUBT) / (BELIEF - DOUBT)).clamp(0, 1)
    factor = torch.maximum(belief, (HARMLESS / gained.clamp(min=HARMLESS)))
    factor = factor + (1 - factor) * min(max(strength - 1, 0.0), 1.0)
    return grid * factor[..., None, None, None, None]


def smooth(
    estimate: Tensor, histogram: Tensor, grid: Tensor, last_histogram: Tensor, elapsed: float, tau: float
) -> Tensor:
    """Exponential moving average of the grid over time that is never far behind, reset at scene cuts.

    G ← Ĝ + e^(−Δpts/τ)·clamp(G − Ĝ, ±`MAX_LAG`). What jitters by less than `MAX_LAG` is averaged with the time constant
    τ; what moves farther, as somebody walks by or the light changes, is followed at once but for that, and leaves no
    trail. Time may be cut in any way, as clamping twice changes nothing. G = Ĝ where consecutive histograms are
    further apart than `CUT_DISTANCE`, so that the first frame of a shot is right already.

    Args:
        estimate: Ĝ [..., K, D, GH, GW] of this frame; grid: G of the frame before.
        histogram, last_histogram: [..., bins] of this frame and of the frame before.
        elapsed: Δpts in seconds, ≥ 0.
        tau: time constant in seconds; 0 follows every estimate at once.
    """
    kept = math.exp(-elapsed / tau) if tau > 0 else 0.0
    cut = is_cut(histogram, last_histogram)[..., None, None, None, None]
    return torch.where(cut, estimate, estimate + kept * (grid - estimate).clamp(-MAX_LAG, MAX_LAG))


def is_cut(histogram: Tensor, last_histogram: Tensor) -> Tensor:
    """Whether two consecutive frames belong to different shots, [...] bool.

    The distance is the total variation between `tone_histogram`s, 0 (alike) to 1 (no tone in common).
    """
    return 0.5 * (histogram - last_histogram).abs().sum(-1) > CUT_DISTANCE


def exponentiate(grid: Tensor, strength: float) -> Tensor:
    """The gain E = e^(strength·t) that `apply_curves` slices, in order; exactly 1 at strength 0.

    Args:
        grid: t [..., D, GH, GW].
    """
    return torch.exp(keep_order(strength * grid))


def keep_order(grid: Tensor) -> Tensor:
    """Lower t where it falls so steeply with tone that a grey would become brighter than a lighter one.

    logit L(z) = logit z + ln E(z) grows between two bins h apart, where E is linear in z, exactly if
    E₀/E₁ < 1 + h / (z₁(1 − z₁)): E(z) − z(1 − z)·(E₀ − E₁)/h is smallest at the upper bin z₁. So t may fall by
    the logarithm of that, and by any amount to the last bin, where z₁ = 1.

    Args:
        grid: t [..., D, GH, GW].
    """
    bins = grid.shape[-3]
    upper = torch.arange(1, bins - 1, device=grid.device, dtype=grid.dtype) / (bins - 1)
    steepest = torch.log1p(1 / ((bins - 1) * upper * (1 - upper)))
    slack = F.pad(steepest.cumsum(0), (1, 0))[:, None, None]
    kept = (grid[..., :-1, :, :] + slack).flip(-3).cummin(-3).values.flip(-3) - slack
    return torch.cat([kept, grid[..., -1:, :, :]], -3)


def slice_grid(gain: Tensor, guide: Tensor) -> Tensor:
    """Trilinear look-up of every pixel at (its x, its y, its tone).

    Cell centres lie at ((i + ½)·H/GH, (j + ½)·W/GW), bin d at tone d/(D − 1); constant beyond the outermost.

    Args:
        gain: [B, K, D, GH, GW]; guide: tones [B, H, W] in 0 … 1.

    Returns:
        [B, K, H, W].
    """
    bins = gain.shape[-3]
    height, width = guide.shape[-2:]
    y = (torch.arange(height, device=guide.device, dtype=guide.dtype) * 2 + 1) / height - 1
    x = (torch.arange(width, device=guide.device, dtype=guide.dtype) * 2 + 1) / width - 1
    # grid_sample's coordinates with align_corners=False put bin d's centre at (2d + 1)/D − 1.
    z = (2 * guide * (bins - 1) + 1) / bins - 1
    at = torch.stack([x.expand_as(guide), y[:, None].expand_as(guide), z], -1).unsqueeze(-4)
    return F.grid_sample(gain, at, mode="bilinear", padding_mode="border", align_corners=False).squeeze(-3)


def enhance_rgb(rgb: Tensor, gain: Tensor) -> Tensor:
    """Lift pictures by their grids.

    Args:
        rgb: [B, 3, H, W] in 0 … 1; gain: [B, K, D, GH, GW], K = 3 (R', G', B') or 1 (all alike).
    """
    return lift(rgb, slice_grid(gain, rgb.amax(-3)))


def apply_curves(
    planes: Sequence[Tensor],
    gain: Tensor,
    pixel_format: PixelFormat,
    color: Color,
    *,
    rounded: bool = True,
    filtered: Sequence[Tensor] | None = None,
) -> list[Tensor]:
    """Lift a frame in its own planes: convert, lift, and write back the difference.

    p' = p + M·(rgb' − rgb), where rgb is clamped to 0 … 1 before both; subsampled chroma takes the mean
    difference over its block (the picture's last row and column repeated where a block reaches past it).
    Gain 1 gives the input bit for bit, out-of-range codes included.

    Args:
        planes: code values, as in `planes_to_rgb`, with at most one batch dimension.
        gain: [B, K, D, GH, GW], or without B for planes without a batch dimension.
        rounded: round and clamp to the format's codes and give the planes' own dtype; otherwise float codes, without
            `low_bits`.
        filtered: float codes q of the same frame without its noise (`rtlit.denoise`). These are what is lifted, and
            take the frame's place as far as it is lifted: p' = p + w·(q − p) + M·(rgb' − rgb), where w, 0 … 1, is how
            far the mean gain of the three channels lies above 1.

    Returns:
        New planes of the same shapes.
    """
    if planes[0].ndim == 2:
        clean = None if filtered is None else [plane[None] for plane in filtered]
        batch = [plane[None] for plane in planes]
        lifted = apply_curves(batch, gain[None], pixel_format, color, rounded=rounded, filtered=clean)
        return [plane[0] for plane in lifted]
    codes = codes_of(planes, pixel_format)
    sources = codes if filtered is None else filtered
    rgb = _codes_to_rgb(sources, pixel_format, color).clamp(0, 1)
    sliced = slice_grid(gain, rgb.amax(-3))
    difference = _mix(color.from_rgb(), lift(rgb, sliced) - rgb)
    weight = (sliced.mean(-3) - 1).clamp(0, 1)
    result = []
    for index, (plane, code, source) in enumerate(zip(planes, codes, sources, strict=True)):
        delta, share = difference[..., index, :, :], weight
        if index and (pixel_format.shift_x or pixel_format.shift_y):
            delta, share = _block_mean(delta, pixel_format), _block_mean(weight, pixel_format)
        scale = color.scales(pixel_format.depth)[min(index, 1)][1]
        value = code + delta * scale
        if filtered is not None:
            value = value + share * (source - code)
        if rounded:
            value = (value + 0.5).floor().clamp(0, pixel_format.max_code)
            value = (value * (1 << pixel_format.low_bits)).to(plane.dtype)
        result.append(value)
    return result


def _floating(plane: Tensor) -> Tensor:
    return plane if plane.dtype == torch.float64 else plane.float()


def _components(codes: Sequence[Tensor], pixel_format: PixelFormat, color: Color) -> list[Tensor]:
    if len(codes) != pixel_format.channels:
        raise UsageError(f"{pixel_format.name} has {pixel_format.channels} planes, not {len(codes)}")
    scales = color.scales(pixel_format.depth)
    return [(_floating(plane) - scales[min(i, 1)][0]) / scales[min(i, 1)][1] for i, plane in enumerate(codes)]


def _mix(matrix: list[list[float]], channels: Tensor) -> Tensor:
    weights = torch.tensor(matrix, dtype=channels.dtype, device=channels.device)
    return torch.einsum("ij,...jhw->...ihw", weights, channels)


def _replicate(plane: Tensor, pixel_format: PixelFormat) -> Tensor:
    return plane.repeat_interleave(1 << pixel_format.shift_y, -2).repeat_interleave(1 << pixel_format.shift_x, -1)


def _block_mean(delta: Tensor, pixel_format: PixelFormat) -> Tensor:
    high, wide = 1 << pixel_format.shift_y, 1 << pixel_format.shift_x
    height, width = delta.shape[-2:]
    padded = F.pad(delta[:, None], (0, -width % wide, 0, -height % high), mode="replicate")
    return F.avg_pool2d(padded, (high, wide))[:, 0]
