"""The weights of tokens: each against its equation in plain Python, and what the loss makes of them."""

from __future__ import annotations

import math
import re

import pytest
import torch

from grpo.loss import Counts, LossConfig, policy_loss, register_weight, token_loss, token_means
from grpo.runs.config import to_yaml
from grpo.runs.settings import ConfigError, load_config
from grpo.weights import WEIGHTS, Tokens, product

LENGTHS = (3, 6, 1, 4)


@pytest.fixture
def make_tokens(make_loss_batch):
    """make_tokens(seed) -> Tokens of four completions; sampler and trainer differ as much as an update moves."""

    def make(seed=0, **changes):
        logps, old, reference, advantages, mask = (x.detach() for x in make_loss_batch(seed, LENGTHS, per_token=True))
        generator = torch.Generator().manual_seed(seed + 100)
        sampler = (old + 0.6 * torch.randn(old.shape, generator=generator)).clamp(max=-1e-3)
        known = {"logps": logps.clamp(max=-1e-3), "old": old, "sampler": sampler, "reference": reference}
        known |= {"entropy": torch.rand(old.shape, generator=generator), "advantages": advantages, "mask": mask}
        return Tokens(**known | changes)

    return make


def rows(tokens, *names):
    """Of each completion, its tokens as tuples of the named figures, plain numbers."""
    columns = [getattr(tokens, name).tolist() for name in names]
    return [list(zip(*(column[i][:n] for column in columns), strict=True)) for i, n in enumerate(LENGTHS)]


# ---- the equations ------------------------------------------------------------------------------------------


def corrections(tokens, level):
    ratios = [[math.exp(old - q) for old, q in row] for row in rows(tokens, "old", "sampler")]
    return [[math.prod(row)] * len(row) if level == "sequence" else row for row in ratios]


def tis(tokens, cap=2.0, floor=0.0, level="token"):
    return [[min(max(x, floor), cap) for x in row] for row in corrections(tokens, level)]


def mis(tokens, cap=2.0, floor=0.0, level="token"):
    return [[x if floor <= x <= cap else 0.0 for x in row] for row in corrections(tokens, level)]


def opsm(tokens, delta=0.5):
    found = []
    for row in rows(tokens, "advantages", "sampler", "logps"):
        drift = sum(q - p for _, q, p in row) / len(row)
        found.append([float(not (a < 0 and drift > delta)) for a, _, _ in row])
    return found


def top_entropy(tokens, share=0.2):
    """The highest `share` of all tokens, at least one."""
    entropies = [[h for (h,) in row] for row in rows(tokens, "entropy")]
    every = sorted((h for row in entropies for h in row), reverse=True)
    least = every[math.floor(share * (len(every) - 1) + 1e-9)]
    return [[float(h >= least) for h in row] for row in entropies]


def dppo(tokens, divergence="tv", delta=0.15):
    def keeps(a, logp, logq):
        p, q = math.exp(logp), math.exp(logq)
        tv, kl = abs(q - p), q * math.log(q / p) + (1 - q) * math.log((1 - q) / (1 - p))
        away = (a > 0 and p / q > 1) or (a < 0 and p / q < 1)
        return not (away and (tv if divergence == "tv" else kl) > delta)

    return [[float(keeps(*token)) for token in row] for row in rows(tokens, "advantages", "logps", "sampler")]


def rollout_ratio(tokens, cap=5.0):
    return [[min(math.exp(logp - q), cap) for logp, q in row] for row in rows(tokens, "logps", "sampler")]


EQUATIONS = {f.__name__: f for f in (tis, mis, opsm, top_entropy, dppo, rollout_ratio)}
CASES = [
    ("tis", {}), ("tis", {"cap": 1.2, "floor": 0.7}), ("tis", {"level": "sequence"}), ("mis", {}),
    ("mis", {"cap": 1.5, "floor": 0.5}), ("mis", {"cap": 3.0, "level": "sequence"}), ("opsm", {}),
    ("opsm", {"delta": 0.05}), ("top_entropy", {}), ("top_entropy", {"share": 0.5}), ("top_entropy", {"share": 1.0}),
    ("top_entropy", {"share": 0.0}), ("rollout_ratio", {}), ("rollout_ratio", {"cap": 1.1}), ("dppo", {}),
    ("dppo", {"divergence": "kl", "delta": 0.05}),
]  # fmt: skip


