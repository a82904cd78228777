# ruff: noqa: E402
"""The training network, its packed batches and its answers against the package."""

import json

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="the training needs PyTorch")

import tinyqwenvl
from scripts.train_scenes import answers, drawing, language, tokenizer, world
from scripts.train_scenes.answers import (
    advance,
    load_network,
    medium_of,
    messages_of,
    network_answers,
    package_answers,
    tree_of,
)
from scripts.train_scenes.batches import SKILL, Size, make_step, turn_of
from scripts.train_scenes.cases import Case, Seen, make_case, parse, score
from scripts.train_scenes.export import export
from scripts.train_scenes.hints import CHARACTERS, UNNAMED, cell_labels
from scripts.train_scenes.language import Question
from scripts.train_scenes.language.honesty import BYE, HELLO
from scripts.train_scenes.learner import Learner, answer_losses, encode, run_text
from scripts.train_scenes.network import Config, VisionConfig
from scripts.train_scenes.packing import NO_TOKEN, Encoder, Tree, Turn, cut, pack
from scripts.train_scenes.scene import COLOURS, KINDS, Scene, Shape, Word, generator

TOKENIZER = tokenizer.load()
VISION = VisionConfig(depth=2, hidden_size=64, intermediate_size=64, num_heads=2,
                      fullatt_block_indexes=(1,))  # fmt: skip
SMALL = Config(TOKENIZER.get_vocab_size(), 64, 64, 2, 2, 1, vision=VISION)


@pytest.fixture(scope="module")
def learner():
    torch.manual_seed(0)
    found = Learner(TOKENIZER, "cpu", config=SMALL)
    with torch.no_grad():
        for weight in found.network.parameters():
            if weight.ndim < 2:  # biases and norms, which are all alike at the beginning
                weight.add_(0.2 * torch.randn_like(weight))
            weight.copy_(weight.bfloat16().float())
    return found


@pytest.fixture(scope="module")
def folder(learner, tmp_path_factory):
    path = tmp_path_factory.mktemp("checkpoint")
    export(dict(learner.network.named_parameters()), SMALL, TOKENIZER, path)
    return path


@pytest.fixture(scope="module")
def talks():
    """Cases with images in later turns, a video, and no image."""
    rng = generator(3, 1)
    images = [Seen(drawing.draw(rng, [world.make_image(rng, family="easy")])[0][None])
              for _ in range(3)]  # fmt: skip
    wide = Scene(336, 56, (Shape("red", "circle", (200, 10, 230, 40)),))
    images.append(Seen(drawing.draw(rng, [wide])[0][None]))
    clip = world.make_clip(rng)
    frames = np.stack(drawing.draw(rng, list(clip.frames)))[:5]
    video = Seen(frames, 1.4)
    return [
        Case((((images[0],), "Describe the image."), ((images[1],), "And now?"), ((), "Hm")),
             ("A red circle.", "Nothing changed."), "No.", None),
        Case((((video,), "When does it appear?"),), (), "At 3.5 seconds.", None),
        Case((((), "hello 你好"), ((images[2], images[3]), "What changed?")), ("Hi",), "ok", None),
        Case((((images[3],), "How many?"),), (), "12", None),
    ]  # fmt: skip


@pytest.mark.parametrize("granule", [4, 32])
def test_ids_positions_and_logits_are_those_of_the_package(learner, folder, talks, granule):
    model, encoder = tinyqwenvl.load(folder), Encoder(TOKENIZER)
    for case in talks:
        media = [tuple(medium_of(s) for s in shown) for shown, _ in case.turns]
        tree = tree_of(encoder, case, media, encoder.text(case.answer), 0)
        inputs = model.prepare(messages_of(case))
        count = len(inputs.input_ids)
        assert tree.ids[:count] == list(inputs.input_ids)
        np.testing.assert_array_equal(tree.positions()[:, :count], inputs.position_ids)
        arrays, layout = pack([tree], granule)
        batch = {name: torch.from_numpy(array) for name, array in arrays.items()}
        with torch.no_grad():
            features = encode(learner.network, batch, layout) if layout["patches"] else None
            hidden = run_text(learner.network, batch, layout, features)
            logits = learner.network.logits(hidden[:count]).numpy()
        np.testing.assert_allclose(logits, model.forward(inputs), atol=2e-5)


