"""The trainer: photographs in, repeatable and resumable runs, weights that load."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from safetensors import safe_open
from safetensors.torch import load_file

pytest.importorskip("PIL", reason="needs the extra `train`")

from PIL import Image

from rtlit.commands import main
from rtlit.errors import InputError, OutputError, RtlitError, UsageError
from rtlit.network import CurveNetwork, NetworkConfig, load_network
from rtlit.training import supervised
from rtlit.training.photos import find_photos, fingerprint, load_photos, random_crops
from rtlit.training.simulate import SimulationSettings, simulate
from rtlit.training.supervised import SupervisedSettings, TrainingStep, loss_of, one_cycle, train_supervised

SMALL = SupervisedSettings(iterations=6, batch=2, network=NetworkConfig(32, 3, 4, 16, 1))


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Five photographs' worth of smooth colours, landscape and portrait, one in a folder below."""
    folder = tmp_path_factory.mktemp("photos")
    rng = np.random.default_rng(0)
    (folder / "more").mkdir()
    for index in range(5):
        size = (96, 64) if index % 2 else (64, 96)
        image = Image.fromarray(rng.integers(60, 256, (5, 5, 3), np.uint8)).resize(size, Image.Resampling.BICUBIC)
        image.save(folder / ("more" if index == 4 else ".") / f"{index}.png")
    return folder


def weights_of(run: Path) -> dict[str, torch.Tensor]:
    return load_file(run / supervised.WEIGHTS)


