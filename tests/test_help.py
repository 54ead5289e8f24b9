"""What every command says of itself at 80 columns, and what a shell completes."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import click
import pytest
from click.shell_completion import CompletionItem, ShellComplete
from click.testing import CliRunner

from rtlit.commands import main
from rtlit.live.cameras import Camera

ROOT = Path(__file__).parent.parent
# Metavars that click makes of types, and ranges in its notation.
TYPES = re.compile(r"\b(TEXT|INTEGER|FLOAT|PATH|FILENAME|DIRECTORY|RANGE)\b|x[<>]")
# Options that mean another thing in another command.
OF_MANY_MEANINGS = {"--size", "--save-to", "--preset", "--format"}


def commands(group: click.Group = main, *path: str) -> Iterator[tuple[str, click.Command]]:
    """(name with those of its groups, command) of all."""
    context = click.Context(group)
    for name in group.list_commands(context):
        command = group.get_command(context, name)
        assert command is not None
        yield " ".join((*path, name)), command
        if isinstance(command, click.Group):
            yield from commands(command, *path, name)


ALL = dict(commands())
LEAVES = {name: command for name, command in ALL.items() if not isinstance(command, click.Group)}


def help_of(name: str) -> str:
    result = CliRunner().invoke(main, [*name.split(), "--help"], terminal_width=80)
    assert result.exit_code == 0
    return result.output


def examples_of(name: str) -> list[str]:
    """The example lines without the words beside them."""
    text = help_of(name).partition("Examples:\n")[2]
    return [re.split(r"\s{2,}", line.strip())[0] for line in text.splitlines() if line.strip()]


class TestHelp:
    @pytest.mark.parametrize("name", ["", *ALL])
    def test_fits_and_speaks_of_no_types(self, name: str) -> None:
        text = help_of(name)
        assert max(map(len, text.splitlines())) <= 80
        assert not TYPES.search(text), TYPES.search(text)
        assert "]  [" not in text

    @pytest.mark.parametrize("name", LEAVES)
    def test_every_option_is_explained(self, name: str) -> None:
        options = [each for each in LEAVES[name].params if isinstance(each, click.Option)]
        assert [each.name for each in options if not each.help] == []

    def test_one_option_has_one_kind_of_value(self) -> None:
        kinds: dict[str, set[str]] = {}
        for command in LEAVES.values():
            for option in command.params:
                kind = option.make_metavar(click.Context(command))
                if isinstance(option, click.Option) and not option.is_flag:
                    kinds.setdefault(max(option.opts, key=len), set()).add(kind)
        several = {name: found for name, found in kinds.items() if len(found) > 1}
        assert several.keys() <= OF_MANY_MEANINGS, several

    def test_lines_of_a_group_are_its_commands(self) -> None:
        for name in ("", "train", "prompts"):
            text = help_of(name)
            group = ALL.get(name, main)
            assert isinstance(group, click.Group)
            for command in group.list_commands(click.Context(group)):
                assert re.search(rf"^  {command} +\S", text, re.MULTILINE)

    @pytest.mark.parametrize("name", LEAVES)
    def test_examples_are_right(self, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
        called: list[click.Command] = []
        monkeypatch.setattr(click.Command, "invoke", lambda self, context: called.append(self))
        lines = [part for line in examples_of(name) for part in re.split(r" \| |\$\(|\)", line) if "rtlit " in part]
        assert lines
        for line in lines:
            arguments = shlex.split(re.sub(r"[<>] \S+", "", line.replace('"', "")).partition("rtlit ")[2])
            result = CliRunner().invoke(main, arguments)  # all but what the command does
            assert result.exit_code == 0, result.stderr
        assert ALL[name] in called

    def test_nothing_heavy_is_loaded_by_words(self) -> None:
        code = (
            "import sys\n"
            "from rtlit.commands import main\n"
            "for line in sys.argv[1:]:\n"
            "    try: main(line.split())\n"
            "    except SystemExit as end: assert not end.code, line\n"
            "heavy = {'torch', 'av', 'numba', 'numpy', 'rich', 'pyvips', 'sdl2', 'aiohttp', 'PIL'} & set(sys.modules)\n"
            "print('loaded:', *heavy)"
        )
        lines = ["--version", "completion bash", *(f"{name} --help" for name in ["", *ALL])]
        result = subprocess.run([sys.executable, "-c", code, *lines], capture_output=True, text=True, cwd=ROOT)
        assert result.stderr == "" and result.stdout.splitlines()[-1] == "loaded:"


def completed(line: str) -> list[CompletionItem]:
    """What is offered for a line's last word, which is empty after a space."""
    *arguments, last = re.split(r" +", line)
    return ShellComplete(main, {}, "rtlit", "_RTLIT_COMPLETE").get_completions(arguments, last)


