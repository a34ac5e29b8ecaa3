"""The policy loss: every axis and preset against its equation in plain Python, values and gradients."""

from __future__ import annotations

import itertools
import math
import re
import sys
from dataclasses import replace

import pytest
import torch

from grpo.loss import (
    AGGREGATIONS,
    KL_ESTIMATORS,
    PRESETS,
    RATIOS,
    SURROGATES,
    Counts,
    LossConfig,
    policy_loss,
    register_surrogate,
    token_loss,
)
from grpo.runs.settings import ConfigError, load_config
from grpo.trials import check_surrogate
from grpo.weights import Tokens

# ---- the equations, in plain Python: a value and its derivative by logp_it -----------------------------------


def sigmoid(x):
    return 1 / (1 + math.exp(-x))


def average(x):
    x = list(x)
    return sum(x) / len(x)


def clip_term(rho, a, logp, c):
    bounded = rho if c.delta is None else min(rho, c.delta)
    return min(bounded * a, min(max(rho, 1 - c.eps_low), 1 + c.eps_high) * a)


def clip_slope(rho, a, logp, c):
    if a > 0:
        return rho * a if rho < 1 + c.eps_high else 0.0
    return rho * a if rho > 1 - c.eps_low and (c.delta is None or rho < c.delta) else 0.0


def cispo_weight(rho, c):
    return min(max(rho, 1 - c.eps_low), 1 + c.eps_high)


def tau(a, c):
    return c.tau_pos if a > 0 else c.tau_neg


SURROGATE_EQUATIONS = {
    "clip": (clip_term, clip_slope),
    "reinforce": (lambda rho, a, logp, c: a * logp, lambda rho, a, logp, c: a),
    "cispo": (
        lambda rho, a, logp, c: cispo_weight(rho, c) * a * logp,
        lambda rho, a, logp, c: cispo_weight(rho, c) * a,
    ),
    "sapo": (
        lambda rho, a, logp, c: 4 / tau(a, c) * sigmoid(tau(a, c) * (rho - 1)) * a,
        lambda rho, a, logp, c: 4 * sigmoid(tau(a, c) * (rho - 1)) * sigmoid(tau(a, c) * (1 - rho)) * rho * a,
    ),
}
KL_EQUATIONS = {
    "k1": (lambda logp, ref: logp - ref, lambda logp, ref: 1.0),
    "k2": (lambda logp, ref: (logp - ref) ** 2 / 2, lambda logp, ref: logp - ref),
    "k3": (lambda logp, ref: math.exp(ref - logp) - (ref - logp) - 1, lambda logp, ref: 1 - math.exp(ref - logp)),
}


def ratio_equation(kind, logps, old, advantages, c):
    """rho_it of one completion, and by which factor its slope by logp_it differs from it."""
    logs = [a - b for a, b in zip(logps, old, strict=True)]
    if kind == "token":
        return [math.exp(x) for x in logs], [1.0] * len(logs)
    if kind == "sequence":
        return [math.exp(average(logs))] * len(logs), [1.0] * len(logs)
    low, high = math.log(1 - c.eps_low), math.log(1 + c.eps_high)
    kept = [min(x, high) if a > 0 else max(x, low) for x, a in zip(logs, advantages, strict=True)]
    return [math.exp(average(kept))] * len(logs), [float(x == k) for x, k in zip(logs, kept, strict=True)]


def weight_equation(kind, length, lengths, width):
    """What a token of a completion of this length weighs in the loss."""
    weights = {"sequence_mean": 1 / length / len(lengths), "token_mean": 1 / sum(lengths)}
    return {**weights, "constant": 1 / (len(lengths) * width), "sequence_sum": 1 / len(lengths)}[kind]


