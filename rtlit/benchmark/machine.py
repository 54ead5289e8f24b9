"""What machine this is."""

from __future__ import annotations

import os
import platform
import subprocess
import sys
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

_CPUINFO = Path("/proc/cpuinfo")
_BOARD = Path("/proc/device-tree/model")  # of ARM machines, whose cpuinfo has no name


@dataclass(frozen=True)
class Machine:
    """What figures depend on.

    Attributes:
        cores: CPU cores that this process may use.
        memory_gib: of the machine, 0 where the system doesn't say.
        load: processes that ran or waited to, the mean of the last minute; None where the system doesn't say.
        gpus: as torch finds them.
        versions: of what does the work, rtlit's first.
    """

    system: str
    cpu: str
    cores: int
    memory_gib: float
    load: float | None
    gpus: tuple[str, ...]
    versions: dict[str, str]

    @classmethod
    def this(cls) -> Machine:
        """The machine that this runs on."""
        import av
        import numba
        import torch

        from rtlit import __version__
        from rtlit.backends.choose import available_threads

        gpus = tuple(torch.cuda.get_device_name(index) for index in range(torch.cuda.device_count()))
        versions = {"rtlit": __version__, "Python": platform.python_version(), "torch": torch.__version__}
        versions |= {"numba": numba.__version__, "PyAV": av.__version__}
        return cls(platform.platform(), cpu_name(), available_threads(), _memory_gib(), _load(), gpus, versions)

    @property
    def busy(self) -> bool:
        """Something else takes a good part of the CPU."""
        return self.load is not None and self.load > max(0.5, self.cores / 4)

    def __str__(self) -> str:
        """One line for people."""
        memory = f", {self.memory_gib:g} GiB" if self.memory_gib else ""
        load = "" if self.load is None else f", load {self.load:.1f}"
        cores = f"{self.cores} core{'s' * (self.cores != 1)}"
        return f"{self.cpu}, {cores}{memory}{load}; {', '.join(self.gpus) or 'no GPU'}"

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return asdict(self)


def cpu_name() -> str:
    """What the CPU calls itself; on ARM boards, the board."""
    lines = _CPUINFO.read_text(errors="replace").splitlines() if _CPUINFO.is_file() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    if names:
        return names[0]
    if _BOARD.is_file():
        return _BOARD.read_text(errors="replace").strip("\0 \n")
    if sys.platform == "darwin":
        with suppress(OSError, subprocess.CalledProcessError):
            asked = ["sysctl", "-n", "machdep.cpu.brand_string"]
            return subprocess.run(asked, capture_output=True, text=True, check=True).stdout.strip()
    return platform.processor() or platform.machine()


def _memory_gib() -> float:
    with suppress(AttributeError, OSError, ValueError):  # Windows has none of it
        return round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30, 1)
    return 0.0


def _load() -> float | None:
    with suppress(AttributeError, OSError):
        return round(os.getloadavg()[0], 2)
    return None
