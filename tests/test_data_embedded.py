"""The embedded experiment: what the generator promises, the tokenizer, the shipped base model."""

from __future__ import annotations

import dataclasses
import itertools
import re

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from data import DataError, DemoConfig, make_problems
from data.embedded.stories import LEVELS
from data.embedded.tiny_model import BASE_FOLDER, TAGS, build_model, build_tokenizer
from grpo import minimal
from rewards.format import format_reward
from rewards.reflection import count_reflections

STEP = re.compile(r"(Wait, )?(\d+) ([+-]) (\d+) = (\d+)\.")
CLEAN = DemoConfig(reflective_share=0, slip_rate=0)
CAREFUL = DemoConfig(reflective_share=1, reflective_slip_rate=0.3)
CONFIGS = [DemoConfig(), CLEAN, CAREFUL]


@pytest.fixture(scope="module")
def tokenizer():
    return build_tokenizer()


def numbers_of(question: str) -> list[int]:
    """The signed numbers of a story, read from its words: independent of how the generator made them."""
    opening, *steps, _ = re.split(r"(?<=[.?]) ", question)
    chain = [int(re.search(r"\d+", opening)[0])]
    for step in steps:
        sign = -1 if re.search(r"loses|sells|gives", step) else 1
        chain.append(sign * int(re.search(r"\d+", step)[0]))
    return chain


@dataclasses.dataclass
class Step:
    """One equation of a solution."""

    wait: bool
    left: tuple[int, str, int]
    stated: int

    @property
    def right(self) -> int:
        a, sign, b = self.left
        return a + b if sign == "+" else max(0, a - b)

    @property
    def carries(self) -> bool:
        a, sign, b = self.left
        return a % 10 + b % 10 > 9 if sign == "+" else a % 10 < b % 10


def steps_of(solution: str) -> list[Step]:
    return [Step(bool(w), (int(a), sign, int(b)), int(c)) for w, a, sign, b, c in STEP.findall(solution)]


def final_answer(solution: str) -> str:
    return re.search(r"(\d+)</answer>$", solution)[1]


# --------------------------------------------------------------------------- problems


def test_a_problem_depends_on_split_seed_and_index_alone():
    assert make_problems("train", 20, 3)[:7] == make_problems("train", 7, 3)
    assert make_problems("train", 7, 3) != make_problems("train", 7, 4)
    first = make_problems("test", 1)[0]  # pinned: the same on every machine, or no reported number is comparable
    assert first.id == "demo/test/0-0"
    assert first.question == PINNED


PINNED = "Leo has 2 stones. He buys 4 more. He loses 4. How many stones does Leo have now?"


def test_the_question_does_not_depend_on_how_it_is_solved():
    questions = [[p.question for p in make_problems("validation", 50, 1, config)] for config in CONFIGS]
    assert all(other == questions[0] for other in questions)


def test_the_gold_is_what_the_story_says_and_no_total_is_negative():
    for problem in make_problems("train", 300):
        chain = numbers_of(problem.question)
        assert problem.answer == str(sum(chain))
        assert all(sum(chain[: i + 1]) >= 0 for i in range(len(chain)))
        steps, most = LEVELS[int(problem.columns["level"].removeprefix("Level "))]
        assert len(chain) - 1 == steps and max(map(abs, chain[1:])) <= most


def test_splits_share_no_chain_of_numbers_whatever_their_seeds():
    short = DemoConfig(levels=(1, 2))  # few chains there are, so that a leak would show
    chains = {
        split: {tuple(numbers_of(p.question)) for s in (0, 1) for p in make_problems(split, 1500, s, short)}
        for split in ("train", "validation", "test")
    }
    assert not chains["train"] & chains["test"]
    assert not chains["train"] & chains["validation"]
    assert not chains["validation"] & chains["test"]
    assert min(map(len, chains.values())) > 100


def test_knobs_of_the_story():
    problems = make_problems("train", 400, 0, DemoConfig(levels=(2, 4)))
    levels = [problem.columns["level"] for problem in problems]
    assert set(levels) == {"Level 2", "Level 4"} and 160 < levels.count("Level 2") < 240
    chains = [numbers_of(problem.question) for problem in problems]
    assert {(len(chain) - 1, level) for chain, level in zip(chains, levels, strict=True)} == {
        (2, "Level 2"), (4, "Level 4"),
    }  # fmt: skip
    for length, most in ((3, 9), (5, 19)):
        assert {abs(step) for chain in chains if len(chain) == length for step in chain[1:]} == {*range(1, most + 1)}


def test_all_levels_are_alike_often():
    levels = [problem.columns["level"] for problem in make_problems("test", 2000)]
    assert all(340 < levels.count(f"Level {level}") < 460 for level in LEVELS)


