"""The design of the picture, one choice at a time: short trainings that differ in nothing else, scored alike.

    python bench/design_search.py PHOTOS DATA -o rows.jsonl                # every row; rows that are there are kept
    python bench/design_search.py PHOTOS DATA -o rows.jsonl --row width-96 # some
    python bench/design_search.py --table rows.jsonl                       # as Markdown

Every row starts from the same seed and sees the same photographs in the same simulated light, in the same order, with
`rtlit train supervised`'s own draws, loss and schedule; a row says what else it changes. Then it is scored on four sets
of DATA: `pairs` (exposure brackets), `fivek` (ordinary photographs, retouched), `simulated`, and `well-lit`, the truths
of `simulated`, which must stay as they are. PSNR is of 8-bit pictures of 640 pixels, the mean over pictures, as
`rtlit evaluate` gives it. The cost on a CPU is the median of the network's time for a 16:9 frame, one thread.
"""

from __future__ import annotations

import json
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from unittest.mock import patch

import click
import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from rtlit import reference
from rtlit.frame import Color, PixelFormat
from rtlit.network import CurveNetwork, NetworkConfig, save_network
from rtlit.training import supervised
from rtlit.training.evaluate import Pair, find_pairs
from rtlit.training.photos import find_photos, load_photos, random_crops
from rtlit.training.simulate import SimulationSettings, simulate

Guide = Callable[[Tensor], Tensor]
Loss = Callable[[Tensor, Tensor, Tensor], Tensor]  # pictures before, enhanced, truths → what is added to the loss
_LUMA = torch.tensor([0.2126, 0.7152, 0.0722])[:, None, None]


def brightest(rgb: Tensor) -> Tensor:
    """The guide of rtlit.reference: max(R', G', B')."""
    return rgb.amax(-3)


def luma(rgb: Tensor) -> Tensor:
    return (rgb * _LUMA).sum(-3)


class LearnedGuide(nn.Module):
    """A guide of eight features of a pixel's own colour, added to the brightest channel; starts as that alone."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Conv2d(3, 8, 1), nn.ReLU(), nn.Conv2d(8, 1, 1))
        nn.init.zeros_(self.layers[2].weight)
        nn.init.zeros_(self.layers[2].bias)

    def forward(self, rgb: Tensor) -> Tensor:
        return (rgb.amax(-3) + self.layers(rgb)[:, 0]).clamp(0, 1)


class NoContext(CurveNetwork):
    """Without the global branch: a cell knows what its receptive field holds."""

    def __init__(self, config: NetworkConfig) -> None:
        super().__init__(config)
        for layer in self.context:
            nn.init.zeros_(layer.weight).requires_grad_(False)
            nn.init.zeros_(layer.bias).requires_grad_(False)


class Coarse(CurveNetwork):
    """A cell of the grid for each `cells` × `cells` cells of the network's; 0 for a single one, a tone curve."""

    cells = 2

    def forward(self, thumbnail: Tensor) -> Tensor:
        grid = super().forward(thumbnail).flatten(1, 2)
        size = [max(2, round(side / self.cells)) if self.cells else 1 for side in grid.shape[-2:]]
        return F.adaptive_avg_pool2d(grid, size).unflatten(1, (self.config.channels, self.config.bins))


class Global(Coarse):
    cells = 0


def gradients(before: Tensor, enhanced: Tensor, truth: Tensor) -> Tensor:
    """L1 on the differences of neighbouring pixels."""
    error = enhanced - truth
    return error.diff(dim=-1).abs().mean() + error.diff(dim=-2).abs().mean()


def identity(before: Tensor, enhanced: Tensor, truth: Tensor) -> Tensor:
    """L1 to the input, where the input is as it should be."""
    same = (before == truth).flatten(1).all(1).float()[:, None, None, None]
    return 4 * (same * (enhanced - before).abs()).mean()


