"""The documentation: its examples run, what can't run here parses, all options are mentioned, links lead somewhere."""

from __future__ import annotations

import asyncio
import importlib.util
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterable, Iterator
from functools import cache
from html.parser import HTMLParser
from pathlib import Path
from typing import Any, NamedTuple

import av
import click
import numpy as np
import pytest
import torch
from click.testing import CliRunner, Result

from rtlit.commands import main
from tests.browser import Browser, find_chromium

ROOT = Path(__file__).parent.parent
_spec = importlib.util.spec_from_file_location("docs_hooks", ROOT / "docs" / "hooks.py")
assert _spec and _spec.loader
hooks: Any = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(hooks)

PAGES = sorted(
    {"README.md", *hooks.PAGES, *(f"docs/{path.name}" for path in (ROOT / "docs").glob("*.md"))} - {"CHANGELOG.md"}
)
TEXTS = {page: (ROOT / page).read_text() for page in PAGES}
FENCE = re.compile(r"^```(?P<language>\w*)\n(?P<text>.*?)^```$", re.M | re.S)
COMMANDS = dict(hooks.commands(main))
# What makes an example short; the last of an option given twice counts. Nothing is added that a command doesn't have.
SHORTER = {
    "rtlit enhance-video": "--duration 1 --overwrite",
    "rtlit enhance-image": "--overwrite",
    "rtlit evaluate": "--limit 2",
    "rtlit evaluate-video": "--frames 4 --pairs 1",
    "rtlit train supervised": "--iterations 2 --batch 2",
    "rtlit train clip": "--iterations 12 --size 32 --batch 2",
    "rtlit train simulate": "--count 2 --size 64 --overwrite",
    "rtlit train lighting": "--iterations 2 --batch 8",
    "rtlit benchmark": "--size 480p --seconds 0.1",
    "rtlit webcam": "--duration 1.5 --port 0",
}
PHOTOS = ("PHOTOS", "MINE", "BACKLIT", "WELL_LIT", "HALF_A", "HALF_B", "INPUT_DIR", "GT_DIR", "backlit", "photos/more")
SIZE = (192, 108)


class Block(NamedTuple):
    """A fenced block: where it stands, its language and its text."""

    name: str
    language: str
    text: str


class Words(NamedTuple):
    """A line of a shell, as far as rtlit is concerned."""

    arguments: list[str]
    source: str | None  # after <
    target: str | None  # after >
    piped: bool  # standard input is another program's output


def blocks(*languages: str) -> list[Block]:
    return [
        Block(f"{page}:{text[: found.start()].count(chr(10)) + 1}", found["language"], found["text"])
        for page, text in TEXTS.items()
        for found in FENCE.finditer(text)
        if found["language"] in languages
    ]


def example_lines(text: str) -> list[str]:
    return [line for line in text.splitlines() if re.match(r"(.*\| )?rtlit |torchrun .* -m rtlit ", line)]


COMMAND_BLOCKS = [block for block in blocks("", "sh") if example_lines(block.text)]
PYTHON_BLOCKS = blocks("python")


def words_of(line: str) -> Words:
    lexer = shlex.shlex(line, posix=True, punctuation_chars="|<>")
    lexer.whitespace_split = True
    stages: list[list[str]] = [[]]
    for word in lexer:
        if word == "|":
            stages.append([])
        else:
            stages[-1].append(word)
    (index,) = (i for i, stage in enumerate(stages) if "rtlit" in stage)
    words = stages[index]
    files = {mark: words[words.index(mark) + 1] for mark in "<>" if mark in words}
    plain = words[words.index("rtlit") + 1 :]
    plain = plain[: min((plain.index(mark) for mark in "<>" if mark in plain), default=None)]
    return Words(plain, files.get("<"), files.get(">"), index > 0)


def parse(arguments: list[str]) -> click.Context | None:
    """The context of the command that would run, every option checked; None where words are all (--version)."""
    seen: list[click.Context] = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(click.Command, "invoke", lambda self, context: seen.append(context))
        result = CliRunner().invoke(main, arguments)
    assert result.exit_code == 0, f"{' '.join(arguments)}: {result.stderr}"
    return seen[-1] if seen else None