def plain_loss(batch, config):
    """Loss and its gradient [B][T], from the docstrings' equations."""
    logps, old, ref, advantages, mask = (x.tolist() for x in batch)
    lengths = [sum(row) for row in mask]
    loss, gradient = 0.0, []
    for i, length in enumerate(lengths):
        signed = advantages[i][:length] if isinstance(advantages[i], list) else [advantages[i]] * length
        rho, factor = ratio_equation(config.ratio, logps[i][:length], old[i][:length], signed, config)
        weight = weight_equation(config.aggregation, length, lengths, config.max_length or len(mask[i]))
        value, slope = SURROGATE_EQUATIONS[config.surrogate]
        kl, kl_slope = KL_EQUATIONS[config.kl]
        gradient.append([0.0] * len(mask[i]))
        for t in range(length):
            a, logp = signed[t], logps[i][t]
            in_loss = config.beta if config.kl_in == "loss" else 0.0
            own = math.exp(logp - old[i][t]) if config.kl_ratio else 1.0  # its slope is itself, or none
            penalty, d_penalty = kl(logp, ref[i][t]), kl_slope(logp, ref[i][t])
            loss -= weight * (value(rho[t], a, logp, config) - in_loss * own * penalty)
            d_penalty = own * (d_penalty + penalty * config.kl_ratio)
            # a surrogate of log pi has its slope without the ratio
            through = 1.0 if config.surrogate in ("reinforce", "cispo") else factor[t]
            gradient[i][t] = -weight * (through * slope(rho[t], a, logp, config) - in_loss * d_penalty)
    return loss, gradient


def check(batch, config):
    expected, gradient = plain_loss([x.detach() for x in batch], config)
    loss, metrics = policy_loss(*batch, config)
    loss.backward()
    assert loss.item() == pytest.approx(expected, rel=1e-4, abs=1e-5)
    torch.testing.assert_close(batch[0].grad, torch.tensor(gradient), rtol=1e-4, atol=1e-6)
    return metrics


def test_every_axis_has_its_equation_here():
    assert set(SURROGATE_EQUATIONS) == set(SURROGATES)
    assert set(KL_EQUATIONS) == set(KL_ESTIMATORS)
    assert set(RATIOS) == {"token", "sequence", "geometric"}
    assert set(AGGREGATIONS) == {"sequence_mean", "token_mean", "constant", "sequence_sum"}


@pytest.mark.parametrize("per_token", [False, True], ids=["A_i", "A_it"])
@pytest.mark.parametrize("aggregation", AGGREGATIONS)
@pytest.mark.parametrize("ratio", RATIOS)
@pytest.mark.parametrize("surrogate", SURROGATE_EQUATIONS)
def test_equation(make_loss_batch, surrogate, ratio, aggregation, per_token):
    for kl, seed in itertools.product(KL_ESTIMATORS, range(2)):
        config = LossConfig(surrogate=surrogate, ratio=ratio, aggregation=aggregation, kl=kl, beta=0.3, eps_high=0.3)
        check(make_loss_batch(seed, per_token=per_token), config)


@pytest.mark.parametrize("kl", KL_ESTIMATORS)
@pytest.mark.parametrize("ratio", RATIOS)
def test_equation_of_a_kl_weighted_by_the_ratio(make_loss_batch, ratio, kl):
    """Of the token's own ratio, whatever the ratio of the surrogate."""
    for seed in range(3):
        check(make_loss_batch(seed), LossConfig(ratio=ratio, kl=kl, kl_ratio=True, beta=0.3))


def test_equation_of_the_entropy_bonus(make_loss_batch):
    """c times the mean over all tokens of the batch, however the rest is aggregated."""
    for aggregation in AGGREGATIONS:
        batch, config = make_loss_batch(), LossConfig(aggregation=aggregation)
        entropy = torch.rand(batch[0].shape, generator=torch.Generator().manual_seed(0)).requires_grad_()
        loss, _ = policy_loss(*batch, replace(config, entropy_bonus=0.3), entropy=entropy)
        loss.backward()
        mean = average(h for row, m in zip(entropy.tolist(), batch[-1].tolist(), strict=True)
                       for h, there in zip(row, m, strict=True) if there)  # fmt: skip
        assert loss.item() == pytest.approx(policy_loss(*batch, config)[0].item() - 0.3 * mean, rel=1e-5)
        torch.testing.assert_close(entropy.grad, -0.3 * batch[-1] / batch[-1].sum())
    with pytest.raises(ValueError, match=r"entropy_bonus = 0\.3 needs entropy"):
        policy_loss(*batch, replace(config, entropy_bonus=0.3))


