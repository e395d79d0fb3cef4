"""The rule by which a claim of the scorecard is reproduced, not reproduced, or out of reach."""

import numpy as np
import pytest

from book.experiments.scorecard import Claim, scorecard
from book.experiments.significance import Comparison, holm, sign_flip

BELOW = (0.7, 0.8, 0.75, 0.9, 0.85, 0.7, 0.8, 0.95, 0.6, 0.8)
NOISE = (0.8, 1.2, 1.1, 0.9, 1.3, 0.7, 1.05, 0.97, 1.2, 0.85)


def verdict(*comparisons, others=0):
    """Verdict and reason of one claim on these comparisons, among others that show nothing."""
    rows = [Claim("key", "It.", "theirs", lambda results: comparisons, "")]
    noise = Comparison("noise", NOISE, "below")
    rows += [Claim("key", f"Other {n}.", "", lambda results: [noise], "") for n in range(others)]
    row = scorecard({}, rows)[0]
    return row["verdict"], row["why"]


def test_what_comes_out_on_the_claims_side_is_reproduced():
    said = verdict(Comparison("a / b", BELOW, "below"))
    assert said == ("reproduced", "All of it comes out as claimed (p = 0.002).")


def test_what_comes_out_on_the_other_side_is_not():
    said = verdict(Comparison("a / b", BELOW, "above"))
    assert said == ("not reproduced", "The opposite is shown (p = 0.002): a / b is below 1.")


def test_noise_shows_nothing():
    word, why = verdict(Comparison("a / b", NOISE, "above"))
    assert word == "not reproduced"
    assert why.startswith("Nothing is shown either way (p = ")
    assert verdict(Comparison("a / b", NOISE, "below"))[0] == "not reproduced"


def test_the_side_is_that_of_what_is_tested():
    # Most ratios are just above 1, the others far below: the median says one thing, the sum of the logarithms another.
    skewed = (1.01,) * 6 + (0.01,) * 4
    word, why = verdict(Comparison("a / b", skewed, "above"))
    assert word == "not reproduced"
    assert "Nothing is shown" in why
    assert not Comparison("a / b", skewed, "above").holds


def test_a_claim_is_as_good_as_its_worst_comparison():
    word, why = verdict(Comparison("good", BELOW, "below"), Comparison("bad", NOISE, "below"))
    assert word == "not reproduced"
    assert why.endswith(": bad.")
    word, why = verdict(Comparison("good", BELOW, "below"), Comparison("bad", BELOW, "above"))
    assert (word, why) == ("not reproduced", "The opposite is shown (p = 0.004): bad is below 1.")
    all_bad = [Comparison(f"bad {number}", BELOW, "above") for number in range(6)]
    assert verdict(*all_bad) == ("not reproduced", "The opposite is shown (p = 0.002): bad 0 is below 1.")
    assert "Nothing is shown" in verdict(*all_bad, Comparison("noise", tuple(1 / v for v in NOISE), "below"))[1]


def test_equality_has_to_be_shown():
    close = tuple(np.linspace(0.97, 1.04, 10))
    assert verdict(Comparison("a / b", close, "at", 0.1))[0] == "reproduced"
    assert verdict(Comparison("a / b", NOISE, "at", 0.1))[0] == "not reproduced"
    assert "below 1 by more than 10%" in verdict(Comparison("a / b", BELOW, "at", 0.1))[1]
    assert "above 1 by more than 10%" in verdict(Comparison("a / b", tuple(1 / v for v in BELOW), "at", 0.1))[1]


def test_many_claims_need_more():
    nine = (*BELOW[:9], 1.02)
    assert verdict(Comparison("a / b", nine, "below"))[0] == "reproduced"
    assert verdict(Comparison("a / b", nine, "below"), others=20)[0] == "not reproduced"
    assert verdict(Comparison("a / b", BELOW, "below"), others=20)[0] == "reproduced"
    five = BELOW[:5]
    assert verdict(Comparison("a / b", five, "below"))[0] == "not reproduced"


def test_what_cannot_be_tried_is_out_of_reach():
    (row,) = scorecard({}, [Claim("key", "It.", "theirs", None, "It takes a hundred machines")])
    assert row["verdict"] == "out of reach"
    assert row["why"] == "It takes a hundred machines."
    assert row["ours"] == "not measured"


def test_statistics_are_those_of_the_chapter():
    # Darwin's maize: Fisher (1935) counts 863 of 32,768 sums in the one tail as large as the one observed.
    maize = [49, -67, 8, 16, 6, 23, 28, 41, 14, 29, 56, 24, 75, 60, -48]
    assert sign_flip(maize) == pytest.approx(2 * 863 / 2**15)
    assert holm({"a": 0.01, "b": 0.04, "c": 0.03, "d": 0.005}) == pytest.approx(
        {"a": 0.03, "b": 0.06, "c": 0.06, "d": 0.02}
    )
    assert Comparison("a / b", BELOW, "below").p == pytest.approx(2 / 2**10)
