"""Times, orientation and damage of videos: made files whose frames tell which they are.

The witness of every time is the time stamp that the file was written with; of what is upright, the
mark in each frame; of an answer, the file of the same frames that needs no such care.
"""

import shutil
import warnings

import numpy as np
import pytest
from PIL import Image

from scripts.odd_videos import (
    ANIMATIONS,
    CODECS,
    EIGHT_WAYS,
    KEY_FRAMES,
    cut,
    damaged,
    even,
    marked,
    number_of,
    trimmed,
    turned,
    uneven,
    write,
)
from scripts.random_checkpoint import tiny_config
from tinyqwenvl import UserError
from tinyqwenvl.config import parse_config
from tinyqwenvl.media import ImageWarning
from tinyqwenvl.video import SAMPLING_POLICIES, choose_frames, open_video, read_video
from tinyqwenvl.video_time import ROUNDING, VideoSource

av = pytest.importorskip("av")
CONFIG = parse_config(tiny_config("qwen2_5_vl"))
SMALL = {"min_pixels": 784, "max_pixels": 3136}
KINDS = [*CODECS, *ANIMATIONS]


def numbers(clip):
    return [number_of(frame) for frame in clip.frames()]


def check(path, starts, first=0):
    """All frames are there, upright, at the time at which they were written; sampling too."""
    clip = open_video(path)
    assert numbers(clip) == [*range(first, first + len(starts))]
    begins = np.array([clip.begins(i) for i in range(clip.total)])
    meant = (np.array(starts) - starts[0]) / 1000
    mean, ends = 1 / clip.rate, np.append(meant[1:], np.inf)
    half = 0 if clip.times else mean / 2  # even: near enough to be sampled by index
    assert np.abs(begins - meant).max() <= half + ROUNDING
    for policy, rule in SAMPLING_POLICIES.items():
        if not rule.by_time:
            continue
        indices, between = choose_frames(clip, 2.0, 4, 768, policy)
        assert between * len(indices) == pytest.approx(clip.total / clip.rate)
        nominal = np.arange(len(indices)) * between
        allowed = mean if policy == "hf" else between
        assert (meant[indices] <= nominal + allowed + ROUNDING).all(), policy
        assert (ends[indices] >= nominal - allowed - ROUNDING).all(), policy
    return clip


# ------------------------------------------------------------------ times


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("pace", [even, uneven])
def test_frames_have_the_times_they_were_written_with(kind, pace, tmp_path):
    if kind == "avi" and pace is uneven:
        pytest.skip("AVI has no times between its frames: gaps are frames")
    clip = check(write(tmp_path / f"clip.{kind}", pace(13)), pace(13))
    assert bool(clip.uneven) == (pace is uneven)
    assert not clip.decoding.messages() and not clip.notes


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("count", [1, 2, 3, 5, 8, 21, 40])
def test_the_zoo(kind, count, tmp_path):
    for seed, pace in enumerate((even, uneven, lambda n: even(n, 100), lambda n: uneven(n, 7))):
        starts = pace(count)
        check(write(tmp_path / f"{seed}.{kind}", starts), starts)


@pytest.mark.parametrize("kind", ["mp4", "mov"])
def test_what_an_edit_list_hides_does_not_count(kind, tmp_path):
    for pace, (begin, end) in (
        (even, (5, 20)),
        (uneven, (5, 20)),
        (uneven, (0, 9)),
        (even, (9, 10)),
    ):
        starts = pace(25)
        path = trimmed(write(tmp_path / f"clip.{kind}", starts), starts[begin], starts[end])
        clip = check(path, starts[begin:end], first=begin)
        assert not clip.notes


def test_two_containers_of_the_same_uneven_frames_are_read_alike(tmp_path):
    starts = uneven(24, 3)
    for policy in SAMPLING_POLICIES:
        reads = []
        for kind in ("mp4", "mov", "mkv", "webm", "gif", "webp"):
            clip = open_video(write(tmp_path / f"clip.{kind}", starts, bf=0))
            reads.append(choose_frames(clip, 2.0, 4, 768, policy)[0])
        assert all(read == reads[0] for read in reads), policy


def test_by_index_departs_from_by_time_and_says_so(tmp_path):
    """Ten frames in half a second, one that lasts nine: by index most of the ten are taken."""
    path = write(tmp_path / "clip.gif", [*even(10, 50), 9500, 9550])
    clip = open_video(path)
    by_time, _ = choose_frames(clip, 2.0, 4, 768)
    by_index, _ = choose_frames(clip, 2.0, 4, 768, "qwen-vl-utils-by-index")
    assert by_time == [0, *[9] * 10, 11] and by_index == [*range(12)]
    for policy, word in (("hf", "sampled by time"), ("hf-by-index", "sampled by index")):
        with pytest.warns(ImageWarning, match=word):
            read_video(path, CONFIG, policy=policy, **SMALL)


