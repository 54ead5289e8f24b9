"""Sound in every container: what players name is copied, the rest is converted, in step, and said."""

from __future__ import annotations

import io
import re
import subprocess
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from types import SimpleNamespace
from typing import Any, BinaryIO, cast

import av
import numpy as np
import pytest
from numpy.typing import NDArray

from rtlit.video.streams import route
from rtlit.video.transcode import VideoSettings, enhance_video
from tests.outside import ffmpeg, frames, make, program, sound
from tests.video_tools import enhance

PICTURE = ("-f", "lavfi", "-i", "testsrc2=s=64x48:r=25:d=1")
ENCODERS = {".webm": "libvpx", ".mpg": "mpeg2video", ".3gp": "mpeg4", ".avi": "mpeg4", ".wmv": "wmv2", ".flv": "flv"}
# A tone that begins after a fifth of a second of silence, in as many channels as the layout has.
TONE = "aevalsrc=exprs='{}':c={}:s={}:d=1"
CHANNELS = {"mono": 1, "stereo": 2, "quad": 4, "5.1": 6, "5.1(side)": 6, "7.1": 8}


@pytest.fixture(scope="module")
def clips(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """Makes a clip with sound of a kind, once."""
    folder, made = tmp_path_factory.mktemp("clips"), {}

    def clip(suffix: str, codec: str, layout: str = "mono", rate: int = 48000, *more: object) -> Path:
        key = (suffix, codec, layout, rate, *more)
        if key not in made:
            waves = "|".join(f"gte(t,0.2)*sin({2 * np.pi * (440 + 110 * i)}*t)/4" for i in range(CHANNELS[layout]))
            tone = ("-f", "lavfi", "-i", TONE.format(waves, layout, rate))
            picture = ("-c:v", ENCODERS.get(suffix, "libx264"), "-map", "0", "-map", "1")
            sound = ("-c:a", codec, "-strict", "-2", *more)
            made[key] = make(folder / f"{len(made)}{suffix}", *PICTURE, *tone, *picture, *sound)
        return made[key]

    yield clip


def named(path: Path) -> tuple[str, str]:
    """The sound's codec and layout as FFmpeg's program names them; "none" where it can't."""
    said = subprocess.run([program(), "-hide_banner", "-i", path], capture_output=True, check=False).stderr.decode()
    found = re.findall(r"Stream #0:\d.*?: Audio: (\w+).*?, \d+ Hz, ([\w.()]+)", said)
    return found[0] if found else ("none", "none")


def heard(path: Path) -> NDArray[Any]:
    """Decoded samples of the first channel, at 48 kHz."""
    raw = ffmpeg("-i", path, "-map", "0:a:0", "-ar", "48000", "-af", "pan=mono|c0=c0", "-f", "f32le", "-")
    return np.frombuffer(raw, np.float32)


@cache
def begins(path: Path) -> float:
    """Seconds from the first frame of video to the beginning of the tone."""
    wave = np.abs(heard(path))
    return float(sound(path)[0].at - frames(path)[0].at) + float(np.argmax(wave > 0.16 * wave.max())) / 48000


def run(source: Path, target: Path, **video: Any) -> list[str]:
    """Enhance as quickly as can be; returns the warnings about sound."""
    encoder = ENCODERS.get(target.suffix, "libx264")
    quick = {"preset": "ultrafast"} if encoder == "libx264" else {}
    report = enhance(source, target, codec=encoder, **quick, **video)
    return [line for line in report.warnings if "audio" in line]


def in_step(source: Path, target: Path, slack: float = 0.01) -> None:  # encoders smear what comes suddenly
    """The tone begins as long after the first frame as it did, and lasts to the end."""
    assert begins(target) == pytest.approx(begins(source), abs=slack)
    assert len(heard(target)) / 48000 == pytest.approx(len(heard(source)) / 48000, abs=0.07)


# Which containers copy a kind of sound, and what the rest gets. FFmpeg's names, as its program prints them.
ALL = (".mp4", ".mov", ".3gp", ".mkv", ".webm", ".avi", ".flv", ".ts", ".m2ts", ".mpg", ".nut")
LOSSY = dict(zip(ALL, ("aac", "aac", "aac", "aac", "opus", "ac3", "aac", "aac", "aac", "mp2", "aac"), strict=True))
EXACT = {**LOSSY, ".mp4": "alac", ".mov": "alac", ".mkv": "flac", ".avi": "pcm_s", ".nut": "flac"}
COPIED = {
    (".mkv", "flac"): ".mp4 .mkv .nut",
    (".mov", "alac"): ".mp4 .mov .mkv",
    (".mkv", "libvorbis"): ".mkv .webm .nut",
    (".mkv", "libopus"): ".mp4 .mkv .webm .ts .m2ts .nut",
    (".mkv", "pcm_s16le"): ".mp4 .mov .mkv .avi .nut",
    (".mkv", "pcm_s24le"): ".mov .mkv .avi .nut",
    (".avi", "pcm_u8"): ".mov .mkv .avi .flv .nut",
    (".avi", "adpcm_ms"): ".mkv .avi .nut",
    (".wmv", "wmav2"): ".mkv .avi",
    (".mkv", "ac3"): ".mp4 .mov .mkv .avi .ts .m2ts .mpg .nut",
    (".mkv", "truehd"): ".mkv .ts",
    (".mkv", "wavpack"): ".mkv .nut",
}
NAMES = {"libvorbis": "vorbis", "libopus": "opus"}


@pytest.mark.parametrize(("suffix", "encoder"), COPIED, ids=str)
def test_sound_of_every_kind_in_every_container(tmp_path: Path, clips: Any, suffix: str, encoder: str) -> None:
    rate = 44100 if encoder in ("pcm_u8", "adpcm_ms", "wmav2") else 48000
    source = clips(suffix, encoder, "mono", rate)
    codec = NAMES.get(encoder, encoder)
    exact = codec in ("flac", "alac", "truehd", "wavpack") or codec.startswith("pcm")
    copied = COPIED[suffix, encoder].split()
    others = [target for target in ALL if target not in copied]
    turn = len(encoder)  # a few of each, not always the same
    for target in {*copied[-2:], others[turn % len(others)], others[(turn + 4) % len(others)]}:
        wanted = codec if target in copied else (EXACT if exact else LOSSY)[target]
        warnings = run(source, tmp_path / f"out{target}")
        assert named(tmp_path / f"out{target}")[0].startswith(wanted), target
        assert len(warnings) == (target not in copied), (target, warnings)
        if warnings:
            assert f"converted from {codec} to" in warnings[0]
            assert ("with loss" in warnings[0]) == (exact and wanted not in ("flac", "alac", "pcm_s"))
            in_step(source, tmp_path / f"out{target}")


@pytest.mark.parametrize(
    ("layout", "codec", "target", "wanted"),
    [
        ("5.1(side)", "ac3", ".webm", "5.1"),
        ("5.1(side)", "ac3", ".flv", "5.1"),
        ("5.1(side)", "flac", ".mpg", "5.1"),
        ("5.1(side)", "truehd", ".mp4", "5.1"),
        ("7.1", "flac", ".webm", "7.1"),
        ("7.1", "flac", ".mov", "7.1"),
        ("7.1", "flac", ".mpg", "5.1"),
        ("quad", "flac", ".webm", "quad"),
        ("quad", "flac", ".avi", "quad"),
    ],
    ids=str,
)
def test_channels(tmp_path: Path, clips: Any, layout: str, codec: str, target: str, wanted: str) -> None:
    warnings = run(clips(".mkv", codec, layout), tmp_path / f"out{target}")
    assert ("mixed" in warnings[0]) == (layout == "7.1" and wanted == "5.1")
    found = named(tmp_path / f"out{target}")[1]
    assert found.replace("(side)", "") == wanted


@pytest.mark.parametrize(("rate", "wanted"), [(96000, 48000), (37800, 44100), (11025, 16000)])
def test_rates_that_the_encoder_lacks(tmp_path: Path, clips: Any, rate: int, wanted: int) -> None:
    """MP2 knows 16 to 48 kHz; only what is lost is said."""
    source = clips(".mkv", "pcm_s16le", "mono", rate)
    warnings = run(source, tmp_path / "out.mpg")
    assert ("at 48000 Hz" in warnings[0]) == (rate > 48000)
    with av.open(str(tmp_path / "out.mpg")) as container:
        assert container.streams.audio[0].rate == wanted
    in_step(source, tmp_path / "out.mpg")


def test_lossless_stays_exact(tmp_path: Path, clips: Any) -> None:
    source = clips(".mkv", "wavpack", "mono", 48000, "-sample_fmt", "s16p")
    run(source, tmp_path / "out.mov")
    assert np.array_equal(heard(source), heard(tmp_path / "out.mov"))


@pytest.mark.parametrize("target", [".3gp", ".webm"])
def test_lost_packets_keep_the_rest_in_time(tmp_path: Path, clips: Any, target: str) -> None:
    """Frames 15 to 17 of AC-3, 32 ms each, are missing: silence stands there, and no more."""
    source, whole = tmp_path / "gap.mkv", clips(".mkv", "ac3")
    make(source, "-i", whole, "-map", "0", "-c", "copy", "-bsf:a", r"noise=drop=between(n\,15\,17)")
    run(source, tmp_path / f"out{target}")
    wave, at = np.abs(heard(tmp_path / f"out{target}")), float(sound(tmp_path / f"out{target}")[0].at)
    quiet, loud = (wave[round((second - at) * 48000) :][:480].max() for second in (0.53, 0.65))
    assert quiet < loud / 5
    assert begins(tmp_path / f"out{target}") == pytest.approx(begins(whole), abs=0.01)
    assert len(wave) == pytest.approx(len(heard(whole)), abs=0.07 * 48000)


def test_sound_that_goes_back_costs_itself_alone(clips: Any) -> None:
    """MP4's muxer refuses it, at the end of all the work."""
    warnings: list[str] = []
    with av.open(str(clips(".mkv", "ac3"))) as whole, av.open(io.BytesIO(), "w", format="mp4") as output:
        write = route(whole.streams.audio[0], output, None, warnings.append)
        assert write is not None
        times = []
        for packet in whole.demux(audio=0):
            if packet.dts is not None:
                packet.pts = packet.dts = packet.dts - (400 if packet.dts > 600 else 0)
                written = write(packet)
                times += [one.dts * one.time_base for one in written]
                output.mux(written)
        output.mux(write(None))
    assert times == sorted(set(times)) and len(times) > 15
    assert len(warnings) == 1 and "goes back" in warnings[0] and "dropped" in warnings[0]


def test_several_amr_frames_in_a_packet(tmp_path: Path, clips: Any) -> None:
    """As old phones wrote them; MP4's muxer takes one."""
    single = clips(".3gp", "libopencore_amrnb", "mono", 8000)
    with av.open(str(single)) as whole, av.open(str(tmp_path / "out.3gp"), "w") as output:
        write = route(whole.streams.audio[0], output, None, pytest.fail)
        assert write is not None
        packets = [p for p in whole.demux(audio=0) if p.dts is not None]
        for group in (packets[i : i + 5] for i in range(0, len(packets), 5)):
            joined = av.Packet(b"".join(map(bytes, group)))
            joined.stream, joined.time_base = group[0].stream, group[0].time_base
            joined.pts, joined.dts = group[0].pts, group[0].dts
            output.mux(write(joined))
        output.mux(write(None))
    assert len(packets) > 10
    with av.open(str(tmp_path / "out.3gp")) as container:
        found = [(p.pts, bytes(p)) for p in container.demux(audio=0) if p.size]
    assert found == [(p.pts, bytes(p)) for p in packets]


def test_cut_of_converted_sound(tmp_path: Path, clips: Any) -> None:
    source = clips(".mkv", "flac")
    run(source, tmp_path / "out.ts", start=0.12, duration=0.4)
    assert begins(tmp_path / "out.ts") == pytest.approx(0.08, abs=0.003)
    assert len(heard(tmp_path / "out.ts")) / 48000 == pytest.approx(0.4, abs=0.12)


@pytest.mark.parametrize("encoder", ["aac", "libmp3lame", "flac"])
@pytest.mark.parametrize("cut", [{}, {"start": 0.3}], ids=["whole", "cut"])
def test_sound_that_begins_late_in_avi(tmp_path: Path, clips: Any, encoder: str, cut: dict[str, float]) -> None:
    """AVI's header tells when a stream begins."""
    late = ("-f", "lavfi", "-i", "testsrc2=s=96x64:r=25:d=2", "-itsoffset", "0.5", "-f", "lavfi", "-i", "sine=d=1.5")
    options = ("-map", "0", "-map", "1", "-c:v", "mpeg4", "-c:a", encoder, "-fflags", "+bitexact")
    source = make(tmp_path / "in.mkv", *late, *options)
    wanted = float(sound(source)[0].at) - (0.32 if cut else 0)  # the first frame from 0.3 s on
    run(source, tmp_path / "out.avi", **cut)
    assert float(sound(tmp_path / "out.avi")[0].at) == pytest.approx(wanted, abs=0.04)
    assert frames(tmp_path / "out.avi")[0].at == 0
    with (tmp_path / "pipe.avi").open("wb") as file:
        pipe = SimpleNamespace(write=file.write, name="pipe")
        video = VideoSettings(output_format="avi", **cut)
        report = enhance_video(source, cast("BinaryIO", pipe), strength=0.0, device="cpu", threads=1, video=video)
    assert any("too early" in line for line in report.warnings)


@pytest.mark.parametrize("encoder", ["dca", "eac3"])
def test_sound_that_avi_would_time_by_a_nominal_rate(tmp_path: Path, encoder: str) -> None:
    tone = ("-f", "lavfi", "-i", "sine=d=1:r=48000", "-c:a", encoder, "-strict", "-2")
    source = make(tmp_path / "in.mkv", *PICTURE, *tone)
    assert any("converted from" in line for line in run(source, tmp_path / "out.avi"))
    last = sound(tmp_path / "out.avi")[-1]
    assert float(last.at + last.length) == pytest.approx(1, abs=0.05)


def test_aac_of_six_channels_in_flv(tmp_path: Path) -> None:
    """No packet that tells the layout once more: players before Enhanced RTMP take it for another stream."""
    source = make(tmp_path / "in.mkv", *PICTURE, "-f", "lavfi", "-i", "sine=d=1:r=48000", "-ac", "6", "-c:a", "aac")
    run(source, tmp_path / "out.flv")
    with av.open(str(tmp_path / "out.flv")) as container:
        assert container.streams.audio[0].codec_context.channels == 6
    data, at, kinds = (tmp_path / "out.flv").read_bytes(), 13, set()
    while at + 15 < len(data):  # Adobe's specification of FLV, annex E.4.1: type, 3 bytes of size, 7 more
        if data[at] == 8:
            kinds.add(data[at + 11] >> 4)
        at += 15 + int.from_bytes(data[at + 1 : at + 4], "big")
    assert kinds == {10}  # AAC
