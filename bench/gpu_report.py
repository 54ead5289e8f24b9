"""What the results of bench/gpu.py say: one line a step, the tables, and the targets against what was measured."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

Steps = dict[str, dict[str, Any]]
# What is shown of results beside times.
_UNITS = {
    "percent_of_copy": "% of copy",
    "ratio": "× rtlit",
    "fps": "fps",
    "gpu_idle_share": "of the time idle",
    "total_s": "s to the first frame",
    "worst_codes": "codes off at worst",
    "failures": "failed",
}


@dataclass(frozen=True)
class Target:
    """A promise and where its measurement lies.

    Attributes:
        at_most: whether less is better.
        path: of the value in the steps' results; the first is the step.
    """

    what: str
    limit: float
    unit: str
    at_most: bool
    path: tuple[str, ...]


TARGETS = [
    Target("1080p NV12, one frame through the graph", 100, "µs", True, ("frames", "1080p nv12", "cold", "median_us")),
    Target(
        "apply at 4K NV12, of the copy bandwidth",
        50,
        "%",
        False,
        ("sizes", "4K nv12", "apply_curves", "percent_of_copy"),
    ),
    Target("against Zero-DCE++, eager fp32, 1080p", 10, "×", False, ("peers", "Zero-DCE++", "eager fp32", "ratio")),
    Target(
        "against the CLIP-LIT U-Net, fp16 channels_last, 1080p",
        100,
        "×",
        False,
        ("peers", "CLIP-LIT U-Net", "fp16 channels_last", "ratio"),
    ),
]


def find(steps: Steps, path: tuple[str, ...]) -> Any:
    """A value of the results; None where it wasn't measured."""
    value: Any = steps.get(path[0], {}).get("values", {})
    for name in path[1:]:
        value = value.get(name) if isinstance(value, dict) else None
    return value


def summary(steps: Steps) -> list[dict[str, Any]]:
    """Each target with what was measured ("measured": None where nothing was) and whether it is met."""
    rows = []
    for target in TARGETS:
        value = find(steps, target.path)
        met = None if value is None else (value <= target.limit if target.at_most else value >= target.limit)
        rows.append(
            {
                "target": target.what,
                "limit": f"{'≤' if target.at_most else '≥'} {target.limit:g} {target.unit}",
                "measured": value,
                "met": met,
            }
        )
    return rows


def show_step(name: str, step: dict[str, Any]) -> str:
    """A line on how a step went, with the end of its error."""
    line = f"{'ok  ' if step['ok'] else 'FAIL'} {name:<16} {step['seconds']:6.1f} s"
    error = step.get("error", "").strip().splitlines()
    return f"{line}  {error[-1][:150]}" if error else line


def table(results: dict[str, Any]) -> str:
    """All times and rates, and the targets."""
    lines = ["", f"{'what':<64} {'median µs':>12} {'p90 µs':>12}"]
    for step in results["steps"].values():
        lines += [_line(path, value) for path, value in _shown(step["values"])]
    lines += ["", f"{'target':<56} {'limit':>10} {'measured':>12}"]
    for row in results["summary"]:
        value = "-" if row["measured"] is None else f"{row['measured']:,.1f}"
        verdict = {None: "not measured", True: "met", False: "MISSED"}[row["met"]]
        lines.append(f"{row['target']:<56} {row['limit']:>10} {value:>12}  {verdict}")
    if results["rehearsal"]:
        lines.append("A rehearsal on a CPU: these times mean nothing.")
    return "\n".join(lines)


def _line(path: tuple[str, ...], value: dict[str, Any]) -> str:
    times = f"{value['median_us']:>12,.2f} {value['p90_us']:>12,.2f}" if "median_us" in value else " " * 25
    notes = (f"  {value[key]:,g} {unit}" for key, unit in _UNITS.items() if key in value)
    return f"{' / '.join(path):<64} {times}{''.join(notes)}"


def _shown(values: dict[str, Any], above: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], dict[str, Any]]]:
    for name, value in values.items():
        if isinstance(value, dict):
            if value.keys() & {"median_us", *_UNITS}:
                yield (*above, name), value
            yield from _shown(value, (*above, name))
