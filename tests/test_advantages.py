"""Advantages: each variant against its equation in plain Python, and what must not change them."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from grpo.advantages import ADVANTAGES, EPS, group_advantages, spread, total_reward, zero_spread

NAN = math.nan

# ---- the equations, in plain Python -------------------------------------------------------------------------


def mean(x):
    return sum(x) / len(x) if x else 0.0


def std(x):
    return math.sqrt(sum((v - mean(x)) ** 2 for v in x) / (len(x) - 1)) if len(x) > 1 else 0.0


def totals(rewards, weights):
    """None: no reward applies, so there is no total."""
    return [
        None
        if all(map(math.isnan, row))
        else sum(w * r for w, r in zip(weights, row, strict=True) if not math.isnan(r))
        for row in rewards
    ]


def groups(x, size):
    return [x[i : i + size] for i in range(0, len(x), size)]


def scored(x):
    return [v for v in x if v is not None]


def grpo(rewards, weights, size):
    r = groups(totals(rewards, weights), size)
    return [0.0 if x is None else (x - mean(scored(g))) / (std(scored(g)) + EPS) for g in r for x in g]


def dr_grpo(rewards, weights, size):
    return [0.0 if x is None else x - mean(scored(g)) for g in groups(totals(rewards, weights), size) for x in g]


def batch_std(rewards, weights, size):
    spread_of_all = std(scored(totals(rewards, weights)))
    return [a / (spread_of_all + EPS) for a in dr_grpo(rewards, weights, size)]


def leave_one_out(rewards, weights, size):
    found = []
    for g in groups(totals(rewards, weights), size):
        for i, x in enumerate(g):
            others = scored(g[:i] + g[i + 1 :])
            found.append(0.0 if x is None or not others else x - mean(others))
    return found


def gdpo(rewards, weights, size):
    sums = []
    for group in groups(rewards, size):
        for row in group:
            total = 0.0
            for k, w in enumerate(weights):
                applies = [other[k] for other in group if not math.isnan(other[k])]
                if not math.isnan(row[k]):
                    total += w * (row[k] - mean(applies)) / (std(applies) + EPS)
            sums.append(None if all(map(math.isnan, row)) else total)
    return [0.0 if x is None else (x - mean(scored(sums))) / (std(scored(sums)) + EPS) for x in sums]


def maxrl(rewards, weights, size):
    found = []
    for g in groups(totals(rewards, weights), size):
        success = mean(scored(g))
        found += [0.0 if x is None or success <= EPS else (x - success) / success for x in g]
    return found


EQUATIONS = {
    "group": grpo, "none": dr_grpo, "batch": batch_std, "rloo": leave_one_out, "gdpo": gdpo, "maxrl": maxrl,
}  # fmt: skip


@st.composite
def batches(draw, nan=True):
    """(rewards [N][K], weights [K], group size). Quarters are exact in fp32, so that equal rewards are equal."""
    size, prompts, k = draw(st.integers(2, 5)), draw(st.integers(1, 4)), draw(st.integers(1, 3))
    value = st.sampled_from([-1.0, 0.0, 0.25, 0.5, 1.0, 2.0] + [NAN] * nan)
    row = st.lists(value, min_size=k, max_size=k)
    rewards = draw(st.lists(row, min_size=size * prompts, max_size=size * prompts))
    return rewards, draw(st.lists(st.sampled_from([0.0, 0.5, 1.0, 3.0]), min_size=k, max_size=k)), size


def advantages(rewards, weights, size, variant="group"):
    return group_advantages(torch.tensor(rewards), torch.tensor(weights), size, variant)


def test_every_variant_has_its_equation_here():
    assert set(EQUATIONS) == set(ADVANTAGES)


@pytest.mark.parametrize("variant", EQUATIONS)
@given(batch=batches())
def test_equation(variant, batch):
    rewards, weights, size = batch
    if variant == "maxrl":
        rewards = [[abs(x) for x in row] for row in rewards]
    ours, plain = advantages(rewards, weights, size, variant), EQUATIONS[variant](rewards, weights, size)
    # gdpo divides twice, so where rewards cancel, rounding is divided by EPS
    torch.testing.assert_close(ours, torch.tensor(plain), atol=5e-3 if variant == "gdpo" else 1e-5, rtol=1e-4)


def test_by_hand():
    rewards = [[1.0], [0.0], [0.0], [1.0], [3.0], [3.0], [3.0], [1.0]]
    a = 0.5 / (math.sqrt(1 / 3) + EPS)
    b, c = 0.5 / (1 + EPS), -1.5 / (1 + EPS)
    torch.testing.assert_close(advantages(rewards, [1.0], 4), torch.tensor([a, -a, -a, a, b, b, b, c]))


def test_maxrl_favours_what_seldom_succeeds():
    """The advantages of the successes of a group add up to its share of failures, times G."""
    ours = advantages([[1.0], [0.0], [0.0], [0.0], [1.0], [1.0], [1.0], [0.0]], [1.0], 4, "maxrl").tolist()
    assert ours == [3.0, -1.0, -1.0, -1.0] + [pytest.approx(1 / 3)] * 3 + [-1.0]
    assert advantages([[0.0], [0.0]], [1.0], 2, "maxrl").tolist() == [0.0] * 2


def test_maxrl_refuses_a_total_below_0():
    """A mean that is hardly above 0 would make advantages of hundreds."""
    with pytest.raises(ValueError, match=r"^the advantage maxrl needs total rewards of at least 0; one is -0\.99$"):
        advantages([[1.0, 0.0], [0.0, -0.99], [0.0, 0.0]], [1.0, 1.0], 3, "maxrl")
    assert advantages([[1.0, 0.0], [0.0, -0.99]], [1.0, 0.0], 2, "maxrl").tolist() == [1.0, -1.0]  # weight 0: logged


# ---- a reward that does not apply ----------------------------------------------------------------------------


@pytest.mark.parametrize("variant", EQUATIONS)
def test_a_reward_that_never_applies_changes_nothing(variant):
    rewards = [[1.0, 0.5], [0.0, 2.0], [0.5, 0.5], [1.0, 0.0]]
    with_nan = [[a, NAN, b] for a, b in rewards]
    without = advantages(rewards, [1.0, 0.5], 2, variant)
    torch.testing.assert_close(advantages(with_nan, [1.0, 7.0, 0.5], 2, variant), without)


def test_nan_adds_nothing_to_the_total():
    total = total_reward(torch.tensor([[1.0, NAN], [NAN, NAN], [2.0, 3.0]]), torch.tensor([0.5, 2.0]))
    assert total[[0, 2]].tolist() == [0.5, 7.0] and total[1].isnan()  # no reward applies: no total


def test_gdpo_leaves_nan_out_of_the_mean_and_the_spread():
    # the second reward applies to two completions and separates them; the others get 0 for it, not a share
    rewards = [[0.0, 1.0], [0.0, 0.0], [0.0, NAN], [0.0, NAN]]
    ours = advantages(rewards, [1.0, 1.0], 4, "gdpo")
    assert ours[0] == -ours[1] > 0
    assert ours[2:].tolist() == [0.0, 0.0]


# ---- invariances ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("variant", [name for name in EQUATIONS if name != "maxrl"])
@given(batch=batches(nan=False), shift=st.sampled_from([-4.0, 0.5, 8.0]))
def test_a_shift_of_all_rewards_changes_nothing(variant, batch, shift):
    rewards, weights, size = batch
    shifted = [[x + shift for x in row] for row in rewards]
    tolerance = 5e-3 if variant == "gdpo" else 1e-4
    torch.testing.assert_close(
        advantages(shifted, weights, size, variant), advantages(*batch, variant), atol=tolerance, rtol=1e-4
    )


@pytest.mark.parametrize(
    ("variant", "power"), [("group", 0), ("batch", 0), ("gdpo", 0), ("none", 1), ("rloo", 1), ("maxrl", 0)]
)
def test_a_scale_of_all_rewards(variant, power):
    rewards = torch.tensor([[1.0], [0.0], [0.25], [1.0], [0.5], [0.0]])
    ours = group_advantages(16 * rewards, torch.ones(1), 3, variant)
    expected = 16**power * group_advantages(rewards, torch.ones(1), 3, variant)
    torch.testing.assert_close(ours, expected, atol=0, rtol=1e-3)  # EPS is the only thing with a scale


@pytest.mark.parametrize("variant", ["group", "none", "rloo"])
def test_a_group_is_judged_by_itself(variant):
    group, others = [[1.0], [0.0], [0.25]], [[9.0], [-9.0], [2.0]]
    alone = advantages(group, [1.0], 3, variant)
    torch.testing.assert_close(advantages(others + group, [1.0], 3, variant)[3:], alone)


@pytest.mark.parametrize("variant", EQUATIONS)
def test_advantages_of_a_group_cancel_and_keep_its_order(variant):
    ours = advantages([[1.0], [0.0], [0.25], [4.0], [2.0], [2.0]], [1.0], 3, variant).view(2, 3)
    torch.testing.assert_close(ours.sum(dim=1), torch.zeros(2), atol=1e-5, rtol=0)
    assert ours[0, 0] > ours[0, 2] > ours[0, 1]
    assert ours[1, 0] > ours[1, 1] == ours[1, 2]


# ---- groups that teach nothing -------------------------------------------------------------------------------


@pytest.mark.parametrize("variant", EQUATIONS)
@pytest.mark.parametrize("value", [0.0, 0.1, 1.7, -3.3])
def test_a_group_of_equals_gets_no_advantage(variant, value):
    rewards = torch.full((7, 1), abs(value) if variant == "maxrl" else value)
    assert group_advantages(rewards, torch.ones(1), 7, variant).abs().max() < 5e-3
    assert zero_spread(rewards, torch.ones(1), 7, variant).tolist() == [True]


def test_zero_spread_looks_at_the_weighted_total():
    rewards = torch.tensor([[1.0, 0.0], [0.0, 1.0], [1.0, 5.0], [1.0, 0.0], [0.0, 0.0], [1.0, 0.0]])
    assert zero_spread(rewards, torch.tensor([1.0, 1.0]), 2).tolist() == [True, False, False]
    assert zero_spread(rewards, torch.tensor([1.0, 0.0]), 2).tolist() == [False, True, False]


def test_zero_spread_of_gdpo_looks_at_each_reward():
    # the totals are equal, but gdpo still prefers one: opposite rewards of unequal weight
    rewards, weights = torch.tensor([[1.0, 0.0], [0.0, 2.0]]), torch.tensor([1.0, 0.5])
    assert zero_spread(rewards, weights, 2).tolist() == [True]
    assert zero_spread(rewards, weights, 2, "gdpo").tolist() == [False]
    assert group_advantages(rewards, weights, 2, "gdpo").abs().min() > 0.5
    one_is_flat = torch.tensor([[1.0, 0.0], [1.0, 2.0]])
    assert zero_spread(one_is_flat, weights, 2, "gdpo").tolist() == [False]
    assert zero_spread(one_is_flat, torch.tensor([1.0, 0.0]), 2, "gdpo").tolist() == [True]
    assert zero_spread(rewards, torch.zeros(2), 2, "gdpo").tolist() == [True]


@given(batch=batches(nan=False))
def test_zero_spread_is_when_the_advantages_are_zero(batch):
    rewards, weights, size = batch
    flat = zero_spread(torch.tensor(rewards), torch.tensor(weights), size)
    assert flat.tolist() == (advantages(*batch).view(-1, size).abs() < 1e-3).all(dim=1).tolist()


def test_spread_is_the_mean_over_groups():
    rewards = [[1.0, 0.0], [0.0, 0.0], [1.0, 1.0], [0.0, 3.0]]
    expected = mean([std([1.0, 0.0]), std([3.0, 6.0])])
    assert spread(torch.tensor(rewards), torch.tensor([1.0, 2.0]), 2) == pytest.approx(expected)


# ---- errors --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("count", "size"), [(6, 4), (6, 1), (6, 0), (6, -2)])
def test_sizes_that_do_not_fit(count, size):
    with pytest.raises(ValueError, match=f"{count} rewards cannot form groups of {size}"):
        group_advantages(torch.zeros(count, 1), torch.ones(1), size)


def test_an_unknown_variant_lists_the_known_ones():
    with pytest.raises(ValueError, match=r"'grop'.*group, none, batch, rloo, gdpo"):
        group_advantages(torch.zeros(4, 1), torch.ones(1), 2, "grop")


@pytest.mark.parametrize("normalise", ADVANTAGES)
def test_a_completion_without_a_score_changes_nothing_for_its_siblings(normalise):
    """One whose grader was killed: its advantage is 0, and the others compare with each other alone."""
    rewards = torch.tensor([[1.0, 0.5], [0.0, 0.1], [1.0, 0.3], [0.0, 0.2], [0.0, 0.0], [1.0, 0.4]])
    weights = torch.tensor([1.0, 0.5])
    expected = group_advantages(rewards, weights, 3, normalise)
    nothing = torch.full((1, 2), torch.nan)
    with_killed = torch.cat([rewards[:3], nothing, rewards[3:], nothing])
    found = group_advantages(with_killed, weights, 4, normalise)
    assert found[3] == found[7] == 0
    torch.testing.assert_close(torch.cat([found[:3], found[4:7]]), expected)
    assert not zero_spread(with_killed, weights, 4, normalise).any()
    assert spread(with_killed, weights, 4) == pytest.approx(spread(rewards, weights, 3))


def test_a_group_in_which_one_completion_has_a_score_teaches_nothing():
    rewards = torch.tensor([[1.0], [torch.nan], [torch.nan]])
    for normalise in ADVANTAGES:
        assert group_advantages(rewards, torch.ones(1), 3, normalise).tolist()[1:] == [0, 0]
    assert zero_spread(rewards, torch.ones(1), 3).all()
    assert spread(rewards, torch.ones(1), 3) == 0


def test_where_accuracy_is_flat_the_weight_of_another_reward_cancels():
    rewards = torch.tensor([[1.0, 0.0], [1.0, 1.0], [1.0, 1.0], [1.0, 0.0]])  # all right, two of them reflect
    small, large = (group_advantages(rewards, torch.tensor([1.0, w]), 4) for w in (0.01, 1.0))
    assert torch.allclose(small, large, rtol=0.02) and large.abs().min() > 0.8
    small, large = (group_advantages(rewards, torch.tensor([1.0, w]), 4, "none") for w in (0.01, 1.0))
    assert torch.allclose(100 * small, large)
