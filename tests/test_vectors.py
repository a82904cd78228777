"""The unit vectors: ours, and the files themselves."""

import hashlib
import json
from pathlib import Path

import numpy as np
import pytest

from scripts.vectors.cases import CASES
from tinyqwenvl import UserError, chat, image, model, position, vision
from tinyqwenvl.oracle import mutants, vectors
from tinyqwenvl.oracle.vectors import FAMILIES, FOLDER, equal, family_of, judge, run_unit

ALL = list(vectors.unit_cases())
BY_ID = {case["id"]: case for case in ALL}
UNITS = sorted((FOLDER / "unit").glob("*.json"))
EXAMPLE = FOLDER.parent / "example.mjs"


def ours(case):
    try:
        return run_unit(family_of(case), case["input"])
    except UserError as error:
        return error


def failing():
    """Ids that are answered wrongly now; in a broken function anything may be raised."""

    def answer(case):
        try:
            return run_unit(family_of(case), case["input"])
        except Exception as error:
            return error

    return {case["id"] for case in ALL if not judge(case, answer(case))}


# ------------------------------------------------------------------ ours


@pytest.mark.parametrize("case", ALL, ids=lambda case: case["id"])
def test_we_are_right(case):
    """And exactly so, not merely acceptable."""
    found = ours(case)
    assert judge(case, found)
    assert isinstance(found, UserError) if "error" in case else equal(case["output"], found)