def test_a_long_frame_is_read_at_every_instant_at_which_it_is_shown(tmp_path):
    path = write(tmp_path / "clip.png", [0, 2000, 2100, 2200])
    with pytest.warns(ImageWarning, match="sampled by time"):
        found = read_video(path, CONFIG, fps=2, **SMALL)
    indices, between = choose_frames(open_video(path), 2.0, 4, 768)
    assert indices == [0, 0, 0, 3] and between == pytest.approx(2.3 / 4)
    listed = read_video([marked(i) for i in indices], CONFIG, fps=2, **SMALL)
    np.testing.assert_array_equal(found.patches, listed.patches)
    assert found.seconds == pytest.approx(2 * between)


@pytest.mark.parametrize("kind", ["gif", "webp"])
def test_frames_of_ten_milliseconds_or_less_last_as_browsers_show_them(kind, tmp_path):
    path = tmp_path / f"clip.{kind}"
    images = [marked(i) for i in range(4)]
    images[0].save(path, save_all=True, append_images=images[1:], duration=[10, 0, 20, 100])
    clip = open_video(path)
    assert clip.times is not None or clip.rate == pytest.approx(4 / 0.32)
    assert clip.total / clip.rate == pytest.approx(0.32)


def test_joined_recordings_go_on_where_the_first_ends(tmp_path):
    """Two transport streams in one file: both begin at the same time stamp."""
    one = write(tmp_path / "one.ts", even(10)).read_bytes()
    (tmp_path / "both.ts").write_bytes(one + one)
    clip = open_video(tmp_path / "both.ts")
    assert clip.total == 20 and clip.rate == pytest.approx(25, rel=0.06)
    assert numbers(clip) == [*range(10), *range(10)]


# ------------------------------------------------------------------ orientation


@pytest.mark.parametrize("matrix", EIGHT_WAYS)
def test_frames_stand_upright(matrix, tmp_path):
    for kind in ("mp4", "mov"):
        path = turned(write(tmp_path / f"clip.{kind}", even(4), EIGHT_WAYS[matrix]), matrix)
        assert numbers(open_video(path)) == [0, 1, 2, 3]


def test_a_turn_by_no_quarter_is_said(tmp_path):
    path = turned(write(tmp_path / "clip.mp4", even(4)), (0.7, 0.7, -0.7, 0.7))
    with pytest.warns(
        ImageWarning, match="not a multiple of 90 degrees; frames are used as stored"
    ):
        read_video(path, CONFIG, **SMALL)


def test_pixels_that_are_not_square_are_said(tmp_path):
    path = write(tmp_path / "clip.mkv", even(4), ratio=(16, 11))
    with pytest.warns(ImageWarning, match="its pixels are not square .16:11"):
        read_video(path, CONFIG, **SMALL)


# ------------------------------------------------------------------ damage


@pytest.mark.parametrize("kind", ["mp4", "mkv", "avi", "webm"])
@pytest.mark.parametrize("packet", [0, 11])
def test_frames_keep_their_times_after_a_damaged_packet(kind, packet, tmp_path):
    check_damaged(damaged(write(tmp_path / f"clip.{kind}", even(24)), packet), packet)


