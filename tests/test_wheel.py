"""What is shipped, and that it runs where nothing else is: `make test-wheel` installs it into a new environment."""

from __future__ import annotations

import json
import os
import shlex
import shutil
import subprocess
import sys
import tarfile
from itertools import islice
from pathlib import Path
from zipfile import ZipFile

import av
import numpy as np
import pytest
from numpy.typing import NDArray

import rtlit
from rtlit.avframe import planes_of
from rtlit.benchmark.measure import write_clip
from rtlit.benchmark.scene import Scene

ROOT = Path(__file__).parent.parent
MOST_BYTES = 12_000_000
NAME = f"rtlit-{rtlit.__version__}"

installs = pytest.mark.skipif("RTLIT_TEST_INSTALL" not in os.environ, reason="`make test-wheel` installs the wheel")


def build(root: Path, folder: Path, *targets: str) -> None:
    names = [part for target in targets for part in ("--target", target)]
    command = [sys.executable, "-m", "hatchling", "build", "--directory", str(folder), *names]
    subprocess.run(command, cwd=root, capture_output=True, check=True)


@pytest.fixture(scope="session")
def dist(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the wheel and the source distribution."""
    folder = tmp_path_factory.mktemp("dist")
    build(ROOT, folder, "sdist", "wheel")
    return folder


@pytest.fixture(scope="session")
def wheel(dist: Path) -> Path:
    (path,) = dist.glob("*.whl")
    return path


class TestContents:
    def test_two_packages_and_all_their_files(self, wheel: Path) -> None:
        shipped = {name for name in ZipFile(wheel).namelist() if not name.startswith(f"{NAME}.dist-info/")}
        present = set()
        for package, folder in (("rtlit", ROOT / "rtlit"), ("rtlit_kernels", ROOT / "kernels" / "rtlit_kernels")):
            paths = [path for path in folder.rglob("*") if path.is_file() and "__pycache__" not in path.parts]
            present |= {str(package / path.relative_to(folder)) for path in paths}
        assert shipped == present
        pages = {f"rtlit/live/page/{name}" for name in ("index.html", "app.js", "style.css")}
        assert shipped >= {"rtlit/py.typed", "rtlit/weights/curves.safetensors", "rtlit/weights/MODEL_CARD.md", *pages}

    def test_weight(self, wheel: Path) -> None:
        assert 1_000_000 < wheel.stat().st_size < MOST_BYTES

    def test_metadata(self, wheel: Path) -> None:
        with ZipFile(wheel) as archive:
            about = archive.read(f"{NAME}.dist-info/METADATA").decode()
            entries = archive.read(f"{NAME}.dist-info/entry_points.txt").decode()
        head = about.partition("\n\n")[0].splitlines()
        assert {f"Version: {rtlit.__version__}", "License-Expression: MIT", "Requires-Python: >=3.11"} <= set(head)
        extras = {line.partition(": ")[2] for line in head if line.startswith("Provides-Extra")}
        assert extras >= {"train", "live", "virtual-camera"}
        assert entries == "[console_scripts]\nrtlit = rtlit.commands:main\n"

    def test_source_distribution_makes_the_same_wheel(self, dist: Path, wheel: Path, tmp_path: Path) -> None:
        with tarfile.open(dist / f"{NAME}.tar.gz") as archive:
            archive.extractall(tmp_path, filter="data")
        source = tmp_path / NAME
        for name in ("Makefile", "constraints.txt", "cli.py", "tests/test_wheel.py", "examples/juggler.mp4", "LICENSE"):
            assert (source / name).is_file(), name
        assert not (source / "runs").exists() and not list(source.rglob("*.enhanced.*"))
        build(source, tmp_path / "again", "wheel")
        (again,) = (tmp_path / "again").glob("*.whl")
        with ZipFile(wheel) as one, ZipFile(again) as other:
            assert {name: one.read(name) for name in one.namelist()} == {
                name: other.read(name) for name in other.namelist()
            }


@pytest.fixture(scope="session")
def installed(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of programs of a new virtual environment that holds the wheel and what it requires."""
    home = tmp_path_factory.mktemp("environment")
    assert ROOT not in home.parents
    programs = home / ("Scripts" if os.name == "nt" else "bin")
    subprocess.run([sys.executable, "-m", "venv", str(home)], check=True)
    more = shlex.split(os.environ.get("PIP_ARGS", ""))
    pip = [programs / "python", "-m", "pip", "install", "--disable-pip-version-check", "--quiet", "--no-compile"]
    subprocess.run([*pip, "-c", ROOT / "constraints.txt", *more, wheel], check=True, env=clean(), cwd=home)
    yield programs
    shutil.rmtree(home)  # a gigabyte, and five with CUDA


def clean() -> dict[str, str]:
    return {name: value for name, value in os.environ.items() if not name.startswith(("PYTHON", "VIRTUAL_ENV"))}


@pytest.fixture
def run(installed: Path, tmp_path: Path, clip: Path):  # type: ignore[no-untyped-def]
    """Runs `rtlit` of the new environment in a folder with nothing but a clip."""
    shutil.copy(clip, tmp_path / "juggler.mp4")

    def rtlit_in_it(*arguments: str, program: str = "rtlit") -> subprocess.CompletedProcess[str]:
        command = [str(installed / program), *arguments]
        return subprocess.run(command, cwd=tmp_path, env=clean(), capture_output=True, text=True)

    return rtlit_in_it


@installs
@pytest.mark.timeout(1800)  # torch may have to be fetched
class TestInstalled:
    def test_version_and_where_it_comes_from(self, run, installed: Path) -> None:  # type: ignore[no-untyped-def]
        assert run("--version").stdout == f"rtlit, version {rtlit.__version__}\n"
        code = "import rtlit, rtlit_kernels; print(rtlit.__file__, rtlit_kernels.__file__, sep='\\n')"
        for place in run("-c", code, program="python").stdout.splitlines():
            assert Path(place).is_relative_to(installed.parent)

    def test_doctor(self, run) -> None:  # type: ignore[no-untyped-def]
        result = run("doctor", "--json")
        assert result.returncode == 0, result.stderr
        told = json.loads(result.stdout)
        assert told["versions"]["rtlit"] == rtlit.__version__ and "because" in told["backend"]
        assert "libx264" in told["encoders"]["software"]

    def test_enhances_a_video(self, run, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
        result = run("enhance-video", "juggler.mp4", "--duration", "1", "--json")
        assert result.returncode == 0, result.stderr
        report = json.loads(result.stdout)
        assert (report["frames"], report["width"], report["height"], report["encoder"]) == (24, 1280, 720, "libx264")
        before, after = (lumas(tmp_path / name, 24).astype(int) for name in ("juggler.mp4", "juggler.enhanced.mp4"))
        assert after.shape == (24, 720, 1280) and np.abs(after - before).mean() < 20  # it needs little

    def test_enhances_as_the_checkout_does(self, run, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
        dark, it, we = (tmp_path / name for name in ("dark.mp4", "it.mkv", "we.mkv"))
        write_clip(dark, Scene(640, 360), 0.0)
        assert run("enhance-video", str(dark), "-o", str(it), "--codec", "ffv1").returncode == 0
        rtlit.enhance_video(dark, we, video=rtlit.VideoSettings(codec="ffv1"))
        lit, same, before = (lumas(path).astype(int) for path in (it, we, dark))
        assert np.abs(lit - same).max() <= 1 and lit.mean() > before.mean() + 10

    def test_enhances_a_picture_and_the_python_of_the_readme_works(self, run, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
        code = (
            "import av; from rtlit import enhance_image\n"
            "with av.open('juggler.mp4') as c: next(c.decode(video=0)).save('frame.png')\n"
            "enhance_image('frame.png', 'better.png')"
        )
        result = run("-c", code, program="python")
        assert result.returncode == 0 and (tmp_path / "better.png").stat().st_size > 100_000, result.stderr

    def test_benchmark(self, run) -> None:  # type: ignore[no-untyped-def]
        result = run("benchmark", "--size", "480p", "--seconds", "0.1", "-q")
        assert result.returncode == 0 and "For a bug report:" in result.stdout, result.stderr

    @pytest.mark.parametrize(
        ("arguments", "extra"),
        [
            (["webcam", "--source", "juggler.mp4"], "live"),
            (["webcam", "--source", "juggler.mp4", "--web"], "live"),
            (["webcam", "--source", "juggler.mp4", "--no-window", "--virtual-camera"], "virtual-camera"),
            (["evaluate", "."], "train"),
            (["evaluate-video", "juggler.mp4"], "train"),
            (["train", "clip", ".", ".", "-o", "run"], "train"),
            (["train", "supervised", ".", "-o", "run"], "train"),
            (["train", "simulate", ".", "-o", "out"], "train"),
            (["train", "lighting", ".", "-o", "run"], "train"),
            (["train", "lighting-report", "."], "train"),
            (["prompts", "score", "juggler.mp4"], "train"),
        ],
        ids=lambda value: value if isinstance(value, str) else " ".join(value),
    )
    def test_what_needs_an_extra_says_so(self, run, arguments: list[str], extra: str) -> None:  # type: ignore[no-untyped-def]
        result = run(*arguments)
        assert result.returncode == 1
        *before, last = result.stderr.splitlines()
        assert f"pip install 'rtlit[{extra}]'" in last and last.startswith("rtlit: ")
        assert len(before) <= 1 and "Traceback" not in result.stderr  # webcam says what it opened


def lumas(path: Path, most: int = 1000) -> NDArray[np.uint8]:
    """Luma of the first frames."""
    with av.open(str(path)) as container:
        return np.stack([planes_of(frame)[0].copy() for frame in islice(container.decode(video=0), most)])
