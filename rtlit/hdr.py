"""HDR sources for a network that knows SDR tones.

The thumbnail is shown to the network as an SDR display would show it: reference white (203 cd/m², which is 58 %
PQ and 75 % HLG; ITU-R BT.2408-7 §2.1) becomes 1, and what is brighter clips. The grid that it estimates is then
moved from SDR bins to bins of the HDR code, once a frame, on the tiny grid; `apply` stays as it is. Highlights
above reference white keep their codes.
"""

from __future__ import annotations

import torch
from torch import Tensor

from rtlit.frame import Transfer
from rtlit.reference import lift

REFERENCE_WHITE = 203.0  # cd/m²
# SMPTE ST 2084 (ITU-R BT.2100-2 table 4).
_M1, _M2 = 2610 / 16384, 2523 / 4096 * 128
_C1, _C2, _C3 = 3424 / 4096, 2413 / 4096 * 32, 2392 / 4096 * 32
# ARIB STD-B67 (ITU-R BT.2100-2 table 5); the system gamma of a 1,000 cd/m² display.
_A, _B, _C = 0.17883277, 0.28466892, 0.55991073
_HLG_GAMMA, _HLG_WHITE = 1.2, 0.75
_SDR_GAMMA = 2.4  # ITU-R BT.1886
# Tone 0 has no logit; bin 0 serves the tones up to 1/(D − 1), and what is lifted lies above this.
_DARKEST = 0.01


def pq_to_nits(code: Tensor) -> Tensor:
    """EOTF of ST 2084: code 0 … 1 → luminance 0 … 10,000 cd/m²."""
    power = code.clamp(0, 1) ** (1 / _M2)
    return 10000 * ((power - _C1).clamp(min=0) / (_C2 - _C3 * power)) ** (1 / _M1)


def nits_to_pq(nits: Tensor) -> Tensor:
    """Inverse of `pq_to_nits`."""
    power = (nits.clamp(0, 10000) / 10000) ** _M1
    return ((_C1 + _C2 * power) / (1 + _C3 * power)) ** _M2


def hlg_to_scene(code: Tensor) -> Tensor:
    """Inverse OETF of HLG: code 0 … 1 → scene light 0 … 1."""
    code = code.clamp(0, 1)
    return torch.where(code <= 0.5, code.square() / 3, (((code - _C) / _A).exp() + _B) / 12)


def scene_to_hlg(scene: Tensor) -> Tensor:
    """Inverse of `hlg_to_scene`."""
    scene = scene.clamp(0, 1)
    return torch.where(scene <= 1 / 12, (3 * scene).sqrt(), _A * (12 * scene - _B).clamp(min=1e-6).log() + _C)


def to_sdr(code: Tensor, transfer: Transfer) -> Tensor:
    """Tones of an SDR display, 0 … 1, of R'G'B' codes in 0 … 1; reference white and above give 1.

    HLG's system gamma is applied to each channel, not to luminance: a thumbnail's tones matter, not its hues.
    """
    if transfer == "pq":
        light = pq_to_nits(code) / REFERENCE_WHITE
    elif transfer == "hlg":
        light = (hlg_to_scene(code) / _hlg_white(code)) ** _HLG_GAMMA
    else:
        return code
    return light.clamp(0, 1) ** (1 / _SDR_GAMMA)


def from_sdr(tone: Tensor, transfer: Transfer) -> Tensor:
    """Inverse of `to_sdr` below reference white."""
    if transfer == "sdr":
        return tone
    light = tone.clamp(0, 1) ** _SDR_GAMMA
    if transfer == "pq":
        return nits_to_pq(light * REFERENCE_WHITE)
    return scene_to_hlg(light ** (1 / _HLG_GAMMA) * _hlg_white(tone))


def convert_grid(grid: Tensor, transfer: Transfer) -> Tensor:
    """Move curve parameters from bins of SDR tone to bins of HDR code, so that a grey pixel's lift stays the same.

        t_hdr(z) = logit hdr(L(s; t(s))) − logit hdr(L(s; 0)),   s = sdr(z)

    0 (exactly) where t is, and from reference white on.

    Args:
        grid: t [..., D, GH, GW] of SDR tones, already multiplied by the strength.

    Returns:
        t [..., D, GH, GW] of HDR codes.
    """
    if transfer == "sdr":
        return grid
    bins = grid.shape[-3]
    code = torch.linspace(0, 1, bins, dtype=torch.float64, device=grid.device).clamp(min=_DARKEST)
    tone = to_sdr(code, transfer).to(grid)
    at = tone * (bins - 1)
    below = at.long().clamp(max=bins - 2)
    weight, shown = (at - below)[:, None, None], tone[:, None, None]
    t = grid[..., below, :, :] * (1 - weight) + grid[..., below + 1, :, :] * weight
    lifted, same = (from_sdr(lift(shown, gain), transfer) for gain in (t.exp(), torch.ones_like(t)))
    return torch.where(shown < 1, _logit(lifted) - _logit(same), torch.zeros_like(t))


def _hlg_white(like: Tensor) -> Tensor:
    return hlg_to_scene(like.new_full((), _HLG_WHITE))  # new_tensor would copy from the host, which no CUDA graph can


def _logit(x: Tensor) -> Tensor:
    # Float32 and not smaller: a full lift of a dark tone ends within 1e-6 of neither end.
    return torch.logit(x, eps=1e-6)