def check_damaged(path, packet):
    clip = open_video(path)
    assert clip.total == 24 and clip.rate == pytest.approx(25)
    found = list(clip.frames())
    again = (packet // KEY_FRAMES + 1) * KEY_FRAMES  # where a key frame begins anew
    sound = [*range(packet // KEY_FRAMES * KEY_FRAMES), *range(again, len(found))]
    assert [number_of(found[i]) for i in sound] == sound
    assert len(found) == 24 or path.suffix == ".webm"  # whose decoder may not come back
    assert clip.decoding.messages() or len(found) < 24
    with pytest.warns(ImageWarning, match="cannot be decoded|damaged|but contains"):
        assert read_video(path, CONFIG, fps=25, **SMALL).grid[0] in (12, len(found) // 2)


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["mp4", "mov", "mkv", "webm", "ts", "flv", "avi"])
def test_damage_at_ten_places(kind, tmp_path):
    whole = write(tmp_path / f"whole.{kind}", even(24))
    for packet in (0, 1, 4, 8, 11, 15, 16, 20, 22, 23):
        path = tmp_path / f"clip.{kind}"
        shutil.copy(whole, path)
        damaged(path, packet)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            assert 1 <= read_video(path, CONFIG, fps=25, **SMALL).grid[0] <= 12
            clip = open_video(path)
            found = list(clip.frames())
        later = [i for i in range(len(found)) if round(clip.begins(i) * 25) > 15 > packet]
        first_lost = packet == 0 and kind in ("ts", "flv")  # and its time stamp with it
        offset = 24 - clip.total if first_lost else 0
        assert all(
            number_of(found[i]) == round(clip.begins(i) * 25) + offset
            for i in later if round(clip.begins(i) * 25) + offset > 15
        )  # fmt: skip


@pytest.mark.parametrize("kind", ["mp4", "mkv", "webm", "ts", "gif", "png"])
def test_of_a_download_cut_short_what_is_there_is_read(kind, tmp_path):
    options = {"movflags": "faststart"} if kind == "mp4" else None
    path = cut(write(tmp_path / f"clip.{kind}", even(24), options=options), 0.8)
    clip = open_video(path)
    assert 6 <= clip.total < 24
    found = numbers(clip)
    assert found == [*range(len(found))] and len(found) >= clip.total - 1
    assert clip.rate == pytest.approx(25)
    if kind != "ts":  # which does not say how much there should be
        with pytest.warns(ImageWarning, match="header says 0.96 s, but|only its first"):
            read_video(path, CONFIG, **SMALL)


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_cut_anywhere(kind, tmp_path):
    options = {"movflags": "faststart"} if kind == "mp4" else None
    whole = write(tmp_path / f"whole.{kind}", even(24), options=options)
    for share in np.linspace(0.02, 0.99, 20):
        path = tmp_path / f"clip.{kind}"
        shutil.copy(whole, path)
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                read_video(cut(path, share), CONFIG, **SMALL)
        except UserError as error:
            assert "\n" not in str(error)


def test_a_size_that_changes_is_said_and_read_at_the_first(monkeypatch):
    images = [marked(0), marked(1), marked(2).resize((64, 96)), marked(3)]
    clip = VideoSource("a.mp4", 4, 4.0, lambda: iter(images))
    monkeypatch.setattr("tinyqwenvl.video.open_video", lambda source: clip)
    with pytest.warns(
        ImageWarning, match="one frame is 64x96 pixels, the first 96x64; all are resized"
    ):
        assert read_video("a.mp4", CONFIG, fps=4, **SMALL).grid[0] == 2
    with pytest.raises(UserError, match="all frames of a video need the same size"):
        monkeypatch.undo()
        read_video(images, CONFIG, fps=4, **SMALL)


def test_a_stream_without_time_stamps_says_so(tmp_path):
    with av.open(str(write(tmp_path / "clip.mp4", even(8, 100)))) as container:
        stream = container.streams.video[0]
        raw = av.bitstream.BitStreamFilterContext("h264_mp4toannexb", stream)
        data = b"".join(bytes(q) for p in container.demux(stream) if p.size for q in raw.filter(p))
    (tmp_path / "clip.h264").write_bytes(data)
    with pytest.warns(
        ImageWarning, match="it has no time stamps; 25 frames per second are assumed"
    ):
        found = read_video(tmp_path / "clip.h264", CONFIG, fps=1, **SMALL)
    assert found.grid[0] == 2 and numbers(open_video(tmp_path / "clip.h264")) == [*range(8)]


def test_a_title_that_is_no_utf_8_is_no_reason_to_refuse(tmp_path):
    path = write(tmp_path / "clip.mp4", even(4))
    path.write_bytes(path.read_bytes().replace(b"VideoHandler", "Vidéo Händle".encode("latin-1")))
    check(path, even(4))


def sound(path, cover):
    with av.open(str(path), "w") as container:
        stream = container.add_stream("aac", rate=44100)
        if cover:
            picture = container.add_stream("mjpeg", rate=1)
            picture.width, picture.height, picture.pix_fmt = 64, 64, "yuvj420p"
            picture.disposition = av.stream.Disposition.attached_pic
        frame = av.AudioFrame.from_ndarray(np.zeros((1, 4096), np.float32), "fltp", "mono")
        frame.rate = 44100
        container.mux(stream.encode(frame))
        container.mux(stream.encode())
        if cover:
            container.mux(picture.encode(av.VideoFrame.from_image(Image.new("RGB", (64, 64)))))
            container.mux(picture.encode())
    return path


@pytest.mark.skipif(not hasattr(av.stream, "Disposition"), reason="PyAV 13 writes no covers")
def test_sound_is_no_video_with_a_cover_or_without(tmp_path):
    for name, cover, words in (
        ("song.m4a", False, "has no video stream"), ("song.mp4", True, "a cover image but no"),
    ):  # fmt: skip
        with pytest.raises(UserError, match=words):
            read_video(sound(tmp_path / name, cover), CONFIG)


@pytest.mark.parametrize(
    ("codec", "pix_fmt", "kind"),
    [
        ("libx264", "yuv420p10le", "mp4"), ("libx264", "gray", "mp4"),
        ("libx264", "yuv422p", "mkv"),
        ("libx264", "yuv444p", "mp4"), ("png", "rgba", "mov"), ("ffv1", "yuv420p16le", "mkv"),
        ("mjpeg", "yuvj420p", "avi"), ("libvpx", "yuv420p", "webm"), ("rawvideo", "rgb24", "avi"),
    ],
)  # fmt: skip
def test_other_kinds_of_pixels(codec, pix_fmt, kind, tmp_path):
    path = write(tmp_path / f"clip.{kind}", even(4), codec=codec, pix_fmt=pix_fmt)
    check(path, even(4))
