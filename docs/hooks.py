"""What the site adds to docs/, whose pages read as they are on a code host, too. Called by mkdocs.

- Pages made of other files of the repository (`PAGES`), and of click's options (commands.md).
- `<!-- include -->[words](../README.md#limits)`, a line of its own, is a link on a code host and that section here;
  without the section it is the file down to its first one.
- Links that lead out of docs/ lead to those pages, and others to pages that show the file.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from inspect import cleandoc
from pathlib import Path
from posixpath import dirname, normpath, relpath
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from mkdocs.config.defaults import MkDocsConfig
    from mkdocs.structure.files import Files
    from mkdocs.structure.pages import Page

ROOT = Path(__file__).resolve().parents[1]
# File of the repository → page of the site. A README's place is taken by index.md, which includes parts of it.
PAGES = {
    "bench/README.md": "benchmarks.md",
    "examples/README.md": "examples.md",
    "kernels/README.md": "kernels.md",
    "rtlit/weights/MODEL_CARD.md": "model-card.md",
    "rtlit/weights/LIGHTING_CARD.md": "lighting-card.md",
    "CHANGELOG.md": "changelog.md",
}
_STANDS_FOR = {"README.md": "index.md", **PAGES}
_INCLUDE = re.compile(r"^<!-- include -->\[.*\]\((?P<link>[^)\s]+)\)$", re.M)
# Code is matched first, so that what looks like a link in it stays.
_LINK = re.compile(r"^ *```.*?^ *```|`[^`\n]*`|(?<=\]\()(?P<link>[^)\s]+)(?=\))", re.M | re.S)
_UNSOUGHT = "---\nsearch: { exclude: true }\n---\n"
_DOCTEST = re.compile(r"^>>> .*(\n>>> .*)*", re.M)
_LANGUAGES = {".py": "python", ".md": "markdown", ".toml": "toml", ".json": "json", ".yml": "yaml", "": "text"}


def on_config(config: MkDocsConfig) -> None:
    """Examples of docstrings are code; to Markdown, lines of >>> are quotations within quotations."""
    from markdown import Extension, Markdown
    from markdown.preprocessors import Preprocessor

    class Examples(Preprocessor):
        def run(self, lines: list[str]) -> list[str]:
            return _DOCTEST.sub(r"```python\n\g<0>\n```", "\n".join(lines)).split("\n")

    class Doctests(Extension):
        def extendMarkdown(self, md: Markdown) -> None:
            md.preprocessors.register(Examples(md), "doctests", 29)  # before fences, after white space is normalised

    config.markdown_extensions.append(Doctests())


def on_files(files: Files, config: MkDocsConfig) -> Files:
    from mkdocs.structure.files import File, InclusionLevel

    def add(uri: str, content: str, hidden: bool = False) -> None:
        level = InclusionLevel.NOT_IN_NAV if hidden else InclusionLevel.INCLUDED
        file = File.generated(config, uri, content=content)
        file.inclusion = level
        files.append(file)

    homes = {f"docs/{file.src_uri}": file.content_string for file in files.documentation_pages()}
    homes |= {home: (ROOT / home).read_text() for home in PAGES}
    for home, uri in PAGES.items():
        add(uri, homes[home])
    add("commands.md", reference())
    linked = {path for home, text in homes.items() for path, _ in links(text, home)}
    for path in sorted(path for path in linked if page_of(path).startswith("source/")):
        add(page_of(path), _show(path), hidden=True)
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    uri = page.file.src_uri
    if uri.startswith("source/"):
        return markdown
    home = next((home for home, made in PAGES.items() if made == uri), f"docs/{uri}")
    parts, end = [], 0
    for found in _INCLUDE.finditer(markdown):
        source, text = _included(found["link"], home)
        parts += [relink(markdown[end : found.start()], home, uri), relink(text, source, uri)]
        end = found.end()
    return "".join([*parts, relink(markdown[end:], home, uri)])


def _included(link: str, home: str) -> tuple[str, str]:
    """The file that a page at `home` includes, and the part of its text."""
    target = _target(link, home)
    assert target is not None
    path, anchor = target
    text = (ROOT / path).read_text()
    if not anchor:
        return path, text.partition("\n")[2].partition("\n## ")[0]
    for section in text.split("\n## ")[1:]:
        heading, _, body = section.partition("\n")
        if "#" + slug(heading) == anchor:
            return path, body
    raise ValueError(f"{path} has no section {anchor}, which {home} includes")


def slug(heading: str) -> str:
    """The anchor of a heading, as mkdocs and code hosts call it."""
    return re.sub(r"\s", "-", re.sub(r"[^\w\s-]", "", heading).strip().lower())


def links(text: str, home: str) -> Iterator[tuple[str, str]]:
    """What a page at `home` in the repository, or a part that it includes, links to: (path in it, "#anchor" or "")."""
    found = (_target(each["link"], home) for each in _LINK.finditer(text) if each["link"])
    yield from (each for each in found if each)
    for each in _INCLUDE.finditer(text):
        source, part = _included(each["link"], home)
        yield from links(part, source)


def _target(link: str, home: str) -> tuple[str, str] | None:
    """None: outside the repository."""
    if re.match(r"[a-z]+:", link):
        return None
    path, mark, anchor = link.partition("#")
    return (normpath(f"{dirname(home) or '.'}/{path}") if path else home), mark + anchor


def page_of(path: str) -> str:
    """Where the site shows a file or folder of the repository: a URI below docs/.

    Raises:
        FileNotFoundError: there is no such file.
    """
    target = ROOT / path
    if not target.exists():
        raise FileNotFoundError(f"{path}: a page links to it, and there is no such file")
    if target.is_dir() and (target / "README.md").exists():
        path, target = f"{path}/README.md", target / "README.md"
    if path in _STANDS_FOR:
        return _STANDS_FOR[path]
    if path.startswith("docs/") and target.is_file() and target.suffix != ".py":
        return path.removeprefix("docs/")
    return f"source/{path}/index.md" if target.is_dir() else f"source/{path}.md"


def relink(text: str, home: str, uri: str) -> str:
    """The text of a file at `home` in the repository, with links as a page of the site at `uri` needs them."""

    def change(found: re.Match[str]) -> str:
        target = _target(found["link"], home) if found["link"] else None
        if target is None or target[0] == home:
            return found[0]
        return relpath(page_of(target[0]), dirname(uri) or ".") + target[1]

    return _LINK.sub(change, text)


def _show(path: str) -> str:
    """A page that shows a file or lists a folder."""
    target = ROOT / path
    if target.is_dir():
        names = sorted(f"{path}/{each.name}" for each in target.iterdir() if each.is_file())
        here = dirname(page_of(path))
        shown = [f"[{name}]({relpath(page_of(name), here)})" if name.startswith("docs/") else name for name in names]
        return "\n".join([_UNSOUGHT, f"# {path}\n", *(f"- {each}" for each in shown)])
    language = _LANGUAGES.get(target.suffix, "text")
    return f"{_UNSOUGHT}# {path}\n\n````{language}\n{target.read_text()}\n````\n"


def reference() -> str:
    """Every command's options, as its --help says."""
    from rtlit.commands import main

    parts = [
        "# Options\n",
        "What `--help` of each command says. The [user guide](guide.md) shows them at work.\n",
    ]
    return "\n".join([*parts, *(_describe(name, command) for name, command in commands(main))])


