"""Small test videos in many containers, generated on demand; each frame shows its number.

Every frame has one white corner, at the top left of an upright frame, and its number as a row of
black and white blocks, so that what was decoded tells which frame it is and which way up it stands.
"""

import struct
from fractions import Fraction

import numpy as np
from PIL import Image

WIDTH, HEIGHT, BITS = 96, 64, 6
KEY_FRAMES = 8  # from one to the next
MILLISECOND = Fraction(1, 1000)
CODECS = {
    "mp4": "libx264", "mov": "libx264", "mkv": "libx264", "ts": "libx264",
    "webm": "libvpx-vp9", "avi": "mpeg4", "flv": "libx264",
}  # fmt: skip
ANIMATIONS = ("gif", "webp", "png")
EIGHT_WAYS = {  # display matrix (a, b, c, d) -> how an upright frame is stored
    (1, 0, 0, 1): None,
    (-1, 0, 0, 1): Image.Transpose.FLIP_LEFT_RIGHT,
    (1, 0, 0, -1): Image.Transpose.FLIP_TOP_BOTTOM,
    (-1, 0, 0, -1): Image.Transpose.ROTATE_180,
    (0, 1, -1, 0): Image.Transpose.ROTATE_90,  # the matrix turns it back, clockwise
    (0, -1, 1, 0): Image.Transpose.ROTATE_270,
    (0, 1, 1, 0): Image.Transpose.TRANSPOSE,
    (0, -1, -1, 0): Image.Transpose.TRANSVERSE,
}


def marked(number, turn=None):
    """The frame of this number, 96 x 64, or as it is stored turned."""
    pixels = np.full((HEIGHT, WIDTH, 3), 128, np.uint8)
    pixels[:24, :24] = 255
    for bit in range(BITS):
        pixels[40:, 16 * bit : 16 * bit + 16] = 255 * (number >> bit & 1)
    image = Image.fromarray(pixels)
    return image if turn is None else image.transpose(turn)


def number_of(image):
    """The number of a decoded frame; fails when it is not upright."""
    pixels = np.asarray(image.convert("L"), np.float64)
    assert pixels.shape == (HEIGHT, WIDTH), pixels.shape
    assert pixels[6:18, 6:18].mean() > 200 and pixels[6:18, -18:-6].mean() < 190, "not upright"
    blocks = [pixels[46:58, 16 * bit + 4 : 16 * bit + 12].mean() for bit in range(BITS)]
    return sum((block > 128) << bit for bit, block in enumerate(blocks))


def even(count, step=40):
    """Milliseconds at which frames begin that follow evenly."""
    return [i * step for i in range(count)]


def uneven(count, seed=0):
    """Milliseconds at which frames of 20 to 500 ms begin; the first at 0."""
    steps = 10 * np.random.default_rng(seed).integers(2, 50, count)
    return [0, *np.cumsum(steps[:-1]).tolist()]


def write(path, starts, turn=None, codec=None, options=None, pix_fmt="yuv420p", ratio=None, bf=2):
    """A video or animation, its kind by the suffix, whose frames begin at these milliseconds.

    The last lasts as long as the one before. Returns the path.
    """
    kind = path.suffix[1:]
    images = [marked(i, turn) for i in range(len(starts))]
    if kind in ANIMATIONS:
        lasts = np.diff(starts).tolist() or [100]
        lasts += lasts[-1:] * (len(starts) > 1)
        more = {"lossless": True} if kind == "webp" else {}
        images[0].save(path, save_all=True, append_images=images[1:], duration=lasts, **more)
        return path
    import av

    with av.open(str(path), "w", options=options or {}) as container:
        stream = container.add_stream(codec or CODECS[kind], rate=25)
        stream.width, stream.height = images[0].size
        stream.pix_fmt, stream.codec_context.time_base = pix_fmt, MILLISECOND
        stream.codec_context.gop_size = KEY_FRAMES
        if ratio:
            stream.codec_context.sample_aspect_ratio = Fraction(*ratio)
        if stream.codec_context.name.startswith("libx264"):
            stream.options = {"crf": "10", "bf": str(bf)}
        ends = dict(
            zip(starts, [*starts[1:], 2 * starts[-1] - [0, *starts][-2] or 40], strict=True)
        )

        def mux(frame=None):
            for packet in stream.encode(frame):
                begin = round(packet.pts * packet.time_base / MILLISECOND)
                packet.duration = round((ends[begin] - begin) * MILLISECOND / packet.time_base)
                container.mux(packet)

        for start, image in zip(starts, images, strict=True):
            frame = av.VideoFrame.from_image(image)
            frame.pts, frame.time_base = start, MILLISECOND
            mux(frame)
        mux()
    return path


def turned(path, matrix):
    """Give an mp4 or mov this display matrix (a, b, c, d), as a phone does."""
    data = bytearray(path.read_bytes())
    at = data.index(b"tkhd") + 44
    a, b, c, d = (int(0x10000 * value) for value in matrix)
    data[at : at + 36] = struct.pack(">9i", a, b, 0, c, d, 0, 0, 0, 0x40000000)
    path.write_bytes(data)
    return path


def trimmed(path, begin, end):
    """Let the edit list of an mp4 or mov show only these milliseconds, as a phone's trim does."""
    data = bytearray(path.read_bytes())
    scale = struct.unpack_from(">I", data, data.index(b"mdhd") + 16)[0]
    at = data.index(b"elst") + 12
    first = struct.unpack_from(">i", data, at + 4)[0]
    movie = struct.unpack_from(">I", data, data.index(b"mvhd") + 16)[0]
    struct.pack_into(">I", data, at, (end - begin) * movie // 1000)
    struct.pack_into(">i", data, at + 4, first + begin * scale // 1000)
    path.write_bytes(data)
    return path


def packets_of(path):
    """(position, size) of every packet of the video in the file."""
    import av

    with av.open(str(path)) as container:
        found = [(p.pos, p.size) for p in container.demux(video=0) if p.size]
    return [(pos, size) for pos, size in found if pos is not None and pos >= 0]


def damaged(path, packet):
    """Overwrite most of one packet."""
    data = bytearray(path.read_bytes())
    pos, size = packets_of(path)[packet]
    rng = np.random.default_rng(packet)
    data[pos + 6 : pos + size] = rng.integers(0, 256, max(size - 6, 0), np.uint8).tobytes()
    path.write_bytes(data)
    return path


def cut(path, share):
    """Keep only this share of the file's bytes."""
    data = path.read_bytes()
    path.write_bytes(data[: int(len(data) * share)])
    return path
