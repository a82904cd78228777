"""Remake tinyqwenvl/vectors/v1/unit: what the witnesses say of the cases in vector_cases.py.

    pip install -c constraints.txt ".[hf]"
    pip install --no-deps qwen_vl_utils==0.0.14
    python -m scripts.make_vectors --older PYTHON

PYTHON is an interpreter that has transformers==4.51.3 and torch: that version says what positions
text has after a video (docs/differences.md), and what others accepted. It runs this very file with
--answer, which reads [family, input] lists as JSON from stdin and writes its answers to stdout.

Nothing expected comes from our own code. Each family has a list of witnesses; the first one that
agrees with us gives the output, and it must be the very first unless the case has a reason. Where
another witness disagrees, the case must have a reason too, and unless it says who alone is right
its result is "acceptable", with every answer in ``also``. A second run writes the same bytes.
"""

from __future__ import annotations

import argparse
import hashlib
import importlib.machinery
import json
import logging
import re
import subprocess
import sys
from collections.abc import Callable
from contextlib import redirect_stdout
from functools import partial
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import torch
import transformers

from scripts.vector_cases import CASES, EMPTY, WORDS

ROOT = Path(__file__).parents[1]
FOLDER = ROOT / "tinyqwenvl" / "vectors" / "v1"
HF = f"transformers {transformers.__version__}"
OLDER, QVU, TEMPLATE = "transformers 4.51.3", "qwen_vl_utils 0.0.14", "published template"
TEMPLATE_FILE = ROOT / "tinyqwenvl" / "assets" / "checkpoint" / "chat_template.json"
NOBODY = "nobody: see the reason"
Answer = dict[str, Any]  # {"output": ...} or {"error": True}


def answer(function: Callable[..., Any], given: dict[str, Any]) -> Answer:
    """What a witness says; whatever it raises is a refusal."""
    try:
        return {"output": function(**given)}
    except Exception:  # StopIteration, ZeroDivisionError, shape errors: they were never meant
        return {"error": True}


def grids(rows: list[list[int]]) -> torch.Tensor | None:
    """[I, 3], or None where there are none."""
    return torch.tensor(rows) if rows else None


# ------------------------------------------------------------------ both versions of transformers


def mrope(
    method: Callable[..., Any], token_types: bool, with_seconds: bool, **given: Any
) -> dict[str, Any]:
    """``get_rope_index`` of a model class, without a model."""
    ids = torch.tensor([given["input_ids"]])
    arguments = {
        "attention_mask": torch.tensor([given["attention_mask"]]),
        "image_grid_thw": grids(given["image_grid_thw"]),
        "video_grid_thw": grids(given["video_grid_thw"]),
    }
    seconds = given["second_per_grid_ts"]
    if with_seconds and seconds is not None:
        arguments["second_per_grid_ts"] = torch.tensor(seconds)  # float32
    if token_types:
        types = (ids == given["image_token_id"]).int() + 2 * (ids == given["video_token_id"]).int()
        arguments["mm_token_type_ids"] = types
    positions, delta = method(input_ids=ids, **arguments)
    return {"position_ids": positions[:, 0].tolist(), "rope_delta": int(delta.reshape(-1)[0])}


def rope_settings(given: dict[str, Any]) -> SimpleNamespace:
    """All of a model that ``get_rope_index`` looks at."""
    names = ("image_token_id", "video_token_id", "vision_start_token_id")
    vision = {n: given[n] for n in ("spatial_merge_size", "tokens_per_second")}
    config = SimpleNamespace(
        vision_config=SimpleNamespace(**vision), **{n: given[n] for n in names}
    )
    return SimpleNamespace(config=config)


# ------------------------------------------------------------------ the older one, in its process


def older_mrope(**given: Any) -> dict[str, Any]:
    """``get_rope_index`` of transformers 4.51.3."""
    newer = given["model_type"] == "qwen2_5_vl"
    kind = "Qwen2_5_VLForConditionalGeneration" if newer else "Qwen2VLForConditionalGeneration"
    method = partial(getattr(transformers, kind).get_rope_index, rope_settings(given))
    return mrope(method, False, newer, **given)