def same(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


# Runs.


def test_a_run_gives_weights_that_say_what_they_are(photos: Path, tmp_path: Path) -> None:
    steps: list[TrainingStep] = []
    path = train_supervised([photos], tmp_path / "run", SMALL, every=4, on_step=steps.append)
    assert path == tmp_path / "run" / "weights.safetensors"
    assert load_network(path).config == SMALL.network
    assert [step.iteration for step in steps] == [4, 6]
    assert all(math.isfinite(step.loss) and step.seconds > 0 for step in steps)
    log = [json.loads(line) for line in (tmp_path / "run" / "log.jsonl").read_text().splitlines()]
    assert [entry["loss"] for entry in log] == [step.loss for step in steps]
    with safe_open(path, "pt") as file:
        about = file.metadata()
    assert about["photographs_sha256"] == fingerprint(find_photos([photos]))
    assert json.loads(about["training"])["batch"] == 2 and about["iteration"] == "6"
    assert sorted(path.name for path in (tmp_path / "run").iterdir()) == [
        "checkpoint.pt", "log.jsonl", "settings.json", "weights.safetensors"
    ]  # fmt: skip


def test_the_seed_decides(photos: Path, tmp_path: Path) -> None:
    for name, seed in (("a", 0), ("b", 0), ("c", 1)):
        settings = SupervisedSettings(iterations=3, batch=2, seed=seed, network=SMALL.network)
        train_supervised([photos], tmp_path / name, settings)
        torch.rand(7)
    assert same(weights_of(tmp_path / "a"), weights_of(tmp_path / "b"))
    assert not same(weights_of(tmp_path / "a"), weights_of(tmp_path / "c"))


def test_the_command_line_sets_the_networks_size(photos: Path, tmp_path: Path) -> None:
    run = ["train", "supervised", str(photos), "--iterations", "1", "--batch", "1", "--width", "8"]
    first, second = tmp_path / "first", tmp_path / "second"
    assert CliRunner().invoke(main, [*run, "-o", str(first), "--thumbnail", "16"]).exit_code == 0
    # The same weights see a larger thumbnail.
    more = ["-o", str(second), "--thumbnail", "32", "--init", str(first / "weights.safetensors")]
    assert CliRunner().invoke(main, [*run, *more]).exit_code == 0
    config = load_network(second / "weights.safetensors").config
    assert (config.thumbnail, config.width) == (32, 8)


def test_a_run_starts_from_given_weights(photos: Path, tmp_path: Path) -> None:
    start = train_supervised([photos], tmp_path / "start", SMALL)
    gentle = SupervisedSettings(iterations=1, batch=2, learning_rate=1e-6, network=SMALL.network)
    on = train_supervised([photos], tmp_path / "on", gentle, init=[start])
    before, after = weights_of(start.parent), weights_of(on.parent)
    assert not same(before, after)
    assert all(torch.allclose(before[name], after[name], atol=1e-5) for name in before)
    both = train_supervised([photos], tmp_path / "both", gentle, init=[start, on])
    assert not same(weights_of(both.parent), after)
    assert supervised.read_settings(tmp_path / "both" / "settings.json") == gentle
    with pytest.raises(UsageError, match="is for NetworkConfig"):
        train_supervised([photos], tmp_path / "other", SupervisedSettings(), init=[start])


@pytest.mark.parametrize("stop", [2, 3, 5])
def test_a_stopped_run_resumes_as_if_it_never_stopped(
    photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, stop: int
) -> None:
    train_supervised([photos], tmp_path / "whole", SMALL, every=2)
    loss_of, calls = supervised.loss_of, 0

    def interrupted(*arguments: Any) -> torch.Tensor:
        nonlocal calls
        calls += 1
        if calls == stop + 1:
            raise KeyboardInterrupt
        return loss_of(*arguments)

    with monkeypatch.context() as patch:
        patch.setattr(supervised, "loss_of", interrupted)
        with pytest.raises(KeyboardInterrupt):
            train_supervised([photos], tmp_path / "cut", SMALL, every=2)
    train_supervised([photos], tmp_path / "cut", resume=True, every=2)
    assert same(weights_of(tmp_path / "whole"), weights_of(tmp_path / "cut"))


def test_a_finished_run_resumes_to_itself(photos: Path, tmp_path: Path) -> None:
    train_supervised([photos], tmp_path / "run", SMALL)
    before = weights_of(tmp_path / "run")
    assert same(before, load_file(train_supervised([photos], tmp_path / "run", resume=True)))


def test_a_checkpoint_is_replaced_whole(photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Killed while writing: the checkpoint before still stands, and the run goes on from it."""
    train_supervised([photos], tmp_path / "whole", SMALL, every=2)
    save = torch.save

    def torn(state: dict[str, Any], path: Path) -> None:
        save(state, path)
        if state["iteration"] == 4:
            path.write_bytes(path.read_bytes()[:100])
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(torch, "save", torn)
        with pytest.raises(KeyboardInterrupt):
            train_supervised([photos], tmp_path / "cut", SMALL, every=2)
    assert torch.load(tmp_path / "cut" / "checkpoint.pt", weights_only=True)["iteration"] == 2
    train_supervised([photos], tmp_path / "cut", resume=True, every=2)
    assert same(weights_of(tmp_path / "whole"), weights_of(tmp_path / "cut"))


def test_training_learns(photos: Path, tmp_path: Path) -> None:
    """Sixty iterations on −2 EV undo more than half of what not enhancing at all leaves wrong."""
    light = SimulationSettings(0, 1, 0, 0, 0, under_exposure=(-2.0, -2.0), toe=1.0, cast=0, glare=0)
    settings = SupervisedSettings(60, 4, 1e-2, average=0.8, network=SMALL.network, simulation=light)
    network = load_network(train_supervised([photos], tmp_path / "run", settings))
    generator = torch.Generator().manual_seed(99)
    truth = random_crops(load_photos(find_photos([photos]), 96), (32, 32), 16, generator)
    dark, truth = simulate(truth, light, generator)
    with torch.inference_mode():
        untouched = supervised.loss_of(CurveNetwork(SMALL.network), dark, truth, settings)
        assert float(supervised.loss_of(network, dark, truth, settings)) < 0.5 * float(untouched)


def test_learning_rate_warms_up_and_cools_down() -> None:
    rates = [one_cycle(step / 1000) for step in range(1001)]
    assert max(rates) == pytest.approx(1) and rates.index(max(rates)) == 100
    assert rates[0] < 0.1 and rates[-1] == pytest.approx(0.01)
    assert all(a <= b for a, b in zip(rates[:100], rates[1:101], strict=True))
    assert all(a >= b for a, b in zip(rates[100:], rates[101:], strict=False))


@pytest.mark.parametrize(
    "bad",
    [{"iterations": 0}, {"batch": 0}, {"learning_rate": 0.0}, {"learning_rate": math.nan}, {"average": 1.0}],
    ids=str,
)
def test_impossible_settings_are_said(bad: dict[str, Any]) -> None:
    with pytest.raises(UsageError, match=next(iter(bad))):
        SupervisedSettings(**bad)


# Photographs.


def test_photographs_are_found_below_and_reduced(photos: Path) -> None:
    paths = find_photos([photos])
    assert sorted(path.name for path in paths) == ["0.png", "1.png", "2.png", "3.png", "4.png"]
    for picture in load_photos(paths, 48):
        assert picture.dtype == torch.uint8 and max(picture.shape) == 48 and picture.shape[0] == 3


def test_crops_are_8_bit_parts_of_the_photographs(photos: Path) -> None:
    loaded = load_photos(find_photos([photos]), 96)
    crops = random_crops(loaded, (24, 40), 50, torch.Generator().manual_seed(0))
    assert crops.shape == (50, 3, 24, 40)
    assert torch.equal((crops * 255).round() / 255, crops)
    assert int(crops.min() * 255) >= min(int(photo.min()) for photo in loaded)
    assert torch.equal(crops, random_crops(loaded, (24, 40), 50, torch.Generator().manual_seed(0)))
    flat = [torch.full((3, 50, 80), code, dtype=torch.uint8) for code in (10, 200)]
    values = random_crops(flat, (16, 16), 50, torch.Generator().manual_seed(0)).mul(255).round().unique().tolist()
    assert values == [10, 200]


def test_fingerprint_follows_names_and_contents(photos: Path, tmp_path: Path) -> None:
    paths = find_photos([photos])
    assert fingerprint(paths) == fingerprint(paths[::-1])
    changed = tmp_path / paths[0].name
    changed.write_bytes(paths[0].read_bytes() + b"\0")
    assert fingerprint([changed, *paths[1:]]) != fingerprint(paths) != fingerprint(paths[1:])


# What can go wrong.


def folder_missing(tmp: Path, photos: Path) -> tuple[list[Path], Path, bool]:
    return [photos, tmp / "nowhere"], tmp / "run", False


def folder_empty(tmp: Path, photos: Path) -> tuple[list[Path], Path, bool]:
    (tmp / "empty").mkdir()
    return [tmp / "empty"], tmp / "run", False


def picture_corrupt(tmp: Path, photos: Path) -> tuple[list[Path], Path, bool]:
    (tmp / "bad").mkdir()
    (tmp / "bad" / "torn.png").write_bytes((photos / "0.png").read_bytes()[:200])
    return [photos, tmp / "bad"], tmp / "run", False


def run_exists(tmp: Path, photos: Path) -> tuple[list[Path], Path, bool]:
    (tmp / "run").mkdir()
    return [photos], tmp / "run", False


def run_under_a_file(tmp: Path, photos: Path) -> tuple[list[Path], Path, bool]:
    (tmp / "file").write_text("")
    return [photos], tmp / "file" / "run", False


def nothing_to_resume(tmp: Path, photos: Path) -> tuple[list[Path], Path, bool]:
    return [photos], tmp / "run", True


def no_checkpoint_yet(tmp: Path, photos: Path) -> tuple[list[Path], Path, bool]:
    train_supervised([photos], tmp / "run", SMALL)
    (tmp / "run" / "checkpoint.pt").unlink()
    return [photos], tmp / "run", True


def checkpoint_damaged(tmp: Path, photos: Path) -> tuple[list[Path], Path, bool]:
    train_supervised([photos], tmp / "run", SMALL)
    checkpoint = tmp / "run" / "checkpoint.pt"
    checkpoint.write_bytes(checkpoint.read_bytes()[:1000])
    return [photos], tmp / "run", True


def settings_damaged(tmp: Path, photos: Path) -> tuple[list[Path], Path, bool]:
    train_supervised([photos], tmp / "run", SMALL)
    (tmp / "run" / "settings.json").write_text('{"iterations": 6')
    return [photos], tmp / "run", True


def other_photographs(tmp: Path, photos: Path) -> tuple[list[Path], Path, bool]:
    train_supervised([photos], tmp / "run", SMALL)
    return [photos / "more"], tmp / "run", True


@pytest.mark.parametrize(
    ("spoil", "kind", "words"),
    [
        (folder_missing, InputError, "nowhere: not a folder"),
        (folder_empty, InputError, "empty: no pictures in it"),
        (picture_corrupt, InputError, "torn.png: not a readable picture"),
        (run_exists, OutputError, "run: exists already"),
        (run_under_a_file, OutputError, "run: can't make the run folder"),
        (nothing_to_resume, InputError, "nothing to resume"),
        (no_checkpoint_yet, InputError, "checkpoint.pt: no checkpoint to resume from"),
        (checkpoint_damaged, InputError, "checkpoint.pt: damaged checkpoint"),
        (settings_damaged, InputError, "settings.json: not the settings of a run"),
        (other_photographs, InputError, "other photographs"),
    ],
)
def test_bad_input_is_one_line(
    spoil: Callable[[Path, Path], tuple[list[Path], Path, bool]],
    kind: type[RtlitError],
    words: str,
    tmp_path: Path,
    photos: Path,
) -> None:
    folders, run, resume = spoil(tmp_path, photos)
    with pytest.raises(kind) as caught:
        train_supervised(folders, run, None if resume else SMALL, resume=resume)
    assert words in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.parametrize("spoil", [folder_missing, folder_empty, picture_corrupt])
def test_a_run_that_cannot_start_leaves_no_folder(
    spoil: Callable[[Path, Path], tuple[list[Path], Path, bool]], tmp_path: Path, photos: Path
) -> None:
    folders, run, _ = spoil(tmp_path, photos)
    with pytest.raises(InputError):
        train_supervised(folders, run, SMALL)
    assert not run.exists()


def test_command_trains_and_resumes(photos: Path, tmp_path: Path) -> None:
    run = str(tmp_path / "run")
    command = ["train", "supervised", str(photos), "--run", run]
    result = CliRunner().invoke(main, [*command, "--iterations", "1", "--batch", "1", "--json", "--quiet"])
    assert result.exit_code == 0, result.stderr
    assert json.loads(result.stdout)["weights"] == f"{run}/weights.safetensors"
    assert load_network(tmp_path / "run" / "weights.safetensors").config == NetworkConfig()
    assert CliRunner().invoke(main, [*command, "--resume"]).exit_code == 0
    again = CliRunner().invoke(main, command)
    assert again.exit_code == 1 and "--resume" in again.stderr and again.stderr.count("\n") == 1
    refused = CliRunner().invoke(main, [*command, "--resume", "--batch", "2"])
    assert refused.exit_code == 2 and "--batch" in refused.stderr and refused.stderr.count("\n") == 1


def test_relative_loss_is_the_mean_of_logarithms_of_each_pictures_error() -> None:
    network = CurveNetwork(SMALL.network)  # new: the identity
    photos = torch.full((2, 3, 32, 32), 0.5)
    dark = photos - torch.tensor([0.1, 0.3])[:, None, None, None]
    plain = replace(SMALL, squared=0.0, relative=0.0, color=0.0, roughness=0.0)
    loss = loss_of(network, dark, photos, plain)
    assert loss.item() == pytest.approx(0.2)
    more = loss_of(network, dark, photos, replace(plain, relative=0.5, floor=0.01))
    assert (more - loss).item() == pytest.approx(0.5 * (math.log(0.01 + 0.01) + math.log(0.09 + 0.01)) / 2, rel=1e-4)


def test_bfloat16_changes_the_loss_little() -> None:
    network = CurveNetwork(SMALL.network)
    torch.nn.init.normal_(network.head.weight, 0, 0.1)
    generator = torch.Generator().manual_seed(0)
    photos, dark = (torch.rand(2, 3, 32, 32, generator=generator) for _ in range(2))
    exact, rounded = (loss_of(network, dark, photos, replace(SMALL, bfloat16=each)).item() for each in (False, True))
    assert exact != rounded and rounded == pytest.approx(exact, rel=0.02)