@pytest.mark.parametrize("ratio", ["token", "sequence"])
def test_equation_of_the_two_sided_clip(make_loss_batch, ratio):
    config = LossConfig(delta=1.5, beta=0.0, ratio=ratio)
    for seed in range(5):
        batch = make_loss_batch(seed, spread=1.0)
        check(batch, config)
    assert policy_loss(*batch, config)[0] != policy_loss(*batch, replace(config, delta=None))[0]


def test_equation_of_the_constant_length(make_loss_batch):
    check(make_loss_batch(), LossConfig(aggregation="constant", max_length=50))


def test_a_kl_in_the_reward_is_not_in_the_loss(make_loss_batch):
    batch = make_loss_batch()
    in_reward = check(batch, LossConfig(beta=0.5, kl_in="reward"))
    assert "kl" in in_reward
    without = policy_loss(*batch, LossConfig(beta=0.0))[0]
    assert policy_loss(*batch, LossConfig(beta=0.5, kl_in="reward"))[0] == without


# ---- presets, each written out -------------------------------------------------------------------------------


def per_completion(batch):
    """(A_i, [(rho_it, logp_it, ref_it)]) of each completion."""
    logps, old, ref, advantages, mask = (x.tolist() for x in batch)
    for i, row in enumerate(mask):
        yield (
            advantages[i],
            [(math.exp(a - b), a, r) for a, b, r, m in zip(logps[i], old[i], ref[i], row, strict=True) if m],
        )


def ppo(rho, a, low, high):
    return min(rho * a, min(max(rho, 1 - low), 1 + high) * a)


def grpo(batch):
    return -average(
        average(ppo(rho, a, 0.2, 0.2) - 0.04 * (math.exp(ref - logp) - (ref - logp) - 1) for rho, logp, ref in tokens)
        for a, tokens in per_completion(batch)
    )


def dr_grpo(batch):
    width = batch[0].shape[1]
    return -average(sum(ppo(rho, a, 0.2, 0.2) for rho, _, _ in tokens) / width for a, tokens in per_completion(batch))


def dapo(batch):
    return -average(ppo(rho, a, 0.2, 0.28) for a, tokens in per_completion(batch) for rho, _, _ in tokens)


def gspo(batch):
    def geometric_mean(x):
        return math.prod(x) ** (1 / len(x))

    return -average(
        ppo(geometric_mean([rho for rho, _, _ in tokens]), a, 3e-4, 4e-4) for a, tokens in per_completion(batch)
    )


def cispo(batch):
    return -average(min(rho, 5.0) * a * logp for a, tokens in per_completion(batch) for rho, logp, _ in tokens)


def sapo(batch):
    def gate(rho, a):
        t = 1.0 if a > 0 else 1.05
        return 4 / t * sigmoid(t * (rho - 1))

    return -average(average(gate(rho, a) * a for rho, _, _ in tokens) for a, tokens in per_completion(batch))


def rloo(batch):
    width = batch[0].shape[1]
    return -average(a * sum(logp for _, logp, _ in tokens) / width for a, tokens in per_completion(batch))


def reinforce(batch):
    return -average(a * logp for a, tokens in per_completion(batch) for _, logp, _ in tokens)


def gmpo(batch):
    def clipped(rho, a):
        return min(rho, math.exp(0.4)) if a > 0 else max(rho, math.exp(-0.4))

    return -average(
        math.prod(clipped(rho, a) for rho, _, _ in tokens) ** (1 / len(tokens)) * a
        for a, tokens in per_completion(batch)
    )


