"""Simulated bad light: linear, directed, bounded, repeatable, and nothing where nothing should be."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from rtlit.errors import UsageError
from rtlit.training.simulate import (
    SimulationSettings,
    add_noise,
    compose,
    dull_look,
    edge_mask,
    expanded_exposure,
    expose,
    guided_filter,
    luminance,
    masked_exposure,
    s_curve,
    simulate,
    veil,
)

SETTINGS = SimulationSettings()
KINDS = ("unchanged", "under_exposed", "masked", "composed", "expanded")
PERFECT_CAMERA = {"toe": 1.0, "cast": 0.0, "glare": 0.0, "noise": (-12.0, -12.0)}


def only(kind: str, **changes: object) -> SimulationSettings:
    """Settings that draw one kind of light."""
    return replace(SETTINGS, **{name: float(name == kind) for name in KINDS}, **changes)  # type: ignore[arg-type]


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def photographs(count: int = 8, height: int = 48, width: int = 64, seed: int = 1) -> Tensor:
    """Smooth colours with noise and a bright half: 8-bit codes / 255."""
    generator = seeded(seed)
    smooth = F.interpolate(torch.rand(count, 3, 4, 5, generator=generator), (height, width), mode="bicubic")
    smooth[..., : width // 3] += 0.4
    fine = 0.05 * torch.randn(count, 3, height, width, generator=generator)
    return ((smooth * 0.6 + 0.1 + fine).clamp(0, 1) * 255).round() / 255


def test_two_stops_down_is_a_quarter_of_the_light() -> None:
    light = photographs(2)
    torch.testing.assert_close(expose(light, torch.full((2, 1, 1, 1), -2.0)), light / 4)


def test_exposure_is_linear_light_whatever_the_gamma() -> None:
    """Through a perfect camera, tone v becomes v·4^(−1/γ) at −2 EV, for one γ of each picture."""
    photos = torch.linspace(0.4, 1, 100).mul(255).round().div(255).reshape(1, 1, 10, 10).repeat(6, 3, 1, 1)
    settings = only("under_exposed", under_exposure=(-2.0, -2.0), **PERFECT_CAMERA)
    dark, truth = simulate(photos, settings, seeded())
    assert torch.equal(truth, photos)
    for ratio in (dark / photos).flatten(1):
        gamma = -torch.log(torch.tensor(4.0)) / ratio.mean().log()
        assert 1.9 <= float(gamma) <= 2.5
        assert float((ratio - ratio.mean()).abs().max()) < 0.5 / 255 / 0.4 + 1e-3  # 8-bit rounding


@pytest.mark.parametrize("size", [(48, 64), (64, 48), (128, 72), (64, 64)], ids=str)
@pytest.mark.parametrize("kind", KINDS)
def test_pictures_are_8_bit_of_the_same_shape(kind: str, size: tuple[int, int]) -> None:
    photos = photographs(4, *size)
    for pictures in simulate(photos, only(kind), seeded()):
        assert pictures.shape == photos.shape and 0 <= float(pictures.min()) <= float(pictures.max()) <= 1
        assert float((pictures * 255 - (pictures * 255).round()).abs().max()) < 1e-4


def test_unchanged_pictures_are_bit_for_bit() -> None:
    photos = photographs()
    dark, truth = simulate(photos, only("unchanged", dull=0.0), seeded())
    assert torch.equal(dark, photos) and torch.equal(truth, photos)


def test_dull_pictures_are_their_own_truth() -> None:
    photos = photographs()
    dark, truth = simulate(photos, only("unchanged", dull=1.0), seeded())
    assert torch.equal(dark, truth) and not torch.equal(dark, photos)
    duller = dull_look(photos, seeded())
    assert float(duller.flatten(1).std(1).mean()) < float(photos.flatten(1).std(1).mean())


@pytest.mark.parametrize("share", [0.1, 0.5])
def test_share_of_unchanged_pictures(share: float) -> None:
    photos = photographs(500, 16, 16)
    settings = replace(SETTINGS, unchanged=share, under_exposed=1 - share, masked=0, composed=0, expanded=0)
    dark, truth = simulate(photos, settings, seeded())
    unchanged = (dark == truth).flatten(1).all(1).float().mean()
    assert float(unchanged) == pytest.approx(share, abs=4 * (share * (1 - share) / 500) ** 0.5)


@pytest.mark.parametrize("kind", ["under_exposed", "masked", "composed", "expanded"])
def test_bad_light_darkens(kind: str) -> None:
    photos = photographs(32)
    dark, truth = simulate(photos, only(kind), seeded())
    change = (dark - truth).flatten(1).mean(1)
    assert float(change.max()) < 0.02 and float(change.median()) < -0.03


@pytest.mark.parametrize("kind", ["under_exposed", "masked", "expanded"])
def test_truth_is_the_photograph(kind: str) -> None:
    photos = photographs()
    assert torch.equal(simulate(photos, only(kind), seeded())[1], photos)


def test_masks_cover_a_part_of_every_picture() -> None:
    masks = edge_mask(photographs(64), seeded())
    assert masks.shape == (64, 1, 48, 64)
    assert 0 <= float(masks.min()) < 0.05 and 0.95 < float(masks.max()) <= 1
    covered = masks.mean((1, 2, 3))
    assert float(covered.min()) > 0.05 and float(covered.max()) < 0.95 and float(covered.std()) > 0.05


def test_masks_part_along_edges() -> None:
    """A dark and a bright half: masks change more from one half to the other than anywhere within one."""
    photos = torch.full((64, 3, 64, 64), 0.2)
    photos[..., 32:] = 0.8
    steps = edge_mask(photos, seeded()).diff(dim=-1).abs().mean((0, 1, 2))
    assert int(steps.argmax()) == 31
    assert float(steps[31]) > 5 * float(torch.cat([steps[:24], steps[39:]]).max())


def test_masked_exposure_stays_between_foreground_and_background() -> None:
    settings = only("masked", foreground=(-4.0, -1.0), background=(-0.5, 0.1))
    ev = masked_exposure(photographs(64), settings, seeded())
    assert -4 <= float(ev.min()) < -1 and -0.5 < float(ev.max()) <= 0.1


def test_expanded_exposure_darkens_what_is_dark_more() -> None:
    photos = photographs(32)
    ev = expanded_exposure(photos, SETTINGS, seeded())
    assert -6 <= float(ev.min()) < -1 and float(ev.max()) <= 0.3
    dark = luminance(photos) < luminance(photos).flatten(1).quantile(0.2, 1)[:, None, None, None]
    bright = luminance(photos) > luminance(photos).flatten(1).quantile(0.8, 1)[:, None, None, None]
    for picture, low, high in zip(ev, dark, bright, strict=True):
        assert float(picture[low].mean()) < float(picture[high].mean())


def test_composed_pictures_show_both_photographs_where_they_belong() -> None:
    fronts, views = torch.full((40, 3, 48, 64), 51 / 255), torch.full((40, 3, 48, 64), 153 / 255)
    truth, ev = compose(fronts, views, SETTINGS, seeded())
    assert float(truth.min()) == pytest.approx(51 / 255) and float(truth.max()) <= 0.6 * 2 ** (1 / 2.2) + 1e-2
    for picture, map_ in zip(truth, ev, strict=True):
        front, view = picture.amax(0) < 52 / 255, picture.amin(0) >= 152 / 255
        assert bool(front.any()) and bool(view.any())
        assert float(map_[0][front].max()) < float(map_[0][view].min())
        assert float(map_[0][front].min()) >= SETTINGS.foreground[0] - 1e-6
        assert float(map_[0][view].max()) <= SETTINGS.background[1] + 0.1


def test_noise_has_the_variance_of_its_model() -> None:
    a = 1e-3
    for light in (0.0, 0.1, 0.8):
        flat = torch.full((1, 3, 200, 200), light)
        noise = add_noise(flat, torch.full((1, 1, 1, 1), -3.0), seeded()) - flat
        assert float(noise.var()) == pytest.approx(a * light + a**2, rel=0.03)
        assert abs(float(noise.mean())) < 4 * ((a * light + a**2) / 120_000) ** 0.5


def test_glare_lifts_black_and_keeps_flat_light() -> None:
    share = torch.full((1, 1, 1, 1), 0.05)
    flat = torch.full((1, 3, 48, 64), 0.3)
    torch.testing.assert_close(veil(flat, share), flat)
    window = torch.zeros(1, 3, 48, 64)
    window[..., 20:] = 1.0
    veiled = veil(window, share)
    assert float(veiled.min()) > 0.01 and float(veiled.max()) <= 1
    assert bool((veiled[..., 19] > veiled[..., 0]).all())  # nearer to the light, more of it


def test_s_curve_scales_the_logit() -> None:
    x = torch.linspace(0.01, 0.99, 99)
    torch.testing.assert_close(torch.logit(s_curve(x, torch.tensor(1.3))), 1.3 * torch.logit(x), atol=1e-5, rtol=1e-5)
    assert s_curve(torch.tensor([0.0, 0.5, 1.0]), torch.tensor(1.3)).tolist() == [0, 0.5, 1]


def test_guided_filter_keeps_edges_and_smooths_the_rest() -> None:
    edge = torch.zeros(1, 1, 40, 40)
    edge[..., 20:] = 1
    noisy = edge + 0.05 * torch.randn(1, 1, 40, 40, generator=seeded())
    smoothed = guided_filter(noisy, noisy, 4, 0.02)
    assert float((smoothed[..., 20] - smoothed[..., 19]).mean()) > 0.8
    assert float((smoothed - edge)[..., :14].std()) < 0.5 * float((noisy - edge)[..., :14].std())
    # An endless ε leaves no slope: the mean of the means.
    inside = F.avg_pool2d(F.avg_pool2d(noisy, 9, 1), 9, 1)
    torch.testing.assert_close(guided_filter(noisy, noisy, 4, 1e9)[..., 8:-8, 8:-8], inside, atol=1e-5, rtol=0)


def test_the_generator_is_the_only_randomness() -> None:
    photos = photographs(16)
    first = simulate(photos, SETTINGS, seeded(3))
    torch.rand(100)
    again = simulate(photos, SETTINGS, seeded(3))
    other = simulate(photos, SETTINGS, seeded(4))
    assert torch.equal(first[0], again[0]) and torch.equal(first[1], again[1])
    assert not torch.equal(first[0], other[0])


def test_photographs_are_not_written_to() -> None:
    photos = photographs(16)
    before = photos.clone()
    simulate(photos, SETTINGS, seeded())
    assert torch.equal(photos, before)


@pytest.mark.parametrize(
    "bad",
    [{"unchanged": 0.9}, {"unchanged": -0.1, "masked": 0.62}, {"foreground": (-1.0, -4.0)}, {"noise": (0.0, -1.0)}],
    ids=str,
)
def test_impossible_settings_are_said(bad: dict[str, object]) -> None:
    with pytest.raises(UsageError, match="shares of light|must be \\(low, high\\)"):
        SimulationSettings(**bad)  # type: ignore[arg-type]


def test_the_camera_decodes_what_it_encodes() -> None:
    photos = torch.rand(4, 3, 32, 48, generator=torch.Generator().manual_seed(0))
    light = {"foreground": (0.0, 0.0), "background": (0.0, 0.0), "cast": 0.0, "glare": 0.0, "noise": (-9.0, -9.0)}
    settings = SimulationSettings(0, 0, 1, 0, 0, toe=2.0, **light)
    dark, truth = simulate(photos, settings, torch.Generator().manual_seed(1))
    assert torch.equal(truth, photos)
    assert (dark - truth).abs().max() < 1.01 / 255


def test_an_s_curve_drowns_shadows() -> None:
    photos = torch.full((1, 3, 32, 48), 0.3)
    means = []
    for toe in (1.0, 2.0):
        settings = SimulationSettings(0, 1, 0, 0, 0, under_exposure=(-3.0, -3.0), toe=toe, cast=0.0, glare=0.0)
        means.append(simulate(photos, settings, torch.Generator().manual_seed(1))[0].mean())
    assert means[1] < 0.9 * means[0]