def test_branches_do_not_attend_to_each_other(learner):
    encoder, rng = Encoder(TOKENIZER), generator(4, 1)
    scene = world.make_image(rng, family="easy")
    medium = medium_of(Seen(drawing.draw(rng, [scene])[0][None]))
    first, second = [Turn("Describe.", "A red star.", 0)], [Turn("How many?", "3", 1)]
    losses = {}
    for name, branches in {"both": (first, second), "alone": (second,)}.items():
        tree = Tree(encoder, [medium])
        for branch in branches:
            tree.add(branch)
        arrays, layout = pack([tree])
        batch = {key: torch.from_numpy(array) for key, array in arrays.items()}
        with torch.no_grad():
            found, _ = learner.losses(batch, layout)
        losses[name] = found[batch["skills"] == 1]
    torch.testing.assert_close(losses["both"], losses["alone"])


def test_the_package_and_the_network_give_the_same_answers(folder, talks, monkeypatch):
    monkeypatch.setattr(answers, "LONGEST", 20)
    cases = [case._replace(answer="Yes, a red circle.") for case in talks]
    network, found = load_network(folder)
    mine = network_answers(network, found, cases)
    theirs = package_answers(folder, cases)
    for case, (a, _), (b, _) in zip(cases, mine, theirs, strict=True):
        assert a[:24] == b[:24] and len(a) >= 24, case.turns[-1][1]


def test_advance_ends_only_where_nothing_changes():
    assert advance([5, 6], [5, 6, 9], 9) == ([5, 6], True)
    assert advance([5, 6], [5, 9, 9], 9) == ([5], True)  # it ends sooner, and all before is right
    guess, done = advance([5, 6], [7, 6, 9], 9)
    assert (guess, done) == ([7, 6], False)
    guess, done = advance([5, 6], [5, 6, 7], 9)
    assert guess[:3] == [5, 6, 7] and len(guess) > 3 and not done


def test_an_unsaid_token_gets_no_gradient():
    logits = torch.randn(2, 5, requires_grad=True)
    losses = answer_losses(logits, torch.tensor([1, 1]), torch.tensor([3, NO_TOKEN]))
    losses.sum().backward()
    assert logits.grad[0, 3] == 0 and logits.grad[1, 3] != 0
    kept = torch.cat([logits[0, :3], logits[0, 4:]])
    expected = torch.nn.functional.cross_entropy(kept[None], torch.tensor([1]))
    torch.testing.assert_close(losses[0], expected)


def test_unsaid_words_of_a_question_stand_where_they_would_be_said():
    encoder = Encoder(TOKENIZER)
    turn = turn_of(Question("colour", "What colour is the heart?", "Red."))
    tree = Tree(encoder)
    tree.add([turn])
    assert tree.lessons[0].skill == SKILL["colour"]
    named = [TOKENIZER.id_to_token(t) for t in tree.lessons[0].unsaid if t != NO_TOKEN]
    assert all(name.strip("Ġ").lower() == "blue" for name in named)


def test_tokens_of_numbers_names_and_other_text():
    for number in [*range(100), *range(100, 801, 2)]:
        assert len(TOKENIZER.encode(str(number)).ids) == 1
    for name in (*COLOURS, *KINDS):
        for form in (f" {name}", name.capitalize()):
            assert len(TOKENIZER.encode(form).ids) == 1
    for text in ("Où est le cœur ? 描述这张图片。", "x = {1: [2]}\n\n\t–", "🙂"):
        assert TOKENIZER.decode(TOKENIZER.encode(text).ids) == text
    assert 1500 <= TOKENIZER.get_vocab_size() <= 3000