def luspo(batch):
    def s(tokens):
        return math.prod(rho for rho, _, _ in tokens) ** (1 / len(tokens))

    return -average(len(tokens) * ppo(s(tokens), a, 2e-3, 2.5e-3) for a, tokens in per_completion(batch))


def maxrl(batch):
    return -average(ppo(rho, a, 0.2, 0.2) for a, tokens in per_completion(batch) for rho, _, _ in tokens)


def deepseek_v32(batch):
    total = []
    for a, tokens in per_completion(batch):
        far = a < 0 and average(-math.log(rho) for rho, _, _ in tokens) > 0.5
        kl = [rho * (math.exp(ref - logp) - (ref - logp) - 1) for rho, logp, ref in tokens]
        total.append(average((not far) * ppo(t[0], a, 0.2, 0.2) - 1e-3 * k for t, k in zip(tokens, kl, strict=True)))
    return -average(total)


def top_entropy(batch):
    """Here the entropy of a token is minus its old log-prob."""
    every = sorted(math.log(rho) - logp for _, tokens in per_completion(batch) for rho, logp, _ in tokens)
    least = every[-math.floor(1 + 0.2 * (len(every) - 1))]
    return -average(
        (math.log(rho) - logp >= least) * ppo(rho, a, 0.2, 0.28)
        for a, tokens in per_completion(batch) for rho, logp, _ in tokens
    )  # fmt: skip


def dppo(batch):
    def kept(rho, a, logp):
        p, q = math.exp(logp), math.exp(logp) / rho
        return not (abs(q - p) > 0.2 and (p - q) * a > 0)

    return -average(
        sum(kept(rho, a, logp) * min(rho, 5.0) * a * logp for rho, logp, _ in tokens)
        for a, tokens in per_completion(batch)
    )


PRESET_EQUATIONS = {
    "grpo": grpo, "dr_grpo": dr_grpo, "dapo": dapo, "gspo": gspo, "cispo": cispo, "sapo": sapo, "rloo": rloo,
    "reinforce": reinforce, "gmpo": gmpo, "luspo": luspo, "maxrl": maxrl, "deepseek_v32": deepseek_v32,
    "top_entropy": top_entropy, "dppo": dppo,
}  # fmt: skip


@pytest.mark.parametrize("name", PRESETS)
def test_preset(make_loss_batch, name):
    kept = []
    for seed in range(5):
        batch = [x.detach() for x in make_loss_batch(seed, spread=1.5)]
        loss, metrics = policy_loss(*batch, PRESETS[name], entropy=-batch[1])
        assert loss.item() == pytest.approx(PRESET_EQUATIONS[name](batch), rel=1e-4)
        kept.append(metrics.get("weight", torch.ones(())).item())
    assert min(kept) > 0 and (min(kept) < 1) == bool(PRESETS[name].weight)  # its mask leaves something out


def test_presets_choose_their_advantage_and_kl():
    kl = {name: (c.beta, c.kl, c.kl_in) for name, c in PRESETS.items() if c.beta}
    assert kl.pop("deepseek_v32") == (0.001, "k3", "loss")
    assert kl == {"grpo": (0.04, "k3", "loss"), "rloo": (0.05, "k1", "reward")}
    advantages = {name: c.advantage for name, c in PRESETS.items() if c.advantage != "group"}
    none = dict.fromkeys(("dr_grpo", "reinforce", "deepseek_v32", "dppo"), "none")
    assert advantages == {**none, "rloo": "rloo", "maxrl": "maxrl"}


# ---- metrics -------------------------------------------------------------------------------------------------


