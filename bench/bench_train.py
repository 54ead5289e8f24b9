"""Pictures a second of each stage of `rtlit train clip`, against a plain loop that takes one picture at a time.

The plain loop does what CLIP-LIT's released code does: for every iteration it opens its pictures, and puts them through
CLIP one by one. Its losses are compared with the trainer's before anything is timed. Pictures are frames of
examples/juggler.mp4, as they are and two stops brighter.

pytest bench/bench_train.py                                          the first of these, briefly
python bench/bench_train.py                                          rtlit-lighting, curves, 256×256
python bench/bench_train.py --clip ViT-B-32 --identity RN101         random weights
"""

from __future__ import annotations

import argparse
import platform
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import av
import pytest
import torch
from PIL import Image
from pytest_benchmark.fixture import BenchmarkFixture
from torch import Tensor

from rtlit.training.clip import load_clip
from rtlit.training.enhancers import make_enhancer
from rtlit.training.features import SetFeatures
from rtlit.training.guidance import AnchoredGuidance, make_guidance
from rtlit.training.losses import identity_loss, ranking_loss, refinement_pairs
from rtlit.training.presets import AugmentationSettings, ClipLitSettings, preset
from rtlit.training.ranks import Ranks
from rtlit.training.schedule import Position, Stage
from rtlit.training.stages import Networks, Procedure, Sets
from rtlit.training.unpaired import DRAWS, Squares, augment, decode_square, find_unpaired, shuffled

CLIP = Path(__file__).parent.parent / "examples" / "juggler.mp4"
STILL = AugmentationSettings(0, 0, 0, (1.0, 1.0), 0)


@pytest.fixture(scope="module")
def bench(tmp_path_factory: pytest.TempPathFactory) -> Bench:
    """The trainer and the plain loop, on a thread, with losses that agree."""
    torch.set_num_threads(1)
    backlit, well_lit = write_frames(tmp_path_factory.mktemp("frames"), 16)
    made = Bench(backlit, well_lit, options().parse_args([]), torch.device("cpu"))
    made.check()
    return made


@pytest.mark.parametrize("stage", [each for each in Stage if each is not Stage.DONE])
def test_stage(benchmark: BenchmarkFixture, bench: Bench, stage: Stage) -> None:
    """A picture of an iteration."""
    from bench.common import in_turns  # which this file run as a script doesn't find

    torch.set_num_threads(1)
    ours, plain = bench.runs(stage)
    in_turns(
        benchmark,
        ours,
        {"plain loop": plain},
        what=f"train clip: {stage}",
        at="256×256",
        units=bench.pictures(stage),
        rounds=3,
        device="cpu",
    )


def options() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--clip", default="rtlit-lighting")
    parser.add_argument("--identity", default="rtlit-lighting")
    parser.add_argument("--enhancer", default="curves")
    parser.add_argument("--size", type=int, default=256)
    parser.add_argument("--pictures", type=int, default=16)
    parser.add_argument("--seconds", type=float, default=10, help="for each measurement")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--threads", type=int, default=1)
    return parser


def main() -> None:
    given = options().parse_args()
    torch.set_num_threads(given.threads)
    device = torch.device(given.device)
    with tempfile.TemporaryDirectory() as folder:
        backlit, well_lit = write_frames(Path(folder), given.pictures)
        bench = Bench(backlit, well_lit, given, device)
        bench.check()
        where = torch.cuda.get_device_name() if device.type == "cuda" else f"{given.threads} CPU threads"
        print(f"{where}, torch {torch.__version__}, {platform.machine()}: {given}")
        print(f"embeddings of {2 * given.pictures} pictures, 16 times each, once a run: {bench.seconds:.1f} s")
        print(f"{'pictures/s':24} {'trainer':>9} {'plain':>9} {'ratio':>8}")
        for stage in bench.stages:
            ours, plain = (pace(run, given.seconds, device) * bench.pictures(stage) for run in bench.runs(stage))
            print(f"{stage:24} {ours:9.1f} {plain:9.1f} {ours / plain:7.1f}x")