def test_untagged_solutions_end_in_a_sentence_that_earns_nothing():
    problems = make_problems("train", 1000, 0, dataclasses.replace(CLEAN, untagged_share=0.3))
    untagged = [p for p in problems if not format_reward([p.solution])[0]]
    assert len(untagged) / 1000 == pytest.approx(0.3, abs=0.04)
    assert all(p.solution.endswith(f" So {p.answer}.") and "<" not in p.solution for p in untagged)


# --------------------------------------------------------------------------- solutions


def test_clean_solutions_are_right_in_every_step_and_well_formed():
    for problem in make_problems("train", 200, 0, CLEAN):
        steps = steps_of(problem.solution)
        assert len(steps) == len(numbers_of(problem.question)) - 1
        assert not any(s.wait or s.stated != s.right for s in steps)
        assert final_answer(problem.solution) == problem.answer
        assert problem.columns["slips"] == 0 and not problem.columns["reflective"]
        assert format_reward([problem.solution]) == [1.0]
        assert count_reflections(problem.solution) == 0


def test_plain_solutions_forget_carries_at_the_configured_rate_and_go_on_from_there():
    problems = make_problems("train", 1500, 0, DemoConfig(reflective_share=0, slip_rate=0.4))
    crossing = [step for problem in problems for step in steps_of(problem.solution) if step.carries]
    slips = [step for step in crossing if step.stated != step.right]
    assert len(slips) / len(crossing) == pytest.approx(0.4, abs=0.03)
    assert all(step.stated - step.right == (-10 if step.left[1] == "+" else 10) for step in slips)
    assert sum(problem.columns["slips"] for problem in problems) == len(slips)
    for problem in problems:
        steps = steps_of(problem.solution)
        assert all(step.carries or step.stated == step.right for step in steps)
        assert all(after.left[0] == before.stated for before, after in itertools.pairwise(steps))
        assert int(final_answer(problem.solution)) == steps[-1].stated
        if not problem.columns["slips"]:
            assert final_answer(problem.solution) == problem.answer
    wrong = sum(final_answer(problem.solution) != problem.answer for problem in problems)
    assert wrong / len(problems) > 0.3


def test_reflective_solutions_catch_each_slip_and_end_right():
    problems = make_problems("train", 1000, 0, CAREFUL)
    crossing = [s for p in problems for s in steps_of(p.solution) if s.carries and not s.wait]
    assert sum(s.stated != s.right for s in crossing) / len(crossing) == pytest.approx(0.3, abs=0.03)
    for problem in problems:
        assert final_answer(problem.solution) == problem.answer
        steps = steps_of(problem.solution)
        assert all(step.stated == step.right for step in steps if step.wait)
        for before, after in itertools.pairwise(steps):
            assert before.stated == before.right or (after.wait and after.left == before.left)


def test_recheck_rate_is_that_of_right_steps():
    rates = []
    for recheck_rate in (0.0, 0.5, 1.0):
        config = dataclasses.replace(CAREFUL, recheck_rate=recheck_rate, reflective_slip_rate=0.0)
        steps = [step for p in make_problems("train", 400, 0, config) for step in steps_of(p.solution)]
        rates.append(sum(step.wait for step in steps) / sum(not step.wait for step in steps))
    assert rates == [0.0, pytest.approx(0.5, abs=0.04), 1.0]


def test_reflections_that_correct_nothing_state_the_slip_again():
    slipped = 0
    for problem in make_problems("train", 200, 0, dataclasses.replace(CAREFUL, correction_rate=0.0)):
        for before, after in itertools.pairwise(steps_of(problem.solution)):
            if before.stated != before.right and not before.wait:
                slipped += 1
                assert after.wait and after.stated == before.stated
    assert slipped > 50


def test_reflective_share_and_what_the_reflection_reward_sees():
    problems = make_problems("train", 1500, 0, DemoConfig(reflective_share=0.4, recheck_rate=1.0))
    assert sum(p.columns["reflective"] for p in problems) / len(problems) == pytest.approx(0.4, abs=0.04)
    for problem in problems:
        stated = len(set(re.findall(r"Wait, ([^.]*)", problem.solution)))
        assert count_reflections(problem.solution) == stated
        assert bool(stated) == problem.columns["reflective"]


@pytest.mark.parametrize(
    "wrong",
    [
        {"levels": (1, 6)},
        {"levels": ()},
        {"untagged_share": 2.0},
        {"slip_rate": 1.1},
        {"reflective_share": -1},
    ],
)
def test_a_knob_out_of_range_is_named(wrong):
    with pytest.raises(DataError, match=next(iter(wrong))):
        DemoConfig(**wrong)


def test_an_unknown_split_is_named():
    with pytest.raises(DataError, match="'dev'"):
        make_problems("dev", 1)


# --------------------------------------------------------------------------- tokenizer


