"""The folder of a run: settings, logs, checkpoints and weights, each file written whole or not at all.

    settings.json       what the run was started with; --resume needs nothing else
    about.json          fingerprints of the data; versions, device and iteration of every start
    log.jsonl           means of losses, rates and speed, every so many iterations; the same in tensorboard/
    rounds.jsonl        P(backlit) of the sets before and after each refinement round
    samples/NNNNNN.png  a few pictures: input | enhanced
    checkpoint.pt       everything that the next iteration depends on
    weights.safetensors, prompts.safetensors
"""

from __future__ import annotations

import json
import os
import platform
import shutil
from collections.abc import Callable, Mapping
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch

from rtlit import __version__
from rtlit.errors import InputError, OutputError

SETTINGS, ABOUT = "settings.json", "about.json"
LOG, ROUNDS = "log.jsonl", "rounds.jsonl"
CHECKPOINT, WEIGHTS, PROMPTS = "checkpoint.pt", "weights.safetensors", "prompts.safetensors"


def make_run(run: Path, settings: Mapping[str, Any]) -> None:
    """Make the folder of a new run, with its settings.

    Raises:
        OutputError: it exists already, or can't be made.
    """
    try:
        run.mkdir(parents=True)
        write_json(run / SETTINGS, settings)
    except FileExistsError:
        raise OutputError(f"{run}: exists already; choose another folder, or --resume to go on with it") from None
    except OSError as error:
        raise OutputError(f"{run}: can't make the run folder ({error.strerror})") from None


def read_json(path: Path) -> Any:
    """What a JSON file of a run holds.

    Raises:
        InputError: there is none, or it is damaged.
    """
    try:
        return json.loads(path.read_text())
    except FileNotFoundError:
        raise InputError(f"{path}: no such file, nothing to resume or repeat; every run's folder has one") from None
    except (OSError, ValueError) as error:
        raise InputError(f"{path}: not the settings of a run ({error})") from None


def write_json(path: Path, value: Any) -> None:
    """Write a JSON file whole."""
    replace_file(path, lambda part: part.write_text(json.dumps(value, indent=2) + "\n"))


def replace_file(path: Path, write: Callable[[Path], object]) -> None:
    """Let `write` write beside `path`, then move it there; a failure leaves the file of before.

    Raises:
        OutputError: it can't be written.
    """
    part = path.with_name(f".{path.name}")
    try:
        write(part)
        os.replace(part, path)
    except (OSError, RuntimeError) as error:  # torch.save raises RuntimeError when the disk is full
        reason = getattr(error, "strerror", None) or str(error).splitlines()[0]
        raise OutputError(f"{path}: can't be written ({reason})") from None


def save_checkpoint(run: Path, state: Mapping[str, Any]) -> None:
    """Replace the checkpoint of a run by another.

    Raises:
        OutputError: it can't be written.
    """
    replace_file(run / CHECKPOINT, lambda part: torch.save(state, part))


def load_checkpoint(run: Path, restore: Callable[[dict[str, Any]], None]) -> None:
    """Hand the last checkpoint, on the CPU, to `restore`.

    Raises:
        InputError: there is none, it is damaged, or `restore` can't take what it holds.
    """
    path = run / CHECKPOINT
    try:
        restore(torch.load(path, map_location="cpu", weights_only=True))
    except FileNotFoundError:
        raise InputError(f"{path}: no checkpoint to resume from") from None
    except InputError:
        raise
    except Exception as error:  # torch.load raises whatever the damage leads to
        raise InputError(f"{path}: damaged checkpoint ({type(error).__name__}); start a new run") from None


def append_row(path: Path, row: Mapping[str, Any]) -> None:
    """Add a line to a JSON-lines file.

    Raises:
        OutputError: it can't be written.
    """
    try:
        with path.open("a") as file:
            file.write(json.dumps(row) + "\n")
    except OSError as error:
        raise OutputError(f"{path}: can't be written ({error.strerror})") from None


def forget_after(path: Path, iteration: int) -> None:
    """Drop the lines that a run had written after its last checkpoint: they come again."""
    if not path.exists():
        return
    kept = []
    for line in path.read_text().splitlines():
        try:
            if json.loads(line)["iteration"] <= iteration:
                kept.append(line + "\n")
        except ValueError:  # torn when the run was killed
            break
    replace_file(path, lambda part: part.write_text("".join(kept)))


def versions() -> dict[str, str]:
    """Of what a result depends on."""
    found = {"rtlit": __version__, "python": platform.python_version(), "torch": torch.__version__}
    for package in ("open_clip_torch", "numpy", "pillow"):
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            found[package] = "not installed"
    return found


def copy_file(source: Path, target: Path) -> None:
    """Copy a file of a run elsewhere.

    Raises:
        OutputError: it can't be written.
    """
    replace_file(target, lambda part: shutil.copyfile(source, part))
