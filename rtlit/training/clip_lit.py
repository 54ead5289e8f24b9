"""CLIP-LIT training (arXiv 2303.17569): two folders of unpaired photographs in, enhancer weights and prompts out."""

from __future__ import annotations

import json
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from types import FrameType
from typing import Any

import torch

from rtlit.errors import DeviceError, InputError, Interrupted, RtlitError
from rtlit.full_resolution import free_memory
from rtlit.network import NetworkConfig
from rtlit.training import runs
from rtlit.training.clip import load_clip
from rtlit.training.enhancers import make_enhancer
from rtlit.training.features import SetFeatures
from rtlit.training.guidance import make_guidance, save_guidance
from rtlit.training.presets import RunSettings, from_json
from rtlit.training.ranks import Ranks, join
from rtlit.training.runs import WEIGHTS
from rtlit.training.samples import SampleSheet
from rtlit.training.schedule import Position, Stage
from rtlit.training.stages import Networks, Procedure, Sets, Terms
from rtlit.training.unpaired import Squares, Unpaired, find_unpaired


@dataclass(frozen=True)
class Progress:
    """What is told after every so many iterations, and at the end of a stage: means since the last time."""

    iteration: int
    iterations: int
    stage: str
    round: int
    terms: Terms
    its_per_second: float
    seconds_left: float


def train_clip_lit(
    run: Path,
    settings: RunSettings | None = None,
    *,
    device: str = "auto",
    on_progress: Callable[[Progress], None] | None = None,
) -> Path:
    """Train in a new folder, or without settings go on in one; see `rtlit.training.runs` for what it holds.

    On the CPU a run that was stopped, or killed, and resumed gives the same bits as one that never was.

    Args:
        settings: None to resume with the run's own.
        device: "auto", "cpu" or "cuda". Of processes that torchrun starts each takes its share of the batches.

    Returns:
        The path of the weights.

    Raises:
        InputError: unusable pictures, or nothing to resume. OutputError: the run folder exists already or can't
        be written. Interrupted: by Ctrl-C, with a checkpoint. DeviceError: too little memory. RtlitError: CLIP isn't
        there; a loss isn't finite.
    """
    ranks, place = join(device)
    try:
        trainer = _Trainer(run, settings or read_settings(run), ranks, place, resumes=settings is None)
        with closing(trainer):
            return trainer.train(on_progress)
    except (RuntimeError, MemoryError) as error:
        if not isinstance(error, torch.OutOfMemoryError | MemoryError) and "allocate memory" not in str(error):
            raise
        raise DeviceError(f"{place}: too little memory for these settings; lower --batch or --size") from None
    finally:
        ranks.leave()


def read_settings(run: Path) -> RunSettings:
    """The settings that a run was started with.

    Raises:
        InputError: the folder holds no run.
    """
    path = run / runs.SETTINGS
    try:
        return from_json(RunSettings, runs.read_json(path))
    except (TypeError, ValueError, AttributeError) as error:
        raise InputError(f"{path}: not the settings of a run ({error})") from None