class Backlit:
    """0.02 × P(backlit) of the shipped CLIP and prompts, as CLIP-LIT's enhancer is guided."""

    def __init__(self) -> None:
        from rtlit.training.guidance import load_guidance
        from rtlit.weights import PROMPTS

        self.guidance = load_guidance(PROMPTS)

    def __call__(self, before: Tensor, enhanced: Tensor, truth: Tensor) -> Tensor:
        return 0.02 * self.guidance.enhance_loss(self.guidance.clip.encode_image(enhanced))


class BacklitAlone(Backlit):
    """The same, of the pictures that were put into bad light."""

    def __call__(self, before: Tensor, enhanced: Tensor, truth: Tensor) -> Tensor:
        bad = (before != truth).flatten(1).any(1)
        return super().__call__(before, enhanced[bad], truth) * bad.float().mean() if bad.any() else enhanced.sum() * 0


# The base's light, as it was when the search began; shares of today are in `SimulationSettings`.
_LIGHT = SimulationSettings(0.38, 0.05, 0.35, 0.1, 0.12, dull=0.6, under_exposure=(-4.0, -1.5))


@dataclass(frozen=True)
class Row:
    """What one training changes against the base."""

    network: NetworkConfig = field(default_factory=NetworkConfig)
    simulation: SimulationSettings = _LIGHT
    build: type[CurveNetwork] = CurveNetwork
    guide: Callable[[], Guide] = lambda: brightest
    loss: dict[str, float] = field(default_factory=dict)
    extra: Callable[[], Loss] | None = None


def _network(**changes: int) -> Row:
    return Row(network=NetworkConfig(**changes))


def _light(**changes: object) -> Row:
    return Row(simulation=replace(_LIGHT, **changes))  # type: ignore[arg-type]


def _shares(unchanged: float, under: float, masked: float, composed: float, expanded: float) -> Row:
    return _light(unchanged=unchanged, under_exposed=under, masked=masked, composed=composed, expanded=expanded)


ROWS: dict[str, Row] = {
    "base": Row(),
    "width-96": _network(width=96),
    "width-32": _network(width=32),
    "blocks-5": _network(blocks=5),
    "blocks-1": _network(blocks=1),
    "thumbnail-96": _network(thumbnail=96),
    "thumbnail-160": _network(thumbnail=160),
    "thumbnail-192": _network(thumbnail=192),
    "bins-4": _network(bins=4),
    "bins-12": _network(bins=12),
    "one-curve": _network(channels=1),
    "cells-half": Row(build=Coarse),
    "cells-one": Row(build=Global),
    "guide-luma": Row(guide=lambda: luma),
    "guide-learned": Row(guide=LearnedGuide),
    "no-global-branch": Row(build=NoContext),
    "loss-l1": Row(loss={"squared": 0.0}),
    "loss-squared-8": Row(loss={"squared": 8.0}),
    "loss-relative": Row(loss={"relative": 0.02}),
    "loss-relative-05": Row(loss={"relative": 0.05}),
    "loss-no-colour": Row(loss={"color": 0.0}),
    "loss-gradient": Row(extra=lambda: gradients),
    "loss-identity": Row(extra=lambda: identity),
    "loss-clip": Row(extra=Backlit),
    "relative-clip": Row(loss={"relative": 0.02}, extra=Backlit),
    "relative-clip-bad": Row(loss={"relative": 0.02}, extra=BacklitAlone),
    "relative-192": Row(NetworkConfig(thumbnail=192), loss={"relative": 0.02}),
    "relative-96-192": Row(NetworkConfig(thumbnail=192, width=96), loss={"relative": 0.02}),
    "relative-unchanged-25": replace(_shares(0.25, 0.06, 0.42, 0.12, 0.15), loss={"relative": 0.02}),
    "relative-toe-16": replace(_light(toe=1.6), loss={"relative": 0.02}),
    "relative-toe-20": replace(_light(toe=2.0, foreground=(-5.0, -1.5)), loss={"relative": 0.02}),
    "light-uniform": _shares(0.38, 0.62, 0, 0, 0),
    "light-no-masks": _shares(0.38, 0.2, 0, 0.22, 0.2),
    "light-no-composed": _shares(0.38, 0.05, 0.42, 0, 0.15),
    "light-no-expanded": _shares(0.38, 0.05, 0.43, 0.14, 0),
    "light-unchanged-10": _shares(0.1, 0.07, 0.5, 0.15, 0.18),
    "light-none-dulled": _light(dull=0.0),
    "light-no-cast": _light(cast=0.0),
    "light-no-noise": _light(noise=(-9.0, -9.0), glare=0.0),
    "light-s-curve": _light(toe=1.5),
    "light-mild": _light(foreground=(-3.0, -1.0)),
}


