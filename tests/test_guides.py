"""The guides: what their tables name exists, and what they count is so."""

import importlib
import re
from pathlib import Path

import numpy as np
import pytest

from scripts.count_code import PIXELS_TO_WORDS, code_lines
from tinyqwenvl import load, presets, trace, viz
from tinyqwenvl.model import EXAMPLE_IMAGE, user_message
from tinyqwenvl.oracle.mutants import MUTANTS
from tinyqwenvl.oracle.selftest import claimed_kills
from tinyqwenvl.shapes import walk

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md")), ROOT / "CONTRIBUTING.md"]


def page(name):
    return (ROOT / "docs" / f"{name}.md").read_text(encoding="utf-8")


def tables(name, mark):
    """The rows of all tables of a page that follow ``<!-- mark -->``, as lists of cells."""
    blocks = re.findall(rf"<!-- {mark} -->\n((?:\|[^\n]*\n)+)", page(name))
    assert blocks, (name, mark)
    for block in blocks:
        rows = [
            [cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]]
            for line in block.splitlines()
        ]
        assert len({len(row) for row in rows}) == 1, rows[0]
        yield from rows[2:]


def anchors(path):
    """What GitHub makes of the headings of a page."""
    text = re.sub(r"```.*?```", "", path.read_text(encoding="utf-8"), flags=re.DOTALL)
    for heading in re.findall(r"^#+ (.*)$", text, re.MULTILINE):
        yield re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-")


@pytest.mark.parametrize("path", PAGES, ids=lambda p: p.name)
def test_links_into_a_page_find_their_heading(path):
    for link, anchor in re.findall(r"\]\(([^)#:]*)#([^)]+)\)", path.read_text(encoding="utf-8")):
        target = (path.parent / link) if link else path
        assert anchor in anchors(target), (link, anchor)


def test_every_row_of_the_papers_has_a_function_and_a_notebook():
    for row in tables("papers", "papers"):
        functions = re.findall(r"`([a-z_]+)\.([a-z_]+[a-z_0-9]*)`", row[2])
        assert functions, row
        for module, name in functions:
            assert callable(getattr(importlib.import_module(f"tinyqwenvl.{module}"), name)), name
        assert re.search(r"\]\(\.\./notebooks/(\d\d)_\w+\.ipynb\)", row[3]), row


def test_a_link_to_a_notebook_is_called_by_its_number():
    for path in PAGES:
        for label, number in re.findall(
            r"\[(\d\d)[^\]]*\]\([^)]*notebooks/(\d\d)_", path.read_text(encoding="utf-8")
        ):
            assert label == number, path.name


def test_every_function_that_a_page_names_exists():
    """Names of core modules in backquotes: ``vision.window_index``."""
    modules = {p.stem for p in PIXELS_TO_WORDS} | {"media", "video", "compat", "tracing", "dims"}
    for name in ("guide", "concepts", "papers", "pipeline", "porting", "teaching", "differences"):
        for module, function in re.findall(r"`([a-z_]+)\.([A-Za-z_0-9]+)`", page(name)):
            if module in modules and function != "py" and module != "model":
                assert hasattr(importlib.import_module(f"tinyqwenvl.{module}"), function), function


def test_the_known_bugs_are_all_there_and_caught_by_what_is_said():
    kills = claimed_kills()
    named = []
    for _, spec, mutant, caught in tables("porting", "mutants"):
        named.append(mutant.strip("`"))
        assert re.fullmatch(r"\[\d+\]\(spec\.md#\d+-[a-z-]+\)", spec), spec
        by = caught.strip("`")
        cases = [c for c in kills if c == by or c.split("/")[0] == by]
        assert any(named[-1] in kills[case] for case in cases), (named[-1], by)
    assert sorted(named) == sorted(MUTANTS)


def test_mutants_that_a_page_names_exist():
    for name in ("porting", "papers", "differences"):
        for mutants in re.findall(r"[Mm]utants? ((?:`\w+`(?:,? (?:and )?)?)+)", page(name)):
            for mutant in re.findall(r"`(\w+)`", mutants):
                assert mutant in MUTANTS, mutant
    hunt = re.search(r"\| easy \|.*\n\|[-|]*\n((?:\|.*\n)+)", page("teaching"))[1]
    named = re.findall(r"`(\w+)`", hunt)
    assert len(named) == 12 and set(named) <= set(MUTANTS)


def test_the_messages_of_the_guide_are_those_of_the_code():
    files = [p.read_text(encoding="utf-8") for p in (ROOT / "tinyqwenvl").rglob("*.py")]
    source = re.sub(r'"\s*\n\s*f?"', "", "\n".join(files))  # texts over several lines
    for message, _ in tables("guide", "messages"):
        for piece in message.strip("`").split("..."):
            assert piece in source, piece


def test_the_costs_of_the_guide_are_those_of_the_walk():
    config = presets.preset("qwen2.5-vl-3b")
    for image, tokens, vision, decoder, cache in tables("guide", "check: costs"):
        width, height = map(int, image.split("x"))
        found = walk(config, [(width, height)], text_tokens=49)
        assert found.tokens["image"] == int(tokens.replace(",", ""))
        assert f"{found.flops['vision'] / 1e12:.2f}" == vision
        assert f"{found.flops['decoder'] / 1e12:.2f}" == decoder
        assert f"{4 * found.cache['prompt'] / 1e6:.1f} MB" == cache
        if image == "756x476":
            assert f"{found.flops['new_token'] / 1e9:.1f} GFLOPs" in page("guide")