class _Trainer:
    def __init__(self, run: Path, settings: RunSettings, ranks: Ranks, device: torch.device, resumes: bool) -> None:
        self.run, self.settings, self.ranks, self.device = run, settings, ranks, device
        writer = _import_writer()
        for stages in (settings.procedure.prompts, settings.procedure.enhancer):
            ranks.share(stages.batch)  # says so if it can't, before there is a run
        found = find_unpaired(Path(settings.backlit), Path(settings.well_lit))
        self.data = {"backlit_sha256": found.backlit_sha256, "well_lit_sha256": found.well_lit_sha256}
        networks = _load_networks(settings, device)
        pictures = self._pictures(found)  # before there is a run: one of them may be corrupt
        if ranks.is_first and not resumes:
            runs.make_run(run, asdict(settings))
        ranks.wait()
        sets = self._embedded(pictures, found, networks)
        self.procedure = Procedure(settings.procedure, networks, sets, settings.seed, ranks)
        self.sheet = SampleSheet(found.backlit, settings.samples, device) if ranks.is_first else None
        self.sums: Terms = {}
        self.count = 0
        if resumes and (run / runs.CHECKPOINT).exists():
            runs.load_checkpoint(run, self._restore)
        self.board = self._open_logs(writer) if ranks.is_first else None

    def train(self, on_progress: Callable[[Progress], None] | None) -> Path:
        """Until the budget ends."""
        procedure, pace = self.procedure, _Pace()
        if procedure.position.iteration == 0:
            self._write_round(0, "start")
        with _interruption() as interrupted:
            while not procedure.is_done:
                place = procedure.position
                terms, stopping = procedure.step(interrupted.is_set())
                stopping |= interrupted.is_set() and self.ranks.world == 1  # several stop together, one iteration later
                self._add(terms)
                ends = (procedure.position.stage, procedure.position.round) != (place.stage, place.round)
                if ends or procedure.position.iteration % self.settings.every == 0:
                    progress = self._report(place, pace, ends)
                    if on_progress and self.ranks.is_first:
                        on_progress(progress)
                if ends:
                    self._write_round(place.round, f"after {place.stage}")
                self._save_when_due(stopping)
                if stopping and not procedure.is_done:
                    raise Interrupted(f"interrupted at iteration {procedure.position.iteration}")
        return self.run / WEIGHTS

    def close(self) -> None:
        """Write what TensorBoard still holds back."""
        if self.board is not None:
            self.board.close()

    def _pictures(self, found: Unpaired) -> tuple[Squares, Squares, Squares]:
        """The backlit ones at the enhancer's size, and both sets at the prompts'."""
        memory, threads = (free_memory() or 2**31) // (4 * self.ranks.world), torch.get_num_threads()
        settings = self.settings.procedure
        sizes = settings.enhancer.size, settings.prompts.size, settings.prompts.size
        paths = found.backlit, found.backlit, found.well_lit
        first, second, third = (
            Squares(each, size, self.device, memory, threads) for each, size in zip(paths, sizes, strict=True)
        )
        return first, second, third

    def _embedded(self, pictures: tuple[Squares, Squares, Squares], found: Unpaired, networks: Networks) -> Sets:
        """Pictures and embeddings; the first process computes those that aren't in the run's folder yet."""
        features = SetFeatures(networks.clip, self.settings.procedure.prompts, self.settings.seed)
        if not self.ranks.is_first:
            self.ranks.wait()
        folder, (large, small, well_lit) = self.run / "features", pictures
        backlit = features.kept(small, found.backlit_sha256, folder)
        sets = Sets(large, small, backlit, features.kept(well_lit, found.well_lit_sha256, folder), features)
        if self.ranks.is_first:
            self.ranks.wait()
        return sets

    def _open_logs(self, writer: Any) -> Any:
        iteration = self.procedure.position.iteration
        for name in (runs.LOG, runs.ROUNDS):
            runs.forget_after(self.run / name, iteration or -1)
        about = runs.read_json(self.run / runs.ABOUT) if (self.run / runs.ABOUT).exists() else {"starts": []}
        start = {"iteration": iteration, "time": time.strftime("%Y-%m-%dT%H:%M:%S%z"), "device": str(self.device)}
        start |= {"processes": self.ranks.world, "threads": torch.get_num_threads(), "versions": runs.versions()}
        runs.write_json(self.run / runs.ABOUT, {"data": self.data, "starts": [*about["starts"], start]})
        (self.run / "samples").mkdir(exist_ok=True)
        return writer(str(self.run / "tensorboard"), purge_step=iteration + 1)

    def _add(self, terms: Terms) -> None:
        if not all(abs(value) < float("inf") for value in terms.values()):
            iteration = self.procedure.position.iteration
            raise RtlitError(
                f"{self.run}: the loss isn't finite any more at iteration {iteration}; start a run with other settings"
            )
        self.sums = {name: self.sums.get(name, 0.0) + value for name, value in terms.items()}
        self.count += 1

    def _report(self, place: Position, pace: _Pace, ends: bool) -> Progress:
        """Means since the last report, of the stage at `place`, to the log."""
        position, stage = self.procedure.position, place.stage
        terms = {name: value / self.count for name, value in self.sums.items()}
        speed = pace.after(self.count, stage, ends)
        left = pace.seconds(self.procedure.schedule.remaining(position), stage)
        self.sums, self.count = {}, 0
        iterations = self.settings.procedure.iterations
        progress = Progress(position.iteration, iterations, str(stage), place.round, terms, speed, left)
        if self.board is not None:
            row = {"iteration": position.iteration, "stage": str(stage), "round": place.round, **terms}
            row |= {"learning_rate": self.procedure.learning_rate(stage), "its_per_second": speed}
            runs.append_row(self.run / runs.LOG, row)
            for name, value in terms.items():
                self.board.add_scalar(f"{stage}/{name}", value, position.iteration)
        return progress

    def _write_round(self, round: int, when: str) -> None:
        """P(backlit) of the sets at the end of a stage."""
        if self.board is None:
            return
        iteration, p_backlit = self.procedure.position.iteration, self.procedure.probabilities()
        row = {"iteration": iteration, "round": round, "when": when, "p_backlit": p_backlit}
        runs.append_row(self.run / runs.ROUNDS, row)
        for name, value in p_backlit.items():
            self.board.add_scalar(f"p_backlit/{name}", value, iteration)

    def _save_when_due(self, stopping: bool) -> None:
        position, settings = self.procedure.position, self.settings
        done = self.procedure.is_done
        if self.board is None:
            return
        if done or position.iteration % settings.samples_every == 0:
            self._write_samples()
        if done or stopping or position.iteration % settings.every == 0:
            self._save()
            self.board.flush()

    def _write_samples(self) -> None:
        networks = self.procedure.networks
        assert self.sheet is not None
        self.sheet.write(
            self.run / "samples" / f"{self.procedure.position.iteration:06d}.png",
            networks.enhancer,
            lambda pictures: networks.guidance.probability(networks.clip.encode_image(pictures)),
        )

    def _save(self) -> None:
        networks, iteration = self.procedure.networks, str(self.procedure.position.iteration)
        about = {key: str(value) for key, value in (runs.versions() | self.data).items()}
        training = asdict(self.settings)
        for name in ("backlit", "well_lit", "init"):  # where they lie is nobody's business who gets the weights
            training[name] = training[name] and Path(training[name]).name
        about |= {"iteration": iteration, "training": json.dumps(training)}
        networks.enhancer.export(self.run / WEIGHTS, **about)
        save_guidance(networks.guidance, self.run / runs.PROMPTS, **about)
        state = {"procedure": self.procedure.state(), "data": self.data, "sums": self.sums, "count": self.count}
        runs.save_checkpoint(self.run, state)

    def _restore(self, state: dict[str, Any]) -> None:
        if state["data"] != self.data:
            raise InputError(f"{self.run}: was trained on other photographs; resume with the same folders")
        self.procedure.restore(state["procedure"])
        self.sums, self.count = state["sums"], state["count"]