def test_steps_do_not_depend_on_what_was_made_before():
    encoder, size = Encoder(TOKENIZER), Size(800, 100, 4)
    one, layout = make_step(encoder, 5, 4000, size)
    make_step(encoder, 5, 4001, size)
    again, _ = make_step(Encoder(TOKENIZER), 5, 4000, size)
    assert one.keys() == again.keys() and layout["images"] > 0
    for name, array in one.items():
        np.testing.assert_array_equal(array, again[name])
    other, _ = make_step(encoder, 5, 4001, size)
    assert other["stills"].shape != one["stills"].shape or (other["stills"] != one["stills"]).any()
    assert (one["ids"][one["before"] + 1] == one["targets"]).all()


def test_lengths_are_cut_into_groups_of_like_ones():
    lengths = [10, 11, 12, 30, 31, 90]
    groups = cut(lengths, 0.8)
    assert groups == [(0, 3, 12), (3, 5, 31), (5, 6, 90)]


def test_labels_of_cells():
    shapes = (Shape("red", "circle", (0, 0, 56, 56)), Shape("", "star", (84, 84, 112, 112)))
    scene = Scene(112, 112, shapes, (Word("Hi", (56, 0, 112, 28)),))
    labels, cells = cell_labels(scene)
    labels = labels.reshape(4, 4, 7)
    circle, red = KINDS.index("circle") + 1, list(COLOURS).index("red") + 1
    assert labels[1, 1].tolist() == [circle, red, 0, 0, 0, 28, 28]
    assert labels[3, 3, 1] == UNNAMED and labels[3, 3, 3:].tolist() == [42, 42, 56, 56]
    assert labels[0, 2, 2] == CHARACTERS.index("H") + 1
    assert labels[2, 0].tolist() == [0, 0, 0, *[UNNAMED] * 4]
    assert cells.shape == (16, 2) and np.allclose(cells[0], 0.125)


def test_scores():
    scene = Scene(112, 112, (Shape("red", "circle", (10, 10, 30, 30)),))
    box = Case(
        (((), "Is it? (Y/N)"),), (), json.dumps({"bbox_2d": [10, 10, 30, 30], "label": "x"}), scene
    )
    assert score(box, "locate", '{"bbox_2d": [10, 10, 30, 20]}') == 0.5
    assert score(box, "locate", '{"bbox_2d": [20, 20, 60, 60]}', (0.5, 0.5)) == 1
    assert score(box, "locate", "I don't see one.") == 0
    assert score(box, "locate", '{"bbox_2d": [10, "a", 30, 20]}') == 0
    point = box._replace(answer='{"point_2d": [20, 20], "label": "x"}')
    assert score(point, "point", '{"point_2d": [29, 12]}') == 1
    assert score(point, "point", '{"point_2d": [31, 12]}') == 0
    when = box._replace(answer="At 3.5 seconds.")
    assert score(when, "when", "At 4 seconds.") == 1 and score(when, "when", "At 5 seconds.") == 0
    happens = box._replace(answer="The red star appears at 3.5 seconds.")
    assert score(happens, "happens", "The red star appears at 3 seconds.") == 1
    assert score(happens, "happens", "The red star appears at 4.5 seconds.") == 0
    assert score(happens, "happens", "The red ring appears at 3.5 seconds.") == 0
    assert score(box._replace(answer="Red."), "colour", "Red") == 0
    letter = box._replace(answer="Y")
    assert [score(letter, "yes_no", text) for text in ("Y", "Yes.", "No.")] == [1, 1, 0]
    asked = letter._replace(turns=(((), "Is it? Reply Y or N."),))
    assert score(asked, "yes_no", "Yes.") == 0
    assert score(box._replace(answer=BYE), "chat", HELLO) == 1
    assert score(box._replace(answer=HELLO), "chat", BYE) == 0
    assert parse('```json\n[{"a": 1}]\n```') == [{"a": 1}]


@pytest.mark.parametrize("skill", ["describe", "change", "when", "refuse", "no_image", "turn_2"])
def test_cases_can_be_made_in_held_out_styles_and_phrasings(skill):
    first = make_case(1, skill, 0, "held-out", "held-out")
    again = make_case(1, skill, 0, "held-out", "held-out")
    assert first.answer == again.answer and first.turns[-1][1] == again.turns[-1][1]
    assert len(first.turns) == (2 if skill == "turn_2" else 1)
    assert skill in language.SKILLS or skill == "turn_2"
