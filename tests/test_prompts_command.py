"""`rtlit prompts score`: the same numbers as the procedure's, one line a picture, one line an error."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import pyvips
import torch
from click.testing import CliRunner, Result
from numpy.typing import NDArray

from rtlit import weights
from rtlit.commands import main
from rtlit.training.clip import LIGHTING, Clip, load_clip
from rtlit.training.guidance import Guidance, PromptGuidance, make_guidance, save_guidance
from rtlit.training.unpaired import decode_square

ROOT = Path(__file__).parent.parent


def score(*args: object) -> Result:
    return CliRunner().invoke(main, ["prompts", "score", *(str(arg) for arg in args), "--device", "cpu"])


@pytest.fixture(autouse=True)
def inside(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


@pytest.fixture(scope="module")
def clip_model() -> Clip:
    torch.set_num_threads(1)
    return load_clip(LIGHTING)


@pytest.fixture(scope="module")
def guidances(clip_model: Clip, picture: NDArray[np.uint8]) -> dict[str, Guidance]:
    """One of each kind, that tells dark from bright: prompts of words, latents and a residual of features."""
    bright = torch.from_numpy(picture[::4, ::4].copy()).permute(2, 0, 1)[None] / 255
    with torch.no_grad():
        well_lit, backlit = (clip_model.encode_image(each) for each in (bright, bright * 0.2))
        prompts, latent, residual = (make_guidance(kind, clip_model) for kind in ("prompts", "latent", "residual"))
        assert isinstance(prompts, PromptGuidance)
        tokens = clip_model.tokenize(["a backlit photo", "a well-lit photo"])
        prompts.prompts.embeddings.copy_(clip_model.embed_tokens(tokens))
        prompts.prompts.tokens.copy_(tokens)
        next(latent.parameters()).copy_(torch.cat([backlit, well_lit]))
        residual.initialise(backlit, well_lit)
    return {"prompts": prompts, "latent": latent, "residual": residual}


@pytest.fixture
def run(guidances: dict[str, Guidance], tmp_path: Path) -> Path:
    """What a run's folder has for this command."""
    (tmp_path / "run").mkdir()
    save_guidance(guidances["latent"], tmp_path / "run" / "prompts.safetensors")
    return tmp_path / "run"


@pytest.fixture
def photos(picture: NDArray[np.uint8], tmp_path: Path) -> list[Path]:
    """A folder of the frame and of the frame darkened, in two formats; another in a subfolder."""
    folder = tmp_path / "photos"
    (folder / "below").mkdir(parents=True)
    bright = pyvips.Image.new_from_array(np.ascontiguousarray(picture[::2, ::2]))
    paths = [folder / "bright.jpg", folder / "dark.png", folder / "dark.enhanced.png", folder / "below" / "x.webp"]
    for path, factor in zip(paths, (1, 0.2, 0.9, 0.5), strict=True):
        (bright * factor).cast("uchar").write_to_file(str(path))
    return paths


@pytest.mark.parametrize("kind", ["prompts", "latent", "residual"])
def test_the_numbers_are_the_guidances(
    kind: str, guidances: dict[str, Guidance], photos: list[Path], tmp_path: Path
) -> None:
    guidance, path = guidances[kind], tmp_path / "learned.safetensors"
    save_guidance(guidance, path)
    result = score("--prompts", path, "--threads", 1, *photos[:2])
    assert result.exit_code == 0 and result.stderr == ""
    with torch.no_grad():
        images = torch.stack([decode_square(each, 256) for each in photos[:2]]) / 255
        wanted = guidance.probability(guidance.clip.encode_image(images)).tolist()
    assert result.stdout == "".join(f"{p:.4f}  {each}\n" for p, each in zip(wanted, photos, strict=False))
    assert wanted[1] > wanted[0] + 0.1


def test_folders_globs_and_json(run: Path, photos: list[Path], tmp_path: Path) -> None:
    result = score("photos", "--run", run, "--json")
    rows = [json.loads(line) for line in result.stdout.splitlines()]
    assert result.exit_code == 0 and [row["input"] for row in rows] == [
        "photos/bright.jpg",
        "photos/dark.enhanced.png",
        "photos/dark.png",
    ]
    assert all(0 <= row["p_backlit"] <= 1 for row in rows) and rows[2]["p_backlit"] > rows[0]["p_backlit"]
    deep = score("photos", "-r", "--run", run).stdout
    assert deep.count("\n") == 4 and "photos/below/x.webp" in deep
    assert score("photos/d*.png", "photos/dark.png", "--run", run).stdout.count("\n") == 2