def why_not_here(words: Words, context: click.Context) -> str | None:
    """Why an example is parsed and not run."""
    given = context.params
    if "…" in words.arguments or words.piped or any(word.startswith("FILE") for word in words.arguments):
        return "stands for more than is written"
    if given.get("device") == "cuda" or given.get("hwaccel") == "cuda" or "_nvenc" in str(given.get("codec")):
        return "needs a GPU"
    match context.command_path.removeprefix("rtlit "):
        case "webcam":
            if given["microphone"] or given["virtual_camera"] or "://" in (given["source"] or "camera://"):
                return "needs a camera, a microphone or a network"
            return None if given["no_window"] or given["web"] else "opens a window"
        case "train clip" if not (given["resume"] or given["show_preset"] or given["clip_name"] == "rtlit-lighting"):
            return "fetches a CLIP"
        case "train supervised" if given["file"]:
            return "a whole training, by settings that can't be shortened"
    return None


def shortened(arguments: list[str], context: click.Context) -> list[str]:
    options = {name: each for each in context.command.params for name in each.opts}
    extra = ["--threads", "1"] * ("--threads" in options)
    if not context.params.get("resume"):
        extra += SHORTER.get(context.command_path, "").split()
    if "--web" not in arguments and "--port" in extra:
        extra = extra[: extra.index("--port")]
    return [word.rstrip("…") for word in arguments] + extra


@cache
def all_examples() -> list[tuple[str, Words, click.Context]]:
    found = [(block.name, words_of(line)) for block in COMMAND_BLOCKS for line in example_lines(block.text)]
    parsed = [(name, words, parse(words.arguments)) for name, words in found]
    return [(name, words, context) for name, words, context in parsed if context]


@pytest.fixture(scope="session")
def prepared(tmp_path_factory: pytest.TempPathFactory, clip: Path) -> Path:
    """Folder of what examples name: clips and pictures of the juggler, photographs, results of a training."""
    from PIL import Image

    folder = tmp_path_factory.mktemp("examples")
    frames = []
    with av.open(str(clip)) as container:
        for index, frame in enumerate(container.decode(video=0)):
            if index % 24 == 0:
                frames.append(frame.to_ndarray(format="rgb24", width=SIZE[0], height=SIZE[1]))
    write_clip(folder / "in.mp4", [frames[i % len(frames)] for i in range(200)])  # --start 1:30 is in it
    for name in ("backlit.mp4", "dim.mp4", "holiday.mov", "one.mp4", "two.mp4", "clips/a.mkv", "clips/more/b.mp4"):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        write_clip(folder / name, frames[:4])
    shutil.copy(folder / "in.mp4", folder / "CLIP")
    shutil.copytree(ROOT / "docs" / "runs", folder / "docs" / "runs")
    for shift, photos in enumerate(PHOTOS):  # the same photograph can't be backlit and well-lit both
        (folder / photos).mkdir(parents=True)
        for index, picture in enumerate(frames[:10]):
            Image.fromarray(np.roll(picture, shift, axis=1)).save(folder / photos / f"IMG_{index}.png")
    for name in ("portrait.jpg", "backlit.jpg", "photos/a.jpg"):
        Image.fromarray(frames[0]).save(folder / name)
    weights = ROOT / "rtlit" / "weights"
    (folder / "rtlit" / "weights").mkdir(parents=True)
    for run, file, name in (
        ("mine", "curves.safetensors", "weights.safetensors"),
        ("mine", "lighting-prompts.safetensors", "prompts.safetensors"),
        *((run, "curves.safetensors", "weights.safetensors") for run in ("one", "two", "three", "four", "five")),
        ("clip", "lighting-prompts.safetensors", "prompts.safetensors"),
    ):
        (folder / "earlier" / run).mkdir(parents=True, exist_ok=True)
        shutil.copy(weights / file, folder / "earlier" / run / name)
    return folder


def write_clip(path: Path, frames: list[Any]) -> None:
    with av.open(str(path), "w") as output:
        stream = output.add_stream("libx264", rate=2, options={"preset": "ultrafast"})
        stream.height, stream.width = frames[0].shape[:2]
        stream.pix_fmt = "yuv420p"
        for frame in frames:
            output.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        output.mux(stream.encode(None))