def older_windows(**given: Any) -> tuple[list[int], list[int]]:
    """``get_window_index`` of transformers 4.51.3, empty windows included."""
    from transformers.models.qwen2_5_vl import modeling_qwen2_5_vl as modeling

    sizes = {n: given[n] for n in ("patch_size", "spatial_merge_size", "window_size")}
    vision_encoder = SimpleNamespace(**sizes, spatial_merge_unit=sizes["spatial_merge_size"] ** 2)
    kind = modeling.Qwen2_5_VisionTransformerPretrainedModel
    index, boundaries = kind.get_window_index(vision_encoder, torch.tensor(given["grid_thw"]))
    return index.tolist(), [int(b) for b in boundaries]


def older_index(**given: Any) -> dict[str, list[int]]:
    """The window order of transformers 4.51.3."""
    index, _ = older_windows(**given)
    return {"window_index": index, "reverse_index": torch.tensor(index).argsort().tolist()}


def older_seqlens(**given: Any) -> dict[str, list[int]]:
    """Boundaries in transformers 4.51.3 (of frames: retyped from inside its forward pass)."""
    t, h, w = torch.tensor(given["grid_thw"]).T
    frames = torch.repeat_interleave(h * w, t).cumsum(0)
    return {"frames": [0, *frames.tolist()], "windows": older_windows(**given)[1]}


def older_resize(**given: Any) -> dict[str, int]:
    """``smart_resize`` of transformers 4.51.3."""
    from transformers.models.qwen2_vl import image_processing_qwen2_vl as processing

    return dict(zip(("height", "width"), processing.smart_resize(**given), strict=True))


OLDER_ANSWERS = {
    "smart_resize": older_resize,
    "window_index": older_index,
    "cu_seqlens": older_seqlens,
    "mrope_positions": older_mrope,
}


def answer_older() -> None:
    """The other end of :func:`ask_older`."""
    asked = json.load(sys.stdin)
    with redirect_stdout(sys.stderr):
        found = [answer(OLDER_ANSWERS[family], given) for family, given in asked]
    json.dump({"version": transformers.__version__, "answers": found}, sys.stdout)


def ask_older(python: str) -> dict[str, Answer]:
    """Case id -> what transformers 4.51.3 says."""
    asked = [(family, c) for family in OLDER_ANSWERS for c in CASES[family]]
    text = json.dumps([[family, case["input"]] for family, case in asked])
    command = [python, "-m", "scripts.make_vectors", "--answer"]
    done = subprocess.run(
        command, input=text, capture_output=True, text=True, cwd=ROOT, check=False
    )
    if done.returncode:
        raise SystemExit(done.stderr)
    found = json.loads(done.stdout)
    assert found["version"] == OLDER.split()[1], found["version"]
    return {c["id"]: said for (_, c), said in zip(asked, found["answers"], strict=True)}


# ------------------------------------------------------------------ the newer one, and the others


class _Stub(ModuleType):
    """A package that a witness imports and, here, never uses."""

    def __init__(self, name: str):
        super().__init__(name)
        self.__spec__ = importlib.machinery.ModuleSpec(name, None)
        self.__path__: list[str] = []
        self.__version__ = "0.21.0"

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        return _Anything


class _Anything:
    """A class of such a package."""

    NEAREST = NEAREST_EXACT = BOX = BILINEAR = HAMMING = BICUBIC = LANCZOS = None


def stub(*names: str) -> None:
    """Put stubs where these modules are not installed (after transformers has looked for them)."""
    for name in names:
        try:
            __import__(name)
        except ImportError:
            sys.modules[name] = made = _Stub(name)
            parent, _, last = name.rpartition(".")
            if parent:
                setattr(sys.modules[parent], last, made)


def newer_resize(**given: Any) -> dict[str, int]:
    """``smart_resize`` of transformers 5.23.0."""
    from transformers.models.qwen2_vl import image_processing_pil_qwen2_vl as processing

    return dict(zip(("height", "width"), processing.smart_resize(**given), strict=True))


def qvu_resize(**given: Any) -> dict[str, int]:
    """``smart_resize`` of qwen_vl_utils."""
    from qwen_vl_utils import vision_process

    return dict(zip(("height", "width"), vision_process.smart_resize(**given), strict=True))


def sampled(indices: list[int], seconds: float) -> dict[str, Any]:
    """The output of frame_sampling; two frames make one temporal grid."""
    return {"indices": indices, "second_per_grid": 2 * seconds}


