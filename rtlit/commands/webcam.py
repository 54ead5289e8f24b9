"""rtlit webcam"""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from click.core import ParameterSource
from click.shell_completion import CompletionItem

from rtlit.commands.options import (
    FILE,
    Number,
    WholeNumber,
    enhance_options,
    examples,
    needs_live,
    remember_verbose,
    seconds,
    time_options,
    together,
    words,
)
from rtlit.errors import InputError, OutputError, UsageError

if TYPE_CHECKING:
    from rtlit.live.pipeline import LivePipeline, Sink
    from rtlit.live.preferences import Preferences
    from rtlit.live.recorder import Recorder
    from rtlit.settings import EnhanceSettings

_FIRST_FRAME_SECONDS = 20.0
_PORT = 8765


def _size(ctx: click.Context, param: click.Parameter, text: str | None) -> tuple[int, int] | None:
    if text is None:
        return None
    width, x, height = text.lower().replace("×", "x").partition("x")
    if not (x and width.isdecimal() and height.isdecimal() and int(width) and int(height)):
        raise click.BadParameter(f"{text!r} is not a size; give WIDTHxHEIGHT, for example 1280x720.")
    return int(width), int(height)


def _cameras(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem[str]]:
    """The numbers of the cameras, with their names."""
    from rtlit.live.cameras import list_cameras

    items = [CompletionItem(str(camera.number), help=camera.name) for camera in list_cameras()]
    return [item for item in items if item.value.startswith(incomplete)]


source_options = together(
    click.option(
        "--camera",
        metavar="N|NAME",
        shell_complete=_cameras,
        help="Which camera: its number, name or path.  [default: the first]",
    ),
    click.option("--list-cameras", is_flag=True, help="Show the cameras and what they offer, and stop."),
    click.option(
        "--size",
        callback=_size,
        metavar="WxH",
        shell_complete=words("640x480", "1280x720", "1920x1080", "3840x2160"),
        help="Size to ask the camera for, for example 1280x720.",
    ),
    click.option("--fps", type=Number(0, min_open=True), metavar="NUMBER", help="Frames a second to ask it for."),
    click.option(
        "--input-format",
        metavar="NAME",
        shell_complete=words("mjpeg", "yuyv422", "nv12", "h264"),
        help="Pixel format or codec to ask it for: mjpeg, yuyv422, nv12.",
    ),
    click.option(
        "--source",
        type=FILE,
        metavar="INPUT",
        help="Anything FFmpeg opens in place of a camera: rtsp://…, a file, lavfi:GRAPH.",
    ),
    click.option("--loop", is_flag=True, help="Begin a file again at its end."),
    click.option(
        "--max-height", type=WholeNumber(16), metavar="N", help="Reduce larger frames to N lines first, 16 or more."
    ),
)

output_options = together(
    click.option("--full-screen", is_flag=True, help="Start with the window filling the screen."),
    click.option(
        "--mirror/--no-mirror", default=None, help="Show the picture as a mirror.  [default: cameras, or as last]"
    ),
    click.option("--no-window", is_flag=True, help="No window; for --record and --virtual-camera alone."),
    click.option("--web", is_flag=True, help="Show it in the browser in place of a window."),
    click.option(
        "--host",
        metavar="ADDRESS",
        shell_complete=words("127.0.0.1", "0.0.0.0"),
        help="Of --web: where to listen; 0.0.0.0 for all who can.  [default: 127.0.0.1]",
    ),
    click.option("--port", type=WholeNumber(0, 65535), metavar="N", help="Of --web; 0: a free one.  [default: 8765]"),
    click.option("--virtual-camera", is_flag=True, help="Be a camera for meetings (v4l2loopback or OBS)."),
    click.option("--virtual-device", type=FILE, metavar="NAME", help="Of --virtual-camera, for example /dev/video9."),
    click.option(
        "--record", type=click.Path(dir_okay=False, path_type=Path), metavar="FILE", help="Record to FILE (.mp4, .mkv)."
    ),
    click.option(
        "--microphone",
        metavar="NAME",
        shell_complete=words("default"),
        help="Record its sound too: default, or a microphone's name.",
    ),
    click.option("--overwrite", is_flag=True, help="Replace a recording that exists."),
    click.option(
        "--save-to",
        type=click.Path(file_okay=False, path_type=Path),
        default=Path(),
        metavar="FOLDER",
        help="Where the window's keys S and R put snapshots and recordings.  [default: here]",
    ),
    click.option("--duration", type=seconds, metavar="TIME", help="Stop after so long: 90 (seconds), 1:30."),
    click.option("-q", "--quiet", is_flag=True, help="Print errors only."),
    click.option(
        "-v", "--verbose", is_flag=True, callback=remember_verbose, help="Print where an unexpected error comes from."
    ),
)


