"""What the package promises to whoever imports or installs it."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

import rtlit

ROOT = Path(__file__).parent.parent
PYPROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())


def python(code: str, *args: str) -> str:
    """What `code` prints in a fresh interpreter."""
    result = subprocess.run([sys.executable, "-c", code, *args], capture_output=True, text=True, cwd=ROOT, check=True)
    return result.stdout.strip()


def test_all_is_what_is_exported() -> None:
    tree = ast.parse(Path(rtlit.__file__).read_text())
    (for_types,) = (node for node in tree.body if isinstance(node, ast.If))
    imported = {alias.name for node in for_types.body if isinstance(node, ast.ImportFrom) for alias in node.names}
    assert sorted(imported) == sorted(rtlit.__all__) == sorted(rtlit._HOME)
    assert rtlit.__all__ == sorted(rtlit.__all__)
    for name in rtlit.__all__:
        assert getattr(rtlit, name).__name__ == name
        assert getattr(rtlit, name).__module__ == rtlit._HOME[name]
        assert name in dir(rtlit)


def test_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="'rtlit' has no attribute 'enhance_vidoe'"):
        _ = rtlit.enhance_vidoe  # type: ignore[attr-defined]


def test_import_is_light() -> None:
    assert python("import rtlit, sys; print(*{'torch', 'av', 'numba', 'numpy', 'pyvips'} & set(sys.modules))") == ""


def test_version_is_the_wheels() -> None:
    assert PYPROJECT["tool"]["hatch"]["version"]["path"] == "rtlit/__init__.py"
    assert python("import rtlit; print(rtlit.__version__)") == rtlit.__version__


def test_kernels_know_nothing_of_rtlit() -> None:
    for path in (ROOT / "kernels" / "rtlit_kernels").glob("*.py"):
        imports = [node for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.Import)]
        froms = [node for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.ImportFrom)]
        names = [alias.name for node in imports for alias in node.names] + [node.module or "" for node in froms]
        outside = {name.split(".")[0] for name in names} - sys.stdlib_module_names
        assert outside <= {"torch", "triton", "rtlit_kernels"}, path.name


@pytest.mark.parametrize("module", ["rtlit", "rtlit.enhancer", "rtlit.commands", "rtlit.backends.choose"])
def test_imports_without_triton(module: str) -> None:
    """There is none for macOS and Windows."""
    assert python(f"import sys; sys.modules['triton'] = None; import {module}; print('fine')") == "fine"


def test_enhances_without_triton() -> None:
    code = """
import sys
sys.modules["triton"] = None
import numpy as np
from rtlit import Enhancer
enhancer = Enhancer("cpu")
print(enhancer(np.full((64, 64, 3), 20, np.uint8)).shape, enhancer.backend_name)
"""
    assert python(code).startswith("(64, 64, 3)")


def test_every_dependency_is_pinned_for_tests() -> None:
    def named(requirement: str) -> str:
        return re.split(r"[\[=<>;]", requirement)[0].lower().replace("_", "-")

    pinned = {named(line) for line in (ROOT / "constraints.txt").read_text().splitlines() if "==" in line}
    extras = PYPROJECT["project"]["optional-dependencies"]
    wanted = PYPROJECT["project"]["dependencies"] + [name for extra in extras.values() for name in extra]
    assert {named(name) for name in wanted} - {"rtlit"} <= pinned


def test_readme_names_every_module() -> None:
    readme = (ROOT / "README.md").read_text()
    modules = [path for folder in ("rtlit", "bench", "examples") for path in (ROOT / folder).rglob("*.py")]
    assert len(modules) > 30
    assert [str(path) for path in modules if path.name not in readme] == []