@click.command(help=__doc__.splitlines()[0])
@click.argument("paths", nargs=-1, type=click.Path(path_type=Path))
@click.option("-o", "target", type=click.Path(path_type=Path), help="Where rows go, a JSON object a line.")
@click.option("--row", "names", multiple=True, type=click.Choice(list(ROWS)), help="Only these rows.")
@click.option("--iterations", default=1000, show_default=True)
@click.option("--seed", default=0, show_default=True, help="Of weights and draws; others show how much is chance.")
@click.option("--threads", default=1, show_default=True)
@click.option("--table", type=click.Path(path_type=Path), help="Print the rows of a file, and train nothing.")
def main(
    paths: tuple[Path, ...],
    target: Path | None,
    names: tuple[str, ...],
    iterations: int,
    seed: int,
    threads: int,
    table: Path | None,
) -> None:
    if table:
        return print_table(read_rows(table))
    if len(paths) != 2 or not target:
        raise click.UsageError("give PHOTOS and DATA, and -o FILE")
    torch.set_num_threads(threads)
    photo_folder, data = paths
    sets = {name: [pair.load() for pair in pairs] for name, pairs in find_sets(data).items()}
    photos = load_photos(find_photos([photo_folder]), 3 * 192)
    for name in names or ROWS:
        label = f"{name}, seed {seed}" if seed else name
        if target.exists() and any(row["row"] == label for row in read_rows(target)):
            continue
        began = time.perf_counter()
        network, guide, loss = train(ROWS[name], photos, iterations, seed)
        scores = {key: score(network, guide, each) for key, each in sets.items()}
        save_network(network, target.with_name(f"{name}.safetensors"), row=name)
        row = {"row": label, "iterations": iterations, "loss": loss, "seconds": time.perf_counter() - began}
        with target.open("a") as file:
            print(json.dumps(row | scores | cost(network)), file=file)
        click.echo(f"{name}: {scores}, {row['seconds']:.0f} s", err=True)


def find_sets(data: Path) -> dict[str, list[Pair]]:
    folders = (
        (data / "pairs" / "input", data / "pairs" / "gt"),
        (data / "simulated" / "input", data / "simulated" / "gt"),
    )
    pairs = find_pairs(*folders[0])
    return {
        "pairs": [pair for pair in pairs if pair.group != "fivek"],
        "simulated": find_pairs(*folders[1]),
        "fivek": [pair for pair in pairs if pair.group == "fivek"],
        "well-lit": find_pairs(folders[1][1], folders[1][1]),
    }


