"""The decoder written out: transformers' own forward pass, in value and in every gradient."""

from __future__ import annotations

import copy
from functools import partial

import pytest
import torch
from torch import nn
from transformers import AutoConfig, AutoModelForCausalLM

from grpo import decoder, kernels, lora
from grpo.attention import Layout, attend
from grpo.decoder import Decoder, is_written_out
from grpo.linear import Linears, packed_linears
from grpo.logprobs import completion_logps
from grpo.lora import LoraConfig, LoraLinear
from grpo.policy import ModelConfig, load_policy
from grpo.products import available, use_onednn

KINDS = ["llama", "qwen2", "mistral", "llama-biased"]
LENGTHS = (6, 1, 9)
CLOSE = {"rtol": 1e-4, "atol": 1e-5}


def stirred(policy):
    """Biases and norms are 0 and 1 in a fresh model, where a mistake would not show."""
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for p in policy.model.parameters():
            p.add_(0.1 * torch.randn(p.shape, generator=generator))
    return policy


def ids_of(lengths=LENGTHS, seed=0):
    return list(torch.randint(0, 23, (sum(lengths),), generator=torch.Generator().manual_seed(seed)).split(lengths))


def ours(model, recompute="none", written_out=None):
    """Logits [M, V] of some sequences as one list of tokens."""
    layout = Layout.of_prompts(torch.tensor(LENGTHS))
    written_out = written_out or Decoder(model, recompute)
    hidden = written_out(torch.cat(ids_of()), layout.positions, lambda _, q, k, v: attend(q, k, v, layout))
    return model.get_output_embeddings()(hidden.float())


def theirs(model):
    """The same by transformers, a sequence at a time."""
    return torch.cat([model(input_ids=ids[None], use_cache=False).logits[0] for ids in ids_of()])


def gradients(model, logits):
    """Of a fixed random combination of the logits, by every parameter that it reaches."""
    model.zero_grad()
    (logits * torch.randn(logits.shape, generator=torch.Generator().manual_seed(2))).sum().backward()
    return {name: p.grad.to_dense() for name, p in model.named_parameters() if p.grad is not None}


def same(model, **options):
    expected, logits = theirs(model), ours(model, **options)
    torch.testing.assert_close(logits, expected, **CLOSE)
    torch.testing.assert_close(gradients(model, logits), gradients(model, expected), rtol=1e-3, atol=1e-4)


# ---- the whole decoder ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("recompute", ["none", "full"])
@pytest.mark.parametrize("kind", KINDS)
def test_value_and_every_gradient_are_those_of_transformers(kind, recompute, make_policy):
    model = stirred(make_policy(kind)).model
    same(model, recompute=recompute)
    assert all(p.grad is not None and p.grad.any() for p in model.parameters())


@pytest.mark.parametrize("tied", [True, False])
def test_a_padding_token_is_embedded_but_not_trained_on(tied, make_policy):
    model = stirred(make_policy("llama" if tied else "qwen2")).model
    embedding, used = model.get_input_embeddings(), int(ids_of()[0][2])
    embedding.padding_idx = used
    same(model)
    assert tied or not embedding.weight.grad[used].any()  # tied, it still has what comes from the head
    embedding.padding_idx = None
    model.zero_grad()
    ours(model)[:, :5].sum().backward()
    assert embedding.weight.grad.to_dense()[used].any()


def test_yarn_scales_the_rotation(make_policy):
    config = make_policy().model.config.to_dict()
    yarn = {"rope_type": "yarn", "rope_theta": 1e4, "factor": 4.0, "original_max_position_embeddings": 16}
    model = AutoModelForCausalLM.from_config(AutoConfig.for_model(**{**config, "rope_parameters": yarn})).eval()
    assert Decoder(model).rotation(torch.zeros(1, dtype=torch.long))[0].max() > 1.1
    same(model)


def test_bf16_is_near_fp32():
    grads = []
    for dtype in ("float32", "bfloat16"):
        policy = load_policy(ModelConfig("tiny-init", dtype=dtype))
        assert policy.decoder.embed(torch.tensor([3])).dtype == policy.dtype
        grads.append(gradients(policy.model, ours(policy.model, written_out=policy.decoder)))
    assert grads[0].keys() == grads[1].keys()
    for name, g in grads[0].items():
        assert (grads[1][name].float() - g).norm() < 0.03 * g.norm(), name


def test_a_gradient_may_be_an_expanded_number(make_policy):
    model, layout = stirred(make_policy()).model, Layout.of_prompts(torch.tensor(LENGTHS))
    grads = []
    for expanded in (True, False):
        model.zero_grad()
        x = Decoder(model)(torch.cat(ids_of()), layout.positions, lambda _, q, k, v: attend(q, k, v, layout))
        (x.sum() if expanded else (x * torch.ones_like(x)).sum()).backward()
        grads.append([p.grad.to_dense().clone() for p in model.parameters()])
    assert all(a.equal(b) for a, b in zip(*grads, strict=True))


