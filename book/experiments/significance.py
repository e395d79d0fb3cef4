"""When a claim is reproduced: comparisons within blocks, how often chance alone would bring them, and the verdict.

The rule is that of the chapter "Async or sync". A claim says that some ratio is above 1, or below, in one comparison or
in several. Each comparison is made within a block; how often chance alone would be as far from 1 is counted exactly
(a sign-flip test). A claim of several comparisons is only as good as its worst one, so that one's p is the claim's; and
the claims' p are corrected for their number (Holm). A claim is reproduced if all of its comparisons come out on its
side and its corrected p is below 0.05. It is not if the opposite is shown by the same measure, or nothing.
"""

import itertools
from dataclasses import dataclass

import numpy as np

ALPHA = 0.05
REPRODUCED, NOT_REPRODUCED, OUT_OF_REACH = "reproduced", "not reproduced", "out of reach"


@dataclass(frozen=True)
class Comparison:
    """One ratio a block, and on which side of 1 the claim has it.

    Attributes:
        what: What is divided by what.
        ratios: One a block, above 0.
        side: ``"above"`` or ``"below"`` 1; ``"at"`` for within ``tolerance`` of it.
        tolerance: How far from 1 still counts as equal: 0.1 for 1/1.1 to 1.1.
    """

    what: str
    ratios: tuple
    side: str
    tolerance: float = 0.0

    @property
    def logs(self):
        """What the claim has above 0, a list for each test: equality is two, above the one bound, below the other."""
        logs, bound = np.log(np.asarray(self.ratios, float)), np.log1p(self.tolerance)
        return {"above": [logs], "below": [-logs], "at": [logs + bound, bound - logs]}[self.side]

    @property
    def holds(self):
        """Whether the geometric mean, which is what the test tests, is on the claim's side."""
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
    """Share of all choices of signs whose sum is as far from 0 as the sum of these differences."""
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
    """The p of what the comparisons of a claim speak for: for it if all are on its side, else against it.

    Where all are on one side the worst of them counts, for the claim or against it. Else a single one is enough against
    it, and has to make up for their number.
    """
    failed = [c for c in comparisons if not c.holds]
    if not failed:
        return max(c.p for c in comparisons)
    if len(failed) == len(comparisons):
        return max(c.p_against for c in failed)
    return min(1.0, len(comparisons) * min(c.p_against for c in failed))


def judge(comparisons, p):
    """Verdict and reason for a claim's comparisons, whose corrected p is given: two strings."""
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
