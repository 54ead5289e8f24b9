"""One Markdown table of a run of the benchmarks, or of two runs and what changed between them.

python bench/table.py RUN.json                     # as written by pytest bench --benchmark-json=RUN.json
python bench/table.py RUN.json --against OLD.json  # exit code 1 if anything became slower by more than --tolerance
python bench/table.py RUN.json --cpu               # seconds on the CPU: for machines with something else to do

A ratio "2.1 × memory copy" says that the benchmark takes 2.1 times as long as a memory copy of the same frames, timed
in turns with it. Two runs are compared by the ratio to the first yardstick, which a slower or a busier machine changes
little: seconds of two runs tell as much about the machine.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

PARTS = {
    "bench_stages": "stage",
    "bench_enhancer": "enhancer",
    "bench_video": "video",
    "bench_peers": "peer",
    "bench_train": "training",
}


@dataclass(frozen=True)
class Row:
    """A benchmark.

    Attributes:
        key: its test; the same in other runs.
        seconds: a call's, median of the rounds.
        units: frames or pictures that a call takes on.
        yardsticks: name → seconds for the same work.
    """

    key: str
    part: str
    what: str
    at: str
    device: str
    seconds: float
    units: int
    yardsticks: dict[str, float]
    note: str = ""

    @property
    def ratios(self) -> dict[str, float]:
        """Name of a yardstick → how many times as long this takes."""
        return {name: self.seconds / taken for name, taken in self.yardsticks.items() if taken}

    @property
    def normalised(self) -> float:
        """What two runs are compared by."""
        return next(iter(self.ratios.values()), self.seconds)

    @property
    def ours(self) -> Row:
        """The row itself; of a peer, rtlit beside it: a peer that seems slower because rtlit is faster is no fault."""
        if self.part != "peer" or not self.yardsticks:
            return self
        (name, taken), *_ = self.yardsticks.items()
        return replace(self, what=f"{name} beside {self.what}", seconds=taken, yardsticks={self.what: self.seconds})


def rows(run: dict[str, Any], cpu: bool = False) -> list[Row]:
    """The benchmarks of pytest-benchmark's JSON, parts in the order of `PARTS`.

    Args:
        cpu: seconds on the CPU instead of those on the clock; yardsticks without them are left out.
    """
    found = []
    for each in run["benchmarks"]:
        extra = each["extra_info"]
        if "what" not in extra:
            continue
        module = Path(each["fullname"].split("::")[0]).stem
        name = "cpu_seconds" if cpu else "seconds"
        yardsticks = {key: taken[name] for key, taken in extra["yardsticks"].items() if name in taken}
        seconds = extra["cpu_seconds"] if cpu else each["stats"]["median"]
        part, where = PARTS.get(module, module), extra.get("device", "")
        texts = (part, extra["what"], extra["at"], where)
        found.append(Row(each["fullname"], *texts, seconds, extra["units"], yardsticks, extra.get("note", "")))
    order = [*PARTS.values()]
    return sorted(found, key=lambda row: order.index(row.part) if row.part in order else len(order))


def table(run: dict[str, Any], cpu: bool = False) -> str:
    """A line for each benchmark."""
    found = rows(run, cpu)
    several = len({row.device for row in found}) > 1
    lines = []
    for row in found:
        each = row.seconds / row.units
        ratios = "; ".join(f"{ratio(value)} {name}" for name, value in row.ratios.items())
        where = [row.device] if several else []
        lines.append([row.part, row.what, row.at, *where, duration(each), number(1 / each), ratios, row.note])
    heads = ["", "benchmark", "size", *(["on"] if several else []), "time", "a second", "ratios", "note"]
    if not any(line[-1] for line in lines):
        heads, lines = heads[:-1], [line[:-1] for line in lines]
    kind = "CPU time" if cpu else "time"
    heads[heads.index("time")] = kind
    return f"{machine(run)}\n\n{markdown(heads, lines)}"


def comparison(run: dict[str, Any], old: dict[str, Any], tolerance: float, cpu: bool = False) -> tuple[str, bool]:
    """A line for each benchmark of both runs, how they changed on the whole, and whether any is slower than it may be.

    Args:
        tolerance: what a normalised time may grow by; 0.25 is a quarter.
    """
    before = {row.key: row.ours for row in rows(old, cpu)}
    lines, changes, slower = [], [], []
    for row in (each.ours for each in rows(run, cpu)):
        was = before.pop(row.key, None)
        if was is None or row.yardsticks.keys() != was.yardsticks.keys():
            lines.append([row.part, row.what, row.at, "", duration(row.seconds / row.units), "", "new"])
            continue
        change = row.normalised / was.normalised
        changes.append(change)
        verdict = "slower" if change > 1 + tolerance else "faster" if change < 1 / (1 + tolerance) else ""
        if verdict == "slower":
            slower.append(row)
        times = [duration(each.seconds / each.units) for each in (was, row)]
        lines.append([row.part, row.what, row.at, *times, f"{change:.2f}", verdict])
    lines += [
        [row.part, row.what, row.at, duration(row.seconds / row.units), "", "", "gone"] for row in before.values()
    ]
    heads = ["", "benchmark", "size", "before", "now", "normalised", ""]
    mean = math.exp(sum(map(math.log, changes)) / len(changes)) if changes else math.nan
    told = f"{len(changes)} compared, geometric mean {mean:.2f}; {len(slower)} slower by more than {tolerance:.0%}"
    text = f"before: {machine(old)}\nnow: {machine(run)}\n\n{markdown(heads, lines)}\n\n{told}"
    return text, bool(slower)


def machine(run: dict[str, Any]) -> str:
    """What a run was measured on, in one line."""
    about = run.get("machine_info", {})
    cpu = about.get("cpu", {})
    extra: dict[str, Any] = next(
        (each["extra_info"] for each in run["benchmarks"] if "torch" in each["extra_info"]), {}
    )
    parts = [
        cpu.get("brand_raw") or about.get("processor") or about.get("machine", "?"),
        f"{cpu.get('count', '?')} cores",
        extra.get("device", ""),
        f"Python {about.get('python_version', '?')}",
        f"torch {extra['torch']}" if "torch" in extra else "",
        f"PyAV {extra['pyav']}" if "pyav" in extra else "",
        run.get("datetime", "")[:10],
    ]
    return ", ".join(part for part in parts if part)


def markdown(heads: list[str], lines: list[list[str]]) -> str:
    """A table whose columns line up in a terminal, too."""
    widths = [max(map(len, column)) for column in zip(heads, *lines, strict=True)]
    rule = ["-" * max(3, width) for width in widths]
    padded = [[cell.ljust(max(3, width)) for cell, width in zip(line, widths, strict=True)] for line in [heads, *lines]]
    return "\n".join(f"| {' | '.join(line)} |" for line in [padded[0], rule, *padded[1:]])


def duration(seconds: float) -> str:
    """Three digits: 12.3 ms."""
    for unit, factor in {"s": 1.0, "ms": 1e3, "µs": 1e6}.items():
        if seconds * factor >= 1:
            return f"{number(seconds * factor)} {unit}"
    return f"{seconds * 1e9:.0f} ns"


def number(value: float) -> str:
    """Three digits, without an exponent."""
    digits = max(0, 2 - math.floor(math.log10(value))) if value > 0 else 0
    return f"{value:,.{min(digits, 6)}f}"


def ratio(value: float) -> str:
    """Three digits; 1/50 for what is much shorter."""
    if value < 0.1:
        return f"1/{1 / value:,.0f} of"
    return f"{value:.2f} ×" if value < 10 else f"{value:,.0f} ×"


def load(path: Path) -> dict[str, Any]:
    """pytest-benchmark's JSON.

    Raises:
        SystemExit: with one line, where the file can't be read or holds something else.
    """
    try:
        run = json.loads(path.read_text())
        run["benchmarks"][0]["stats"]
    except OSError as error:
        sys.exit(f"{path}: can't be read ({error.strerror}); make bench writes one")
    except (ValueError, KeyError, IndexError, TypeError):
        sys.exit(f"{path}: not a run of the benchmarks; make bench writes one")
    return run  # type: ignore[no-any-return]


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path)
    parser.add_argument("--against", type=Path, metavar="OLD", help="an older run")
    parser.add_argument("--tolerance", type=float, default=0.25, help="what a normalised time may grow by (0.25)")
    parser.add_argument("--cpu", action="store_true", help="seconds on the CPU instead of those on the clock")
    given = parser.parse_args(arguments)
    run = load(given.run)
    if given.against is None:
        print(table(run, given.cpu))
        return
    text, slower = comparison(run, load(given.against), given.tolerance, given.cpu)
    print(text)
    sys.exit(int(slower))


if __name__ == "__main__":
    main()