@click.command(
    epilog=examples(
        "rtlit webcam  the first camera, in a window",
        "rtlit webcam --list-cameras",
        "rtlit webcam --camera 2 --size 1280x720 --fps 30 --input-format mjpeg",
        "rtlit webcam --web  in the browser",
        "rtlit webcam --virtual-camera --no-window  for meetings",
        "rtlit webcam --record me.mp4 --microphone default --duration 1:30",
        "rtlit webcam --source rtsp://camera.local/stream --max-height 720",
        "rtlit webcam --source clip.mp4 --loop",
    )
)
@source_options
@enhance_options
@time_options
@output_options
@click.pass_context
def webcam(ctx: click.Context, /, **options: Any) -> None:
    """Show a camera enhanced, now: in a window, in the browser, to a meeting.

    The newest frame wins: what comes too late is dropped. H in the window shows its keys; what they set is kept for
    the next time, and options go before it. Ctrl-C ends it.
    """
    if options["list_cameras"]:
        return _list_cameras()
    _check(options)
    from rtlit.live.pipeline import LivePipeline
    from rtlit.live.preferences import Preferences
    from rtlit.live.source import LiveSource, SourceSettings

    def tell(line: str) -> None:
        if not options["quiet"]:
            click.echo(line, err=True)

    preferences = Preferences.load(tell, camera=options["source"] is None)
    for name in ("strength", "smoothing", "full_screen", "mirror"):
        if ctx.get_parameter_source(name) == ParameterSource.COMMANDLINE:
            setattr(preferences, name, options[name])
    asked = {name: options[name] for name in ("camera", "size", "fps", "input_format", "loop")}
    source = LiveSource(SourceSettings(url=options["source"], **asked), tell)
    pipeline = LivePipeline(source, _enhance_settings(preferences, options), max_height=options["max_height"])
    with ExitStack() as stack:
        stop = stack.enter_context(_ending())
        stack.callback(pipeline.stop)
        pipeline.start()
        tell(f"{source.description}; enhanced on {pipeline.stats.backend}")
        if options["duration"]:
            threading.Thread(target=_stop_after, args=(options["duration"], pipeline, stop), daemon=True).start()
        with suppress(KeyboardInterrupt):
            _add_sinks(stack, pipeline, options, tell)
            _view(pipeline, preferences, options, tell, stop)
        stop.set()
        if pipeline.error:
            raise pipeline.error
    stats = pipeline.stats
    tell(f"{stats.captured} frames captured, {stats.shown} shown, {stats.dropped} dropped")


def _check(options: dict[str, Any]) -> None:
    """Raises UsageError for options that don't go together."""
    if options["no_window"] and not (options["record"] or options["virtual_camera"]):
        raise UsageError("--no-window: nobody would see anything; add --record FILE or --virtual-camera")
    if options["no_window"] and options["web"]:
        raise UsageError("--no-window and --web: give one of them")
    if not options["web"] and (options["host"] or options["port"] is not None):
        raise UsageError("--host and --port are of --web; add it")
    if options["virtual_device"] and not options["virtual_camera"]:
        raise UsageError("--virtual-device is of --virtual-camera; add it")
    if (options["no_window"] or options["web"]) and options["full_screen"]:
        raise UsageError("--full-screen is of the window; there is none")
    if options["microphone"] and not options["record"] and (options["no_window"] or options["web"]):
        raise UsageError("--microphone is of a recording; add --record FILE")