def test_more_pictures_than_a_batch(run: Path, photos: list[Path], tmp_path: Path) -> None:
    (tmp_path / "many").mkdir()
    for index in range(19):
        (tmp_path / "many" / f"{index:02}.png").write_bytes(photos[index % 2].read_bytes())
    lines = score("many", "--run", run).stdout.splitlines()
    assert [line.split("  ")[1] for line in lines] == [f"many/{index:02}.png" for index in range(19)]
    assert {line.split("  ")[0] for line in lines[::2]} != {line.split("  ")[0] for line in lines[1::2]}
    assert len({line.split("  ")[0] for line in lines}) == 2


def test_errors_end_their_picture_alone(run: Path, photos: list[Path], tmp_path: Path) -> None:
    (tmp_path / "bad.jpg").write_bytes(b"no picture")
    (tmp_path / "cut.png").write_bytes(photos[1].read_bytes()[:3000])
    (tmp_path / "empty").mkdir()
    result = score("bad.jpg", "none.jpg", photos[0], "cut.png", "empty", "n*.gif", "--run", run, "--json")
    assert result.exit_code == 1
    errors = result.stderr.splitlines()
    assert errors[:3] == [
        "rtlit: none.jpg: no such file or folder",
        "rtlit: empty: no files to score in this folder (subfolders need -r)",
        "rtlit: n*.gif: no file matches",
    ]
    assert errors[3].startswith("rtlit: bad.jpg: not a readable picture")
    assert errors[4].startswith("rtlit: cut.png: not a readable picture") and len(errors) == 5
    rows = {row["input"]: row for row in map(json.loads, result.stdout.splitlines())}
    assert len(rows) == 6 and "p_backlit" in rows[str(photos[0])]
    assert rows["none.jpg"] == {"input": "none.jpg", "error": "none.jpg: no such file or folder"}


@pytest.mark.parametrize(
    ("args", "code", "message"),
    [
        ([], 2, "rtlit prompts score: Missing argument 'IMAGE...'. See rtlit prompts score --help."),
        (["-", "--run", "run"], 2, "rtlit: standard input can't be scored; give a file"),
        (["a.jpg", "--run", "run", "--prompts", "p"], 2, "rtlit: --run and --prompts can't be used together"),
        (["a.jpg", "--run", "nowhere"], 1, "rtlit: nowhere: no prompts.safetensors in it; give the folder of a run"),
        (["a.jpg", "--prompts", "nowhere.safetensors"], 1, "rtlit: nowhere.safetensors: no such file"),
        (["a.jpg", "--prompts", weights.DEFAULT], 1, f"rtlit: {weights.DEFAULT}: not learned prompts (format"),
    ],
)
def test_wrong_usage(args: list[object], code: int, message: str, run: Path) -> None:
    Path("a.jpg").write_bytes(b"")
    result = score(*args)
    assert result.exit_code == code and result.stdout == ""
    assert result.stderr.startswith(message) and result.stderr.count("\n") == 1


def test_shipped_prompts_are_the_default(run: Path, photos: list[Path], monkeypatch: pytest.MonkeyPatch) -> None:
    named = score(photos[0], "--run", run)
    monkeypatch.setattr(weights, "PROMPTS", run / "prompts.safetensors")
    monkeypatch.setattr(weights, "SHIPPED", {"prompts.safetensors": ""})
    assert score(photos[0]).stdout == named.stdout != ""
    monkeypatch.setattr(weights, "SHIPPED", {})
    result = score(photos[0])
    assert (result.exit_code, result.stdout) == (2, "")
    assert result.stderr == "rtlit: no prompts ship with this version; give --run RUN or --prompts FILE\n"


def test_help_and_wrong_usage_import_nothing_heavy() -> None:
    code = (
        "import sys\nfrom rtlit.commands import main\n"
        "try: main(sys.argv[1:])\nexcept SystemExit: pass\n"
        "print(*{'torch', 'numpy', 'av', 'PIL', 'open_clip'} & set(sys.modules), file=sys.stderr)"
    )
    for args in (["prompts", "--help"], ["prompts", "score", "--help"], ["prompts", "score", "-"]):
        result = subprocess.run(
            [sys.executable, "-c", code, *args], capture_output=True, text=True, cwd=ROOT, check=True
        )
        assert result.stderr.splitlines()[-1] == "", args