def commands(group: click.Group, name: str = "rtlit") -> Iterator[tuple[str, click.Command]]:
    """Every command below a group that does something, by its whole name: "rtlit train clip"."""
    context = click.Context(group, info_name=name)
    for word in group.list_commands(context):
        command = group.get_command(context, word)
        assert command is not None
        if isinstance(command, click.Group):
            yield from commands(command, f"{name} {word}")
        elif not command.hidden:
            yield f"{name} {word}", command


def _describe(name: str, command: click.Command) -> str:
    context = click.Context(command, info_name=name, help_option_names=["-h", "--help"])
    words = cleandoc(command.help or "").replace("\b\n", "")
    options = [each for each in command.get_params(context) if isinstance(each, click.Option)]
    rows = [record for each in options if (record := each.get_help_record(context))]
    table = [f"| `{option}` | {_cell(text)} |" for option, text in rows]
    epilog = cleandoc(command.epilog or "").replace("\b\n", "")
    parts: list[Any] = [
        f"## {name}\n",
        f"```text\n{' '.join([name, *command.collect_usage_pieces(context)])}\n```\n",
        f"{words}\n",
        "| option | what it does |\n|---|---|",
        *table,
        f"\n```text\n{epilog}\n```" if epilog else "",
        "",
    ]
    return "\n".join(parts)


def _cell(text: str) -> str:
    return text.replace("|", "\\|").replace("<", "&lt;")