def test_every_weight_has_its_equation_here():
    assert set(EQUATIONS) == set(WEIGHTS) == {name for name, _ in CASES}


@pytest.mark.parametrize(("name", "args"), CASES)
def test_equation(make_tokens, name, args):
    found = []
    for seed in range(6):
        tokens = make_tokens(seed)
        ours = product(({"name": name, "args": args},), tokens)
        plain = [row + [0.0] * (6 - len(row)) for row in EQUATIONS[name](tokens, **args)]
        torch.testing.assert_close(ours, torch.tensor(plain), rtol=1e-4, atol=1e-6)
        assert not ours.requires_grad and (ours[~tokens.mask] == 0).all()
        found.append(ours[tokens.mask])
    assert (torch.cat(found) != 1).any() or args == {"share": 1.0}
    assert (torch.cat(found) > 0).any()


def test_the_entropies_of_the_batch_decide_not_those_of_the_micro_batch(make_tokens):
    whole = make_tokens()
    weight = product(("top_entropy",), whole)
    for row in range(4):
        part = {name: x[row : row + 1] for name, x in vars(whole).items() if x is not None}
        alone = Tokens(**part, batch_entropy=whole.entropy[whole.mask])
        assert product(("top_entropy",), alone).equal(weight[row : row + 1])
        assert product(("top_entropy",), Tokens(**part)).any()  # by itself each would keep one


def test_weights_multiply(make_tokens):
    tokens = make_tokens()
    both = product(("tis", {"name": "top_entropy", "args": {"share": 0.5}}), tokens)
    torch.testing.assert_close(
        both, product(("tis",), tokens) * product(({"name": "top_entropy", "args": {"share": 0.5}},), tokens)
    )
    assert product((), tokens).equal(tokens.mask.float())


def test_far_apart_policies_stay_finite(make_tokens):
    x = torch.full((4, 6), -200.0)
    for tokens in (make_tokens(sampler=x), make_tokens(logps=x), make_tokens(logps=0 * x, sampler=0 * x)):
        for name, args in CASES:
            assert product(({"name": name, "args": args},), tokens).isfinite().all()


def test_what_a_weight_says_of_masked_slots_does_not_matter(make_loss_batch, monkeypatch):
    """There the entropy is 0, so that this one divides by 0."""
    monkeypatch.setitem(WEIGHTS, "inverse", lambda tokens: 1 / tokens.entropy)
    batch = make_loss_batch(lengths=LENGTHS)
    loss, metrics = policy_loss(*batch, LossConfig(weight=("inverse",)), entropy=-batch[1])
    loss.backward()
    assert all(x.isfinite().all() for x in (loss, batch[0].grad, *metrics.values()))
    assert (batch[0].grad[~batch[4]] == 0).all()


# ---- in the loss --------------------------------------------------------------------------------------------


def test_a_weight_multiplies_the_surrogate_and_not_the_kl_and_has_no_gradient(make_loss_batch):
    batch = make_loss_batch()
    sampler = (batch[1] + 0.5).detach()
    weight = (batch[1] - sampler).exp()  # of tis, below its cap
    config = LossConfig(beta=0.3, weight=("tis",))
    loss, metrics = policy_loss(*batch, config, sampler_logps=sampler)
    [gradient] = torch.autograd.grad(loss, batch[0])
    scaled = [*batch[:3], batch[3][:, None] * weight, batch[4]]  # w A in place of A: w does not depend on logps
    expected, _ = policy_loss(*scaled, LossConfig(beta=0.3))
    torch.testing.assert_close(loss, expected)
    torch.testing.assert_close(gradient, torch.autograd.grad(expected, batch[0])[0])
    assert metrics["weight"] == pytest.approx(weight[batch[4]].mean().item())