class TestCompletion:
    @pytest.mark.parametrize(
        ("line", "words"),
        [
            ("en", ["enhance-video", "enhance-image"]),
            ("train li", ["lighting", "lighting-report"]),
            ("--v", ["--version"]),
            ("enhance-video --de", ["--device", "--denoise"]),
            ("enhance-video --device ", ["auto", "cpu", "cuda"]),
            ("enhance-video --codec libx", ["libx264", "libx265"]),
            ("enhance-video --preset very", ["veryfast", "veryslow"]),
            ("webcam --input-format m", ["mjpeg"]),
            ("benchmark --size 1", ["1080p"]),
            ("completion ", ["bash", "zsh", "fish"]),
        ],
    )
    def test_words(self, line: str, words: list[str]) -> None:
        assert [item.value for item in completed(line)] == words

    @pytest.mark.parametrize(
        ("line", "kind"),
        [
            ("enhance-video ", "file"),
            ("enhance-video clip", "file"),
            ("enhance-image -o ", "file"),
            ("enhance-video --weights ", "file"),
            ("enhance-video --output-dir ", "dir"),
            ("webcam --source ", "file"),
            ("prompts score ", "file"),
            ("evaluate a/ b/ --sheet ", "file"),
        ],
    )
    def test_files_are_left_to_the_shell(self, line: str, kind: str) -> None:
        assert [item.type for item in completed(line)] == [kind]

    def test_commands_have_their_lines(self) -> None:
        assert completed("doc")[0].help == "Show versions, devices and codecs; say which backend runs."

    def test_cameras_by_number_and_name(self, monkeypatch: pytest.MonkeyPatch) -> None:
        found = [Camera(0, "HD Webcam", "/dev/video0"), Camera(12, "Link", "/dev/video12")]
        monkeypatch.setattr("rtlit.live.cameras.list_cameras", lambda: found)
        assert [(item.value, item.help) for item in completed("webcam --camera 1")] == [("12", "Link")]

    def test_no_shell_is_wrong_usage(self) -> None:
        result = CliRunner().invoke(main, ["completion", "tcsh"])
        assert result.exit_code == 2 and "'tcsh' is not one of 'bash', 'zsh', 'fish'" in result.stderr

    @pytest.mark.parametrize(
        ("shell", "ask"),
        [
            (
                "bash",
                'COMP_WORDS=(rtlit enhance-video --den); COMP_CWORD=2; _rtlit_completion rtlit; echo "$COMPREPLY"',
            ),
            ("fish", "complete -C 'rtlit enhance-video --den'"),
        ],
    )
    def test_in_the_shell(self, shell: str, ask: str, tmp_path: Path) -> None:
        program = shutil.which(shell)
        script = CliRunner().invoke(main, ["completion", shell])
        if program is None or "4.4" in script.stderr:
            pytest.skip(f"needs {shell}, of a version that click supports")
        rtlit = tmp_path / "rtlit"
        rtlit.write_text(f'#!/bin/sh\nexec "{sys.executable}" "{ROOT / "cli.py"}" "$@"\n')
        rtlit.chmod(0o755)
        environment = {**os.environ, "PATH": f"{tmp_path}{os.pathsep}{os.environ['PATH']}", "HOME": str(tmp_path)}
        command = [program, "-c", f"{script.stdout}\n{ask}"]
        result = subprocess.run(command, capture_output=True, text=True, env=environment, cwd=tmp_path)
        assert result.stdout.split()[0] == "--denoise", result.stderr