@pytest.mark.parametrize(
    ("module", "name", "broken", "caught"),
    [
        (
            image,
            "smart_resize",
            lambda h, w, f, *_: (h // f * f, w // f * f),
            {"smart_resize/nearest-not-floor", "smart_resize/max", "smart_resize/min"},
        ),
        (
            vision,
            "patch_positions",
            lambda grids, merge: np.zeros((int(np.prod(grids, axis=1).sum()), 2), int),
            {"vision_positions/2x2", "vision_positions/clip"},
        ),
        (
            vision,
            "restore_order",
            lambda merged, index: np.take(merged, index, axis=0),
            {"window_index/ragged", "window_index/two-ragged-pictures"},
        ),
        (
            vision,
            "frame_seqlens",
            lambda grids: np.concatenate([[0], np.cumsum(np.prod(grids, axis=1))]),
            {"cu_seqlens/two-frames", "cu_seqlens/picture-and-clip"},
        ),
        (
            position,
            "text_positions",
            lambda start, length: np.tile(start + 1 + np.arange(length), (3, 1)),
            {"mrope_positions/text", "mrope_positions/left-padded-text"},
        ),
        (
            model,
            "rope_index",
            lambda ids, *_: (np.tile(np.arange(len(ids)), (3, 1)), 0),
            {"mrope_positions/picture", "mrope_positions/text-after-a-long-video"},
        ),
        (chat, "SYSTEM_PROMPT", "You are Qwen.", {"chat_template/words"}),
        (
            chat,
            "expand",
            lambda pieces, pad, counts: pieces,
            {"placeholder_expansion/merged", "placeholder_expansion/too-few-pictures"},
        ),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_a_broken_function_is_caught(module, name, broken, caught, monkeypatch):
    assert not failing()
    monkeypatch.setattr(module, name, broken)
    assert caught <= failing()


BUGS = """wrong_system_prompt images_before_text no_vision_markers placeholders_not_merged
    resize_rounds_half_up class_default_pixel_limit long_sides_shrink_to_nothing
    vision_rope_height_and_width_swapped vision_rope_in_raster_order window_size_in_tokens
    windows_across_images permutation_applied_twice window_order_never_undone
    attention_over_the_whole_video positions_in_one_dimension image_time_scaled
    video_height_slowest image_height_and_width_swapped seconds_ignored seconds_truncated
    four_tokens_per_second text_after_video_at_its_side text_one_after_the_image
    text_after_all_image_tokens rope_delta_lost""".split()


@pytest.mark.parametrize("name", BUGS)
def test_named_bugs_are_caught(name):
    with mutants.apply(name):
        assert failing()


def test_sampling_bugs_are_caught(monkeypatch):
    from tinyqwenvl import video

    monkeypatch.setattr(video, "sample_hf", video.sample_qwen_vl_utils)
    assert "frame_sampling/two-a-second-hf" in failing()
    monkeypatch.undo()
    monkeypatch.setattr(video, "choose_frames", lambda clip, fps, *_: ([], 1 / fps))
    assert "frame_sampling/seconds-qwen-vl-utils" in failing()


# ------------------------------------------------------------------ the files


def test_ids_are_one_of_a_kind():
    assert len(BY_ID) == len(ALL) > 100
    assert {family_of(case) for case in ALL} == set(FAMILIES) == {p.stem for p in UNITS}


def test_the_files_hold_the_cases_of_the_maker():
    """``python -m scripts.make_vectors`` was run after the last change of a case."""
    assert set(CASES) == set(FAMILIES)
    for case in [case for cases in CASES.values() for case in cases]:
        for name in ("input", "pins", "flags"):
            assert BY_ID[case["id"]][name] == case[name], case["id"]
    assert len(ALL) == sum(map(len, CASES.values()))


def test_the_manifest_names_every_file():
    manifest = json.loads((FOLDER / "manifest.json").read_text(encoding="utf-8"))
    assert {file["family"] for file in manifest["files"]} == set(FAMILIES)
    for file in manifest["files"]:
        path = FOLDER / file["path"]
        assert hashlib.sha256(path.read_bytes()).hexdigest() == file["sha256"], path
        assert len(json.loads(path.read_text(encoding="utf-8"))["cases"]) == file["count"]


def schema_errors(value):
    jsonschema = pytest.importorskip("jsonschema")
    schema = json.loads((FOLDER / "schema.json").read_text(encoding="utf-8"))
    jsonschema.Draft202012Validator.check_schema(schema)
    return [e.message for e in jsonschema.Draft202012Validator(schema).iter_errors(value)]


@pytest.mark.parametrize("path", [FOLDER / "manifest.json", *UNITS], ids=lambda p: p.stem)
def test_files_keep_to_the_schema(path):
    assert not schema_errors(json.loads(path.read_text(encoding="utf-8")))


@pytest.mark.parametrize(
    "change",
    [
        {"result": "perhaps"},
        {"result": "acceptable"},  # needs also, and a reason
        {"result": "invalid"},  # needs an error
        {"error": True},  # beside an output
        {"output": {"height": 56}},
        {"input": {"height": 56}},
        {"also": [{"output": {"height": 1, "width": 1}, "by": "somebody"}]},
        {"id": "No Id"},
        {"surprise": 1},
        {"kills": "one"},
    ],
    ids=str,
)
def test_the_schema_can_say_no(change):
    unit = json.loads((FOLDER / "unit" / "smart_resize.json").read_text(encoding="utf-8"))
    unit["cases"][0] |= {"kills": ["resize_rounds_half_up"]}
    assert not schema_errors(unit)
    unit["cases"][0] |= change
    assert schema_errors(unit)


@pytest.mark.parametrize(
    ("family", "results"),
    [
        ("smart_resize", {"valid", "invalid", "acceptable"}),
        ("frame_sampling", {"valid", "acceptable"}),
        ("window_index", {"valid"}),
        ("cu_seqlens", {"valid", "acceptable"}),
        ("vision_positions", {"valid"}),
        ("mrope_positions", {"valid", "invalid", "acceptable"}),
        ("chat_template", {"valid", "invalid", "acceptable"}),
        ("placeholder_expansion", {"valid", "invalid"}),
    ],
)
def test_every_kind_of_result_is_there(family, results):
    assert {case["result"] for case in vectors.unit_cases(family)} == results


def test_orders_that_do_not_undo_themselves():
    """Else a port that applies the order where it should undo it would pass."""
    own_inverse = [
        case["id"]
        for case in vectors.unit_cases("window_index")
        if case["output"]["window_index"] == case["output"]["reverse_index"]
    ]
    assert len(own_inverse) <= 5
    assert "window_index/ragged" not in own_inverse


def test_videos_follow_the_version_that_is_right_about_them():
    """Where text after a video differs between versions, transformers 4.51.3 is the witness."""
    cases = [c for c in vectors.unit_cases("mrope_positions") if "text-after-video" in c["flags"]]
    assert len(cases) >= 8
    assert {case["witness"] for case in cases} == {"transformers 4.51.3"}


# ------------------------------------------------------------------ judging


@pytest.mark.parametrize(
    ("expected", "found", "right"),
    [
        (2, 2.0, True),
        (2, 2.0000001, False),
        (1, True, False),
        (True, 1, False),
        (0.1, 0.1 + 1e-9, True),
        (0.1, 0.1001, False),
        (1.0, 1, True),
        (1.0, 10**400, False),
        (1.0, float("nan"), False),
        (1.0, None, False),
        (1, "1", False),
        ("a", "a", True),
        ([1, 2], [1, 2], True),
        ([1, 2], [1], False),
        ([1], {"0": 1}, False),
        ({"a": 1}, {"a": 1}, True),
        ({"a": 1}, {"a": 1, "b": 2}, False),
        (None, None, True),
    ],
)
def test_equal(expected, found, right):
    assert equal(expected, found) is right


def test_judging():
    refused = UserError("no")
    for name, output, right in (
        ("smart_resize/max", {"height": 420, "width": 672}, True),
        ("smart_resize/max", {"height": 672, "width": 420}, False),
        ("smart_resize/max", refused, False),
        ("smart_resize/max", None, False),
        ("smart_resize/ratio-over-200", refused, True),
        ("smart_resize/ratio-over-200", {"height": 28, "width": 5600}, False),
        ("smart_resize/ratio-over-200", None, False),
        ("smart_resize/side-under-14", {"height": 28, "width": 560}, True),
        ("smart_resize/side-under-14", {"height": 28, "width": 1008}, True),
        ("smart_resize/side-under-14", refused, True),
        ("smart_resize/side-under-14", {"height": 0, "width": 560}, False),
    ):
        assert judge(BY_ID[name], output) is right, (name, output)


def test_unknown_families():
    for ask in (lambda: list(vectors.unit_cases("resize")), lambda: run_unit("resize", {})):
        with pytest.raises(UserError, match="no family is called 'resize'; known are smart_resize"):
            ask()


def test_the_case_on_the_page_is_one_of_them():
    page = (Path(__file__).parents[1] / "docs" / "vectors.md").read_text(encoding="utf-8")
    case = json.loads(page.partition("```json\n")[2].partition("```")[0])
    there = {name: value for name, value in BY_ID[case["id"]].items() if name != "kills"}
    assert case == there