def test_metrics_are_means_over_sampled_tokens(make_loss_batch):
    batch = make_loss_batch(3)
    _, metrics = policy_loss(*batch, LossConfig(eps_low=0.1, eps_high=0.3))
    tokens = [(a, *token) for a, tokens in per_completion([x.detach() for x in batch]) for token in tokens]
    expected = {
        "ratio": average(rho for _, rho, _, _ in tokens),
        "ratio_max": max(rho for _, rho, _, _ in tokens),
        "clip_fraction_low": average(rho < 0.9 and a < 0 for a, rho, _, _ in tokens),
        "clip_fraction_high": average(rho > 1.3 and a > 0 for a, rho, _, _ in tokens),
        "kl": average(math.exp(ref - logp) - (ref - logp) - 1 for _, _, logp, ref in tokens),
    }
    assert {name: value.item() for name, value in metrics.items()} == pytest.approx(expected, rel=1e-5)
    assert min(expected.values()) > 0
    assert not any(value.requires_grad for value in metrics.values())


def test_a_reference_is_logged_even_where_it_has_no_weight(make_loss_batch):
    batch = make_loss_batch()
    assert policy_loss(*batch, LossConfig(beta=0.0))[1]["kl"] > 0
    assert "kl" not in policy_loss(*batch[:2], None, *batch[3:], LossConfig(beta=0.0))[1]


# ---- your own surrogate --------------------------------------------------------------------------------------


def test_a_surrogate_by_import_path_with_its_arguments(make_loss_batch, monkeypatch, tmp_path):
    (tmp_path / "my_surrogates.py").write_text(
        "def mine(ratio, advantages, logps, config, strength):\n"
        "    return config.eps_low * ratio * advantages - strength * (ratio - 1) ** 2\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    batch = [x.detach() for x in make_loss_batch()]
    config = LossConfig(surrogate="my_surrogates:mine", args={"strength": 0.5}, eps_low=0.7, beta=0.0)
    loss, _ = policy_loss(*batch, config)
    expected = -average(
        average(0.7 * rho * a - 0.5 * (rho - 1) ** 2 for rho, _, _ in tokens) for a, tokens in per_completion(batch)
    )
    assert loss.item() == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        ("(ratio * advantages).mean()", "must return .* it made torch.float32 []"),
        ("(ratio * advantages).sum(dim=1)", "it made torch.float32 [2]"),
        ("(ratio * advantages).double()", "it made torch.float64 [2, 3]"),
        ("ratio > 1", "it made torch.bool [2, 3]"),
        ("None", "it made None"),
        ("ratio.detach() * advantages", "does not depend on the log-probs"),
        ("(ratio - 1) ** 2", "does not depend on the log-probs"),
        ("ratio * missing", "'missing' is not defined"),
    ],
)
def test_a_surrogate_that_cannot_be_right_is_refused_before_the_run(monkeypatch, tmp_path, body, reason):
    (tmp_path / "bad_surrogates.py").write_text(f"def bad(ratio, advantages, logps, config):\n    return {body}\n")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "bad_surrogates", raising=False)
    with pytest.raises(ConfigError) as error:
        load_config(None, ["loss.surrogate=bad_surrogates:bad"])
    line = str(error.value)
    assert line.startswith("command line: loss.surrogate cannot be used: ") and "\n" not in line
    assert re.search(re.escape(reason).replace(r"\.\*", ".*"), line)


def test_a_surrogates_arguments_must_be_its_own(monkeypatch, tmp_path):
    (tmp_path / "three_arguments.py").write_text("def f(ratio, advantages, logps):\n    return ratio * advantages\n")
    monkeypatch.syspath_prepend(tmp_path)
    for settings in (["loss.surrogate=three_arguments:f"], ["loss.args.strength=1"]):
        with pytest.raises(ConfigError, match=r"loss.surrogate cannot be used: .*argument"):
            load_config(None, settings)


@pytest.mark.parametrize("preset", PRESETS)
def test_the_surrogate_of_every_preset_passes(preset):
    check_surrogate(PRESETS[preset])


UNCLIPPED = ["sapo", "cispo", "reinforce", "my_quadratic:quadratic"]


