"""rtlit-lighting: its words, what it sees in real pictures, and the training that makes it; `train simulate`."""

from __future__ import annotations

import json
import math
import random
import re
import shutil
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from numpy.typing import NDArray
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor

pytest.importorskip("PIL", reason="needs the extra `train`")

from PIL import Image

from rtlit.commands import main
from rtlit.errors import InputError, OutputError, RtlitError, UsageError, WeightsError
from rtlit.training import lighting_report
from rtlit.training.captions import KINDS, Light, caption, learn_merges, measured, words
from rtlit.training.lighting import (
    WEIGHTS,
    Lighting,
    LightingConfig,
    LightingSettings,
    LightingStep,
    load_lighting,
    split,
    train_lighting,
)
from rtlit.training.lights import LIGHTS, four_lights
from rtlit.training.photos import find_photos
from rtlit.training.simulate import SimulationSettings, luminance, masked_exposure
from rtlit.training.simulated import SimulatedSet, write_simulated
from rtlit.weights import LIGHTING

TINY = LightingConfig(32, (1, 1, 1, 1), 8, 32, 32, 40, 32, 2, 1)
SMALL = LightingSettings(iterations=6, batch=8, held_out=0, model=TINY)


@pytest.fixture(scope="module")
def shipped() -> Lighting:
    return load_lighting()


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Six pictures of smooth colours, landscape and portrait."""
    folder = tmp_path_factory.mktemp("photos")
    rng = np.random.default_rng(0)
    for index in range(6):
        size = (96, 64) if index % 2 else (64, 96)
        image = Image.fromarray(rng.integers(60, 256, (5, 5, 3), np.uint8)).resize(size, Image.Resampling.BICUBIC)
        image.save(folder / f"{index}.png")
    return folder


@pytest.fixture(scope="module")
def run(photos: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run; copy it before changing it."""
    folder = tmp_path_factory.mktemp("runs") / "whole"
    train_lighting([photos], folder, SMALL, every=3)
    return folder


def well_lit() -> list[Tensor]:
    """Photographs that come with scikit-image: a person, a cup of coffee, a cat, a motorcycle in a room."""
    from skimage import data

    pictures = [data.astronaut(), data.coffee(), data.chelsea(), data.stereo_motorcycle()[0]]
    return [torch.from_numpy(picture).permute(2, 0, 1) for picture in pictures]


# Words.


def test_every_word_of_a_caption_is_one_token_and_comes_back(shipped: Lighting) -> None:
    texts = [text for kind in (*KINDS, None) for text in captions_of(kind, 40)]
    for text in texts:
        tokens = shipped.tokenizer.encode(text)
        assert shipped.tokenizer.decode(tokens).split() == spaced(text).split()
        assert len(tokens) == len(spaced(text).split()), text
        assert len(tokens) + 2 <= shipped.tokenizer.context_length


def captions_of(kind: str | None, count: int) -> list[str]:
    rng = random.Random(0)
    looks = [("very dark",), ("with high contrast",), ("colourful",), ("darker on the left",)]
    draw = rng.randrange
    lights = (Light(kind, 6 * rng.random(), draw(4), draw(4), draw(-1, 2)) for _ in range(count))
    return [caption(light, looks, rng) for light in lights]


def spaced(text: str) -> str:
    return text.replace(",", " ,").replace("-", " - ")


def test_words_outside_the_captions_are_spelled(shipped: Lighting) -> None:
    tokens = shipped.tokenizer.encode("zebra Ünder 42")
    assert shipped.tokenizer.decode(tokens).split() == ["zebra", "ünder", "4", "2"]


def test_start_and_end_are_where_the_text_tower_looks(shipped: Lighting) -> None:
    start, end = shipped.tokenizer.sot_token_id, shipped.tokenizer.eot_token_id
    tokens = shipped.tokenizer(["a backlit photo", "X " * 100])
    assert tokens.shape == (2, 40) and tokens[:, 0].tolist() == [start, start]
    assert tokens[0, 4] == end and not tokens[0, 5:].any() and tokens[1, -1] == end
    assert tokens.argmax(1).tolist() == [4, 39]  # the end has the largest number
    assert shipped.model.token_embedding.num_embeddings == shipped.tokenizer.vocab_size == end + 1