class _Pace:
    """Seconds an iteration of each stage, as last measured."""

    def __init__(self) -> None:
        self.last, self.of = time.perf_counter(), dict[str, float]()

    def after(self, count: int, stage: Stage, ends: bool) -> float:
        """Iterations a second since the last call. What a stage's end takes besides tells little of the stage."""
        now = time.perf_counter()
        seconds, self.last = (now - self.last) / count, now
        if not ends or stage not in self.of:
            self.of[stage] = seconds
        return 1 / seconds

    def seconds(self, left: dict[Stage, int], stage: Stage) -> float:
        """How long these iterations will take, as far as anybody knows."""
        return sum(count * self.of.get(each, self.of[stage]) for each, count in left.items())


def _import_writer() -> Any:
    try:
        from tensorboardX import SummaryWriter
    except ModuleNotFoundError as error:
        raise RtlitError(f"train needs {error.name}: pip install 'rtlit[train]'") from None
    return SummaryWriter


def _load_networks(settings: RunSettings, device: torch.device) -> Networks:
    clip = load_clip(settings.clip, settings.clip_weights, device)
    same = (settings.clip, settings.clip_weights) == (settings.identity, settings.identity_weights)
    identity = clip if same else load_clip(settings.identity, settings.identity_weights, device, option="--identity")
    identity.features(torch.zeros(1, 3, 32, 32, device=device))  # says so if it has none
    init = Path(settings.init) if settings.init else None
    is_new_curves = settings.enhancer == "curves" and init is None
    config = NetworkConfig(channels=settings.channels) if is_new_curves else None
    enhancer = make_enhancer(settings.enhancer, init, config=config, seed=settings.seed).to(device)
    torch.manual_seed(settings.seed)  # for the latents
    return Networks(enhancer, make_guidance(settings.guidance, clip), clip, identity)


@contextmanager
def _interruption() -> Iterator[threading.Event]:
    """An event that Ctrl-C or SIGTERM sets, so that an iteration is finished and saved; once: the second one kills."""
    event = threading.Event()
    signals = (signal.SIGINT, signal.SIGTERM) if threading.current_thread() is threading.main_thread() else ()
    before = {each: signal.getsignal(each) for each in signals}

    def stop(number: int, frame: FrameType | None) -> None:
        event.set()
        for each, handler in before.items():
            signal.signal(each, handler)

    for each in signals:
        signal.signal(each, stop)
    try:
        yield event
    finally:
        for each, handler in before.items():
            signal.signal(each, handler)