def qvu_frames(
    total_frames: int, video_fps: float, fps: float, min_frames: int, max_frames: int, **_: Any
) -> dict[str, Any]:
    """What ``_read_video_torchvision`` takes of a clip that is not there."""
    from qwen_vl_utils import vision_process

    clip = torch.arange(total_frames)
    read = SimpleNamespace(read_video=lambda *_, **__: (clip, None, {"video_fps": video_fps}))
    vision_process.io = read
    asked = {"video": "", "fps": fps, "min_frames": min_frames, "max_frames": max_frames}
    frames, _, rate = vision_process._read_video_torchvision(asked)
    return sampled(frames.tolist(), 1 / rate)


def hf_frames(
    total_frames: int, video_fps: float, fps: float, min_frames: int, max_frames: int, **_: Any
) -> dict[str, Any]:
    """``sample_frames`` of transformers 5.23.0, less an index past the last frame."""
    from transformers.models.qwen2_vl.video_processing_qwen2_vl import Qwen2VLVideoProcessor
    from transformers.video_utils import VideoMetadata

    clip = VideoMetadata(total_num_frames=total_frames, fps=video_fps)
    itself = SimpleNamespace(num_frames=None, temporal_patch_size=2)
    limits = {"min_frames": min_frames, "max_frames": max_frames}
    indices = Qwen2VLVideoProcessor.sample_frames(itself, clip, fps=fps, **limits)
    clip.frames_indices = [i for i in indices.tolist() if i < total_frames]
    return sampled(clip.frames_indices, 1 / clip.sampled_fps)


def frames(recipe: str, **given: Any) -> dict[str, Any]:
    """The witness of a recipe."""
    return {"qwen-vl-utils": qvu_frames, "hf": hf_frames}[recipe](**given)


def newer_windows(**given: Any) -> tuple[torch.Tensor, torch.Tensor]:
    """``get_vision_window_index`` of transformers 5.23.0."""
    from transformers.vision_utils import get_vision_window_index

    given = {**given, "grid_thw": torch.tensor(given["grid_thw"])}
    return get_vision_window_index(**given)


def newer_index(**given: Any) -> dict[str, list[int]]:
    """The window order, and what undoes it."""
    index, _ = newer_windows(**given)
    return {"window_index": index.tolist(), "reverse_index": torch.argsort(index).tolist()}


def newer_seqlens(**given: Any) -> dict[str, list[int]]:
    """Boundaries of frames and of windows."""
    from transformers.vision_utils import get_vision_cu_seqlens

    seqlens = get_vision_cu_seqlens(torch.tensor(given["grid_thw"]))
    return {"frames": seqlens.tolist(), "windows": newer_windows(**given)[1].tolist()}


def newer_rows(grid_thw: list[list[int]], spatial_merge_size: int) -> list[list[int]]:
    """``get_vision_position_ids`` of transformers 5.23.0."""
    from transformers.vision_utils import get_vision_position_ids

    return get_vision_position_ids(torch.tensor(grid_thw), spatial_merge_size).tolist()


def newer_mrope(**given: Any) -> dict[str, Any]:
    """``get_rope_index`` of transformers 5.23.0."""
    newer = given["model_type"] == "qwen2_5_vl"
    kind = transformers.Qwen2_5_VLModel if newer else transformers.Qwen2VLModel
    itself = rope_settings(given)
    itself.get_vision_position_ids = partial(kind.get_vision_position_ids, itself)
    return mrope(partial(kind.get_rope_index, itself), True, newer, **given)


def published(messages: list[Any], **options: bool) -> str:
    """The published template, rendered as transformers renders."""
    from transformers.utils.chat_template_utils import render_jinja_template

    template = json.loads(TEMPLATE_FILE.read_text(encoding="utf-8"))["chat_template"]
    (text,), _ = render_jinja_template([messages], chat_template=template, **options)
    return text


def words_tokenizer() -> Any:
    """One token for every word of the cases."""
    from tokenizers import AddedToken, Tokenizer, models

    backend = Tokenizer(models.WordLevel(WORDS, "?"))
    backend.add_tokens([AddedToken(word, normalized=False) for word in WORDS])
    return transformers.PreTrainedTokenizerFast(tokenizer_object=backend)


