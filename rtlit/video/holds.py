"""What each container holds beside its video so that players can read it, and what the rest is converted to."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from av.container import OutputContainer

_PCM = "u8 s16le s24le s32le f32le f64le"
_PCM_BIG = "s16be s24be s32be f32be f64be"


@dataclass(frozen=True)
class Holds:
    """One container's row. Codecs have FFmpeg's names, encoders those of its encoders.

    Attributes:
        sound, subtitles: codecs that are copied; None asks libavformat.
        lossy: encoders for other sound, tried in this order.
        lossless: encoders tried before those for sound that is stored without loss.
        text: encoder for text subtitles of another codec; "" where the container holds none.
        chapters: whether it holds them.
        attachments: whether it holds fonts and other files.
        covers: whether a cover picture can stand in it as a stream.
    """

    sound: frozenset[str] | None = None
    lossy: tuple[str, ...] = ()
    lossless: tuple[str, ...] = ()
    subtitles: frozenset[str] | None = None
    text: str = ""
    chapters: bool = True
    attachments: bool = False
    covers: bool = False


def _names(text: str, pcm: str = "") -> frozenset[str]:
    return frozenset(text.split()) | {f"pcm_{kind}" for kind in pcm.split()}


# `avformat_query_codec` doesn't tell: mpegts and vob take anything, mp4 takes what FFmpeg 5 reads as noise. A codec
# stands here if a file made with it gives back the codec's name and as many samples in FFmpeg 5.1 and 9.0.
_TRANSPORT = "aac aac_latm ac3 eac3 dts truehd mp1 mp2 mp3 opus s302m"
_MPEGTS = Holds(
    sound=_names(_TRANSPORT), lossy=("aac",), subtitles=_names("dvb_subtitle dvb_teletext"), chapters=False
)
_TABLE = {
    "mp4": Holds(
        sound=_names("aac ac3 eac3 dts mp3 alac flac opus mp4als", "s16le s16be"),
        lossy=("aac",), lossless=("alac",),
        subtitles=_names("mov_text dvd_subtitle"), text="mov_text", covers=True,
    ),
    "mov": Holds(
        sound=_names(
            "aac ac3 eac3 dts mp2 mp3 alac adpcm_ima_qt amr_nb amr_wb nellymoser qdm2 qcelp mace3 mace6",
            f"{_PCM} {_PCM_BIG} s8 alaw mulaw",
        ),
        lossy=("aac",), lossless=("alac",),
        subtitles=_names("mov_text eia_608"), text="mov_text",
    ),
    "3gp": Holds(
        sound=_names("aac amr_nb amr_wb"), lossy=("aac",), subtitles=_names("mov_text"), text="mov_text"
    ),
    "matroska": Holds(
        # From adpcm_ms on as Windows' ACM, which libavformat writes but doesn't list.
        sound=_names(
            "aac ac3 eac3 dts truehd mlp mp1 mp2 mp3 alac flac opus vorbis tta wavpack "
            "adpcm_ms adpcm_ima_wav adpcm_yamaha adpcm_g726 gsm_ms speex wmav1 wmav2 wmapro wmalossless wmavoice",
            f"{_PCM} s16be s24be s32be alaw mulaw",
        ),
        lossy=("aac",), lossless=("flac",),
        subtitles=_names("subrip ass webvtt dvd_subtitle dvb_subtitle hdmv_pgs_subtitle hdmv_text_subtitle"),
        text="subrip", attachments=True, covers=True,
    ),
    "webm": Holds(sound=_names("opus vorbis"), lossy=("libopus",), subtitles=_names("webvtt"), text="webvtt"),
    "avi": Holds(
        # Not DTS and E-AC-3, whose packets libavformat times by a nominal bit rate: sound runs fast.
        sound=_names(
            "aac ac3 mp2 mp3 adpcm_ms adpcm_ima_wav adpcm_yamaha adpcm_g722 adpcm_g726 gsm_ms "
            "wmav1 wmav2 wmapro wmalossless",
            f"{_PCM} alaw mulaw",
        ),
        # AVI has no place for an encoder's delay, by which sound comes late: 23 ms of MP3, 5 ms of AC-3.
        lossy=("ac3",), lossless=("pcm_s16le", "pcm_s24le"), subtitles=_names("xsub"), chapters=False,
    ),
    "flv": Holds(
        sound=_names("aac mp3 adpcm_swf nellymoser", "u8 s16le alaw mulaw"),
        lossy=("aac",), subtitles=_names(""), chapters=False,
    ),
    "mpegts": _MPEGTS,
    "m2ts": Holds(
        sound=_names(f"{_TRANSPORT} pcm_bluray") - {"truehd"},  # FFmpeg 9 finds no sample rate there
        lossy=("aac",), subtitles=_names("hdmv_pgs_subtitle"), chapters=False,
    ),
    "vob": Holds(
        sound=_names("mp1 mp2 mp3 ac3 dts pcm_dvd"), lossy=("mp2", "ac3"), subtitles=_names("dvd_subtitle"),
        chapters=False,
    ),
    "nut": Holds(
        sound=_names(
            "aac ac3 dts mp2 mp3 flac opus vorbis wavpack adpcm_ms adpcm_ima_wav adpcm_yamaha adpcm_swf gsm_ms",
            f"{_PCM} {_PCM_BIG} s8 alaw mulaw",
        ),
        lossy=("aac",), lossless=("flac",), subtitles=_names("dvb_subtitle"),  # text would have no end there
    ),
    "yuv4mpegpipe": Holds(sound=_names(""), subtitles=_names(""), chapters=False),
}  # fmt: skip
_ALIKE = {"ipod": "mp4", "3g2": "3gp", "mpeg": "vob", "dvd": "vob", "svcd": "vob", "vcd": "vob"}
_BLU_RAY = (".m2ts", ".mts")


def is_blu_ray(path: Path | None) -> bool:
    """Whether a transport stream of this name has the packets and codecs of Blu-ray and AVCHD."""
    return path is not None and path.suffix.lower() in _BLU_RAY


def holds(output: OutputContainer) -> Holds:
    """The row of a container that is being written; for one that has none, what libavformat says."""
    muxer = output.format.name
    if muxer == "mpegts" and output.container_options.get("mpegts_m2ts_mode") == "1":
        return _TABLE["m2ts"]
    name = _ALIKE.get(muxer, muxer)
    return _TABLE[name] if name in _TABLE else Holds(lossy=(output.default_audio_codec,))