@pytest.fixture
def inside(prepared: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A copy of that folder to work in."""
    folder = tmp_path / "copy"
    shutil.copytree(prepared, folder)
    monkeypatch.chdir(folder)
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    threads = torch.get_num_threads()
    yield folder
    torch.set_num_threads(threads)


def bring_earlier(names: Iterable[str]) -> None:
    """Results of trainings that an earlier block made."""
    for name in names:
        run = Path(name).parts[1]
        if Path("earlier", run).exists() and not Path("runs", run).exists():
            shutil.copytree(Path("earlier", run), Path("runs", run))


def run(words: Words, context: click.Context) -> Result:
    stdin = Path(words.source).read_bytes() if words.source else b""
    result = CliRunner().invoke(main, shortened(words.arguments, context), input=stdin)
    if words.target:
        Path(words.target).write_bytes(result.stdout_bytes)
    return result


@pytest.mark.parametrize("block", COMMAND_BLOCKS, ids=lambda block: block.name)
def test_commands_in_the_docs(block: Block, inside: Path) -> None:
    for line in example_lines(block.text):
        words = words_of(line)
        context = parse(words.arguments)
        if context is None or why_not_here(words, context):
            continue
        if context.params.get("resume") and not context.params["run"].exists():
            continue  # the run before it was not made here
        if "-o" not in words.arguments:
            bring_earlier(word for word in words.arguments if word.startswith("runs/"))
        result = run(words, context)
        assert result.exit_code == 0, f"{line}\n{result.stderr}"
        for name in re.findall(r"# .*\bwrites (\S+[\w/])", line):
            assert Path(name).exists(), f"{line}\n{result.stderr}"
        if words.target:
            assert Path(words.target).stat().st_size > 0, line


@pytest.mark.parametrize("block", PYTHON_BLOCKS, ids=lambda block: block.name)
def test_python_in_the_docs(block: Block, inside: Path) -> None:
    bring_earlier(f"runs/{run.name}" for run in (inside / "earlier").iterdir())
    with av.open("backlit.mp4") as container:
        names = {"picture": np.full((64, 96, 3), 20, np.uint8), "container": container}
        exec(compile(block.text, block.name, "exec"), names)


@pytest.mark.parametrize("name", [name for name, command in COMMANDS.items() if command.epilog])
def test_examples_of_help(name: str) -> None:
    """They parse; after two spaces comes a remark."""
    lines = [line.strip().partition("  ")[0] for line in (COMMANDS[name].epilog or "").splitlines()]
    lines = [line for line in lines if example_lines(line)]
    assert lines
    for line in lines:
        parse(words_of(line).arguments)


def test_every_command_has_an_example_that_ran() -> None:
    ran = {context.command_path for _, words, context in all_examples() if not why_not_here(words, context)}
    assert sorted(set(COMMANDS) - ran) == []


@pytest.mark.parametrize("name", COMMANDS)
def test_every_option_is_mentioned(name: str) -> None:
    """In a section of the guide that shows the command, or in the page about it, not just somewhere."""
    word = name.split()[1]
    sections = re.split(r"^## ", TEXTS["docs/guide.md"], flags=re.M)
    about = [section for section in sections if f"rtlit {word}" in section or section.startswith("What commands have")]
    about += [TEXTS["docs/live.md"]] * (word == "webcam")
    options = [each for each in COMMANDS[name].params if isinstance(each, click.Option) and not each.hidden]
    missing = [
        option
        for each in options
        for option in ([long for long in each.opts if long.startswith("--")] or each.opts) + each.secondary_opts
        if not re.search(rf"(?<![\w-]){option}(?![\w-])", "\n".join(about))
    ]
    assert missing == [], f"docs/guide.md says nothing of them where it shows {name}"


def test_every_key_of_the_window_is_in_the_guide() -> None:
    pytest.importorskip("sdl2", reason="needs the extra `live`")
    from rtlit.live.keys import KEYS

    rows = re.findall(r"^\| ([^|]+?) \|", TEXTS["docs/live.md"], re.M)
    named = {name for row in rows for name in row.split(", ")}
    assert {name for key in KEYS for name in key.name.split(", ")} <= named


@pytest.mark.parametrize("page", PAGES)
def test_commands_within_sentences(page: str) -> None:
    """`rtlit train --resume` in a line of text: the options exist."""
    prose = FENCE.sub("", TEXTS[page])
    for found in re.findall(r"`rtlit ([^`\n]+)`", prose):
        words = shlex.split(found)
        commands = [name for name in COMMANDS if name.split()[1] == words[0]]
        assert commands or words[0].startswith("-") or words[0] == "COMMAND", found
        known = {option for name in commands for each in COMMANDS[name].params for option in each.opts}
        unknown = {word for word in words[1:] if word.startswith("-") and len(word) > 1} - known - {"--help", "-h"}
        assert not commands or not unknown, found


def test_other_programs_in_the_docs() -> None:
    targets = re.findall(r"^([\w-]+):", (ROOT / "Makefile").read_text(), re.M)
    lines = [line for block in blocks("", "sh") for line in block.text.splitlines()]
    named = [found[1] for line in lines if (found := re.match(r"make ([\w-]+)", line))]
    scripts = [found[1] for line in lines if (found := re.match(r"(?:\w+=\S+ )*python (\S+\.py)", line))]
    assert len(named) > 2 and set(named) <= set(targets)
    assert len(scripts) > 1 and [name for name in scripts if not (ROOT / name).is_file()] == []


@pytest.mark.parametrize("page", [*PAGES, "CHANGELOG.md"])
def test_links(page: str) -> None:
    for path, anchor in hooks.links((ROOT / page).read_text(), page):
        assert (ROOT / path).exists(), path
        if anchor:
            headings = re.findall(r"^#+ (.*)$", FENCE.sub("", (ROOT / path).read_text()), re.M)
            assert anchor.removeprefix("#") in map(hooks.slug, headings), path + anchor


@pytest.mark.parametrize("page", PAGES)
def test_lists_stand_apart(page: str) -> None:
    """Python-Markdown takes a list right after a line of text for more of that text; code hosts don't."""
    lines = FENCE.sub("", TEXTS[page]).splitlines()
    item = re.compile(r"([-*]|\d+\.) ")
    joined = [
        line
        for before, line in zip(lines, lines[1:], strict=False)
        if item.match(line) and before and not item.match(before) and not before.startswith(" ")
    ]
    assert joined == []


class _Links(HTMLParser):
    """What a page links to, and what it loads by itself."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.linked: list[str] = []
        self.loaded: list[str] = []
        self.feed(html)

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        given = dict(attributes)
        if tag == "a":
            self.linked.append(given.get("href") or "")
        elif tag in ("script", "img", "iframe", "link") and given.get("rel") not in ("canonical", "next", "prev"):
            self.loaded.append(given.get("src") or given.get("href") or "")


@pytest.fixture(scope="session")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The site, built without a warning."""
    for package in ("mkdocs", "material", "mkdocstrings"):
        pytest.importorskip(package, reason="needs the extra `docs`")
    folder = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(folder)]
    result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    return folder