def test_merges_spell_every_word_the_frequent_first() -> None:
    merges = learn_merges(Counter({"low": 5, "lower": 2, "newest": 6, "widest": 3}))
    # By hand: "es" stands in newest and widest, 9 times, and "est" as often; then "lo", in low and lower, 7.
    assert merges[:4] == [("e", "s"), ("es", "t</w>"), ("l", "o"), ("e", "w")]
    assert {"".join(pair) for pair in merges} >= {"low</w>", "lower</w>", "newest</w>", "widest</w>"}


def test_words_people_write_prompts_with_are_known() -> None:
    expected = "backlit well lit under exposed over dark bright noisy clean a photo of x"
    assert words().keys() >= set(expected.split(" "))


def test_captions_name_the_light_and_differ() -> None:
    named = {"backlit": "backlit|behind|against", "under-exposed": "exposed|dim|dark", "over-exposed": "exposed|bright"}
    named |= {"well-lit": "lit|exposed|light|good", "hazy": "hazy|foggy|haze|fog|flat|dull"}
    for kind, pattern in named.items():
        texts = captions_of(kind, 200)
        assert len(set(texts)) > 150
        assert sum(bool(re.search(rf"\b({pattern})\b", text)) for text in texts) > 80, kind
    assert not any(re.search(r"\b(backlit|lit|exposed|light|hazy)\b", text) for text in captions_of(None, 200))


def test_degrees_and_stops_are_said() -> None:
    rng = random.Random(0)
    texts = " ".join(caption(Light("under-exposed", 3.1, 3), [], rng) for _ in range(300))
    assert "three stops" in texts and "extremely" in texts
    assert not any(other in texts for other in ("one stop ", "slightly under", "four stops", "with noise"))


def test_what_is_measured_is_what_is_there() -> None:
    half = torch.full((1, 3, 30, 30), 0.02)
    half[..., 15:] = 0.9
    [looks] = measured(half)
    said = " ".join(" ".join(each) for each in looks)
    assert "darker on the left" in said and "high contrast" in said and "without colour" in said
    assert "right, bright" not in said and "at the top" not in said
    assert "very dark" in measured(torch.full((1, 3, 9, 9), 0.05))[0][0]
    assert "very bright" in measured(torch.full((1, 3, 9, 9), 0.9))[0][0]


# Lights.


def test_a_photograph_in_four_lights() -> None:
    photos = torch.stack([picture[:, ::4, ::4][:, :64, :64] for picture in 4 * well_lit()]).float() / 255
    pictures, lights = four_lights(photos, torch.Generator().manual_seed(0))
    assert pictures.shape == (LIGHTS * 16, 3, 64, 64)
    assert torch.equal((pictures * 255).round() / 255, pictures)
    assert torch.equal(pictures, four_lights(photos, torch.Generator().manual_seed(0))[0])
    well, backlit, under, last = luminance(pictures).mean((1, 2, 3)).chunk(LIGHTS)
    before = luminance(photos).mean((1, 2, 3))
    assert ((well - before).abs() < 0.15).all() and (under < before).all()
    kinds = [light.kind for light in lights]
    assert set(kinds[16:32]) == {"backlit", None} and set(kinds[48:]) == {"over-exposed", "hazy"}
    over = torch.tensor([kind == "over-exposed" for kind in kinds[48:]])
    assert (last > before)[over].all() and backlit.mean() < 0.9 * before.mean()
    # Backlight isn't under-exposure: it darkens the shadows more than the lights.
    luma = luminance(torch.cat([photos, pictures[16:32]])).flatten(1)
    shadows, highlights = luma.quantile(torch.tensor([0.2, 0.95]), dim=1)
    assert shadows[16:].mean() < 0.7 * shadows[:16].mean() and highlights[16:].mean() > 0.8 * highlights[:16].mean()


def test_light_that_cannot_be_seen_is_not_named() -> None:
    black = torch.zeros(4, 3, 32, 32)
    _, lights = four_lights(black, torch.Generator().manual_seed(0))
    assert all(light.kind in (None, "hazy") for light in lights)


