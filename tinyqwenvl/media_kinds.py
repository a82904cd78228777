"""Recognise files by their first bytes and by their names: images, videos and others.

Nothing is decoded here. For a file that Pillow cannot read, the table gives its kind and what to
do. The command line uses the same table to tell images, videos and prompts apart.
"""

from __future__ import annotations

import codecs
import os
import re
from typing import NamedTuple

from PIL import Image

HEAD = 4096  # bytes of a file that are inspected
VIDEO_SUFFIXES = tuple(
    ".mp4 .m4v .mov .qt .mkv .webm .avi .mpg .mpeg .m2v .mpv .vob .wmv .asf .flv .f4v .3gp .3g2 "
    ".ts .mts .m2ts .ogv .ogm .mxf .rm .rmvb .divx .dv .y4m .ivf .nut .wtv .h264 .264 .h265 .265 "
    ".hevc".split()
)
IMAGE_SUFFIXES = tuple(  # in addition to Pillow's registered suffixes
    ".heic .heif .hif .avif .jxl .svg .svgz .psd .psb .exr .hdr .dcm .xcf .kra "
    ".dng .cr2 .cr3 .crw .nef .nrw .arw .srf .sr2 .raf .orf .rw2 .pef .srw .x3f .3fr .iiq .rwl "
    ".mrw .erf .kdc .dcr .mos".split()
)
DOCUMENT_SUFFIXES = tuple(
    ".pdf .html .htm .txt .md .rtf .doc .docx .xls .xlsx .ppt .pptx .odt .ods .odp .csv .tsv .json "
    ".jsonl .xml .zip .tar .tgz .7z .rar .npy .npz .pt .pth .safetensors .parquet .mp3 .m4a .wav "
    ".flac .ogg .opus .aac".split()
)


class Kind(NamedTuple):
    """What a file is: a noun phrase, its medium, and what to do about it."""

    name: str  # with its article: "a HEIC image"
    medium: str  # "image" (Pillow may read it, perhaps by a plugin), "video", "audio" or "other"
    advice: str  # as an instruction: "export it as PNG"

    def __str__(self) -> str:
        """As the end of "FILE is ..."."""
        return f"{self.name}; {self.advice}"


TO_JPEG = "convert it to JPEG or PNG"
HEIC = Kind("a HEIC image", "image", f"pip install pillow-heif (the extra heif), or {TO_JPEG}")
AVIF = Kind("an AVIF image", "image", f"pip install -U pillow (11.3 or later), or {TO_JPEG}")
RAW = Kind("a RAW photograph", "image", "develop it: convert it to JPEG or PNG")
AS_VIDEO = "give it as a video (--video FILE, in a chat /video FILE)"
AUDIO_ADVICE = "the model reads images, videos and text only"
_VIDEO_BRANDS = {"qt  ": "a QuickTime video", "3gp": "a 3GP video", "3g2": "a 3GP video"}

_MAGIC: tuple[tuple[bytes, Kind], ...] = (
    (b"\xff\x0a", Kind("a JPEG XL image", "image", TO_JPEG)),
    (b"\0\0\0\x0cJXL \r\n\x87\n", Kind("a JPEG XL image", "image", TO_JPEG)),
    (b"8BPS", Kind("a Photoshop document", "image", "export it as PNG")),
    (b"FUJIFILMCCD-RAW", RAW),
    (b"IIRO", RAW),
    (b"IIRS", RAW),
    (b"MMOR", RAW),
    (b"IIU\0", RAW),
    (b"FOVb", RAW),
    (b"\0MRM", RAW),
    (b"\x76\x2f\x31\x01", Kind("an OpenEXR image", "image", TO_JPEG)),
    (b"#?RADIANCE", Kind("a Radiance HDR image", "image", TO_JPEG)),
    (b"gimp xcf", Kind("a GIMP document", "image", "export it as PNG")),
    (b"%PDF", Kind("a PDF document", "other", "save its page as PNG (pdftoppm -png FILE page)")),
    (b"version https://git-lfs", Kind("a Git LFS pointer, not the file itself", "other",
                                      "fetch the file: git lfs pull")),
    (b"PK\x03\x04", Kind("a ZIP archive or an Office document", "other",
                         "unpack it, or save its image as PNG")),
    (b"7z\xbc\xaf\x27\x1c", Kind("a 7z archive", "other", "unpack it")),
    (b"Rar!", Kind("a RAR archive", "other", "unpack it")),
    (b"\x1f\x8b", Kind("a gzip archive", "other", "unpack it")),
    (b"\xd0\xcf\x11\xe0", Kind("an Office document", "other", "save its image as PNG")),
    (b"{\\rtf", Kind("an RTF document", "other", "save its image as PNG")),
    (b"\x93NUMPY", Kind("a NumPy array file", "other", "np.load it and give the array")),
    (b"\x1aE\xdf\xa3", Kind("a Matroska or WebM video", "video", AS_VIDEO)),
    (b"FLV\x01", Kind("a Flash video", "video", AS_VIDEO)),
    (b"\x30\x26\xb2\x75\x8e\x66\xcf\x11", Kind("a Windows Media video", "video", AS_VIDEO)),
    (b"\0\0\x01\xba", Kind("an MPEG video", "video", AS_VIDEO)),
    (b"\0\0\x01\xb3", Kind("an MPEG video", "video", AS_VIDEO)),
    (b"YUV4MPEG2", Kind("a YUV4MPEG video", "video", AS_VIDEO)),
    (b"DKIF", Kind("an IVF video", "video", AS_VIDEO)),
    (b"\0\0\0\x01\x67", Kind("an H.264 video", "video", AS_VIDEO)),
    (b"ID3", Kind("an MP3 sound", "audio", AUDIO_ADVICE)),
    (b"fLaC", Kind("a FLAC sound", "audio", AUDIO_ADVICE)),
)  # fmt: skip
_MARKUP: tuple[tuple[re.Pattern[bytes], Kind], ...] = (
    (re.compile(rb"<svg[\s>]", re.I), Kind("an SVG drawing", "other", "convert it to PNG")),
    (re.compile(rb"^(<!doctype html|<html|<head|<body|<script)", re.I),
     Kind("an HTML page (of a download that failed?)", "other", "fetch the file itself")),
    (re.compile(rb"^<\?xml|^<[A-Za-z!]"), Kind("an XML document", "other",
                                             "fetch the file itself")),
    (re.compile(rb'^[\[{]\s*["\[{\]}]'), Kind("JSON (the message of a server?)", "other",
                                             "fetch the file itself")),
)  # fmt: skip
TEXT = Kind("text", "other", "give an image, or pipe the text in as a prompt: < FILE")