def write_frames(folder: Path, count: int) -> tuple[Path, Path]:
    """Frames of the clip, and the same two stops brighter, as JPEG files of 1280×720."""
    names = folder / "backlit", folder / "well-lit"
    for name in names:
        name.mkdir()
    with av.open(str(CLIP)) as container:
        for index, frame in zip(range(count), container.decode(video=0), strict=False):
            image = frame.to_image()
            image.save(names[0] / f"{index:03}.jpg", quality=92)
            Image.eval(image, lambda code: min(255, int(code * 4 ** (1 / 2.2)))).save(
                names[1] / f"{index:03}.jpg", quality=92
            )
    return names


class Bench:
    """The trainer, and beside it the plain loop on the same networks."""

    def __init__(self, backlit: Path, well_lit: Path, options: argparse.Namespace, device: torch.device) -> None:
        self.found, self.device = find_unpaired(backlit, well_lit), device
        base = preset("clip-lit", options.enhancer)
        self.settings = replace(base, enhancer=replace(base.enhancer, size=options.size, augmentation=STILL))
        names = (options.clip, options.identity)
        clip, identity = (load_clip(each, None if each.startswith("rtlit") else "random", device) for each in names)
        enhancer, guidance = make_enhancer(options.enhancer).to(device), make_guidance("prompts", clip)
        self.networks = Networks(enhancer, guidance, clip, identity)
        began = time.perf_counter()
        self.embed(16)
        self.seconds = time.perf_counter() - began
        self.trainer = Procedure(self.settings, self.networks, self.embed(1), 0, Ranks())
        self.optimizers = self.trainer._optimizers
        self.enhanced = [self.write_enhanced(path) for path in self.found.backlit]

    def embed(self, variants: int) -> Sets:
        """Sets of pictures with their embeddings, in so many augmentations."""
        prompts = replace(self.settings.prompts, variants=variants)
        features, memory = SetFeatures(self.networks.clip, prompts, 0), 10**9
        large = Squares(self.found.backlit, self.settings.enhancer.size, self.device, memory)
        small, good = (
            Squares(each, prompts.size, self.device, memory) for each in (self.found.backlit, self.found.well_lit)
        )
        return Sets(large, small, features.of(small), features.of(good), features)

    @property
    def stages(self) -> list[Stage]:
        return [each for each in Stage if each is not Stage.DONE]

    def runs(self, stage: Stage) -> tuple[Callable[[], object], Callable[[], object]]:
        """An iteration of the trainer, and one of the plain loop."""
        return lambda: self.step(stage), lambda: self.plain_step(stage)

    def pictures(self, stage: Stage) -> int:
        """Pictures that an iteration looks at."""
        settings: ClipLitSettings = self.settings
        sets = {Stage.PROMPT_INITIALISATION: 1, Stage.REFINEMENT: 3}
        return sets[stage] * settings.prompts.batch if stage.trains_prompts else settings.enhancer.batch

    def check(self) -> None:
        """Raises: AssertionError, where the two don't have the same loss."""
        for stage in self.stages:
            self.place(stage)
            ours, plain = self.trainer._stages()[stage]()["loss"], self.plain_loss(stage)
            torch.testing.assert_close(ours, plain, rtol=2e-3, atol=2e-3)

    def place(self, stage: Stage) -> None:
        self.trainer.position = Position(stage, 1, 0, 10**9, 0, 0)
        # One enhanced set; the pictures as they are have the embeddings that an enhancer fresh from its start gives.
        self.trainer._enhanced = [self.trainer.sets.features.of(self.trainer.sets.small, self.networks.enhancer)]

    def step(self, stage: Stage) -> None:
        if self.trainer.position.stage is not stage:
            self.place(stage)
        self.trainer.step()

    def plain_step(self, stage: Stage) -> None:
        optimizer = self.optimizers[stage.trains_prompts]
        assert optimizer is not None
        loss = self.plain_loss(stage)
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        loss.item()

    def plain_loss(self, stage: Stage) -> Tensor:
        return self.plain_prompts(stage) if stage.trains_prompts else self.plain_enhancer(stage)

    def plain_prompts(self, stage: Stage) -> Tensor:
        settings, guidance = self.settings.prompts, self.networks.guidance
        assert isinstance(guidance, AnchoredGuidance)
        which = [shuffled(len(self.found.backlit), 0, settings.batch, 0, name) for name in ("backlit", "well-lit")]
        if stage is Stage.PROMPT_INITIALISATION:
            pairs = zip(*which, strict=True)
            paths = [(self.found.well_lit[b] if n % 2 else self.found.backlit[a]) for n, (a, b) in enumerate(pairs)]
            features = torch.cat([self.embed_one(path) for path in paths])
            return guidance.initial_loss(features, torch.arange(settings.batch, device=self.device) % 2)
        given = torch.cat([self.embed_one(self.found.backlit[index]) for index in which[0]])
        reference = torch.cat([self.embed_one(self.found.well_lit[index]) for index in which[1]])
        enhanced = torch.cat([self.embed_one(self.enhanced[index]) for index in which[0]])
        p = [guidance.probability(each) for each in (given, reference, enhanced)]
        return settings.ranking_weight * ranking_loss(refinement_pairs(p[0], p[1], [p[2]]))

    @torch.no_grad()
    def write_enhanced(self, path: Path) -> Path:
        """A picture as the enhancer makes it, as a file; the released code keeps enhanced sets so."""
        size = self.settings.prompts.size
        enhanced = self.networks.enhancer(decode_square(path, size)[None].to(self.device).float() / 255)
        codes = (enhanced[0] * 255).round().to(torch.uint8).permute(1, 2, 0).cpu().numpy()
        Image.fromarray(codes).save(path.with_suffix(".png"))
        return path.with_suffix(".png")

    @torch.no_grad()
    def embed_one(self, path: Path) -> Tensor:
        picture = decode_square(path, self.settings.prompts.size)[None].to(self.device).float() / 255
        return self.networks.clip.encode_image(augment(picture, torch.zeros(1, DRAWS), STILL))

    def plain_enhancer(self, stage: Stage) -> Tensor:
        settings, networks = self.settings.enhancer, self.networks
        which = shuffled(len(self.found.backlit), 0, settings.batch, 0, "order")
        pictures = torch.stack([decode_square(self.found.backlit[index], settings.size) for index in which])
        pictures = augment(pictures.to(self.device).float() / 255, torch.zeros(len(which), DRAWS), STILL)
        enhanced = networks.enhancer(pictures)
        initial = stage is Stage.ENHANCER_INITIALISATION
        layers = settings.initial_layer_weights if initial else settings.layer_weights
        one_by_one = list(zip(enhanced.split(1), pictures.split(1), strict=True))
        identity = [
            identity_loss(networks.identity.features(a), networks.identity.features(b), layers) for a, b in one_by_one
        ]
        total = settings.identity_batch * torch.stack(identity).mean()
        if initial:
            return settings.initial_identity_weight * total
        guided = torch.stack(
            [networks.guidance.enhance_loss(networks.clip.encode_image(a)) for a, _ in one_by_one]
        ).mean()
        return settings.guidance_weight * guided + settings.identity_weight * total


def pace(run: Callable[[], object], seconds: float, device: torch.device) -> float:
    """Calls a second, after one to warm up."""
    run()
    count, began = 0, time.perf_counter()
    while count < 2 or time.perf_counter() - began < seconds:
        run()
        count += 1
    if device.type == "cuda":
        torch.cuda.synchronize()
    return count / (time.perf_counter() - began)


if __name__ == "__main__":
    main()