# The shipped weights.


def test_weights_are_compact_and_say_what_they_are() -> None:
    assert LIGHTING.stat().st_size < 8_000_000
    with safe_open(LIGHTING, "pt") as file:
        about = file.metadata()
    kinds = {tensor.dtype for name, tensor in load_file(LIGHTING).items() if "num_batches" not in name}
    assert kinds == {torch.float16}
    assert about["format"] == "rtlit-lighting-clip/1" and len(about["photographs_sha256"]) == 64
    assert LightingConfig(**json.loads(about["config"])).image_size % 32 == 0
    assert json.loads(about["training"])["held_out"] == 5
    assert json.loads(about["merges"]) == [" ".join(pair) for pair in learn_merges(words())]


def test_the_same_every_time_and_frozen(shipped: Lighting) -> None:
    again = load_lighting()
    pictures = well_lit()
    first, second = (lighting_report.embed(each, pictures) for each in (shipped, again))
    assert torch.equal(first, second)
    # BatchNorm in evaluation mode: a picture's embedding doesn't hang on its batch.
    alone = torch.cat([lighting_report.embed(shipped, [picture]) for picture in pictures])
    torch.testing.assert_close(alone, first, rtol=0, atol=1e-5)
    assert not shipped.model.training and not any(each.requires_grad for each in shipped.model.parameters())


def test_backlit_and_well_lit_photographs_part(shipped: Lighting, picture: NDArray[np.uint8]) -> None:
    """Four well-lit photographs, the same with a dark foreground or three stops under, and the backlit clip."""
    good = well_lit()
    generator = torch.Generator().manual_seed(1)
    heavy = SimulationSettings(foreground=(-4.0, -3.0), background=(0.0, 0.0))
    shaded = []
    for each in good:
        unit = torch.nn.functional.interpolate(each[None].float() / 255, (192, 192), mode="bilinear", antialias=True)
        dark = (unit.pow(2.2) * torch.exp2(masked_exposure(unit, heavy, generator))).clamp(0, 1).pow(1 / 2.2)
        shaded.append((dark[0] * 255).round().byte())
    under = [lighting_report.expose_codes(each, -3) for each in good]
    clip = [torch.from_numpy(picture).permute(2, 0, 1)]
    p_good, p_shaded, p_under, p_clip = (
        lighting_report.probability(shipped, lighting_report.embed(shipped, each))
        for each in (good, shaded, under, clip)
    )
    assert lighting_report.separation(torch.cat([p_shaded, p_under, p_clip]), p_good).auc > 0.9
    assert p_good.mean() < 0.4 < 0.6 < p_under.mean() and (p_shaded > p_good).all()


def test_exposure_is_followed(shipped: Lighting) -> None:
    light = lighting_report.exposure(shipped, well_lit())
    assert light["ev"][0] == -4 and light["ev"][-1] == 2
    assert light["spearman"] > 0.95 and light["rising"] > 0.85
    assert light["backlit"][0] > 0.8 and light["backlit"][8] < 0.4  # −4 EV, 0 EV
    # From −3.5 EV, as what is nearly black gets no darker, and to +1 EV, as what is white gets no whiter.
    falling, rising = light["dark"][1:], light["brightness"][1:11]
    assert all(a > b for a, b in zip(falling, falling[1:], strict=False)), light["dark"]
    assert all(a < b for a, b in zip(rising, rising[1:], strict=False)), light["brightness"]


# The report.


def test_separation_is_that_of_the_definition() -> None:
    bad, good = torch.tensor([0.9, 0.6, 0.2]), torch.tensor([0.1, 0.2, 0.6, 0.3])
    # Pairs won: 4, 3½, 1½ of 12; recall ⅔; 3 of 4 below ½.
    assert lighting_report.separation(bad, good) == lighting_report.Separation(
        3, pytest.approx(1.7 / 3), pytest.approx(9 / 12), pytest.approx(2 / 3), pytest.approx((2 / 3 + 3 / 4) / 2)
    )


