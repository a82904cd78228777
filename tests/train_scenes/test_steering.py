# ruff: noqa: E402
"""What was changed between slices of training, and that the evaluation did not change with it."""

import hashlib
import json
import re
from itertools import islice, pairwise
from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="the training needs PyTorch")

from scripts.train_scenes import clips, gpu_slice, language, layout, steering, train, words, world
from scripts.train_scenes.language import asking, foreign, grammar, rewordings, texts
from scripts.train_scenes.optimisers import RunningMean
from scripts.train_scenes.scene import TRAINING, Scene, generator

NEWCOMERS = json.loads((Path(__file__).parent / "newcomers.json").read_text(encoding="utf-8"))
HELD_OUT = "494ffa595ee9151ab14a3e6e71762d1148d4a3edc1c2a7ec16b51753d2dd989e"  # of 452 texts


def held_out():
    """Every held-out text with its key: requests, decorations, other languages."""
    said = [f"{k}:{t}" for k, lines in grammar.split_requests()[1].items() for t in lines]
    said += [f"{k}:{t}" for k, lines in grammar.decorations(True).items() for t in lines]
    for name in foreign.LANGUAGES:
        lists = foreign.texts_of(name, True).items()
        said += [f"{name}.{key}:{text}" for key, lines in lists for text in lines]
    return said


def said_in_training(key):
    """Every text, with its choices made, that training may say for a key."""
    if key in grammar.REQUESTS:
        return {line for some in grammar.training_texts(key) for text in some
                for line in rewordings.expand(text)}  # fmt: skip
    name, _, key = key.partition(".")
    return set(foreign.texts_of(name)[key])


def test_what_is_held_out_is_what_was_held_out_in_the_first_slices():
    said = "\n".join(sorted(held_out()))
    assert hashlib.sha256(said.encode()).hexdigest() == HELD_OUT


def test_later_requests_say_nothing_that_is_held_out():
    first, count = rewordings.wordings(held_out_english()), 0
    base = grammar.split_requests()[0]
    for key in grammar.REQUESTS:
        old = {line for text in base[key] for line in rewordings.expand(text)}
        later = said_in_training(key) - old
        count += len(later)
        assert not {rewordings.plain(text) for text in later} & first, key
    assert count > 2500
    for name, module in foreign.LANGUAGES.items():
        for lines in foreign.texts_of(name).values():
            hidden = {t for lines in foreign.texts_of(name, True).values() for t in lines}
            assert not set(lines) & hidden
        assert sum(map(len, foreign.texts_of(name).values())) >= 2 * sum(
            map(len, module.REQUESTS.values())
        )
    for name, lines in grammar.decorations(False).items():
        assert not set(lines) & set(grammar.decorations(True)[name])


def held_out_english():
    return [text for lines in grammar.split_requests()[1].values() for text in lines]


def test_what_is_forbidden_is_left_out():
    forbidden = rewordings.wordings(["which [big|small] one is it?"])
    assert rewordings.without("which the [small|red] one is it, please", forbidden) == (
        "which the red one is it, please",
    )
    assert rewordings.expand("a [b|] c") == ["a b c", "a c"]


def test_later_requests_are_not_those_of_newcomers():
    same = []
    for key, lines in NEWCOMERS.items():
        name, _, rest = key.partition(".")
        first = grammar.REQUESTS.get(key) or foreign.LANGUAGES[name].REQUESTS[rest]
        later = {rewordings.plain(t) for t in said_in_training(key)} - rewordings.wordings(first)
        same += [line for line in lines if rewordings.plain(line) in later]
    assert not same, same


def test_every_later_request_can_be_filled():
    slots = set(re.findall(r"\{(\w+)\}", " ".join(map(" ".join, grammar.REQUESTS.values()))))
    assert set(rewordings.LATER) <= set(grammar.REQUESTS)
    voice = grammar.Voice(np.random.default_rng(0))
    for key in grammar.REQUESTS:
        known = set(re.findall(r"\{(\w+)\}", " ".join(grammar.REQUESTS[key])))
        known |= {
            "in",
            "image",
            "shapes",
            "object",
            "see",
            "colour",
            "box",
            "json",
            "thing",
        } & slots
        for text in said_in_training(key):
            assert set(re.findall(r"\{(\w+)\}", text)) <= known, (key, text)
            filled, _ = voice._fill(grammar.compile_template(text), dict.fromkeys(known, "X"))
            assert filled and not re.search(r"[{}|\[\]]", filled), (key, text)
    for name, module in foreign.LANGUAGES.items():
        for key, lines in foreign.texts_of(name).items():
            known = set(re.findall(r"\{(\w+)\}", " ".join(module.REQUESTS[key])))
            assert all(set(re.findall(r"\{(\w+)\}", text)) <= known for text in lines), key


def test_no_words_are_asked_for_two_things():
    """Requests whose answers differ for the same image must not have the same words."""
    for one, other in (
        ("chat.hello", "describe"), ("chat.hello", "list"), ("chat.hello", "read"),
        ("describe", "list"), ("locate", "place"), ("locate", "point"), ("locate", "locate_all"),
        ("size.biggest", "size.smallest"), ("other", "describe"), ("other", "change"),
        ("place", "point"), ("between", "side"), ("read", "list"), ("read", "describe"),
    ):  # fmt: skip
        first, second = (
            {text.strip(".?! ") for text in said_in_training(key)} for key in (one, other)
        )
        assert not first & second, (one, other, first & second)