def test_values_of_each_token(make_loss_batch):
    batch = [x.detach() for x in make_loss_batch(3)]
    config = LossConfig(eps_low=0.1, eps_high=0.3, weight=({"name": "opsm", "args": {"delta": -0.1}},))
    names = ("logps", "old", "reference", "advantages")
    tokens = Tokens.of(batch[4], sampler=batch[1], entropy=-batch[1], **dict(zip(names, batch, strict=False)))
    _, values = token_loss(tokens, config, Counts(14, 4, 6))
    metrics = token_means(values, 14)
    logps, old, ref, advantages = (x.tolist() for x in batch[:4])
    keep = opsm(Tokens(batch[0], batch[1], batch[1], None, None, batch[3][:, None].expand(4, 6), batch[4]), -0.1)
    for i, n in enumerate(LENGTHS):
        for t in range(n):
            rho, gap, a = math.exp(logps[i][t] - old[i][t]), ref[i][t] - logps[i][t], advantages[i]
            expected = {"ratio": rho, "kl": math.exp(gap) - gap - 1, "entropy": -old[i][t]}
            expected |= {
                "weight": keep[i][t],
                "clipped": float((rho < 0.9 and a < 0) or (rho > 1.3 and a > 0)),
            }
            assert {name: values[name][i, t].item() for name in expected} == pytest.approx(expected, rel=1e-4)
    assert 0 < metrics["weight"] < 1 and 0 < values["clipped"].sum() < batch[4].sum()
    assert all((x[~batch[4]] == 0).all() and not x.requires_grad for x in values.values())


# ---- your own -----------------------------------------------------------------------------------------------


def test_a_weight_by_import_path_with_its_arguments(make_loss_batch, monkeypatch, tmp_path):
    (tmp_path / "my_weights.py").write_text("def rare(tokens, most):\n    return tokens.logps.exp() < most\n")
    monkeypatch.syspath_prepend(tmp_path)
    batch = [x.detach() for x in make_loss_batch()]
    line = "loss.weight=[{name: 'my_weights:rare', args: {most: 0.3}}]"
    config = load_config(None, [line, "loss.beta=0"])
    loss, metrics = policy_loss(*batch, config.loss)
    kept = batch[0].exp() < 0.3
    assert metrics["weight"] == pytest.approx((kept & batch[4]).sum().item() / 14) and 0 < metrics["weight"] < 1
    expected, _ = policy_loss(*batch[:3], batch[3][:, None] * kept, batch[4], LossConfig(beta=0.0))
    torch.testing.assert_close(loss, expected)
    (tmp_path / "config.yaml").write_text(to_yaml(config))
    assert load_config(str(tmp_path / "config.yaml")) == config


def test_a_registered_weight_has_a_name(make_tokens):
    @register_weight("half")
    def half(tokens):
        return torch.full_like(tokens.logps, 0.5)

    try:
        tokens = make_tokens()
        assert product(("half",), tokens).equal(0.5 * tokens.mask)
        assert register_weight("half")(half) is half
    finally:
        WEIGHTS.pop("half")


@pytest.mark.parametrize(
    ("value", "reason"),
    [
        ("[tiss]", "unknown weight 'tiss' .*choose tis, mis, opsm, top_entropy, dppo, rollout_ratio or `module"),
        ("[{name: tis, args: {capp: 1}}]", "unexpected keyword argument 'capp'"),
        ("[{nam: tis}]", "a weight is a name, or {name: ..., args: {...}}, not {'nam': 'tis'}"),
        ("[3]", "a weight is a name, or {name: ..., args: {...}}, not 3"),
        ("[{name: tis, args: {level: word}}]", "level must be token or sequence, not 'word'"),
        ("[{name: dppo, args: {divergence: js}}]", "divergence must be tv or kl, not 'js'"),
        ("['bad_weights:flat']", "it made [2]"),
        ("['bad_weights:nothing']", "it made None"),
        ("['bad_weights:broken']", "'missing' is not defined"),
    ],
)
def test_a_weight_that_cannot_be_right_is_refused_before_the_run(monkeypatch, tmp_path, value, reason):
    bodies = {"flat": "tokens.logps.sum(dim=1)", "nothing": "None", "broken": "missing"}
    text = "".join(f"def {name}(tokens):\n    return {body}\n" for name, body in bodies.items())
    (tmp_path / "bad_weights.py").write_text(text)
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(ConfigError) as error:
        load_config(None, [f"loss.weight={value}"])
    line = str(error.value)
    assert line.startswith("command line: loss.weight cannot be used: ") and "\n" not in line
    assert re.search(re.escape(reason).replace(r"\.\*", ".*").replace(r"\ ", " "), line), line


def test_top_entropy_needs_the_entropy(make_loss_batch):
    with pytest.raises(ValueError, match="top_entropy needs entropy"):
        policy_loss(*make_loss_batch(), LossConfig(weight=("top_entropy",)))
