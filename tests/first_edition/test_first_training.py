"""Questions, training batches, and the state of a training run."""

import json

import numpy as np
import pytest

import tinyqwenvl
from scripts.first_edition import questions, scenes, words
from tinyqwenvl.model import EMBEDDED


def test_questions_by_colour_or_kind_alone():
    """Counts, boxes and labels follow the half of the name that is asked about."""
    star = scenes.Shape("", "star", (0, 0, 30, 30), paint=(120, 220, 200))
    odd = scenes.Shape("red", "", (40, 40, 70, 70), outline=((0, 0), (1, 0), (0, 1)))
    circle = scenes.Shape("blue", "circle", (80, 80, 110, 110))
    scene = scenes.Scene(112, 112, (star, odd, circle))
    assert questions.fitting(scene, "star") == [star]
    assert questions.fitting(scene, "red shape") == [odd]
    assert questions.fitting(scene, "blue shape") == questions.fitting(scene, "circle") == [circle]
    doubtful = [c for c in scenes.COLOURS if questions.may_be_called(star, c)]
    assert "green" in doubtful and "red" not in doubtful
    rng = np.random.default_rng(0)
    asked = [q for q in (questions.ask_part(rng, scene) for _ in range(400)) if q]
    assert {q.skill for q in asked} == set(questions.PART_SKILLS)
    for question in asked:
        text = question.text.lower()
        assert not any(colour in text for colour in doubtful)
        assert not any(f"{c} {k}" in text for c in scenes.COLOURS for k in scenes.KINDS)
        if question.skill == "count":
            assert question.answer == str(
                int(any(w in text for w in ("star", "red", "blue", "circle")))
            )
        if question.skill == "locate":
            item = json.loads(question.answer)
            assert item["label"] in text
            assert tuple(item["bbox_2d"]) == questions.fitting(scene, item["label"])[0].box
        if question.skill == "colour":
            assert "circle" in text and question.answer == "Blue."


def test_no_training_question_names_a_held_out_pair():
    pytest.importorskip("torch")
    from tokenizers import Tokenizer

    from scripts.first_edition import batches

    tokenizer = Tokenizer.from_file(str(EMBEDDED / "tokenizer.json"))
    encoder = batches.Encoder(tokenizer)
    seen = set()
    for step in (2000, 2001):
        for batch in batches.make_step(encoder, 1, step):
            seen |= {questions.SKILLS[i] for i in np.unique(batch["skills"]) if i >= 0}
            for row in batch["ids"]:
                text = tokenizer.decode(row.tolist())
                assert not any(f"{colour} {kind}" in text for colour, kind in scenes.HELD_OUT)
    assert {"change", "read", "locate", "count", "describe"} <= seen


def test_training_rows_of_two_images_are_what_the_package_prepares():
    pytest.importorskip("torch")
    from tokenizers import Tokenizer

    from scripts.first_edition import batches

    tokenizer = Tokenizer.from_file(str(EMBEDDED / "tokenizer.json"))
    encoder = batches.Encoder(tokenizer)
    rng = np.random.default_rng(0)
    change = scenes.make_change(rng, 4, 5)
    pair = scenes.draw_frames(rng, (change.before, change.after))
    text = "What changed?"
    content = [*({"image": p} for p in pair), {"text": text}]
    inputs = tinyqwenvl.load().prepare([{"role": "user", "content": content}])
    ids = encoder.question(text)
    branches = [batches.Branch.asking(ids)]
    row = batches.make_row(encoder, "<|image_pad|>", (1, 8, 10), 1.0, branches, images=2)
    np.testing.assert_array_equal(row.ids, inputs.input_ids)
    np.testing.assert_array_equal(row.positions, inputs.position_ids)