def _enhance_settings(preferences: Preferences, options: dict[str, Any]) -> EnhanceSettings:
    from rtlit.settings import EnhanceSettings

    names = ("device", "estimate_every", "weights", "threads", "denoise")
    return EnhanceSettings(
        strength=preferences.strength, smoothing=preferences.smoothing, **{name: options[name] for name in names}
    )


@contextmanager
def _ending() -> Iterator[threading.Event]:
    """An event that is set at SIGTERM."""
    stop = threading.Event()
    before = signal.signal(signal.SIGTERM, lambda number, frame: stop.set())
    try:
        yield stop
    finally:
        signal.signal(signal.SIGTERM, before)


def _stop_after(duration: float, pipeline: LivePipeline, stop: threading.Event) -> None:
    """Set `stop` when the picture has been there for `duration` seconds."""
    while not (pipeline.ended or stop.is_set() or pipeline.wait()):
        pass
    stop.wait(duration)
    stop.set()


def _add_sinks(stack: ExitStack, pipeline: LivePipeline, options: dict[str, Any], tell: Callable[[str], None]) -> None:
    if options["record"]:
        recorder = _recorder(options["record"], options, tell)
        stack.callback(lambda: _finish(recorder, tell))
        _attach(stack, pipeline, recorder)
    if options["virtual_camera"]:
        from rtlit.live.virtual_camera import VirtualCamera

        first = pipeline.wait(timeout=_FIRST_FRAME_SECONDS)
        if first is None:
            raise pipeline.error or InputError(f"{pipeline.source.description}: no picture came; try another camera")
        size = (first.after.width, first.after.height)
        camera = VirtualCamera(options["virtual_device"], size, options["fps"] or 30.0, on_warning=tell)
        stack.callback(camera.close)
        _attach(stack, pipeline, camera)
        tell(f"other programs see it as {camera.device}")


def _attach(stack: ExitStack, pipeline: LivePipeline, sink: Sink) -> None:
    pipeline.add_sink(sink)
    stack.callback(pipeline.remove_sink, sink)


def _recorder(path: Path, options: dict[str, Any], tell: Callable[[str], None]) -> Recorder:
    from rtlit.live.recorder import Recorder

    return Recorder(path, microphone=options["microphone"], overwrite=options["overwrite"], on_warning=tell)


def _finish(recorder: Recorder, tell: Callable[[str], None]) -> None:
    report = recorder.close()
    if report.error:
        raise OutputError(report.error)
    for path in report.paths:
        tell(f"{path}: recorded")


def _view(
    pipeline: LivePipeline,
    preferences: Preferences,
    options: dict[str, Any],
    tell: Callable[[str], None],
    stop: threading.Event,
) -> None:
    if options["web"]:
        with needs_live("the page"):
            from rtlit.live.web import serve
        serve(
            pipeline,
            host=options["host"] or "127.0.0.1",
            port=_PORT if options["port"] is None else options["port"],
            on_ready=lambda url: click.echo(f"open {url}"),
            stop=stop,
            mirror=preferences.mirror,
        )
    elif options["no_window"]:
        while not (pipeline.ended or stop.wait(0.1)):
            pass
    else:
        from rtlit.live.window import run_window

        def record() -> Recorder:
            name = time.strftime("rtlit-%Y%m%d-%H%M%S.mp4")
            return _recorder(options["save_to"] / name, options, tell)

        run_window(
            pipeline,
            preferences,
            title=pipeline.source.description,
            snapshots=options["save_to"],
            record=record,
            tell=tell,
            stop=stop,
        )


def _list_cameras() -> None:
    from rtlit.live.cameras import input_format, list_cameras

    cameras = list_cameras()
    if not cameras:
        raise InputError(f"no camera found ({input_format()}): plug one in, or try it with a video, --source FILE")
    for camera in cameras:
        click.echo(camera)
        for mode in camera.formats or ("no modes known",):
            click.echo(f"    {mode}")