def test_exposure_in_linear_light() -> None:
    codes = torch.tensor([[[255, 128, 0]]] * 3, dtype=torch.uint8)
    down = lighting_report.expose_codes(codes, -2.0)[0, 0].tolist()
    assert down == [round(255 * 0.25 ** (1 / 2.2)), round(128 * 0.25 ** (1 / 2.2)), 0]
    assert lighting_report.expose_codes(codes, 2.0)[0, 0].tolist()[:2] == [255, round(128 * 4 ** (1 / 2.2))]


def test_report_of_a_run(photos: Path, run: Path, tmp_path: Path) -> None:
    dark = tmp_path / "dark"
    dark.mkdir()
    Image.new("RGB", (64, 48), (9, 8, 7)).save(dark / "a.png")
    command = ["train", "lighting-report", str(photos), str(dark), "--weights", str(run / WEIGHTS), "--held-out", "2"]
    result = CliRunner().invoke(main, [*command, "--json"])
    assert result.exit_code == 0, result.stderr
    rows = json.loads(result.stdout)
    assert rows["held_out"]["pictures"] == len(split(find_photos([photos]), 2)[1]) and rows[str(dark)]["pictures"] == 1
    assert len(rows["exposure"]["backlit"]) == 13
    text = CliRunner().invoke(main, command)
    assert text.exit_code == 0 and "AUC" in text.stdout and "+2.0 EV" in text.stdout
    assert CliRunner().invoke(main, [*command[:-1], "1000"]).stderr.count("\n") == 1


# Training.


def test_a_run_says_what_it_did(photos: Path, run: Path) -> None:
    assert sorted(path.name for path in run.iterdir()) == ["checkpoint.pt", WEIGHTS, "log.jsonl", "settings.json"]
    rows = [json.loads(line) for line in (run / "log.jsonl").read_text().splitlines()]
    assert [row["iteration"] for row in rows] == [3, 6] and all(math.isfinite(row["loss"]) for row in rows)
    lighting = load_lighting(run / WEIGHTS)
    assert lighting.image_size == 32
    assert lighting_report.embed(lighting, well_lit()).shape == (4, 32)
    assert lighting.model.logit_scale.exp().item() == pytest.approx(100, rel=0.01)


def test_resumed_is_never_stopped(photos: Path, run: Path, tmp_path: Path) -> None:
    def stop(step: LightingStep) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train_lighting([photos], tmp_path / "run", SMALL, every=3, on_step=stop)
    log = tmp_path / "run" / "log.jsonl"
    log.write_text(log.read_text() + '{"iteration": 5, "loss"')  # torn
    train_lighting([photos], tmp_path / "run", resume=True, every=3)
    ended, whole = load_file(tmp_path / "run" / WEIGHTS), load_file(run / WEIGHTS)
    assert ended.keys() == whole.keys() and all(torch.equal(ended[name], whole[name]) for name in whole)
    assert [json.loads(line)["iteration"] for line in log.read_text().splitlines()] == [3, 6]


def test_training_learns(photos: Path, tmp_path: Path) -> None:
    steps: list[LightingStep] = []
    settings = LightingSettings(iterations=60, batch=16, learning_rate=4e-3, held_out=0, model=TINY)
    train_lighting([photos], tmp_path / "run", settings, every=20, on_step=steps.append)
    # Chance is log 16 = 2.77.
    assert steps[-1].loss < 2.68 and steps[-1].accuracy > 1.3 / 16


def test_held_out_hangs_on_the_name_alone(tmp_path: Path) -> None:
    paths = [Path(f"a/{index}.jpg") for index in range(400)]
    train, held = split(paths, 5)
    assert sorted(train + held) == sorted(paths) and 55 < len(held) < 105
    _, elsewhere = split([Path("b") / path.name for path in paths], 5)
    assert {path.name for path in elsewhere} == {path.name for path in held}
    assert split(paths, 0) == (paths, [])


@pytest.mark.parametrize(
    "bad",
    [{"iterations": 0}, {"batch": 4}, {"batch": 10}, {"learning_rate": 0.0}, {"weight_decay": 1.0}, {"held_out": 1}],
    ids=str,
)
def test_impossible_settings_are_said(bad: dict[str, Any]) -> None:
    with pytest.raises(UsageError, match=next(iter(bad))):
        LightingSettings(**bad)