def test_the_model_itself_stays_as_it_was(make_policy):
    policy = make_policy()
    before = {name: p.data_ptr() for name, p in policy.model.named_parameters()}
    Decoder(policy.model, "full")
    assert {name: p.data_ptr() for name, p in policy.model.named_parameters()} == before
    assert type(copy.deepcopy(policy.model)) is type(policy.model)


# ---- what is computed again ----------------------------------------------------------------------------------


def kept(forward):
    """What a forward pass returns, and how many numbers it keeps for the backward pass, parameters aside."""
    tensors = {}

    def note(x):
        if not isinstance(x, nn.Parameter):
            tensors[x.data_ptr(), x.shape] = x
        return x

    with torch.autograd.graph.saved_tensors_hooks(note, lambda x: x):
        result = forward()
    return result, sum(x.numel() for x in tensors.values())


@pytest.mark.parametrize("kind", KINDS)
def test_recomputed_activations_give_the_same_gradient(kind, make_policy, make_rollouts):
    rollouts, grads, sizes = make_rollouts([6, 1, 3], [4, 2, 5, 3, 3, 1], group_size=2), [], []
    for recompute in ("none", "full"):
        policy = stirred(make_policy(kind))
        policy.decoder.recompute = recompute
        (logps, _), size = kept(lambda: completion_logps(policy, rollouts, 1.0))  # noqa: B023
        sizes.append(size)
        grads.append(gradients(policy.model, logps))
    assert all(g.equal(grads[1][name]) for name, g in grads[0].items())
    assert sizes[1] < 0.3 * sizes[0]


@pytest.mark.skipif(kernels.load() is None, reason="attention by PyTorch keeps its padded inputs")
def test_little_is_kept_even_so(make_policy):
    """Less than half of what transformers' layers keep: x, q, k, v, a, x + a Wo^T, and the two halves of the MLP."""
    model = make_policy("mistral").model
    assert kept(partial(ours, model))[1] < 0.5 * kept(partial(theirs, model))[1]


@pytest.mark.parametrize("path", ["tiny-init", "gpt2"])
def test_a_loaded_policy_recomputes_where_it_is_told_to(path, tmp_path, make_policy, make_rollouts):
    if path == "gpt2":
        make_policy("gpt2").model.save_pretrained(tmp_path)
        load_policy(ModelConfig("tiny-init")).tokenizer.save_pretrained(tmp_path)
    rollouts = make_rollouts([6, 3], [4, 2, 5, 3], group_size=2)
    sizes = []
    for recompute in ("none", "full"):
        policy = load_policy(ModelConfig(str(tmp_path) if path == "gpt2" else path, recompute=recompute))
        sizes.append(kept(partial(completion_logps, policy, rollouts, 1.0))[1])
    assert sizes[1] < 0.5 * sizes[0]


def test_without_gradient_nothing_is_kept_or_recomputed(make_policy, make_rollouts, monkeypatch):
    policy, rollouts = make_policy(), make_rollouts([4], [3, 2], group_size=2)
    with torch.no_grad():
        expected = completion_logps(policy, rollouts, 1.0)[0]
        policy.decoder.recompute = "full"
        monkeypatch.setattr(decoder, "checkpoint", lambda *a, **k: pytest.fail("to be recomputed"))
        (logps, _), size = kept(lambda: completion_logps(policy, rollouts, 1.0))
    assert logps.equal(expected) and not size


@pytest.mark.parametrize("recompute", ["none", "full"])
def test_what_is_frozen_gets_no_gradient(recompute, make_policy, make_rollouts):
    policy, rollouts = make_policy(), make_rollouts([6], [4])
    policy.decoder.recompute = recompute
    for name, parameter in policy.model.named_parameters():
        parameter.requires_grad_("layers.1.mlp" in name)  # behind the last keys and values
    completion_logps(policy, rollouts, 1.0)[0].sum().backward()
    trained = {name for name, p in policy.model.named_parameters() if p.grad is not None}
    assert trained == {f"model.layers.1.mlp.{x}_proj.weight" for x in ("gate", "up", "down")}


# ---- LoRA ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("targets", [(), ("q_proj", "down_proj")], ids=str)
@pytest.mark.parametrize("kind", ["llama", "llama-biased"])
def test_an_adapter_has_transformers_gradient_and_its_base_has_none(kind, targets, make_policy):
    model = stirred(make_policy(kind)).model
    lora.add_adapter(model, LoraConfig(rank=3, alpha=5.0, targets=targets), seed=0)
    for layer in lora.adapters(model).values():
        nn.init.normal_(layer.lora_B, std=0.2)
    same(model)
    trained = {name for name, p in model.named_parameters() if p.grad is not None}
    assert trained == {name for name, _ in model.named_parameters() if ".lora_" in name}
    assert len(trained) == 2 * 2 * (len(targets) or 7)