def test_site_needs_nothing_from_elsewhere(site: Path) -> None:
    """It loads nothing from a network, and its links lead to its files."""
    pages = list(site.rglob("*.html"))
    assert len(pages) > len(hooks.PAGES) + 9
    for page in pages:
        if page.name == "404.html":  # its links are absolute: a server shows it anywhere
            continue
        links = _Links(page.read_text())
        assert [link for link in links.loaded if re.match(r"(https?:)?//", link)] == [], page.name
        for link in links.linked + links.loaded:
            path = link.partition("#")[0].partition("?")[0]
            if path and not re.match(r"[a-z]+:", path):
                assert (page.parent / path).is_file(), f"{page.name}: {link}"


def test_site_opens_from_a_disk(site: Path) -> None:
    """Without a server, search too, which needs a Worker that browsers don't start there."""
    pytest.importorskip("aiohttp", reason="needs the extra `live`")
    if find_chromium() is None:
        pytest.skip("needs Chromium")
    url = (site / "index.html").as_uri() + "?q=chroma+subsampling"

    async def look() -> list[str]:
        async with Browser.started() as browser:
            page = await browser.page(url)
            await page.until("document.querySelectorAll('.md-search-result__item').length > 1")
            return page.complaints

    assert asyncio.run(look()) == []