@pytest.mark.parametrize(
    "bad", [{"image_size": 50}, {"layers": (1, 1, 0, 1)}, {"width": 15}, {"text_heads": 3}], ids=str
)
def test_impossible_dimensions_are_said(bad: dict[str, Any]) -> None:
    with pytest.raises(UsageError, match="must"):
        LightingConfig(**bad)


def test_command_trains_and_resumes(photos: Path, tmp_path: Path) -> None:
    run = str(tmp_path / "run")
    command = ["train", "lighting", str(photos), "--run", run, "--threads", "1"]
    options = ["--iterations", "1", "--batch", "8", "--held-out", "0", "--json", "--quiet"]
    result = CliRunner().invoke(main, [*command, *options])
    assert result.exit_code == 0, result.stderr
    assert json.loads(result.stdout)["weights"] == f"{run}/{WEIGHTS}" and not result.stderr
    assert load_lighting(tmp_path / "run" / WEIGHTS).image_size == LightingConfig().image_size
    assert CliRunner().invoke(main, [*command, "--resume"]).exit_code == 0
    again = CliRunner().invoke(main, command)
    assert again.exit_code == 1 and "--resume" in again.stderr and again.stderr.count("\n") == 1
    refused = CliRunner().invoke(main, [*command, "--resume", "--held-out", "3", "--bfloat16"])
    assert refused.exit_code == 2 and "--held-out, --bfloat16" in refused.stderr and refused.stderr.count("\n") == 1


# What can go wrong.


def no_photographs(tmp: Path, photos: Path, run: Path) -> Path:
    (tmp / "empty").mkdir()
    train_lighting([tmp / "empty"], tmp / "run", SMALL)
    return tmp


def one_photograph(tmp: Path, photos: Path, run: Path) -> None:
    shutil.copy(photos / "0.png", tmp)
    train_lighting([tmp], tmp / "run", SMALL)


def corrupt_photograph(tmp: Path, photos: Path, run: Path) -> None:
    (tmp / "torn.png").write_bytes((photos / "0.png").read_bytes()[:200])
    train_lighting([photos, tmp], tmp / "run", SMALL)


def run_exists(tmp: Path, photos: Path, run: Path) -> None:
    train_lighting([photos], run, SMALL)


def nothing_to_resume(tmp: Path, photos: Path, run: Path) -> None:
    train_lighting([photos], tmp / "run", resume=True)


def other_settings(tmp: Path, photos: Path, run: Path) -> None:
    train_lighting([photos], run, replace(SMALL, seed=1), resume=True)


def other_photographs(tmp: Path, photos: Path, run: Path) -> None:
    shutil.copytree(photos, tmp / "fewer")
    (tmp / "fewer" / "0.png").unlink()
    train_lighting([tmp / "fewer"], run, resume=True)


def damaged_settings(tmp: Path, photos: Path, run: Path) -> None:
    shutil.copytree(run, tmp / "run")
    (tmp / "run" / "settings.json").write_text('{"model": 3}')
    train_lighting([photos], tmp / "run", resume=True)


def damaged_checkpoint(tmp: Path, photos: Path, run: Path) -> None:
    shutil.copytree(run, tmp / "run")
    (tmp / "run" / "checkpoint.pt").write_bytes(b"PK" * 500)
    train_lighting([photos], tmp / "run", resume=True)


def missing_weights(tmp: Path, photos: Path, run: Path) -> None:
    load_lighting(tmp / "none.safetensors")


def damaged_weights(tmp: Path, photos: Path, run: Path) -> None:
    (tmp / "torn.safetensors").write_bytes(LIGHTING.read_bytes()[:5000])
    load_lighting(tmp / "torn.safetensors")


def foreign_weights(tmp: Path, photos: Path, run: Path) -> None:
    load_lighting(LIGHTING.with_name("curves.safetensors"))