def train(row: Row, photos: list[Tensor], iterations: int, seed: int) -> tuple[CurveNetwork, Guide, float]:
    """The averaged weights, the guide, and the mean loss of the last tenth of the run."""
    settings = supervised.SupervisedSettings(
        iterations=iterations,
        bfloat16=True,
        average=0.99,
        network=row.network,
        simulation=row.simulation,
        **({"squared": 2.0, "relative": 0.0} | row.loss),  # type: ignore[arg-type]
    )
    torch.manual_seed(seed)
    network = row.build(row.network)
    averaged = row.build(row.network)
    averaged.load_state_dict(network.state_dict())
    guide, extra = row.guide(), row.extra() if row.extra else None
    learned = list(guide.parameters()) if isinstance(guide, nn.Module) else []
    optimizer = torch.optim.Adam([*network.parameters(), *learned], settings.learning_rate)
    losses = []
    enhanced = torch.empty(0)

    def enhance(rgb: Tensor, gain: Tensor) -> Tensor:
        nonlocal enhanced
        enhanced = reference.lift(rgb, reference.slice_grid(gain, guide(rgb)))
        return enhanced

    with patch.object(supervised, "enhance_rgb", enhance):
        for iteration in range(iterations):
            generator = torch.Generator().manual_seed(seed * 1_000_003 + iteration)
            size = supervised.crop_size(iteration, row.network.thumbnail)
            dark, truth = simulate(random_crops(photos, size, settings.batch, generator), row.simulation, generator)
            for group in optimizer.param_groups:
                group["lr"] = settings.learning_rate * supervised.one_cycle(iteration / iterations)
            loss = supervised.loss_of(network, dark, truth, settings)
            loss = loss + extra(dark, enhanced, truth) if extra else loss
            optimizer.zero_grad()
            loss.backward()
            torch.nn.utils.clip_grad_norm_(network.parameters(), 1.0)
            optimizer.step()
            losses.append(loss.item())
            for mean, value in zip(averaged.parameters(), network.parameters(), strict=True):
                mean.data.lerp_(value.data, 1 - min(settings.average, (iteration + 1) / (iteration + 11)))
    return averaged.eval().requires_grad_(False), guide, statistics.mean(losses[-iterations // 10 :])


def score(network: CurveNetwork, guide: Guide, pairs: list[tuple[np.ndarray, np.ndarray]]) -> float:
    """Mean PSNR in dB."""
    total = 0.0
    for picture, truth in pairs:
        rgb = torch.from_numpy(np.array(picture)).permute(2, 0, 1).float()
        planes = [rgb[channel] for channel in (1, 2, 0)]
        size = network.config.thumbnail_size(*rgb.shape[-2:])
        thumbnail, _ = reference.analyze(planes, PixelFormat("gbrp"), Color("rgb", True), size)
        rgb = rgb[None] / 255
        with torch.no_grad():
            gain = reference.exponentiate(network(thumbnail[None]), 1.0)
            result = reference.lift(rgb, reference.slice_grid(gain, guide(rgb)))
        codes = (result[0] * 255 + 0.5).floor().permute(1, 2, 0).numpy()
        error = np.square(codes - truth, dtype=np.float64).mean()
        total += 10 * np.log10(255**2 / max(error, 0.01))
    return total / len(pairs)


def cost(network: CurveNetwork) -> dict[str, float]:
    """The network's parameters, and its milliseconds for a frame of 16:9."""
    thumbnail = torch.rand(1, 3, *network.config.thumbnail_size(1080, 1920))
    times = []
    for _ in range(40):
        began = time.perf_counter()
        with torch.inference_mode():
            network(thumbnail)
        times.append(time.perf_counter() - began)
    parameters = sum(p.numel() for p in network.parameters() if p.requires_grad or p.any())
    return {"parameters": parameters, "milliseconds": 1000 * statistics.median(times)}


def read_rows(path: Path) -> list[dict[str, float | str]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def print_table(rows: list[dict[str, float | str]]) -> None:
    columns = ["pairs", "simulated", "fivek", "well-lit"]
    print("| row | pairs | simulated | fivek | well-lit | parameters | CPU ms |")
    print("|---|---|---|---|---|---|---|")
    for row in rows:
        scores = " | ".join(f"{row[column]:.2f}" for column in columns)
        print(f"| {row['row']} | {scores} | {row['parameters'] / 1000:.0f} k | {row['milliseconds']:.1f} |")


if __name__ == "__main__":
    main()
