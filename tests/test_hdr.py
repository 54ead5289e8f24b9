"""HDR tones against the standards' own numbers, and lifts that mean the same in SDR and HDR."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from rtlit import hdr, reference
from rtlit.frame import Transfer
from tests.frames import random_grid

hdrs = pytest.mark.parametrize("transfer", ["pq", "hlg"])


def double(value: float) -> Tensor:
    return torch.tensor(value, dtype=torch.float64)


# ITU-R BT.2408-7 table 1 and annex, ITU-R BT.2390-11: nominal levels in % PQ and % HLG of a 1,000 cd/m² display.
@pytest.mark.parametrize(("nits", "code"), [(0, 0), (26, 0.38), (203, 0.58), (1000, 0.75), (4000, 0.90), (10000, 1)])
def test_pq_levels(nits: float, code: float) -> None:
    assert float(hdr.nits_to_pq(double(nits))) == pytest.approx(code, abs=0.005)


def test_pq_of_reference_white() -> None:
    assert float(hdr.nits_to_pq(double(203))) == pytest.approx(0.5807, abs=1e-4)
    assert float(hdr.nits_to_pq(double(100))) == pytest.approx(0.5081, abs=1e-4)


# ITU-R BT.2100-2 table 5: the two branches meet at scene light 1/12; 12/12 is code 1.
@pytest.mark.parametrize(("scene", "code"), [(0, 0), (1 / 48, 0.25), (1 / 12, 0.5), (0.26496, 0.75), (1, 1)])
def test_hlg_levels(scene: float, code: float) -> None:
    assert float(hdr.scene_to_hlg(double(scene))) == pytest.approx(code, abs=2e-4)


def test_hlg_reference_white_is_pq_reference_white() -> None:
    """75 % HLG on a 1,000 cd/m² display of system gamma 1.2 (BT.2408-7 table 1)."""
    assert float(1000 * hdr.hlg_to_scene(double(0.75)) ** 1.2) == pytest.approx(203, abs=0.5)


@hdrs
def test_round_trips(transfer: Transfer) -> None:
    code = torch.linspace(0, 1, 1001, dtype=torch.float64)
    there = hdr.nits_to_pq(hdr.pq_to_nits(code)) if transfer == "pq" else hdr.scene_to_hlg(hdr.hlg_to_scene(code))
    torch.testing.assert_close(there, code, atol=1e-6, rtol=0)
    tone = hdr.to_sdr(code, transfer)
    below = tone < 1
    torch.testing.assert_close(hdr.from_sdr(tone, transfer)[below], code[below], atol=1e-5, rtol=0)


@hdrs
def test_sdr_tones_reach_1_at_reference_white(transfer: Transfer) -> None:
    white = 0.5807 if transfer == "pq" else 0.75
    tone = hdr.to_sdr(torch.linspace(0, 1, 1001, dtype=torch.float64), transfer)
    assert float(tone[0]) == 0 and (tone.diff() >= 0).all()
    assert float(torch.linspace(0, 1, 1001)[int((tone < 1 - 1e-9).sum())]) == pytest.approx(white, abs=0.001)


@hdrs
def test_no_lift_is_exactly_none(transfer: Transfer) -> None:
    assert torch.equal(hdr.convert_grid(torch.zeros(3, 8, 2, 2), transfer), torch.zeros(3, 8, 2, 2))


def test_sdr_grids_pass_through() -> None:
    grid = random_grid(1)
    assert hdr.convert_grid(grid, "sdr") is grid and hdr.to_sdr(grid, "sdr") is grid


@hdrs
@pytest.mark.parametrize("strength", [0.5, 1.0, 2.0])
def test_converted_grids_are_finite_and_leave_highlights(transfer: Transfer, strength: float) -> None:
    converted = hdr.convert_grid(strength * random_grid(1)[0], transfer)
    assert converted.isfinite().all() and float(converted.abs().max()) < 14
    codes = torch.linspace(0, 1, 8)
    assert (converted[:, hdr.to_sdr(codes, transfer) >= 1] == 0).all()


@hdrs
@pytest.mark.parametrize("t", [-2.0, -0.5, 0.5, 1.0, 2.0])
def test_bins_are_lifted_as_in_sdr(transfer: Transfer, t: float) -> None:
    """The tone at a bin's centre ends where the SDR curve puts it."""
    grid = torch.full((1, 64, 1, 1), t, dtype=torch.float64)
    code = torch.linspace(0, 1, 64, dtype=torch.float64)
    lifted = reference.lift(code, hdr.convert_grid(grid, transfer).exp().flatten())
    wanted = reference.lift(hdr.to_sdr(code, transfer), double(t).exp())
    shown = (hdr.to_sdr(code, transfer) < 1) & (code > 0.02)
    torch.testing.assert_close(hdr.to_sdr(lifted, transfer)[shown], wanted[shown], atol=1e-3, rtol=0)


@hdrs
@pytest.mark.parametrize("t", [0.5, 1.0, 2.0])
def test_codes_between_bins_are_lifted_about_as_in_sdr_and_in_order(transfer: Transfer, t: float) -> None:
    """8 bins, as shipped, interpolated along the tone as `apply_curves` does."""
    gain = reference.exponentiate(hdr.convert_grid(torch.full((1, 8, 2, 2), t), transfer), 1)
    code = torch.linspace(0.02, 1, 1000)
    lifted = reference.enhance_rgb(code.expand(1, 3, 16, -1), gain[None])[0, 0, 0]
    assert (lifted.diff() > 0).all()
    wanted = hdr.from_sdr(reference.lift(hdr.to_sdr(code, transfer), double(t).exp().float()), transfer)
    shown = hdr.to_sdr(code, transfer) < 0.9
    assert float((lifted - wanted)[shown].abs().max()) < 0.03 * t + 0.01