def test_pages_count_the_lines_of_code():
    """Lines change with every day's work; three pages say the same number, to five percent."""
    texts = [(ROOT / path).read_text(encoding="utf-8") for path in PIXELS_TO_WORDS]
    compared = re.search(r"lines of code, pixels to words \| ([\d,]+) ", page("comparison"))[1]
    about = [
        re.search(r"[Aa]bout ([\d,]+) lines of\s+code", t)[1] for t in (README, page("pipeline"))
    ]
    assert {compared} == set(about)
    assert sum(map(code_lines, texts)) == pytest.approx(int(compared.replace(",", "")), 0.05)


def test_lines_of_code_leave_out_what_is_no_code():
    text = '"""A module."""\n\n# a comment\ndef f(x):\n    """Two\n    lines."""\n'
    assert code_lines(text + '    return """\n\n"""\n') == 4  # def, and a return of three lines


def test_the_teaching_guide_lists_all_notebooks():
    listed = re.findall(
        r"^\| \[\d\d .*?\]\(\.\./notebooks/(\d\d_\w+)\.ipynb\)", page("teaching"), re.M
    )
    assert [name[:2] for name in listed] == [f"{i:02}" for i in range(18)]


def test_minutes_and_figures_of_the_teaching_guide_are_those_of_the_notebooks():
    for notebook, _, _, minutes, figures in tables("teaching", "notebooks"):
        number, title, name = re.fullmatch(
            r"\[(\d\d) (.*)\]\(\.\./notebooks/(\w+)\.ipynb\)", notebook
        ).groups()
        source = (ROOT / "notebooks" / f"{name}.py").read_text(encoding="utf-8")
        assert f"# # {number}. {title}\n" in source, name
        assert re.search(rf"\b{minutes}\s+(# )?minutes\.", source), name
        for figure in re.findall(r"`(\w+)`", figures):
            assert figure in viz.__all__ and re.search(rf"\b{figure}\(", source), (name, figure)


def test_the_pipeline_is_what_a_run_and_the_walk_gave():
    model = load()
    with trace("*") as stages:
        inputs = model.prepare(user_message(EXAMPLE_IMAGE, "describe"))
        model.forward(inputs)
    ran = {name: calls[0].shape for name, calls in stages.items()}
    config = presets.preset("qwen2.5-vl-3b")
    walked = walk(config, [(756, 476)], text_tokens=49, max_pixels=307200)
    ids = list(model.generate(inputs))
    assert model.tokenizer.decode(ids) in README
    cells = list(tables("pipeline", "pipeline"))
    columns = [
        (model.config, ran.get, inputs.image_grid_thw[0], 2, f"{len(ids)} times [815]"),
        (config, lambda name: walked.row(name).shape, (1, 30, 48), 3, "[151936]"),
    ]
    for config, shape, grid, column, scores in columns:
        said = [row[column] for row in cells]
        patches, tokens = int(np.prod(grid)), int(np.prod(grid)) // 4
        full = len(config.vision.fullatt_block_indexes)
        text = config.text
        prompt = shape("model.position_ids")[1]
        assert said[2] == f"[{patches}, 1176], grid ({', '.join(map(str, grid))})"
        assert said[3] == f"{prompt} ids, {tokens} of them placeholders"
        assert said[4] == str(list(shape("visual.patch_embed")))
        assert said[5] == f"{shape('visual.cu_window_seqlens')[0] - 1} windows"
        assert said[6] == f"{config.vision.depth - full} and {full}"
        assert said[7] == str(list(shape("visual")))
        assert said[8] == str(list(shape("model.inputs_embeds")))
        assert said[9] == str(list(shape("model.position_ids")))
        heads = f"{text.num_attention_heads} / {text.num_key_value_heads}"
        assert said[10] == f"{text.num_hidden_layers}, heads {heads}"
        assert said[11].startswith(scores) and f"[{text.vocab_size}]" in said[11]
    assert (
        cells[0][2] == f"{list(ran['image.rgb'])} bytes"
        and ran["image.rgb"] == ran["image.resize"][1:]
    )
    assert cells[0][3] == f"{list(walked.row('image.rgb').shape)} bytes"
    assert cells[1][3] == str(list(walked.row("image.resize").shape[1:]))


def test_the_readme_counts_the_notebooks():
    found = len(list((ROOT / "notebooks").glob("[0-9][0-9]_*.py")))
    counts = {int(n) for n in re.findall(r"\b(\d+) notebooks", README)}
    assert counts == {found}


def test_the_answers_of_the_readme_are_true():
    model = load()
    asked, answers = re.search(
        r'(tinyqwenvl run \S+ "How.*?)```\n\n```\n(.*?)```', README, re.DOTALL
    ).groups()
    questions = re.findall(r'scene\.png "(.*?)"', asked)
    assert [model.ask(EXAMPLE_IMAGE, q) for q in questions] == answers.splitlines()
