"""`rtlit train clip` as people use it: from start to exported weights, stopped, resumed, and used wrongly."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest
import torch
from click.testing import CliRunner, Result

pytest.importorskip("PIL", reason="needs the extra `train`")

from clip_runs import SHORT, make_folders
from safetensors.torch import load_file
from tiny_clips import register

from rtlit.commands import main
from rtlit.commands.train_clip import clip
from rtlit.network import CurveNetwork
from rtlit.training.clip import load_clip
from rtlit.training.clip_lit import read_settings
from rtlit.training.enhancers import KINDS
from rtlit.training.guidance import GUIDANCE
from rtlit.training.presets import ENHANCERS, GUIDANCES, PRESETS, preset
from rtlit.unet import load_weights

TINY = [
    "--clip",
    "tiny-resnet",
    "--clip-weights",
    "random",
    "--identity",
    "tiny-resnet",
    "--device",
    "cpu",
    "--threads",
    "1",
]


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, str]]:
    """Backlit and well-lit pictures; the tiny CLIPs are known, and the preset is a short one."""
    register(tmp_path_factory.mktemp("clips"))
    threads = torch.get_num_threads()
    backlit, well_lit = make_folders(tmp_path_factory.mktemp("photos"))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("rtlit.training.clip_lit.load_clip", cache(load_clip))
        patch.setitem(PRESETS, "fast", SHORT)
        yield str(backlit), str(well_lit)
    torch.set_num_threads(threads)


def rtlit(*arguments: object) -> Result:
    return CliRunner().invoke(main, ["train", *map(str, arguments)])


def fails(code: int, *arguments: object) -> str:
    """The one line that a command fails with."""
    result = rtlit(*arguments)
    assert (result.exit_code, result.stderr.count("\n"), result.stdout) == (code, 1, "")
    return result.stderr


def test_a_run_from_folders_to_weights(folders: tuple[str, str], tmp_path: Path) -> None:
    run, export = tmp_path / "run", tmp_path / "mine.safetensors"
    options = ["--preset", "fast", "--iterations", 24, "--every", 10, "--seed", 3]
    result = rtlit(*folders, "-o", run, *TINY, *options, "--export", export)
    assert result.exit_code == 0, result.stderr
    lines = result.stderr.splitlines()
    assert lines[0].startswith("4/24 prompt-initialisation: loss ") and " it/s, " in lines[0]
    assert any(line.startswith("20/24 enhancement 2: ") for line in lines) and lines[-1] == f"weights: {export}"
    assert export.read_bytes() == (run / "weights.safetensors").read_bytes()
    network = load_weights(export)
    assert isinstance(network, CurveNetwork) and network.config.channels == 1
    settings = read_settings(run)
    assert (settings.seed, settings.every, settings.identity_weights) == (3, 10, "random")
    assert settings.procedure.enhancer == preset("fast").enhancer


def test_a_finished_run_is_exported_at_once(folders: tuple[str, str], tmp_path: Path) -> None:
    run, export = tmp_path / "run", tmp_path / "mine.safetensors"
    options = ["--preset", "fast", "--iterations", 8, "--quiet", "--json", "--enhancer", "clip-lit-unet"]
    result = rtlit("clip", *folders, "-o", run, *TINY, *options)
    assert result.exit_code == 0 and result.stderr == "", result.stderr
    paths = {"run": run, "weights": run / "weights.safetensors", "prompts": run / "prompts.safetensors"}
    assert json.loads(result.stdout) == {name: str(path) for name, path in paths.items()}
    again = rtlit("--resume", "-o", run, "--device", "cpu", "--export", export)
    assert again.exit_code == 0 and again.stderr == f"weights: {export}\n"
    assert export.read_bytes() == (run / "weights.safetensors").read_bytes()


def test_starts_from_weights_at_a_size_of_ones_own(folders: tuple[str, str], tmp_path: Path) -> None:
    first, second = tmp_path / "first", tmp_path / "second"
    fast = ["--preset", "fast", "--guidance", "residual", "--quiet"]
    assert rtlit(*folders, "-o", first, *TINY, *fast, "--iterations", 3).exit_code == 0
    gentle = ["--iterations", 1, "--size", 48, "--batch", 3, "--learning-rate", 1e-7]
    result = rtlit(*folders, "-o", second, *TINY, *fast, "--init", first / "weights.safetensors", *gentle)
    assert result.exit_code == 0, result.stderr
    enhancer = read_settings(second).procedure.enhancer
    assert (enhancer.size, enhancer.batch, enhancer.learning_rate) == (48, 3, 1e-7)
    before, after = (load_file(run / "weights.safetensors") for run in (first, second))
    for name, value in before.items():
        torch.testing.assert_close(after[name], value, rtol=0, atol=1e-6)


def test_choices_are_what_there_is() -> None:
    """They are written out in the command, which imports nothing for its help."""
    choices = {option.name: getattr(option.type, "choices", None) for option in clip.params}
    assert [*choices["preset"]] == [*PRESETS] and [*choices["enhancer"]] == [*ENHANCERS] == [*KINDS]
    assert [*choices["guidance"]] == [*GUIDANCES] == [*GUIDANCE]


def test_presets_are_shown() -> None:
    result = rtlit("clip", "--show-preset", "--enhancer", "clip-lit-unet", "--guidance", "latent", "--size", 128)
    shown = json.loads(result.stdout)
    assert shown["enhancer"]["size"] == 128 and shown["enhancer"]["learning_rate"] == 2e-5
    assert shown["prompts"]["learning_rate"] == 5e-4 and shown["prompts"]["initial_iterations"] == 8000


def test_settings_of_a_file(folders: tuple[str, str], tmp_path: Path) -> None:
    shown = json.loads(rtlit("clip", "--show-preset", "--preset", "fast").stdout)
    shown["iterations"], shown["prompts"]["initial_iterations"] = 2, 1
    (tmp_path / "mine.json").write_text(json.dumps(shown))
    result = rtlit(*folders, "-o", tmp_path / "run", *TINY, "--settings", tmp_path / "mine.json", "--quiet")
    assert result.exit_code == 0, result.stderr
    procedure = read_settings(tmp_path / "run").procedure
    assert (procedure.iterations, procedure.prompts.initial_iterations) == (2, 1)
    (tmp_path / "bad.json").write_text('{"iterations": "many"}')
    told = fails(1, *folders, "-o", tmp_path / "other", *TINY, "--settings", tmp_path / "bad.json")
    assert "bad.json: not settings of the procedure" in told


def test_wrong_usage_is_one_line(folders: tuple[str, str], tmp_path: Path) -> None:
    run, (backlit, well_lit) = tmp_path / "run", folders
    assert "-o RUN" in fails(2, backlit, well_lit)
    assert "two folders" in fails(2, backlit, "-o", run)
    assert "--seed" in fails(2, "--resume", "-o", run, "--seed", 1)
    assert "leave out the folders" in fails(2, backlit, well_lit, "--resume", "-o", run)
    assert "'huge'" in fails(2, backlit, well_lit, "-o", run, "--preset", "huge")
    assert "leave out --preset" in fails(2, *folders, "-o", run, "--settings", "a.json", "--preset", "fast")
    assert "a folder that exists" in fails(2, *folders, "-o", run, *TINY, "--export", tmp_path / "no" / "w.safetensors")
    assert not run.exists()


def test_bad_input_is_one_line(folders: tuple[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run, (backlit, well_lit) = tmp_path / "run", folders
    (tmp_path / "empty").mkdir()
    (tmp_path / "torn").mkdir()
    (tmp_path / "torn" / "a.jpg").write_bytes(b"\xff\xd8\xff\xe0")
    assert "empty: no pictures in it" in fails(1, tmp_path / "empty", well_lit, "-o", run, *TINY)
    assert "a.jpg: not a readable picture" in fails(1, tmp_path / "torn", well_lit, "-o", run, *TINY)
    assert "given twice" in fails(1, backlit, backlit, "-o", run, *TINY)
    assert "not a CLIP that open_clip knows" in fails(2, *folders, "-o", run, "--clip", "ViT-Z-99")
    weights = tmp_path / "clip.pt"
    weights.write_bytes(b"not weights")
    assert "clip.pt: not weights of tiny-vit" in fails(
        1, *folders, "-o", run, "--clip", "tiny-vit", "--clip-weights", weights
    )
    assert "nothing to resume" in fails(1, "--resume", "-o", run)
    assert "no such weights file" in fails(1, *folders, "-o", run, *TINY, "--init", tmp_path / "no.safetensors")
    assert not run.exists()
    run.mkdir()
    assert "exists already" in fails(1, *folders, "-o", run, *TINY)

    def refuse(path: Path, parents: bool = False) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "mkdir", refuse)
    assert "can't make the run folder (Permission denied)" in fails(1, *folders, "-o", tmp_path / "other", *TINY)


def test_help_and_wrong_usage_import_no_torch() -> None:
    code = (
        "import sys; from rtlit.commands import main\n"
        "for words in (['--help'], ['a'], ['--show-preset']):\n"
        "    try: main(['train', 'clip', *words])\n"
        "    except SystemExit: pass\n"
        "sys.exit(any(name in sys.modules for name in ('torch', 'numpy', 'av', 'open_clip')))"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True).returncode == 0


def test_killed_then_interrupted_then_finished(tmp_path: Path) -> None:
    """The compact CLIP, through processes of their own: SIGKILL, Ctrl-C with a line that says how to go on, the end."""
    folders, run, whole = make_folders(tmp_path), tmp_path / "run", tmp_path / "whole"
    common = ["--device", "cpu", "--threads", "1"]
    shown = json.loads(rtlit("clip", "--show-preset", "--guidance", "latent").stdout)
    shown["prompts"] |= {"initial_iterations": 20, "iterations": 10, "variants": 2, "size": 32}
    shown["enhancer"] |= {"iterations": 10, "size": 32, "batch": 2}
    (tmp_path / "short.json").write_text(json.dumps(shown | {"iterations": 70}))
    new = [*map(str, folders), "--clip", "rtlit-lighting", "--guidance", "latent", "--every", "5", *common]
    new += ["--settings", str(tmp_path / "short.json")]
    assert signalled(signal.SIGKILL, "15/70", [*new, "-o", str(run)])[0] == -signal.SIGKILL
    code, lines = signalled(signal.SIGINT, "35/70", ["--resume", "-o", str(run), *common])
    assert code == 130 and not any("Traceback" in line for line in lines)
    assert lines[-1].startswith("rtlit: interrupted at iteration ")
    assert lines[-1].endswith(f"; go on with: rtlit train clip --resume -o {run}\n")
    assert rtlit("--resume", "-o", run, *common, "--quiet").exit_code == 0
    assert rtlit(*new, "-o", whole, "--quiet").exit_code == 0
    for name in ("weights.safetensors", "prompts.safetensors"):
        ours, theirs = load_file(run / name), load_file(whole / name)
        assert ours.keys() == theirs.keys() and all(torch.equal(ours[key], theirs[key]) for key in ours)


def signalled(number: int, at: str, arguments: list[str]) -> tuple[int, list[str]]:
    """Exit code and lines of a training that got a signal when it told of an iteration."""
    command = [sys.executable, "-m", "rtlit", "train", *arguments]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    lines = []
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env=environment) as process:
        assert process.stderr is not None
        for line in process.stderr:
            lines.append(line)
            if line.startswith(at):
                process.send_signal(number)
    return process.returncode, lines