def kind_of(head: bytes) -> Kind | None:
    """The kind of a file that begins with ``head``; None for ordinary images and unknown files."""
    if head[4:8] == b"ftyp":
        return _of_ftyp(head)
    if head[:4] == b"RIFF" and head[8:12] == b"AVI ":
        return Kind("an AVI video", "video", AS_VIDEO)
    if head[:4] == b"RIFF" and head[8:12] == b"WAVE":
        return Kind("a WAV sound", "audio", AUDIO_ADVICE)
    if head[:4] == b"OggS":
        if b"theora" in head:
            return Kind("an Ogg video", "video", AS_VIDEO)
        return Kind("an Ogg sound", "audio", AUDIO_ADVICE)
    if head[4:8] in (b"moov", b"mdat", b"wide", b"free") and head[:2] == b"\0\0":
        return Kind("a QuickTime video", "video", AS_VIDEO)
    if head[:2] in (b"II", b"MM") and head[8:10] == b"CR":
        return RAW
    if head[128:132] == b"DICM":
        return Kind("a DICOM image", "image", TO_JPEG)
    if any(_is_transport_stream(head, size, at) for size, at in ((188, 0), (192, 4))):
        return Kind("an MPEG transport stream", "video", AS_VIDEO)
    found = next((kind for magic, kind in _MAGIC if head.startswith(magic)), None)
    return found or _of_text(head)


def _of_ftyp(head: bytes) -> Kind:
    """The kind of an ISO base media file (the MP4 family), from its brands."""
    major = head[8:12].decode("latin-1")
    length = min(int.from_bytes(head[:4], "big"), 256)
    brands = {major, *(head[i : i + 4].decode("latin-1") for i in range(16, length - 3, 4))}
    if major in ("avif", "avis") or (major in ("mif1", "msf1") and "avif" in brands):
        return AVIF
    if major in ("heic", "heix", "hevc", "hevx", "heim", "heis", "mif1", "msf1"):
        return HEIC
    if major == "crx ":
        return RAW
    if major == "jxl ":
        return Kind("a JPEG XL image", "image", TO_JPEG)
    if major in ("M4A ", "M4B "):
        return Kind("an M4A sound", "audio", AUDIO_ADVICE)
    name = next((n for b, n in _VIDEO_BRANDS.items() if major.startswith(b)), "an MP4 video")
    return Kind(name, "video", AS_VIDEO)


def _is_transport_stream(head: bytes, size: int, at: int) -> bool:
    """Whether packets of ``size`` bytes start with the sync byte, the first at ``at``."""
    syncs = head[at : at + 5 * size : size]
    return len(syncs) >= 3 and set(syncs) == {0x47}


def _of_text(head: bytes) -> Kind | None:
    """Markup, JSON or plain text; otherwise None."""
    text = head.removeprefix(b"\xef\xbb\xbf").lstrip()
    if not text:
        return None
    if text[:1] in b"<[{":
        for pattern, kind in _MARKUP:
            if pattern.search(text):
                return kind
    try:
        words = codecs.getincrementaldecoder("utf-8")().decode(
            text[:1000]
        )  # a truncated character is ignored
    except UnicodeDecodeError:
        return None
    return TEXT if all(c.isprintable() or c.isspace() for c in words) else None


# ------------------------------------------------------------------ names and files


def kind_of_file(path: str | os.PathLike) -> Kind | None:
    """:func:`kind_of` of an existing file; None if it cannot be read."""
    try:
        with open(path, "rb") as file:
            return kind_of(file.read(HEAD))
    except (OSError, ValueError):
        return None


def suffix_of(word: str) -> str:
    """The suffix of a path or URL in lower case, with its dot."""
    return os.path.splitext(re.split(r"[?#]", word)[0] if "://" in word else word)[1].lower()


def named_like_a_video(word: str) -> bool:
    """Whether a word has the suffix of a video."""
    return suffix_of(word) in VIDEO_SUFFIXES


def named_like_a_file(word: str) -> bool:
    """Whether a word without spaces is named like a file or URL rather than a prompt.

    It has the suffix of an image, video or document, starts like a path or URL, or has a path
    separator after the name of an existing folder.
    """
    if re.match(r"data:[\w/+.;=-]*,", word):
        return True
    if any(c.isspace() for c in word) or not word:
        return False
    if re.match(r"[a-zA-Z][\w+.-]*://|(~|\.\.?)?/", word) or (os.sep == "\\" and "\\" in word):
        return True
    known = (*VIDEO_SUFFIXES, *IMAGE_SUFFIXES, *DOCUMENT_SUFFIXES)
    if suffix_of(word) in known or suffix_of(word) in Image.registered_extensions():
        return True
    folder = os.path.dirname(word)
    return bool(folder) and os.path.isdir(folder)
