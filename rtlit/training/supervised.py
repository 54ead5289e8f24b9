"""Supervised training of the curve network: photographs in simulated bad light → the photographs."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from rtlit import __version__
from rtlit.errors import InputError, UsageError
from rtlit.network import CurveNetwork, NetworkConfig, load_network, save_network
from rtlit.reference import enhance_rgb, exponentiate
from rtlit.training.photos import find_photos, fingerprint, load_photos, random_crops
from rtlit.training.runs import (
    LOG,
    WEIGHTS,
    append_row,
    load_checkpoint,
    make_run,
    read_json,
    replace_file,
    save_checkpoint,
)
from rtlit.training.simulate import SimulationSettings, simulate


@dataclass(frozen=True)
class SupervisedSettings:
    """One supervised run, whole: with the same settings, photographs and machine it gives the same weights.

    Attributes:
        iterations, batch: length of the run, and pictures an iteration.
        learning_rate: peak of the one-cycle schedule (Adam); warm-up over the first tenth.
        average: decay of the exponential moving average of the weights, which is what is exported.
        squared: weight of the squared error on R'G'B' beside the absolute one: what PSNR measures.
        relative: weight of log(mean squared error + `floor`), by picture: what the mean PSNR measures. A picture that
            should stay as it is and nearly does then counts as much as one that is far off.
        floor: mean squared error below which a picture is as good as right; 0.001 is 30 dB.
        color: weight of the loss on chroma differences beside that on R'G'B'.
        roughness: weight of the grid's total variation across the picture.
        bfloat16: the network in bfloat16, which is several times faster on CPUs that have it (AMX).
        seed: of the weights and of every draw.
        network, simulation: see their classes.
    """

    iterations: int = 7000
    batch: int = 16
    learning_rate: float = 2e-3
    average: float = 0.998
    squared: float = 4.0
    relative: float = 0.02
    floor: float = 1e-3
    color: float = 0.5
    roughness: float = 0.002
    bfloat16: bool = False
    seed: int = 0
    network: NetworkConfig = field(default_factory=NetworkConfig)
    simulation: SimulationSettings = field(default_factory=SimulationSettings)

    def __post_init__(self) -> None:
        if min(self.iterations, self.batch) < 1:
            raise UsageError(f"iterations ({self.iterations}) and batch ({self.batch}) must be 1 or more")
        if not 0 < self.learning_rate < 1:
            raise UsageError(f"learning_rate must be between 0 and 1, not {self.learning_rate}")
        if not 0 <= self.average < 1:
            raise UsageError(f"average must be at least 0 and below 1, not {self.average}")
        if not self.floor > 0:
            raise UsageError(f"floor must be above 0, not {self.floor}")


@dataclass
class TrainingStep:
    """What `train_supervised` reports as it goes: losses are means since the last report."""

    iteration: int
    iterations: int
    loss: float
    seconds: float


def train_supervised(
    folders: Sequence[Path],
    run: Path,
    settings: SupervisedSettings | None = None,
    *,
    init: Sequence[Path] = (),
    resume: bool = False,
    every: int = 100,
    on_step: Callable[[TrainingStep], None] | None = None,
) -> Path:
    """Train, or go on training, in a run folder.

    The folder holds `settings.json`, `log.jsonl`, `checkpoint.pt` and `weights.safetensors` (the averaged
    weights so far), the last two replaced whole every `every` iterations. Every draw of an iteration depends
    on the seed and the iteration alone, so a run that was stopped and resumed ends as if it never stopped.

    Args:
        folders: folders of well-lit photographs.
        run: folder to make, or to go on with.
        settings: default when None; must be None or the same when resuming.
        init: weights to start from instead of random ones, the mean of several; their dimensions must be those
            of the settings, but for the thumbnail's size.
        resume: go on from the checkpoint; an error if there is none.

    Returns:
        The path of the weights.

    Raises:
        InputError: no pictures, unreadable ones, or nothing to resume. OutputError: the run folder exists
        already or can't be written.
    """
    if resume:
        stored = read_settings(run / "settings.json")
        if settings not in (None, stored):
            raise UsageError(f"{run}: was started with other settings; resume without settings")
        settings = stored
    settings = settings or SupervisedSettings()
    paths = find_photos(folders)
    photos = load_photos(paths, 3 * settings.network.thumbnail)
    trainer = _Trainer(settings, photos, run, fingerprint(paths))
    if init:
        trainer.start_from(init)
    if resume:
        load_checkpoint(run, trainer.restore)
    else:
        make_run(run, asdict(settings))
    trainer.train(every, on_step)
    return run / WEIGHTS


def loss_of(network: CurveNetwork, dark: Tensor, photos: Tensor, settings: SupervisedSettings) -> Tensor:
    """Training loss of a batch: how far the enhanced pictures are from the photographs.

    L1 + `squared` × L2 on R'G'B' + `relative` × mean over pictures of log(L2 + `floor`), plus `color` × L1 on the
    colour differences (R'−G', B'−G'), plus `roughness` of the grid.
    """
    with torch.autocast(dark.device.type, torch.bfloat16, enabled=settings.bfloat16):
        grid = network(dark.contiguous(memory_format=torch.channels_last)).float()
    enhanced = enhance_rgb(dark, exponentiate(grid, 1.0))
    error = enhanced - photos
    squared = error.square().mean((1, 2, 3))
    loss = error.abs().mean() + settings.squared * squared.mean()
    loss = loss + settings.relative * torch.log(squared + settings.floor).mean()
    chroma = error[:, 0::2] - error[:, 1:2]
    loss = loss + settings.color * chroma.abs().mean()
    return loss + settings.roughness * roughness(grid)


def roughness(grid: Tensor) -> Tensor:
    """Mean absolute difference of neighbouring cells, across and down."""
    return grid.diff(dim=-1).abs().mean() + grid.diff(dim=-2).abs().mean()


class _Trainer:
    def __init__(self, settings: SupervisedSettings, photos: list[Tensor], run: Path, data: str) -> None:
        self.settings, self.photos, self.run, self.data = settings, photos, run, data
        torch.manual_seed(settings.seed)
        self.network = CurveNetwork(settings.network)
        self.averaged = CurveNetwork(settings.network)
        self.averaged.load_state_dict(self.network.state_dict())
        self.optimizer = torch.optim.Adam(self.network.parameters(), settings.learning_rate)
        self.iteration = 0

    def start_from(self, paths: Sequence[Path]) -> None:
        networks = [load_network(path) for path in paths]
        for path, network in zip(paths, networks, strict=True):
            # The thumbnail's size is no dimension of the weights.
            if replace(network.config, thumbnail=self.settings.network.thumbnail) != self.settings.network:
                raise UsageError(f"{path}: is for {network.config}, and the run for {self.settings.network}")
        states = [network.state_dict() for network in networks]
        mean = {name: torch.stack([state[name] for state in states]).mean(0) for name in states[0]}
        self.network.load_state_dict(mean)
        self.averaged.load_state_dict(mean)

    def train(self, every: int, on_step: Callable[[TrainingStep], None] | None) -> None:
        total, losses, started = 0.0, 0, time.perf_counter()
        while self.iteration < self.settings.iterations:
            total += self.step()
            losses += 1
            if self.iteration % every == 0 or self.iteration == self.settings.iterations:
                step = TrainingStep(
                    self.iteration, self.settings.iterations, total / losses, time.perf_counter() - started
                )
                self.save(step)
                if on_step:
                    on_step(step)
                total, losses, started = 0.0, 0, time.perf_counter()

    def step(self) -> float:
        settings = self.settings
        generator = torch.Generator().manual_seed(settings.seed * 1_000_003 + self.iteration)
        photos = random_crops(
            self.photos, crop_size(self.iteration, settings.network.thumbnail), settings.batch, generator
        )
        dark, photos = simulate(photos, settings.simulation, generator)
        for group in self.optimizer.param_groups:
            group["lr"] = settings.learning_rate * one_cycle(self.iteration / settings.iterations)
        loss = loss_of(self.network, dark, photos, settings)
        self.optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        torch.nn.utils.clip_grad_norm_(self.network.parameters(), 1.0)
        self.optimizer.step()
        self.iteration += 1
        # Early weights are forgotten faster, so that a short run's average isn't its start.
        decay = min(settings.average, self.iteration / (self.iteration + 10))
        for mean, value in zip(self.averaged.parameters(), self.network.parameters(), strict=True):
            mean.data.lerp_(value.data, 1 - decay)
        return loss.item()

    def save(self, step: TrainingStep) -> None:
        state = {
            "iteration": self.iteration,
            "data": self.data,
            "network": self.network.state_dict(),
            "averaged": self.averaged.state_dict(),
            "optimizer": self.optimizer.state_dict(),
        }
        about = {
            "rtlit": __version__,
            "torch": torch.__version__,
            "training": json.dumps(asdict(self.settings)),
            "iteration": str(self.iteration),
            "photographs_sha256": self.data,
        }
        save_checkpoint(self.run, state)
        replace_file(self.run / WEIGHTS, lambda part: save_network(self.averaged, part, **about))
        append_row(self.run / LOG, asdict(step))

    def restore(self, state: dict[str, Any]) -> None:
        self.network.load_state_dict(state["network"])
        self.averaged.load_state_dict(state["averaged"])
        self.optimizer.load_state_dict(state["optimizer"])
        if state["data"] != self.data:
            raise InputError(f"{self.run}: was trained on other photographs; resume with the same folders")
        self.iteration = state["iteration"]


def crop_size(iteration: int, longer_side: int) -> tuple[int, int]:
    """(h, w) of an iteration's pictures: square, 4:3, 16:9, portrait and landscape in turn."""
    other = (1.0, 3 / 4, 9 / 16, 3 / 4)[iteration % 4]
    height, width = longer_side, max(16, round(longer_side * other / 8) * 8)
    return (width, height) if iteration // 4 % 3 else (height, width)


def one_cycle(progress: float) -> float:
    """Learning rate as a share of its peak: linear over the first tenth, then half a cosine to 1 %."""
    if progress < 0.1:
        return 0.04 + 0.96 * progress / 0.1
    return 0.01 + 0.99 * 0.5 * (1 + math.cos(math.pi * (progress - 0.1) / 0.9))


def read_settings(path: Path) -> SupervisedSettings:
    """The settings of a run, from its settings.json.

    Raises:
        InputError: no such file, or not one of ours.
    """
    stored = read_json(path)
    try:
        simulation: dict[str, Any] = {
            k: tuple(v) if isinstance(v, list) else v for k, v in stored.pop("simulation").items()
        }
        return SupervisedSettings(
            network=NetworkConfig(**stored.pop("network")), simulation=SimulationSettings(**simulation), **stored
        )
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise InputError(f"{path}: not the settings of a run ({error})") from None