@pytest.mark.parametrize(
    ("skill", "asked", "answer", "unsaid"),
    [
        ("colour", "What colour is the heart?", "Pink.", ["Blue."]),
        ("colour", "What colour is the circle?", "Pink.", []),
        ("absent", "What colour is the heart?", questions.NOT_THERE, []),
        ("shape", "Which shape is red?", "A ring.", ["A star."]),
        ("describe", "Describe.", "An orange cross on the left.", ["An yellow cross on the left."]),
        ("describe", "Describe.", "A red ring.", ["A green ring.", "A red star."]),
        (
            "change",
            "What changed?",
            "The pink heart turned black.",
            ["The blue heart turned black.", "The pink heart turned blue."],
        ),
    ],
)
def test_training_does_not_say_no_to_held_out_pairs(skill, asked, answer, unsaid):
    assert questions.unsaid(questions.Question(skill, asked, answer)) == unsaid


@pytest.mark.parametrize(
    ("asked", "others", "denies"),
    [
        ("How many hearts are there?", "blue square", True),
        ("How many hearts are there?", "green square", False),
        ("How many crosses are there?", "yellow ring", True),
        ("count the green shapes", "red ring", True),
        ("Is there a star? Reply Y or N.", "red circle", True),
        ("Is the green shape left of the square?", "pink ring", True),
        ("What colour is the triangle?", "purple square", True),
        ("What shape is red?", "pink star", True),
        ("Locate the green star.", "red ring", False),  # the star alone tells them apart
        ("Which is higher, the red heart or the blue star?", "blue square", False),
        ("How many shapes are there?", "blue square", False),
        ("Describe.", "blue square", False),
    ],
)
def test_a_question_that_would_say_no_to_a_held_out_pair_is_not_asked(asked, others, denies):
    shape = scenes.Shape(*others.split(), (0, 0, 28, 28))
    question = questions.Question("", asked, "")
    assert questions.denies(question, scenes.Scene(112, 112, (shape,))) == denies


@pytest.mark.parametrize(
    ("asked", "given", "denies"),
    [
        ("Is there a ring?", {"colour": "", "paint": (0, 90, 60)}, True),
        ("Is there a ring?", {"colour": "", "paint": (90, 60, 0)}, False),
        ("Is there a ring?", {"colour": "", "paint": (90, 90, 90)}, False),
        ("Is there a green shape?", {"kind": "", "form": "arc"}, True),
        ("Is there a green shape?", {"kind": "", "form": "bars"}, False),
        ("Is there a red shape?", {"kind": "", "form": "polygon"}, True),
    ],
)
def test_nor_beside_a_shape_without_a_name_that_is_like_it(asked, given, denies):
    shape = scenes.Shape(**{"colour": "pink", "kind": "square", "box": (0, 0, 28, 28)} | given)
    question = questions.Question("", asked, "")
    assert questions.denies(question, scenes.Scene(112, 112, (shape,))) == denies


@pytest.mark.parametrize("unnamed", [False, True])
def test_training_asks_no_such_question(unnamed):
    pytest.importorskip("torch")
    from scripts.first_edition import batches

    asked, rng = [], np.random.default_rng(3)
    for _ in range(60):
        scene = scenes.make_scene(rng, 4, 4)
        stream = batches.scene_questions
        if unnamed:
            scene, stream = scenes.with_unnamed(rng, scene), batches.part_questions
        asked += zip([scene] * 20, stream(rng, scene), strict=False)
    assert not any(questions.denies(question, scene) for scene, question in asked)
    for part in (part for pair in scenes.HELD_OUT for part in pair):  # beside other shapes
        assert any(part in question.text for _, question in asked)


