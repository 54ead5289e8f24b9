"""The command line: exact words, exit codes, and nothing left behind."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import av
import numpy as np
import pytest
import pyvips
from click.testing import CliRunner, Result
from numpy.typing import NDArray

from rtlit import __version__
from rtlit.commands import main

ROOT = Path(__file__).parent.parent
QUICK = ["--threads", "1", "--preset", "ultrafast", "--duration", "0.25"]


def rtlit(*args: object, **kwargs: object) -> Result:
    return CliRunner().invoke(main, [str(arg) for arg in args], **kwargs)  # type: ignore[arg-type]


def frames(path: Path) -> int:
    with av.open(str(path)) as container:
        return sum(1 for _ in container.decode(video=0))


@pytest.fixture(autouse=True)
def inside(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


@pytest.fixture(scope="session")
def still(picture: NDArray[np.uint8]) -> bytes:
    return bytes(pyvips.Image.new_from_array(picture[::2, ::2].copy()).write_to_buffer(".jpg", Q=90))


class TestMain:
    def test_version(self) -> None:
        assert rtlit("--version").output == f"rtlit, version {__version__}\n"

    def test_help_names_every_command(self) -> None:
        result = rtlit("--help")
        assert result.exit_code == 0
        for name in ("enhance-video", "enhance-image", "evaluate", "train", "doctor"):
            assert f"\n  {name} " in result.output

    def test_every_command_has_help(self) -> None:
        for name in ("enhance-video", "enhance-image", "evaluate", "train", "doctor"):
            result = rtlit(name, "--help")
            assert result.exit_code == 0 and f"rtlit {name}" in result.output

    @pytest.mark.parametrize("args", [["--help"], ["enhance-video", "--help"], ["enhance-video", "nope.mp4"]])
    def test_words_need_no_heavy_imports(self, args: list[str]) -> None:
        code = (
            "import sys, rtlit.commands\n"
            "try: rtlit.commands.main(sys.argv[1:])\n"
            "finally: print('loaded:', *{'torch', 'av', 'numba', 'numpy', 'rich', 'pyvips'} & set(sys.modules))"
        )
        result = subprocess.run([sys.executable, "-c", code, *args], capture_output=True, text=True, cwd=ROOT)
        assert result.stdout.splitlines()[-1] == "loaded:"

    @pytest.mark.parametrize(
        ("args", "message"),
        [
            (["enhanse"], "rtlit: No such command 'enhanse'. See rtlit --help.\n"),
            (["--nope"], "rtlit: No such option '--nope'. See rtlit --help.\n"),
            (["enhance-video"], "Missing argument 'INPUT...'. See rtlit enhance-video --help.\n"),
            (["enhance-video", "--strength", "abc", "x"], "'abc' is not a valid number. See rtlit enhance-video "),
            (["enhance-video", "--strength", "3", "x"], "3.0 is not in the range 0<=x<=2.0. See"),
            (["enhance-video", "--start", "1:99", "x"], "'1:99' is not a time; give seconds (90) or H:MM:SS.ms"),
            (["enhance-video", "-e", "tune", "x"], "'tune' is not key=value, for example tune=film. See"),
            (["enhance-video", "--device", "tpu", "x"], "'tpu' is not one of 'auto', 'cpu', 'cuda'. See"),
            (["enhance-video", "-o", "y", "--output-dir", "z", "x"], "-o and --output-dir can't be used together\n"),
        ],
    )
    def test_wrong_usage_is_one_line(self, args: list[str], message: str) -> None:
        result = rtlit(*args)
        assert result.exit_code == 2
        assert message in result.stderr and result.stderr.count("\n") == 1
        assert result.stdout == ""

    def test_unexpected_error_is_one_line_and_verbose_shows_where(self, monkeypatch: pytest.MonkeyPatch) -> None:
        def broken(*args: object, **kwargs: object) -> None:
            raise RuntimeError("two\nlines")

        monkeypatch.setattr("rtlit.image.enhance_image", broken)
        Path("a.jpg").touch()
        line = "rtlit: unexpected error: RuntimeError: two lines (--verbose shows where; please report it)\n"
        result = rtlit("enhance-image", "a.jpg")
        assert (result.exit_code, result.stderr) == (1, line)
        result = rtlit("enhance-image", "a.jpg", "-v")
        assert result.exit_code == 1 and result.stderr.endswith(line) and "Traceback" in result.stderr


class TestBatches:
    """Which inputs are found, where results go; with pictures, as they are quick."""

    def put(self, still: bytes, *names: str) -> None:
        for name in names:
            Path(name).parent.mkdir(parents=True, exist_ok=True)
            Path(name).write_bytes(still)

    def tree(self) -> list[str]:
        return sorted(str(path) for path in Path().rglob("*") if path.is_file())

    def test_file_beside_itself_then_exists(self, still: bytes) -> None:
        self.put(still, "a.jpg")
        result = rtlit("enhance-image", "a.jpg", "--threads", 1)
        assert result.exit_code == 0 and result.stdout == ""
        assert result.stderr.startswith("a.jpg → a.enhanced.jpg: 640×360, 8 bit in ")
        assert self.tree() == ["a.enhanced.jpg", "a.jpg"]
        again = rtlit("enhance-image", "a.jpg", "--threads", 1)
        message = "rtlit: a.enhanced.jpg: exists; use --overwrite (overwrite=True) to replace it\n"
        assert (again.exit_code, again.stderr) == (1, message)
        assert rtlit("enhance-image", "a.jpg", "--overwrite", "-q", "--threads", 1).output == ""

    def test_folder_skips_what_is_done_and_its_own_results(self, still: bytes) -> None:
        self.put(still, "in/a.jpg", "in/b.JPG", "in/.hidden.jpg", "in/deep/c.jpg", "in/notes.txt")
        assert rtlit("enhance-image", "in", "--threads", 1).exit_code == 0
        done = ["in/.hidden.jpg", "in/a.enhanced.jpg", "in/a.jpg", "in/b.JPG", "in/b.enhanced.JPG", "in/deep/c.jpg"]
        assert self.tree() == [*done, "in/notes.txt"]
        again = rtlit("enhance-image", "in", "--threads", 1)
        assert again.exit_code == 0
        assert again.stderr == (
            "in/a.jpg: in/a.enhanced.jpg exists, skipped\nin/b.JPG: in/b.enhanced.JPG exists, skipped\n"
        )

    def test_recursion_keeps_the_tree_in_the_output_folder(self, still: bytes) -> None:
        self.put(still, "in/a.jpg", "in/x/a.jpg", "in/x/y/a.jpg")
        result = rtlit("enhance-image", "in", "-r", "--output-dir", "out", "-q", "--threads", 1)
        assert (result.exit_code, result.output) == (0, "")
        assert self.tree()[3:] == ["out/a.enhanced.jpg", "out/x/a.enhanced.jpg", "out/x/y/a.enhanced.jpg"]

    def test_glob_in_quotes_and_repeated_inputs(self, still: bytes) -> None:
        self.put(still, "a1.jpg", "a2.jpg", "b.jpg")
        result = rtlit("enhance-image", "a*.jpg", "a1.jpg", "--output-dir", "out", "--threads", 1)
        assert result.exit_code == 0
        assert sorted(os.listdir("out")) == ["a1.enhanced.jpg", "a2.enhanced.jpg"]

    def test_one_failure_does_not_stop_the_others(self, still: bytes) -> None:
        self.put(still, "a.jpg", "c.jpg")
        Path("b.jpg").write_text("no picture")
        result = rtlit("enhance-image", "a.jpg", "nope.jpg", "b.jpg", "c.jpg", "--json", "--threads", 1)
        assert result.exit_code == 1
        errors = [line for line in result.stderr.splitlines() if line.startswith("rtlit: ")]
        assert errors[0] == "rtlit: nope.jpg: no such file or folder"
        assert errors[1].startswith("rtlit: b.jpg: not a whole picture of a known format")
        reports = [json.loads(line) for line in result.stdout.splitlines()]
        assert [report["input"] for report in reports] == ["nope.jpg", "a.jpg", "b.jpg", "c.jpg"]
        assert ["error" in report for report in reports] == [True, False, True, False]
        assert reports[1]["width"] == 640 and reports[1]["output"] == "a.enhanced.jpg"

    def test_results_of_the_same_name(self, still: bytes) -> None:
        self.put(still, "x/a.jpg", "y/a.jpg")
        result = rtlit("enhance-image", "x/a.jpg", "y/a.jpg", "--output-dir", "out", "-q", "--threads", 1)
        assert (result.exit_code, result.stderr) == (1, "rtlit: y/a.jpg: the result of x/a.jpg has the same name\n")

    @pytest.mark.parametrize(
        ("args", "code", "message"),
        [
            (["nope.jpg"], 1, "rtlit: nope.jpg: no such file or folder\n"),
            (["no*.jpg"], 1, "rtlit: no*.jpg: no file matches\n"),
            (["empty"], 1, "rtlit: empty: no files to enhance in this folder (subfolders need -r)\n"),
            (["empty", "-r"], 1, "rtlit: empty: no files to enhance in this folder\n"),
            (["a.jpg", "a.jpg", "-o", "b.jpg"], 2, "-o takes the result of a single input, not of 2; use --output-dir"),
            (["a.jpg", "-o", "empty"], 2, "rtlit: -o empty is a folder; use --output-dir empty\n"),
            (["a.jpg", "-o", "a.jpg"], 1, "rtlit: a.jpg: is the input itself; give the result another name\n"),
            (["a.jpg", "-o", "a.jpg/b.jpg"], 1, "rtlit: a.jpg: can't make this folder (File exists)\n"),
            (["a.jpg", "--weights", "w"], 1, "rtlit: w: no such weights file; check --weights\n"),
            (["text.jpg", "--output-dir", "new/deep"], 1, "not a whole picture of a known format"),
        ],
    )
    def test_nothing_is_left_behind(self, args: list[str], code: int, message: str, still: bytes) -> None:
        self.put(still, "a.jpg")
        Path("text.jpg").write_text("no picture")
        Path("empty").mkdir()
        result = rtlit("enhance-image", *args)
        assert result.exit_code == code
        assert message in result.stderr and result.stderr.count("\n") == 1
        assert sorted(os.listdir()) == ["a.jpg", "empty", "text.jpg"] and not os.listdir("empty")

    def test_pipes(self, still: bytes) -> None:
        result = rtlit("enhance-image", "-", "--json", "--threads", 1, input=still)
        assert result.exit_code == 0
        assert pyvips.Image.new_from_buffer(result.stdout_bytes, "").width == 640
        words, report = result.stderr.splitlines()
        assert words.startswith("standard input → standard output: 640×360")
        assert json.loads(report)["depth"] == 8


class TestDoctor:
    def test_words(self) -> None:
        result = rtlit("doctor")
        assert result.exit_code == 0
        for words in ("\n  torch: ", "\n  libavcodec: ", "\n  chosen: ", "\n  because: ", "\n  sha256: ", "libx264"):
            assert words in result.output

    def test_json_and_bad_weights(self) -> None:
        result = rtlit("doctor", "--json", "--device", "cpu", "--weights", "nope")
        found = json.loads(result.output)
        assert result.exit_code == 1
        assert found["weights"] == {"error": "nope: no such weights file; check --weights"}
        assert found["backend"]["because"] == "asked for"
        assert found["versions"]["rtlit"] == __version__
        assert "libx264" in found["encoders"]["software"]
