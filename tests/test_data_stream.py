"""The order of the data: every pass has every item, stages differ, no item twice in a step, resume, curriculum."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from data.stream import Stream


def passes(stream: Stream, count: int) -> list[list]:
    return [stream.take(len(stream.items)) for _ in range(count)]


def test_each_pass_is_a_permutation_of_its_own():
    items = list("abcdefghij")
    found = passes(Stream(items, seed=1), 4)
    assert all(sorted(one) == items for one in found)
    assert len({tuple(one) for one in found}) == 4


def test_seed_and_stage_decide_the_order():
    items = list(range(40))
    orders = [Stream(items, seed, stage=stage).take(80) for seed in (0, 1) for stage in ("", "grpo-1", "grpo-2")]
    assert len({tuple(order) for order in orders}) == 6
    assert Stream(items, 1, stage="grpo-2").take(80) == orders[-1]


def test_two_stages_meet_few_problems_at_the_same_place():
    """Stage 4 used to meet all of stage 2's, in its order."""
    first, second = (Stream(list(range(500)), 0, stage=stage).take(1600) for stage in ("grpo-1", "grpo-2"))
    assert sum(a == b for a, b in zip(first, second, strict=True)) < 30


def test_without_shuffling_each_pass_is_the_files_order():
    stream = Stream(list("abcde"), seed=3, stage="grpo-1", shuffle=False)
    assert passes(stream, 2) == [list("abcde")] * 2
    assert Stream(list("abcde"), seed=3, position=7, shuffle=False).take(4) == list("cdea")


@given(st.integers(1, 12), st.lists(st.tuples(st.integers(1, 9), st.integers(0, 9)), max_size=12), st.booleans())
def test_no_item_twice_in_a_step_and_the_position_is_all_there_is_to_save(count, steps, shuffle):
    """A step takes a batch and a refill. At every step a stream that resumes at its position gives the same."""
    stream = Stream(list(range(count)), seed=5, stage="s", shuffle=shuffle)
    for size, refill in steps:
        resumed = Stream(list(range(count)), seed=5, position=stream.position, stage="s", shuffle=shuffle)
        given_here = []
        for one in (stream, resumed):
            one.new_step()
            given_here.append(one.take(size) + one.take(refill))
        assert given_here[0] == given_here[1] and stream.position == resumed.position
        assert len(set(given_here[0])) == len(given_here[0]) == min(size + refill, count)


def test_a_step_across_the_end_of_a_pass_leaves_nothing_out_for_long():
    """17 items in steps of 5: whatever is left out of one pass has just been there, in the same step."""
    stream, seen = Stream(list(range(17)), seed=2), []
    for _ in range(400):
        stream.new_step()
        seen += stream.take(5)
    counts = [seen.count(item) for item in range(17)]
    assert len(seen) == 2000 and max(counts) - min(counts) < 25
    for item in range(17):
        places = [place for place, one in enumerate(seen) if one == item]
        assert max(later - earlier for earlier, later in pairwise(places)) <= 3 * 17


@pytest.mark.parametrize("position", [0, 3, 25])
def test_without_steps_every_place_is_given(position):
    """How a caller that counts places itself uses it: the position moves by as many as were asked for."""
    stream = Stream(list("abcde"), 4, position)
    assert stream.take(13) == Stream(list("abcde"), 4).take(position + 13)[position:]
    assert stream.position == position + 13