def expansion(**given: Any) -> dict[str, Any]:
    """What ``Qwen2_5_VLProcessor`` makes of a text and the grids of its images and videos."""
    kind = transformers.Qwen2_5_VLProcessor
    processor = object.__new__(kind)
    processor.image_token, processor.video_token = "<|image_pad|>", "<|video_pad|>"
    sizes = SimpleNamespace(merge_size=given["spatial_merge_size"])
    processor.image_processor = processor.video_processor = sizes
    tokenizer = processor.tokenizer = words_tokenizer()
    assert tokenizer(given["text"])["input_ids"] == given["input_ids"]
    found = {name: given[name] for name in ("image_grid_thw", "video_grid_thw")}
    blank = {name: [torch.zeros(3, 2, 2) for _ in rows] or None for name, rows in found.items()}
    clips = blank["video_grid_thw"]
    processor.validate_inputs(
        images=blank["image_grid_thw"],
        text=[given["text"]],
        videos=clips and [clip[None] for clip in clips],
    )
    inputs = {name: grids(rows) for name, rows in found.items()}
    counts = [len(rows) for rows in found.values()]
    images = [processor.replace_image_token(inputs, i) for i in range(counts[0])]
    videos = [processor.replace_video_token(inputs, i) for i in range(counts[1])]
    (text,), _ = processor.get_text_with_replacements([given["text"]], images, videos)
    return {
        "image_counts": [len(p) // len(processor.image_token) for p in images],
        "video_counts": [len(v) // len(processor.video_token) for v in videos],
        "input_ids": tokenizer(text)["input_ids"],
    }


ABOUT: dict[str, tuple[str, dict[str, Callable[..., Any] | None]]] = {
    "smart_resize": (
        "Size of a picture (pixels) -> the size at which it is read.",
        {HF: newer_resize, QVU: qvu_resize, OLDER: None},
    ),
    "frame_sampling": (
        "A clip, and how often to look -> indices of the frames used, and the seconds that one "
        "temporal grid (two of them) lasts.",
        {"recipe": frames},
    ),
    "window_index": (
        "Grids in patches -> token i in window order is token window_index[i] of the raster order "
        "(tokens are 2x2 blocks of patches); reverse_index undoes it.",
        {HF: newer_index, OLDER: None},
    ),
    "cu_seqlens": (
        "Grids in patches -> boundaries among the patches, of frames and (in window order) of "
        "windows.",
        {HF: newer_seqlens, OLDER: None},
    ),
    "vision_positions": (
        "Grids in patches -> [row, column] of every patch, in merge order.",
        {HF: newer_rows},
    ),
    "mrope_positions": (
        "Ids, grids (in patches) and seconds -> positions [time, height, width][token], and the "
        "rope delta: position of a later token = number of real tokens before it + delta.",
        {OLDER: None, HF: newer_mrope},
    ),
    "chat_template": (
        "Messages -> the text of the prompt, with one placeholder for each picture and video.",
        {TEMPLATE: published},
    ),
    "placeholder_expansion": (
        "Ids with one placeholder for each picture and video, and their grids in patches -> how "
        "often each placeholder is repeated, and the ids.",
        {HF: expansion},
    ),
}


# ------------------------------------------------------------------ cases -> files


def witnesses(family: str, case: dict[str, Any], older: dict[str, Answer]) -> dict[str, Answer]:
    """Everybody's answer to a case, whom we follow first."""
    given, found = case["input"], {}
    for name, function in ABOUT[family][1].items():
        if name == "recipe":
            name = QVU if given["recipe"] == "qwen-vl-utils" else HF
        found[name] = older[case["id"]] if function is None else answer(function, given)
    if 0 in given.get("attention_mask", []):  # 5.x writes 0 in padding, as we do
        found = dict(reversed(found.items()))
    return found


def judged(family: str, case: dict[str, Any], older: dict[str, Answer]) -> dict[str, Any]:
    """The whole case: output, result, who said so. Fails where nobody agrees with us."""
    from tinyqwenvl.errors import UserError
    from tinyqwenvl.oracle import vectors

    try:
        ours: Answer = {"output": vectors.run_unit(family, case["input"])}
    except UserError:
        ours = {"error": True}
    said = witnesses(family, case, older)
    agree = [name for name, theirs in said.items() if same(theirs, ours)]
    others = {name: theirs for name, theirs in said.items() if name not in agree}
    reason = case["reason"] or (EMPTY if others and family == "cu_seqlens" else "")
    first = next(iter(said))
    assert (agree and agree[0] == first and not others) or reason, (case["id"], ours, said)
    assert agree or case["result"] == "acceptable", (case["id"], ours, said)
    result = case["result"] or (
        "acceptable" if others else "invalid" if "error" in ours else "valid"
    )
    made = {name: case[name] for name in ("id", "flags", "pins", "input")}
    made |= said[agree[0]] if agree else ours
    made |= {"result": result, "witness": " and ".join(agree) or NOBODY}
    if reason and (others or case["reason"]):
        made["reason"] = reason
    if result == "acceptable":
        assert others, case["id"]
        made["also"] = [
            {**theirs, "by": " and ".join(name for name in others if others[name] == theirs)}
            for i, theirs in enumerate(others.values())
            if theirs not in [*others.values()][:i]
        ]
    return made


def same(a: Any, b: Any) -> bool:
    """Equal answers; fractions within the last digits."""
    from tinyqwenvl.oracle import vectors

    return vectors.equal(a, b)


def dumps(value: Any) -> str:
    """JSON with sorted names, indent 1, and lists of numbers on one line each."""
    text = json.dumps(value, ensure_ascii=False, indent=1, sort_keys=True)
    short = re.compile(r'\[\n[^\[\]{}"]*\]')  # a text in JSON has no line end
    return short.sub(lambda m: re.sub(r"\s*\n\s*", "", m[0]).replace(",", ", "), text) + "\n"


def write_manifest(versions: dict[str, str] | None = None) -> None:
    """What the folder holds; without ``versions``, those of the manifest that is there."""
    path = FOLDER / "manifest.json"
    versions = versions or json.loads(path.read_text(encoding="utf-8"))["witnesses"]
    files = []
    for family in CASES:
        unit = FOLDER / "unit" / f"{family}.json"
        digest = hashlib.sha256(unit.read_bytes()).hexdigest()
        count = len(json.loads(unit.read_text(encoding="utf-8"))["cases"])
        entry = {"path": f"unit/{unit.name}", "family": family, "count": count, "sha256": digest}
        files.append(entry)
    about = {"format": 1, "witnesses": versions, "files": files}
    if path.exists():  # what scripts.make_kills says of the model cases stays
        about |= {"models": json.loads(path.read_text(encoding="utf-8")).get("models", [])}
    path.write_text(dumps(about), encoding="utf-8")


def known_kills(path: Path) -> dict[str, Any]:
    """Case -> its ``kills``, which another step adds; kept while input and output stay."""
    if not path.exists():
        return {}
    cases = json.loads(path.read_text(encoding="utf-8"))["cases"]
    return {dumps(_core(case)): case["kills"] for case in cases if "kills" in case}


def _core(case: dict[str, Any]) -> list[Any]:
    return [case["id"], case["input"], case.get("output")]


def main() -> None:
    """Write a file for each family, and the manifest."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--older", help="a Python that has transformers 4.51.3")
    parser.add_argument("--answer", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.answer:
        return answer_older()
    if not options.older:
        parser.error("--older is needed: see the top of scripts/make_vectors.py")
    stub("requests", "torchvision", "torchvision.io", "torchvision.transforms")
    stub("torchvision.transforms.functional", "torchvision.transforms.v2")
    stub("torchvision.transforms.v2.functional")
    logging.disable(logging.WARNING)
    older = ask_older(options.older)
    (FOLDER / "unit").mkdir(parents=True, exist_ok=True)
    for family, cases in CASES.items():
        path = FOLDER / "unit" / f"{family}.json"
        kills = known_kills(path)
        made = [judged(family, case, older) for case in cases]
        made = [
            case | {"kills": kills[key]} if (key := dumps(_core(case))) in kills else case
            for case in made
        ]
        about = {"format": 1, "family": family, "about": ABOUT[family][0], "cases": made}
        path.write_text(dumps(about), encoding="utf-8")
        print(f"{path.name}: {len(made)} cases, {path.stat().st_size:,} bytes")
    names = (HF, OLDER, QVU)
    versions = dict(name.split() for name in names if name != OLDER)
    versions |= {"transformers (older)": OLDER.split()[1], "torch": torch.__version__}
    write_manifest(versions)


if __name__ == "__main__":
    main()
