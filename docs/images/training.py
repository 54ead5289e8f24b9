"""Makes pictures of CLIP-LIT runs: losses and P(backlit) over a run, and what the weights make of pictures.

    pip install matplotlib
    python docs/images/training.py docs/runs/curves docs/runs/unet            # clip-lit-NAME.png of each
    python docs/images/training.py RUN RUN --pictures FILE FILE …             # clip-lit.jpg: input | each run's weights
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
from PIL import Image

from rtlit import Enhancer
from rtlit.training.evaluate import load_picture

HERE = Path(__file__).parent
TERMS = ("loss", "guidance", "identity", "roughness")
SETS = {"input": "backlit input", "enhanced": "enhanced, as of now", "well_lit": "well-lit"}
CELL = 300  # pixels


def rows(path: Path) -> list[dict[str, Any]]:
    """The lines of a JSON-lines file."""
    return [json.loads(line) for line in path.read_text().splitlines()]


def plot(run: Path) -> None:
    """Losses by term above, mean P(backlit) of the sets below; refinement is grey."""
    log, rounds = rows(run / "log.jsonl"), rows(run / "rounds.jsonl")
    figure, (above, below) = plt.subplots(2, 1, figsize=(9, 6), sharex=True, layout="constrained")
    for term in TERMS:
        points = [(row["iteration"], row.get(term) or np.nan) for row in log]
        if not np.isnan([value for _, value in points]).all():
            above.semilogy(*zip(*points, strict=True), marker=".", label=term)
    above.set_ylabel("mean since the last line of the log")
    above.legend()
    for name, label in SETS.items():
        points = [(row["iteration"], row["p_backlit"][name]) for row in rounds]
        below.plot(*zip(*points, strict=True), marker="o", label=label)
    below.set(xlabel="iteration", ylabel="mean P(backlit)", ylim=(0, 1))
    below.legend()
    for before, after in zip(rounds, rounds[1:], strict=False):
        if after["when"].endswith("refinement"):
            for axes in (above, below):
                axes.axvspan(before["iteration"], after["iteration"], color="0.9")
    figure.savefig(HERE / f"clip-lit-{run.name}.png", dpi=90)


def sheet(runs: list[Path], pictures: list[Path]) -> None:
    """A row a picture: as it is, and by the weights of each run."""
    enhancers = [Enhancer("cpu", weights=run / "weights.safetensors") for run in runs]
    lines = []
    for path in pictures:
        picture = load_picture(path)
        cells = [Image.fromarray(each) for each in (picture, *(enhancer(picture) for enhancer in enhancers))]
        height = round(CELL * picture.shape[0] / picture.shape[1])
        lines.append(np.concatenate([np.asarray(cell.resize((CELL, height))) for cell in cells], 1))
    Image.fromarray(np.concatenate(lines)).save(HERE / "clip-lit.jpg", quality=85)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", nargs="+", type=Path)
    parser.add_argument("--pictures", nargs="+", type=Path)
    given = parser.parse_args()
    if given.pictures:
        sheet(given.runs, given.pictures)
    else:
        for each in given.runs:
            plot(each)