@pytest.mark.parametrize("config", CONFIGS)
def test_text_to_ids_to_text_is_exact(tokenizer, config):
    for problem in make_problems("train", 300, 5, config):
        text = f"{problem.question}\n{problem.solution}"
        ids = tokenizer(text)["input_ids"]
        assert tokenizer.unk_token_id not in ids and tokenizer.eos_token_id not in ids
        assert tokenizer.decode(ids) == text
        assert tokenizer.decode([*ids, tokenizer.eos_token_id], skip_special_tokens=True) == text


def test_prompt_and_response_encoded_apart_are_the_text_encoded_whole(tokenizer):
    problem = make_problems("train", 1)[0]
    prompt, response = problem.question + "\n", problem.solution
    assert (
        tokenizer(prompt)["input_ids"] + tokenizer(response)["input_ids"] == tokenizer(prompt + response)["input_ids"]
    )


def test_tags_and_digits_are_single_tokens_and_pad_is_not_eos(tokenizer):
    for tag in TAGS:
        assert len(tokenizer(tag)["input_ids"]) == 1
    assert tokenizer.tokenize("12 + 34") == ["1", "2", " +", " 3", "4"]
    assert tokenizer.pad_token_id != tokenizer.eos_token_id
    assert tokenizer.chat_template is None
    assert 60 < len(tokenizer) < 200


def test_the_saved_tokenizer_is_the_same(tokenizer, tmp_path):
    tokenizer.save_pretrained(tmp_path)
    loaded = AutoTokenizer.from_pretrained(tmp_path)
    problem = make_problems("train", 1)[0]
    ids = tokenizer(problem.solution)["input_ids"]
    assert loaded(problem.solution)["input_ids"] == ids
    assert loaded.decode(ids) == problem.solution
    assert (loaded.eos_token_id, loaded.pad_token_id) == (tokenizer.eos_token_id, tokenizer.pad_token_id)


# --------------------------------------------------------------------------- model


def test_the_untrained_model_is_a_function_of_its_seed():
    before = torch.get_rng_state()
    one, same, other = (build_model(seed).lm_head.weight for seed in (1, 1, 2))
    assert torch.equal(one, same) and not torch.equal(one, other)
    assert torch.equal(torch.get_rng_state(), before)


def test_the_shipped_base_is_small_and_fits_the_code(tokenizer):
    assert sum(file.stat().st_size for file in BASE_FOLDER.iterdir()) < 3_000_000
    assert AutoTokenizer.from_pretrained(BASE_FOLDER).get_vocab() == tokenizer.get_vocab()
    base = AutoModelForCausalLM.from_pretrained(BASE_FOLDER)
    shapes = {name: value.shape for name, value in build_model().state_dict().items()}
    assert {name: value.shape for name, value in base.state_dict().items()} == shapes
    assert base.dtype == torch.float32 and base.config.eos_token_id == tokenizer.eos_token_id


def test_the_shipped_base_is_mediocre_and_better_at_easy_levels():
    """What each stage needs: right in 25 to 50 of 100 samples, and a format that is known only partly."""
    base, tokenizer = AutoModelForCausalLM.from_pretrained(BASE_FOLDER), AutoTokenizer.from_pretrained(BASE_FOLDER)

    def judged(level: int) -> tuple[float, float]:
        problems = make_problems("validation", 128, 0, DemoConfig(levels=(level,)))
        ids, _, sampled = minimal.sample(base, tokenizer, problems, seed=0, step=0)
        return tuple(minimal.score(tokenizer, problems, ids, sampled)[:, :2].mean(dim=0).tolist())

    accuracy, form = zip(*map(judged, LEVELS), strict=True)
    assert 0.25 < sum(accuracy) / 5 < 0.5 and min(accuracy) > 0.1
    assert accuracy[0] > accuracy[4] + 0.1
    assert all(0.6 < share < 0.9 for share in form)


def test_the_shipped_base_puts_slips_right_when_it_checks(tokenizer):
    """Reflection is competent: a slip that is put in its mouth is repaired after "Wait,"."""
    base = AutoModelForCausalLM.from_pretrained(BASE_FOLDER)
    repaired = tried = 0
    for problem in make_problems("validation", 40, 0, CLEAN):
        first = next((m for m in STEP.finditer(problem.solution) if steps_of(m[0])[0].carries), None)
        if first:  # up to the first step with a carry, which is forgotten
            right = int(first[5])
            text = problem.solution[: first.start(5)] + f"{right + (-10 if first[3] == '+' else 10)}."
            text += f" Wait, {first[2]} {first[3]} {first[4]} ="
            ids = tokenizer(f"{problem.question}\n{text}", return_tensors="pt")["input_ids"]
            out = base.generate(ids, do_sample=False, max_new_tokens=4, pad_token_id=tokenizer.pad_token_id)
            tried += 1
            repaired += tokenizer.decode(out[0, ids.shape[1] :]).startswith(f" {right}.")
    assert tried >= 15 and repaired >= 0.9 * tried
