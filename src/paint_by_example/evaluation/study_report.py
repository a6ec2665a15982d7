"""What a study found: mean ranks, how sure they are, and whether methods differ.

People are what is drawn at random, so one person is one observation: their mean rank of each method over all groups
they answered. Single answers of one person are not independent, and counted as if they were, chance would look like a
difference.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .result import Figure, mean_figure
from .study import CRITERIA, Study

LEVEL = 0.05  # of significance


@dataclass(frozen=True)
class Finding:
    """The ranks under one criterion."""

    criterion: str
    people: int
    answers: int
    """Groups that were ranked, of all people together."""
    ranks: dict[str, Figure]
    """By method, 1 is best; the interval by bootstrap over people."""
    friedman: float | None
    """Probability of such differences if the methods were alike; None for fewer than three methods or people."""
    pairs: dict[tuple[str, str], float]
    """The same of two methods, by Wilcoxon's signed ranks, after Holm's correction for their number."""


def find(study: Study) -> list[Finding]:
    """What a study found under each criterion that someone has answered."""
    found = []
    for criterion in CRITERIA:
        table, answers = study.mean_ranks(criterion)
        if len(table):
            found.append(finding(criterion, table, answers, study.plan.methods))
    return found


def finding(criterion: str, table: NDArray[np.float64], answers: int, methods: Sequence[str]) -> Finding:
    """Test one table.

    Args:
        criterion: its name.
        table: (people, methods), each person's mean ranks.
        answers: that it is made of.
        methods: names of the columns.
    """
    friedman = None
    if min(table.shape) >= 3 and (table != table[:, :1]).any():
        from scipy.stats import friedmanchisquare

        friedman = float(friedmanchisquare(*table.T).pvalue)
    pairs = {}
    if len(table) >= 2:
        names = list(itertools.combinations(range(len(methods)), 2))
        adjusted = holm([signed_ranks(table[:, one] - table[:, other]) for one, other in names])
        pairs = {(methods[one], methods[other]): p for (one, other), p in zip(names, adjusted, strict=True)}
    ranks = {method: mean_figure(column) for method, column in zip(methods, table.T, strict=True)}
    return Finding(criterion, len(table), answers, ranks, friedman, pairs)


def signed_ranks(apart: NDArray[np.float64]) -> float:
    """Wilcoxon's two-sided probability; 1 where nobody sees a difference.

    Args:
        apart: (people,) differences.
    """
    from scipy.stats import wilcoxon

    apart = np.round(apart, 9)  # means of the same ranks in another order are ties
    apart = apart[apart != 0]
    return float(wilcoxon(apart).pvalue) if len(apart) else 1.0


def holm(probabilities: Sequence[float]) -> list[float]:
    """Correct for the number of tests (Holm, 1979): the smallest times n, the next times n - 1, never falling."""
    order = np.argsort(probabilities, kind="stable")
    adjusted, least = [0.0] * len(probabilities), 0.0
    for place, index in enumerate(order):
        least = max(least, min(1.0, (len(probabilities) - place) * probabilities[index]))
        adjusted[index] = least
    return adjusted


def as_text(found: Sequence[Finding]) -> str:
    """For people."""
    lines = []
    for one in found:
        lines.append(f"{one.criterion}: {one.people} people, {one.answers} groups ranked; 1 is best")
        for method, figure in sorted(one.ranks.items(), key=lambda pair: pair[1].value):
            ends = "" if figure.low is None else f" ({figure.low:.2f} to {figure.high:.2f})"
            lines.append(f"  {method}  {figure.value:.2f}{ends}")
        if one.friedman is None:
            lines.append("  Friedman: needs three methods and three people")
        else:
            lines.append(f"  Friedman: p = {one.friedman:.2g}")
        for (first, second), p in one.pairs.items():
            lines.append(f"  {first} - {second}: p = {p:.2g}{' *' if p < LEVEL else ''} (Wilcoxon, Holm)")
    return "\n".join(lines)


def as_values(found: Sequence[Finding]) -> list[dict[str, Any]]:
    """For programs."""
    return [
        {
            "criterion": one.criterion,
            "people": one.people,
            "answers": one.answers,
            "ranks": {name: vars(figure) for name, figure in one.ranks.items()},
            "friedman": one.friedman,
            "pairs": [{"methods": list(names), "p": p} for names, p in one.pairs.items()],
        }
        for one in found
    ]
