"""Sampling: probabilities of the next token, and of each token of an answer."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import numpy as np

from ..dims import Array, Float
from ..nn import softmax
from .style import COLOURS, FAINT, INK, Drawing, drawing
from .words import drawable, readable


def next_token(
    scores: Mapping[str, Float[Array, "V"]],
    word: Callable[[int], str],
    most: int = 8,
    title: str = "The next token",
) -> Drawing:
    """The highest probabilities of the next token, under one or several sampling settings.

    ``scores`` are logits [V] by name, or what :meth:`sampling.Sampling.scores` makes of them; a
    token with -inf is excluded. ``word`` names an id. All panels have the top tokens of the first,
    in its order (a space before a word is part of it), and the sum of all others last.
    """
    chances = {name: softmax(each.astype(np.float64)) for name, each in scores.items()}
    first = next(iter(chances.values()))
    top = np.argsort(-first, kind="stable")[:most]
    names = [f"“{drawable(word(int(i)))}”" for i in top]
    summaries = [
        f"{name}: {names[int(np.argmax(p[top]))]} {np.max(p[top]):.1%}, "
        f"{np.count_nonzero(p)} of {len(p)} tokens possible"
        for name, p in chances.items()
    ]
    alt = "Bars of the probability of the next token. " + "; ".join(summaries) + "."
    others = len(first) > len(top)
    size = (min(2.6 + 2.0 * len(scores), 7.5), 1.1 + 0.27 * (len(top) + others))
    figure, axes = drawing(title, alt, 1, len(scores), size, squeeze=False, sharey=True)
    places = np.arange(len(top) + others)
    for number, (axis, (name, p)) in enumerate(zip(axes[0], chances.items(), strict=True)):
        values = np.append(p[top], max(0.0, 1 - np.sum(p[top])))[: len(places)]
        colours = [COLOURS[number % 7]] * len(top) + [FAINT] * others
        axis.barh(places, 100 * values, color=colours)
        for place, value in enumerate(values):
            out = place < len(top) and p[top[place]] == 0
            text = "out" if out else "< 0.1%" if 0 < value < 0.0005 else f"{value:.1%}"
            axis.text(100 * value + 2, place, text, va="center", fontsize=7, color=INK)
        axis.set_xlim(0, 130)
        axis.set_xticks([0, 50, 100])
        axis.set_title(name, fontsize=9, color=INK)
        axis.set_xlabel("probability, %", fontsize=8)
    axes[0, 0].set_yticks(places, [*names, *["all others"] * others])
    axes[0, 0].invert_yaxis()
    return figure


def token_probabilities(
    words: Sequence[str],
    chosen: Float[Array, "S"],
    second: Float[Array, "S"],
    title: str = "Probability of each token of the answer",
    labels: Sequence[str] = ("chosen", "second"),
) -> Drawing:
    """The probability of each token of an answer, and of the second most probable one.

    ``words`` are the tokens' texts; ``chosen`` (bars) and ``second`` (diamonds) are probabilities
    [S], or any two to be compared, by their ``labels``. Where over 80% of the bars stand above
    99%, the axis is logarithmic, so that the second ones can be compared. Look for diamonds near
    their bar: there another answer was almost as probable.
    """
    names = [readable(word) for word in words]
    least = int(np.argmin(chosen))
    alt = (
        f"Bars for the {len(words)} tokens of an answer. The lowest is that of {names[least]}, "
        f"token {least}: {labels[0]} {chosen[least]:.1%}, {labels[1]} {second[least]:.1%}. "
        f"{np.count_nonzero(chosen > 0.99)} bars are over 99%."
    )
    size = (float(np.clip(1.5 + 0.28 * len(words), 4.5, 7.5)), 3.2)
    figure, axes = drawing(title, alt, size=size)
    places = np.arange(len(words))
    axes.bar(places, 100 * chosen, color=COLOURS[0], label=labels[0])
    dots = {"color": COLOURS[1], "marker": "D", "s": 16, "zorder": 3}
    axes.scatter(places, 100 * second, label=labels[1], edgecolors=INK, linewidths=0.5, **dots)
    axes.set_xticks(places, names, rotation=60, ha="right", rotation_mode="anchor", fontsize=8)
    axes.set_ylabel("probability, %", fontsize=9)
    axes.set_ylim(-3, 105)
    if len(words) > 3 and np.mean(chosen > 0.99) > 0.8:
        low = max(float(np.min(second[second > 0], initial=1.0)) * 50, 1e-7)
        axes.set_yscale("log")
        axes.set_ylim(low, 300)
        axes.set_ylabel("probability, % (log scale)", fontsize=9)
    figure.legend(loc="outside lower center", ncols=2, fontsize=8, frameon=False)
    return figure