def half_of_the_weights(tmp: Path, photos: Path, run: Path) -> None:
    with safe_open(run / WEIGHTS, "pt") as file:
        about = file.metadata()
    tensors = load_file(run / WEIGHTS)
    save_file({name: tensors[name] for name in sorted(tensors)[::2]}, tmp / "half.safetensors", about)
    load_lighting(tmp / "half.safetensors")


def simulate_onto_something(tmp: Path, photos: Path, run: Path) -> None:
    (tmp / "kept.txt").write_text("mine")
    write_simulated([photos], tmp, SimulatedSet())


def simulate_under_a_file(tmp: Path, photos: Path, run: Path) -> None:
    (tmp / "file").write_text("")
    write_simulated([photos], tmp / "file" / "set", SimulatedSet())


@pytest.mark.parametrize(
    ("spoil", "kind", "words"),
    [
        (no_photographs, InputError, "empty: no pictures in it"),
        (one_photograph, InputError, "1 photographs to train on"),
        (corrupt_photograph, InputError, "torn.png: not a readable picture"),
        (run_exists, OutputError, "whole: exists already"),
        (nothing_to_resume, InputError, "nothing to resume"),
        (other_settings, UsageError, "was started with other settings"),
        (other_photographs, InputError, "other photographs"),
        (damaged_settings, InputError, "settings.json: not the settings of a run"),
        (damaged_checkpoint, InputError, "checkpoint.pt: damaged checkpoint"),
        (missing_weights, WeightsError, "none.safetensors: no such weights file"),
        (damaged_weights, WeightsError, "torn.safetensors: not a readable safetensors file"),
        (foreign_weights, WeightsError, "curves.safetensors: not a lighting CLIP"),
        (half_of_the_weights, WeightsError, "half.safetensors: damaged weights"),
        (simulate_onto_something, OutputError, "holds something already"),
        (simulate_under_a_file, OutputError, "can't make the folder"),
    ],
)
def test_bad_input_is_one_line(
    spoil: Callable[[Path, Path, Path], object],
    kind: type[RtlitError],
    words: str,
    tmp_path: Path,
    photos: Path,
    run: Path,
) -> None:
    with pytest.raises(kind) as caught:
        spoil(tmp_path, photos, run)
    assert words in str(caught.value) and "\n" not in str(caught.value)


# `rtlit train simulate`.


def test_simulate_writes_pictures_in_bad_light(photos: Path, tmp_path: Path) -> None:
    command = ["train", "simulate", str(photos), "--size", "64", "--json"]
    result = CliRunner().invoke(main, [*command, "-o", str(tmp_path / "pairs"), "--count", "8", "--truths"])
    assert result.exit_code == 0, result.stderr
    assert json.loads(result.stdout) == {"output_dir": str(tmp_path / "pairs"), "pictures": 8}
    inputs, truths = (sorted((tmp_path / "pairs" / name).iterdir()) for name in ("input", "gt"))
    assert [path.name for path in inputs] == [path.name for path in truths] and len(inputs) == 8
    codes = [(np.asarray(Image.open(a)), np.asarray(Image.open(b))) for a, b in zip(inputs, truths, strict=True)]
    assert all(a.shape == b.shape and max(a.shape) == 64 for a, b in codes)
    assert sum(a.mean() < b.mean() - 3 for a, b in codes) >= 6
    # The same seed, the same pictures, alone too.
    write_simulated([photos], tmp_path / "alone", SimulatedSet(8, 64))
    alone = sorted((tmp_path / "alone").iterdir())
    assert [path.read_bytes() for path in inputs] == [path.read_bytes() for path in alone]
    refused = CliRunner().invoke(main, [*command, "-o", str(tmp_path / "alone")])
    assert refused.exit_code == 1 and "--overwrite" in refused.stderr and refused.stderr.count("\n") == 1
    assert CliRunner().invoke(main, [*command, "-o", str(tmp_path / "alone"), "--overwrite"]).exit_code == 0


@pytest.mark.parametrize("bad", [{"count": 0}, {"size": 20}], ids=str)
def test_impossible_sets_are_said(bad: dict[str, Any]) -> None:
    with pytest.raises(UsageError, match=next(iter(bad))):
        SimulatedSet(**bad)