def test_hints_do_not_say_no_to_a_held_out_pair():
    torch = pytest.importorskip("torch")
    from scripts.first_edition.hints import HintHead, cell_labels

    torch.manual_seed(0)
    head, numbers, features = HintHead(8), torch.randn(225, 8), torch.randn(16, 8)
    kinds = len(scenes.KINDS) + 1

    def pushed(*names):
        """Gradients of the kinds' and the colours' scores in cells that show one shape."""
        head.zero_grad()
        shapes = (scenes.Shape(*names, (0, 0, 112, 112)),)
        labels, cells = map(torch.from_numpy, cell_labels(scenes.Scene(112, 112, shapes)))
        head.loss(features, numbers, labels, cells).backward()
        return head.read.bias.grad[:kinds], head.read.bias.grad[kinds:][: len(scenes.COLOURS) + 1]

    kind, colour = pushed("blue", "ring")
    heart, green = scenes.KINDS.index("heart") + 1, list(scenes.COLOURS).index("green") + 1
    assert kind[heart] == colour[green] == 0
    assert np.count_nonzero(kind) == kinds - 1 and np.count_nonzero(colour) == len(scenes.COLOURS)
    kind, colour = pushed("pink", "square")
    assert kind.all() and colour.all()


def test_what_is_left_out_is_one_word_of_a_held_out_pair():
    pytest.importorskip("torch")
    from tokenizers import Tokenizer

    from scripts.first_edition import batches

    tokenizer = Tokenizer.from_file(str(EMBEDDED / "tokenizer.json"))
    encoder = batches.Encoder(tokenizer)

    def left_out(skill, asked, answer):
        reply = encoder.answer(answer)
        tokens = encoder.unsaid(questions.Question(skill, asked, answer), reply)
        return [tokenizer.decode([token]) if token >= 0 else "" for token in tokens]

    found = left_out("describe", "Describe.", "A red ring on the left.")
    assert found[:4] == ["", " green", " star", ""] and not any(found[4:])
    begins = {colour: encoder.text(colour.capitalize())[0] for colour in scenes.COLOURS}
    for colour, kind in scenes.HELD_OUT:
        for said in set(scenes.COLOURS) - {colour}:
            question = questions.Question("colour", f"What colour is the {kind}?", "")
            question = question._replace(answer=f"{said.capitalize()}.")
            first, *rest = encoder.unsaid(question, encoder.answer(question.answer))
            assert first not in {begins[taught] for taught in scenes.COLOURS if taught != colour}
            shared = begins[colour] == begins["pink"]  # P, of Purple: told apart after it
            assert (first == begins[colour]) != shared
            assert any(token >= 0 for token in rest) == (shared and said == "pink")


def test_the_loss_does_not_push_down_what_is_left_out():
    torch = pytest.importorskip("torch")
    from scripts.first_edition.batches import NO_TOKEN
    from scripts.first_edition.train import answer_losses

    scores = torch.tensor([[1.0, 2.0, 0.5, 0.0]] * 2, requires_grad=True)
    losses = answer_losses(scores, torch.tensor([0, 0]), torch.tensor([1, NO_TOKEN]))
    losses.sum().backward()
    assert scores.grad[0, 1] == 0 and (scores.grad[0, 2:] > 0).all() and scores.grad[0, 0] < 0
    assert (scores.grad[1, 1:] > 0).all() and losses[0] < losses[1]


def test_training_batches_leave_out_tokens_of_answers_only():
    pytest.importorskip("torch")
    from tokenizers import Tokenizer

    from scripts.first_edition import batches

    encoder = batches.Encoder(Tokenizer.from_file(str(EMBEDDED / "tokenizer.json")))
    for batch in batches.make_step(encoder, 1, 2000)[:3]:  # the rest are words
        some = batch["unsaid"] >= 0
        assert some.any() and (batch["unsaid"] != batch["ids"])[some].all()
        assert (batch["weights"][some] > 0).all()