# -------------------------------------------------------------------------------- the mixture


def test_skills_are_steered_in_training_alone():
    scene = next(s for s in (texts.made_up_scene(generator(i)) for i in range(99)) if s.shapes)
    table = asking.table_of(scene)
    moved = asking.steered(table)
    assert moved["between"][1] == 3 * table["between"][1] and moved["absent"] == table["absent"]
    assert set(steering.QUESTIONS) <= set(language.SKILLS)
    counts = {fair: 0 for fair in (True, False)}
    for fair in counts:
        rng = generator(3)
        for i in range(200):
            scene = world.make_image(generator(5, i), family="free")
            asked = islice(language.ask(rng, scene, fair=fair), 12)
            counts[fair] += sum(q.skill in ("size", "place", "between") for q in asked)
    assert counts[True] > 1.5 * counts[False] > 0


def test_images_are_steered_in_training_alone():
    assert set(steering.FAMILY_SHARES) == set(world.SHARES)
    assert sum(steering.FAMILY_SHARES.values()) == pytest.approx(1)
    assert world.SHARES["word"] == 0.06  # what figures before and after are measured on
    shares = {}
    for training in (True, False):
        made = [world.make_image(generator(6, i), training=training) for i in range(500)]
        shares[training] = np.mean([isinstance(s, Scene) and bool(s.words) for s in made])
    assert shares[True] > shares[False] > 0.05


def test_the_table_of_changes_is_printed(capsys):
    steering.main()
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 2 + len(steering.rows()) and all(line.count("|") == 5 for line in lines)


def test_conversations_are_long_more_often():
    rng, lengths = generator(8), []
    for i in range(200):
        scene = world.make_image(generator(9, i), family="free")
        lengths.append(len(language.conversation(rng, [scene])))
    assert max(lengths) == 6 and np.mean(np.array(lengths) >= 5) > 0.35


def test_words_of_syllables_have_no_look_alikes():
    made = 0
    for i in range(1500):
        text = words.make_training_text(generator(10, TRAINING, i))
        assert 1 <= len(text) <= 8 and text.isalnum() and text.isascii()
        if text.lower() not in words.WORDS:
            made += 1
            assert not set(text) & set("IOl") and set(text) - words.ALIKE, text
            assert not any(a.isdigit() and b.isdigit() for a, b in pairwise(text))
    assert made > 800


def test_what_appears_in_a_video_of_training_is_not_hidden():
    for i in range(150):
        clip = world.make_clip(generator(11, TRAINING, i))
        for name in clip.moves:
            boxes = [s.box for f in clip.frames for s in f.shapes if s.name == name]
            walk = [abs(b - a) for a, b in zip(boxes[0], boxes[-1], strict=True)]
            assert max(walk) >= clips.LEAST_WALK
            for frame in clip.frames:
                comers = [s.box for s in frame.shapes if s.name in clip.appears]
                mover = next(s.box for s in frame.shapes if s.name == name)
                assert layout.fits(mover, comers, [0] * len(comers))


# --------------------------------------------------------------------------------- the rates


@pytest.mark.parametrize(
    ("final", "progress", "rate"),
    [(None, 0.99, 1.0), (1.0, 0.25, 0.75), (0.25, 0.5, 1.0), (0.25, 0.9, 0.4), (0.25, 1.01, 0.0)],
)
def test_rates_fall_in_the_end_of_a_final_slice(final, progress, rate, monkeypatch):
    some = object.__new__(train.Slice)
    some.options = train.parse(["--final", str(final)] if final else [])
    monkeypatch.setattr(train.Slice, "progress", lambda self: progress)
    assert some.rate() == pytest.approx(rate)


def test_a_share_out_of_range_is_refused(capsys):
    for share in ("0", "1.5", "-1"):
        with pytest.raises(SystemExit) as ended:
            train.parse(["--final", share])
        assert ended.value.code == 2 and "--final" in capsys.readouterr().err
    assert train.parse(["--final"]).final == 1.0


def test_the_mean_looks_back_less_far_where_rates_fall():

    network = torch.nn.Linear(1, 1, bias=False)
    for rate, share in ((1.0, 1e-3), (0.5, 2e-3), (0.0, 1e-2)):
        with torch.no_grad():
            network.weight.fill_(0)
        mean = RunningMean(network)
        with torch.no_grad():
            network.weight.fill_(1)
        mean.update(100_000, rate)
        assert mean.values[0].item() == pytest.approx(share, rel=1e-3)


def test_a_slice_on_a_gpu_passes_the_share_on(tmp_path, monkeypatch):
    started = []
    monkeypatch.setattr(gpu_slice, "start", lambda *words: started.append(words))
    monkeypatch.setattr(gpu_slice, "finish", lambda process, seconds: 0)
    words_ = ["100", "--out", tmp_path / "out", "--work", tmp_path / "work", "--no-evaluation"]
    for more in ([], ["--final", "0.3"]):
        gpu_slice.main([*map(str, words_), *more])
    assert "--final" not in started[0]
    assert started[1][started[1].index("--final") + 1] == 0.3
