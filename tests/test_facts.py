"""Facts in prose that a new checkpoint or another file would make stale."""

import re
from contextlib import redirect_stdout
from io import StringIO
from pathlib import Path

import pytest

import tinyqwenvl
from tinyqwenvl.__main__ import main
from tinyqwenvl.model import ASSETS, EXAMPLE_IMAGE, user_message
from tinyqwenvl.presets import PRESETS, preset
from tinyqwenvl.shapes import walk
from tinyqwenvl.shapes.drawing import as_svg

DOCS = Path(__file__).parents[1] / "docs"
WORDS = {5: "five", 6: "six", 7: "seven", 8: "eight", 9: "nine", 10: "ten"}


def page(name):
    return (DOCS / f"{name}.md").read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def without_rope(tmp_path_factory):
    """Lines of ``oracle diff``, for a vision encoder without rotary embedding."""
    folder = tmp_path_factory.mktemp("oracle")
    right, wrong = str(folder / "ref.safetensors"), str(folder / "bad.safetensors")
    assert main(["oracle", "record", "-o", right]) == 0
    assert main(["oracle", "record", "-o", wrong, "--mutant", "vision_no_rope"]) == 0
    with redirect_stdout(StringIO()) as said:
        assert main(["oracle", "diff", right, wrong]) == 1
    return said.getvalue().splitlines()


def test_the_first_example_of_the_oracle_is_what_diff_prints(without_rope):
    example = re.search(r"```\n(visual\.blocks\.0\.attn\.qkv.*?)```", page("oracle"), re.DOTALL)[1]
    shown = [line for line in example.splitlines() if line != "..."]
    assert len(shown) >= 4
    for line in shown:
        assert any(said.startswith(line.replace(" (...)", "")) for said in without_rope), line


@pytest.mark.parametrize("name", ["oracle", "porting", "teaching"])
def test_what_pages_say_of_correlation_is_measured(name, without_rope):
    """The output of block 0 hides a missing rotary embedding; its queries do not."""
    pearson = {line.split()[0]: line.split()[5] for line in without_rope if "differs  " in line}
    text = " ".join(page(name).split())
    output, queries = re.search(
        r"correlation of ([\d.]+) .*? queries .*?([\d.]+\d)\b", text
    ).groups()
    assert output == f"{float(pearson['visual.blocks.0']):.4f}"
    assert queries == f"{float(pearson['visual.blocks.0.attn.q']):.2f}"


def test_the_teaching_guide_counts_the_images_of_the_package():
    images = list((ASSETS / "images").glob("*.png"))
    assert f"{WORDS[len(images)]} images and a video" in " ".join(page("teaching").split())


def test_the_drawing_labels_the_head_with_the_logits_it_counts():
    """FLOPs of the LM head are those of one position, and so is the shape beside them."""
    found = walk(preset("qwen2.5-vl-3b"), [(756, 476)], text_tokens=49)
    assert "lm_head [1, 151936]" in as_svg("3B", found)
    assert "lm_head [1, 151936]" in (DOCS / "shapes.svg").read_text(encoding="utf-8")


def test_the_two_prompts_of_the_pipeline_have_the_lengths_it_says():
    model, text = tinyqwenvl.load(), " ".join(page("pipeline").split())
    for prompt in ('"describe" in the embedded checkpoint', '"Describe the picture.", 121 tokens'):
        assert prompt in text
    for prompt, said in (("describe", "119 ids"), ("Describe the picture.", "121 tokens")):
        ids = model.prepare(user_message(EXAMPLE_IMAGE, prompt)).input_ids
        assert said.startswith(str(len(ids))) and said in text


def test_the_licences_of_the_presets_are_stated():
    _, _, table = page("published").partition("| licence of the weights |")
    rows = dict(re.findall(r"^\| (Qwen2(?:\.5)?-VL-\d+B) \| (.*) \|$", table, re.M))
    assert {name.lower() for name in rows} == set(PRESETS)
    assert "Research" in rows["Qwen2.5-VL-3B"]