def test_hints_say_what_each_cell_covers():
    """Kind, colour and character count from 1; what has no name is not asked for."""
    pytest.importorskip("torch")
    from scripts.first_edition.hints import UNNAMED, cell_labels

    shapes = (
        scenes.Shape("", "square", (0, 0, 28, 28), paint=(120, 120, 10)),
        scenes.Shape("orange", "", (56, 84, 84, 112), outline=((0, 0), (1, 0), (0, 1))),
    )
    labels = cell_labels(scenes.Scene(112, 112, shapes))[0].reshape(4, 4, 7)
    assert labels[0, 0].tolist() == [2, UNNAMED, 0, 0, 0, 14, 14]
    assert labels[3, 2].tolist() == [UNNAMED, 2, 0, 28, 42, 42, 56]
    assert np.count_nonzero(labels.any(-1)) == 2
    word = words.Word(112, 112, "B7", 40, ((0, 28, 28, 56), (56, 28, 84, 56)), ((0, 56), (56, 56)))
    labels = cell_labels(word)[0].reshape(4, 4, 7)
    assert labels[1, 0, 2] == 2 and labels[1, 2, 2] == len(words.LETTERS) + 8
    assert np.count_nonzero(labels) == 2


def test_what_is_exported_is_the_mean_of_the_weights(tmp_path, monkeypatch, capsys):
    torch = pytest.importorskip("torch")
    from safetensors.torch import load_file
    from tokenizers import Tokenizer

    from scripts.first_edition import export, train

    tokenizer = Tokenizer.from_file(str(EMBEDDED / "tokenizer.json"))
    (tmp_path / ".train").mkdir()
    for folder in (tmp_path, tmp_path / ".train"):
        tokenizer.save(str(folder / "tokenizer.json"))
    network, mean, *rest = train.load_or_start(tmp_path, tokenizer, "cpu")
    mean.update_parameters(network)
    before = network.model.norm.weight.detach().clone()
    with torch.no_grad():
        network.model.norm.weight += 100
    mean.update_parameters(network)
    train.save_all(tmp_path, network, mean, *rest)
    again, mean, *_ = train.load_or_start(tmp_path, tokenizer, "cpu")
    assert torch.equal(again.model.norm.weight, before + 100)
    expected = before + 100 * (1 - train.MEAN_DECAY)
    torch.testing.assert_close(mean.module.model.norm.weight, expected)
    exported = tmp_path / "out" / "model.safetensors"

    def export_mean(*folders):
        words = ["--state", *map(str, folders)] if folders else []
        monkeypatch.setattr("sys.argv", ["", *words, "--out", str(exported.parent)])
        export.main()
        return load_file(exported)["model.norm.weight"]

    assert torch.equal(export_mean(tmp_path), expected.to(torch.bfloat16))
    with torch.no_grad():
        mean.module.model.norm.weight.copy_(before + 300)
    train.save_all(tmp_path / ".train", network, mean, *rest)
    assert torch.equal(
        export_mean(tmp_path, tmp_path / ".train"),
        ((expected + before + 300) / 2).to(torch.bfloat16),
    )
    monkeypatch.chdir(tmp_path)  # the folder .train, unless another is given
    assert torch.equal(export_mean(), (before + 300).to(torch.bfloat16))
    with pytest.raises(SystemExit):
        export_mean("nowhere")
    assert "nowhere has no state.pt" in capsys.readouterr().err


def test_training_goes_on_where_it_stopped(tmp_path):
    """Every step goes into the mean and into the counters, which a second slice takes up."""
    torch = pytest.importorskip("torch")
    from scripts.first_edition import train

    steps = []
    for _ in range(2):
        before = steps[-1]["counters"]["seconds"] if steps else 0
        train.train(tmp_path, seconds=1e-3, of=before + 1)
        steps.append(torch.load(tmp_path / "state.pt", weights_only=True))
    first, second = steps
    assert (first["counters"]["steps"], second["counters"]["steps"]) == (1, 2)
    assert second["counters"]["seconds"] > first["counters"]["seconds"]
    assert (first["mean"]["n_averaged"], second["mean"]["n_averaged"]) == (1, 2)
    name = "model.norm.weight"
    moved = second["network"][name] - first["network"][name]
    expected = first["network"][name] + (1 - train.MEAN_DECAY) * moved
    assert moved.abs().max() > 0
    torch.testing.assert_close(second["mean"][f"module.{name}"], expected)
