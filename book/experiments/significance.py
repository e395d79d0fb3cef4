"""When a claim is reproduced: comparisons within blocks, how often chance alone would bring them, and the verdict.

The rule is that of the chapter "Async or sync". A claim says that a ratio is above or below 1, in one comparison or in
several. Each comparison is made within a block. A sign-flip test counts exactly how often chance alone would be as far
from 1. A claim is only as good as its weakest comparison, whose p is therefore the claim's p. Holm's method corrects
the p of all claims for their number. A claim is reproduced if all of its comparisons come out as claimed and its
corrected p is below 0.05. It is not reproduced if the same measure shows the opposite, or shows nothing.
"""

import itertools
from dataclasses import dataclass

import numpy as np

ALPHA = 0.05
REPRODUCED, NOT_REPRODUCED, OUT_OF_REACH = "reproduced", "not reproduced", "out of reach"


@dataclass(frozen=True)
class Comparison:
    """One ratio for each block, and the side of 1 on which the claim expects it.

    Attributes:
        what: What is divided by what.
        ratios: One for each block, above 0.
        side: ``"above"`` or ``"below"`` 1; ``"at"`` for within ``tolerance`` of it.
        tolerance: How far from 1 still counts as equal: 0.1 for 1/1.1 to 1.1.
    """

    what: str
    ratios: tuple
    side: str
    tolerance: float = 0.0

    @property
    def logs(self):
        """What the claim expects above 0, a list for each test. Equality takes two tests, one for each bound."""
        logs, bound = np.log(np.asarray(self.ratios, float)), np.log1p(self.tolerance)
        return {"above": [logs], "below": [-logs], "at": [logs + bound, bound - logs]}[self.side]

    @property
    def holds(self):
        """Whether the geometric mean, which the test is about, is on the claim's side."""
        return all(np.mean(logs) > 0 for logs in self.logs)

    @property
    def p(self):
        """How often chance alone would be as far from 1, or from the worse bound, on the claim's side."""
        return max(sign_flip(logs) for logs in self.logs)

    @property
    def p_against(self):
        """The same on the other side."""
        return min(sign_flip(logs) for logs in self.logs if not np.mean(logs) > 0)


def sign_flip(differences):
    """Share of all choices of signs whose sum is at least as far from 0 as the sum of these differences."""
    signs = np.array(list(itertools.product([1, -1], repeat=len(differences))))
    sums = abs(signs @ np.asarray(differences, float))
    return float((sums >= abs(np.sum(differences)) * (1 - 1e-9)).mean())


def holm(tested):
    """Corrects p values, given by name, for their number (Holm's step-down method)."""
    corrected, largest = {}, 0.0
    for rank, name in enumerate(sorted(tested, key=tested.get)):
        largest = max(largest, min(1.0, (len(tested) - rank) * tested[name]))
        corrected[name] = largest
    return corrected


def probability(comparisons):
    """The p of the verdict that a claim's comparisons suggest: for the claim if all are on its side, else against it.

    If all comparisons agree, for the claim or against it, the weakest decides. Otherwise one contrary comparison
    refutes the claim, with its p multiplied by their number.
    """
    failed = [c for c in comparisons if not c.holds]
    if not failed:
        return max(c.p for c in comparisons)
    if len(failed) == len(comparisons):
        return max(c.p_against for c in failed)
    return min(1.0, len(comparisons) * min(c.p_against for c in failed))


def judge(comparisons, p):
    """The verdict on a claim's comparisons and the reason, two strings; ``p`` is the corrected one."""
    failed = [c for c in comparisons if not c.holds]
    if p >= ALPHA:
        weakest = min(failed, key=lambda c: c.p_against) if failed else max(comparisons, key=lambda c: c.p)
        return NOT_REPRODUCED, f"nothing is shown either way (p = {p:.3f}): {weakest.what}"
    if failed:
        worst = min(failed, key=lambda c: c.p_against)
        return NOT_REPRODUCED, f"the opposite is shown (p = {p:.3f}): {worst.what} is {_instead(worst)}"
    return REPRODUCED, f"all of it comes out as claimed (p = {p:.3f})"


def _instead(comparison):
    if comparison.side != "at":
        return {"above": "below", "below": "above"}[comparison.side] + " 1"
    side = "above" if np.mean(np.log(comparison.ratios)) > 0 else "below"
    return f"{side} 1 by more than {comparison.tolerance:.0%}"


def spread(values):
    """Median and range, to three significant digits."""
    low, middle, high = (f"{value:#.3g}".rstrip(".") for value in np.quantile(values, [0, 0.5, 1]))
    return f"{middle} ({low} to {high})"