def joint(bias=("a", "b", "c"), adapted=("b",), unit=1) -> Linears:
    """Three layers of one input, some with LoRA, some with a bias."""
    torch.manual_seed(0)
    module = nn.Module()
    for name, width in (("a", 6), ("b", 3), ("c", 5)):
        layer = nn.Linear(8 * unit, width * unit, bias=name in bias)
        if name in adapted:
            layer = LoraLinear(layer, rank=2, scaling=1.5)
            nn.init.normal_(layer.lora_A)
            nn.init.normal_(layer.lora_B)
        setattr(module, name, layer)
    return Linears(module, "a", "b", "c")


@pytest.mark.parametrize("adapted", [(), ("b",), ("a", "b", "c")], ids=str)
@pytest.mark.parametrize("bias", [("a", "b", "c"), ("c",), ()], ids=str)
@pytest.mark.parametrize("unit", [1, 16])  # 16: small products in C
@pytest.mark.parametrize("rows", [7, 200])
def test_joint_layers_have_autograds_gradient(rows, unit, bias, adapted):
    linears, x = joint(bias, adapted, unit), torch.randn(rows, 8 * unit, requires_grad=True)
    outs = [layer(x) for layer in linears.layers]
    torch.testing.assert_close(linears(x), torch.cat(outs, dim=-1), **CLOSE)
    assert not linears(x).requires_grad
    assert [y.shape for y in linears.split(linears(x))] == [y.shape for y in outs]
    gs = [torch.randn_like(y) for y in outs]
    dx, of_parameters = linears.backward(torch.cat(gs, dim=1), x.detach())
    assert len(of_parameters) == len(linears.parameters()) == 12
    trained = [p is not None and p.requires_grad for p in linears.parameters()]
    assert [g is not None for g in of_parameters] == trained
    wanted = [x, *(p for p in linears.parameters() if p is not None and p.requires_grad)]
    expected = torch.autograd.grad(outs, wanted, gs)
    torch.testing.assert_close([dx, *(g for g in of_parameters if g is not None)], list(expected), **CLOSE)


@pytest.mark.parametrize("unit", [1, 16])
def test_packed_joint_layers_compute_the_same_and_are_unpacked_at_the_end(unit):
    linears, mixed, x = joint(adapted=(), unit=unit), joint(unit=unit), torch.randn(7, 8 * unit)
    expected = linears(x), mixed(x)
    for each in (linears, mixed):
        use_onednn(each.module)
    with pytest.raises(KeyError), packed_linears([linears, mixed]):
        torch.testing.assert_close((linears(x), mixed(x)), expected, **CLOSE)
        raise KeyError
    assert linears.packed is None is mixed.packed and linears(x).equal(expected[0])


@pytest.mark.parametrize("unit", [1, 32])  # 32: worth a packed copy
def test_a_packed_weight_is_a_copy_and_the_original_may_go(unit):
    linears, x = joint(adapted=(), unit=unit), torch.randn(7, 8 * unit)
    expected = linears(x)
    linears.pack_for_good()
    gone = [layer.weight.numel() == 0 for layer in linears.layers]
    assert gone == [linears.packed is not None] * 3 == [unit == 32 and available()] * 3
    torch.testing.assert_close(linears(x), expected, **CLOSE)


# ---- which models --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", [*KINDS, "mistral-window", "gpt2", "gpt_neox", "gemma"])
def test_other_architectures_and_windows_go_another_way(kind, make_policy):
    policy = make_policy(kind)
    assert is_written_out(policy.model) == (kind in KINDS) == (policy.decoder is not None)


@pytest.mark.parametrize("change", [{"hidden_act": "gelu"}, {"use_sliding_window": True, "sliding_window": 4}], ids=str)
def test_other_activations_and_some_windows_go_another_way(change, make_policy):
    config = make_policy("qwen2").model.config.to_dict()
    window = {"max_window_layers": 1, "layer_types": None} if "sliding_window" in change else {}
    changed = AutoConfig.for_model(**{**config, **change, **window})
    assert not is_written_out(AutoModelForCausalLM.from_config(changed))


def test_a_variant_that_gives_other_logits_goes_another_way(monkeypatch):
    assert load_policy(ModelConfig("tiny-init")).decoder is not None
    embed = Decoder.embed
    monkeypatch.setattr(Decoder, "embed", lambda self, ids: -embed(self, ids))
    assert load_policy(ModelConfig("tiny-init")).decoder is None