@pytest.mark.parametrize(("surrogate", "clipped"), [("clip", 1.0), *((name, 0.0) for name in UNCLIPPED)])
def test_a_token_is_clipped_only_where_that_takes_its_gradient(surrogate, clipped, tmp_path, monkeypatch):
    body = "def quadratic(ratio, advantages, logps, config):\n    return ratio * advantages - (ratio - 1) ** 2\n"
    (tmp_path / "my_quadratic.py").write_text(body)
    monkeypatch.syspath_prepend(tmp_path)
    logps, one, mask = torch.tensor([[2.0]], requires_grad=True), torch.ones(1), torch.ones(1, 1, dtype=torch.bool)
    old = torch.zeros(1, 1)
    tokens = Tokens.of(mask, logps=logps, old=old, sampler=old, reference=None, entropy=None, advantages=one)
    loss, values = token_loss(tokens, LossConfig(surrogate=surrogate, beta=0.0), Counts(1, 1, 1))
    loss.backward()
    assert values["clipped"].item() == clipped and (logps.grad == 0).item() == bool(clipped)
    assert values["clip_fraction_high"].item() == 1, "the ratio is beyond the range with all of them"


def test_a_surrogate_that_is_infinite_in_an_empty_slot_leaves_the_loss_finite(tmp_path, monkeypatch):
    """Unlikelihood: log(1 - p) is -inf at p = 1, which an empty slot's log-prob of 0 stands for."""
    body = "def unlikely(ratio, advantages, logps, config):\n    return advantages * (1 - logps.exp()).log()\n"
    (tmp_path / "my_unlikely.py").write_text(body)
    monkeypatch.syspath_prepend(tmp_path)
    logps = torch.tensor([[-1.0, -2.0], [-0.5, 0.0]], requires_grad=True)
    mask = torch.tensor([[True, True], [True, False]])
    config = LossConfig(surrogate="my_unlikely:unlikely", beta=0.0)
    loss, _ = policy_loss(logps, logps.detach(), None, torch.tensor([1.0, -1.0]), mask, config)
    loss.backward()
    first, second, third = (math.log(1 - math.exp(x)) for x in (-1.0, -2.0, -0.5))
    assert loss.item() == pytest.approx(-((first + second) / 2 - third) / 2)
    assert logps.grad.isfinite().all() and logps.grad[1, 1] == 0


def test_the_upper_bound_of_the_ratio_has_a_figure_of_its_own():
    logps, zero = torch.tensor([[0.0, 2.0, 0.0, 2.0]]), torch.zeros(1, 4)
    mask, advantages = torch.ones(1, 4, dtype=torch.bool), torch.tensor([[-1.0, -1.0, 1.0, 1.0]])
    shares = policy_loss(logps, zero, None, advantages, mask, LossConfig(beta=0.0, delta=3.0))[1]
    assert [shares[f"clip_fraction_{which}"].item() for which in ("low", "high", "delta")] == [0.0, 0.25, 0.25]


def test_a_registered_surrogate_has_a_name(make_loss_batch):
    @register_surrogate("mine")
    def mine(ratio, advantages, logps, config):
        return ratio * advantages

    try:
        batch = [x.detach() for x in make_loss_batch()]
        loss, _ = policy_loss(*batch, LossConfig(surrogate="mine", beta=0.0))
        assert loss == policy_loss(*batch, LossConfig(beta=0.0, eps_low=1.0, eps_high=1e9))[0]
    finally:
        SURROGATES.pop("mine")


@pytest.mark.parametrize("name", ["clipp", "no_such_module:f", "math:no_such_function", "math:", ":f", ""])
def test_an_unknown_surrogate_lists_the_known_ones(make_loss_batch, name):
    with pytest.raises(ValueError, match=r"unknown surrogate .*clip, reinforce, cispo, sapo or `module:function`"):
        policy_loss(*make_loss_batch(), LossConfig(surrogate=name))
