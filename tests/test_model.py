"""Claims about CharLM: its arithmetic equals a plain float64 reference, and only its address decides a draw."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import randomness
from architectures.registry import build_model, initialize
from config import Config
from config_cpu import ConfigCPU
from kernels import attention as attention_module
from model import CharLM, Dropout, address_dropout, number_dropouts
from tasks.corpus import make_corpus

SMALL = {"n_layer": 2, "n_head": 2, "n_embd": 12, "block_size": 10, "batch_size": 3, "max_iters": 1}
V = 7


def random_tensor(*shape, site="x", dtype=torch.float64):
    return torch.from_numpy(randomness.generator(0, "init", 0, site).standard_normal(shape)).to(dtype)


def small_model(activation="gelu", dropout=0.3, dtype=torch.float64, **changes):
    """A small CharLM in training mode whose every parameter, biases too, is far from its initial value."""
    config = ConfigCPU(**{**SMALL, "dropout": dropout, **changes})
    model = build_model("charlm", activation, config, V).to(dtype)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            parameter.copy_(0.3 * random_tensor(*parameter.shape, site=name) + ("norm" in name and "weight" in name))
    return model.train(), config


def batch(config, seed=1):
    generator = randomness.generator(seed, "data")
    shape = (config.batch_size, config.block_size)
    return (torch.from_numpy(generator.integers(0, V, size=shape)) for _ in range(2))


# --- size -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("config", "expected"), [(ConfigCPU(), 429_824), (Config(), 10_795_776)])
@pytest.mark.parametrize("activation", ["smelu_05", "smelu_1", "relu", "gelu", "swish"])
def test_the_number_of_parameters_is_the_one_of_the_report(config, expected, activation):
    with torch.device("meta"):
        model = CharLM(config, torch.nn.ReLU, 65)
    assert sum(parameter.numel() for parameter in model.parameters()) == expected
    if config == ConfigCPU():
        model = build_model("charlm", activation, config, 65)
        assert sum(parameter.numel() for parameter in model.parameters()) == expected


def test_each_projection_is_a_parameter_of_its_own():
    names = dict(small_model()[0].named_parameters())
    for part in ("query", "key", "value", "projection"):
        assert names[f"blocks.1.attention.{part}.weight"].shape == (12, 12)
        assert names[f"blocks.1.attention.{part}.bias"].shape == (12,)


# --- attention --------------------------------------------------------------------------------------------------------


def plain_and_fused(batch_size, n_head, length, size, probability, seed=0):
    """((output, gradient) of plain_attention, the same of fused.attention), in float64."""
    qkv = random_tensor(batch_size, length, 3 * n_head * size, site=f"{seed}")
    upstream = random_tensor(batch_size, length, n_head * size, site=f"upstream {seed}")
    levels, kept, (threshold, keep) = None, None, randomness.dropout_threshold(probability)
    if probability:
        shape = (batch_size, n_head, length, length)
        levels = torch.from_numpy(randomness.dropout_levels(seed, 0, 0, math.prod(shape))).view(shape)
        kept = (levels >= threshold).double()
    found = []
    for attend in (
        lambda x: attention_module.plain_attention(x, n_head, kept, keep),
        lambda x: attention_module.attention(x, n_head, levels, threshold, keep),
    ):
        x = qkv.clone().requires_grad_()
        output = attend(x)
        output.backward(upstream)
        assert torch.equal(x.detach(), qkv), "attention changed its input"
        found.append((output.detach(), x.grad))
    return found


@settings(max_examples=60)
@given(
    batch_size=st.integers(1, 3),
    n_head=st.integers(1, 5),
    length=st.integers(1, 130),
    size=st.integers(1, 9),
    probability=st.sampled_from([0.0, 0.2, 0.9]),
)
def test_fused_attention_equals_the_plain_one_in_values_and_gradients(batch_size, n_head, length, size, probability):
    plain, quick = plain_and_fused(batch_size, n_head, length, size, probability)
    for expected, found in zip(plain, quick):
        torch.testing.assert_close(found, expected, rtol=1e-11, atol=1e-11)


@pytest.mark.parametrize("length", [1, 2, 63, 64, 65, 127, 128, 129, 130])
@pytest.mark.parametrize("probability", [0.0, 0.2])
def test_fused_attention_is_right_at_the_edges_of_its_blocks(length, probability):
    """17 heads in 2 sequences are more pairs than are handled at once, and no multiple of that."""
    assert attention_module.HEADS_AT_ONCE < 2 * 17 and attention_module.QUERY_BLOCK == 64
    plain, quick = plain_and_fused(2, 17, length, 3, probability)
    for expected, found in zip(plain, quick):
        torch.testing.assert_close(found, expected, rtol=1e-11, atol=1e-11)


@pytest.mark.parametrize("length", [1, 40, 64, 100, 130])
def test_attention_without_gradients_equals_the_plain_one(length):
    qkv = random_tensor(2, length, 3 * 4 * 5)
    with torch.no_grad():
        torch.testing.assert_close(
            attention_module.attention(qkv, 4), attention_module.plain_attention(qkv, 4), rtol=1e-11, atol=1e-11
        )


def test_the_gradient_of_fused_attention_is_that_of_finite_differences():
    levels = torch.from_numpy(randomness.dropout_levels(1, 0, 0, 2 * 3 * 5 * 5)).view(2, 3, 5, 5)
    threshold, keep = randomness.dropout_threshold(0.3)
    qkv = random_tensor(2, 5, 3 * 3 * 2).requires_grad_()
    assert torch.autograd.gradcheck(lambda x: attention_module.attention(x, 3, levels, threshold, keep), qkv)


@settings(max_examples=30)
@given(st.integers(2, 130), st.data())
def test_attention_does_not_see_the_future(length, data):
    """A change at one place changes nothing before it, not even by rounding, with gradients and without."""
    place = data.draw(st.integers(1, length - 1))
    qkv = random_tensor(1, length, 3 * 2 * 4, dtype=torch.float32)
    other = qkv.clone()
    other[:, place:] = data.draw(st.sampled_from([100.0, -3.0, 0.0]))
    for enabled in (True, False):
        with torch.set_grad_enabled(enabled):
            before, after = attention_module.attention(qkv, 2), attention_module.attention(other, 2)
        torch.testing.assert_close(after[:, :place], before[:, :place], rtol=0, atol=0)
        assert not torch.equal(after[:, place:], before[:, place:])


def test_a_gradient_does_not_come_from_the_future():
    qkv = random_tensor(1, 100, 3 * 2 * 4).requires_grad_()
    attention_module.attention(qkv, 2)[:, :70].sum().backward()
    assert not qkv.grad[:, 70:].any() and qkv.grad[:, :70, 16:].all()


# --- the whole model against a reference ------------------------------------------------------------------------------


def reference_logits(weights, config, tokens, activation, masks):
    """CharLM written out in float64 from the report's description; masks: 1/keep where kept, 0 where dropped."""
    masks = iter(masks)

    def norm(x, name):
        centred = x - x.mean(-1, keepdim=True)
        return (
            centred / ((centred**2).mean(-1, keepdim=True) + 1e-5) ** 0.5 * weights[f"{name}.weight"]
            + weights[f"{name}.bias"]
        )

    def linear(x, name):
        return x @ weights[f"{name}.weight"].T + weights[f"{name}.bias"]

    length, size = tokens.shape[1], config.n_embd // config.n_head
    x = weights["token_embedding.weight"][tokens] + weights["position_embedding.weight"][:length]
    for block in range(config.n_layer):
        name = f"blocks.{block}"
        inner = norm(x, f"{name}.norm1")
        weight_mask, output_mask, last_mask = next(masks), next(masks), next(masks)
        heads = []
        for head in range(config.n_head):
            columns = slice(head * size, (head + 1) * size)
            query, key, value = (
                linear(inner, f"{name}.attention.{part}")[..., columns] for part in ("query", "key", "value")
            )
            scores = torch.einsum("btd,bsd->bts", query, key) / size**0.5
            exponentials = torch.exp(scores) * torch.ones(length, length, dtype=scores.dtype).tril()
            attention = exponentials / exponentials.sum(-1, keepdim=True) * weight_mask[:, head]
            heads.append(torch.einsum("bts,bsd->btd", attention, value))
        x = x + linear(torch.cat(heads, -1), f"{name}.attention.projection") * output_mask
        hidden = activation(linear(norm(x, f"{name}.norm2"), f"{name}.feed_forward.expand"))
        x = x + linear(hidden, f"{name}.feed_forward.contract") * last_mask
    return norm(x, "norm") @ weights["head.weight"].T


def reference_masks(config, seed, step):
    """The masks of every dropout, in order of their sites, from the levels at their addresses."""
    batch_size, length, n_head = config.batch_size, config.block_size, config.n_head
    wide = (batch_size, length, config.n_embd)
    threshold, keep = randomness.dropout_threshold(config.dropout)
    for site in range(3 * config.n_layer):
        shape = (batch_size, n_head, length, length) if site % 3 == 0 else wide
        if config.dropout == 0:
            yield torch.ones(shape, dtype=torch.float64)
            continue
        levels = randomness.dropout_levels(seed, step, site, math.prod(shape)).reshape(shape)
        yield torch.from_numpy((levels >= threshold) / keep)


REFERENCE_ACTIVATIONS = {
    "relu": lambda x: x * (x > 0),
    "gelu": lambda x: x * (1 + torch.erf(x / 2**0.5)) / 2,
    "swish": lambda x: x / (1 + torch.exp(-x)),
    "smelu_05": lambda x: torch.where(x >= 0.5, x, torch.where(x <= -0.5, 0 * x, (x + 0.5) ** 2 / 2)),
    "smelu_1": lambda x: torch.where(x >= 1, x, torch.where(x <= -1, 0 * x, (x + 1) ** 2 / 4)),
}


def loss_and_gradients(logits, targets, parameters):
    log_p = logits - logits.exp().sum(-1, keepdim=True).log()
    loss = -log_p.gather(-1, targets[..., None]).mean()
    return loss, torch.autograd.grad(loss, list(parameters.values()))


@pytest.mark.parametrize("activation", REFERENCE_ACTIVATIONS)
@pytest.mark.parametrize(("dropout", "length"), [(0.3, 10), (0.0, 10), (0.3, 70)])
def test_a_training_step_equals_the_reference_in_values_and_gradients(activation, dropout, length):
    model, config = small_model(activation, dropout, block_size=length)
    tokens, targets = batch(config)
    weights = {name: parameter.detach().clone().requires_grad_() for name, parameter in model.named_parameters()}
    masks = reference_masks(config, seed=5, step=9)
    expected = reference_logits(weights, config, tokens, REFERENCE_ACTIVATIONS[activation], masks)
    address_dropout(model, 5, 9)
    found = model(tokens)
    torch.testing.assert_close(found, expected, rtol=1e-10, atol=1e-10)
    loss, gradients = loss_and_gradients(found, targets, dict(model.named_parameters()))
    expected_loss, expected_gradients = loss_and_gradients(expected, targets, weights)
    torch.testing.assert_close(loss, expected_loss, rtol=1e-10, atol=0)
    for name, gradient, wanted in zip(weights, gradients, expected_gradients):
        torch.testing.assert_close(gradient, wanted, rtol=1e-8, atol=1e-10, msg=lambda text, n=name: f"{n}: {text}")
        assert wanted.any() or name.endswith("key.bias"), f"{name} has no gradient, so the test shows nothing of it"


def test_float32_and_bfloat16_differ_from_the_reference_by_rounding_only():
    model, config = small_model(dtype=torch.float32)
    tokens, _ = batch(config)
    weights = {name: parameter.detach().double() for name, parameter in model.named_parameters()}
    masks = list(reference_masks(config, 5, 9))
    expected = reference_logits(weights, config, tokens, REFERENCE_ACTIVATIONS["gelu"], masks)
    address_dropout(model, 5, 9)
    scale = expected.abs().max()
    assert (model(tokens) - expected).abs().max() < 1e-6 * scale
    with torch.autocast("cpu", torch.bfloat16):
        rough = model(tokens)
    assert 1e-6 * scale < (rough - expected).abs().max() < 0.03 * scale


# --- evaluating -------------------------------------------------------------------------------------------------------


def test_evaluating_uses_no_dropout():
    model, config = small_model()
    tokens, _ = batch(config)
    weights = {name: parameter.detach() for name, parameter in model.named_parameters()}
    none = reference_masks(config.replace(dropout=0.0), 0, 0)
    expected = reference_logits(weights, config, tokens, REFERENCE_ACTIVATIONS["gelu"], none)
    torch.testing.assert_close(model.eval()(tokens), expected, rtol=1e-10, atol=1e-10)


def test_evaluating_leaves_everything_as_it_was():
    from training import evaluate

    model, config = small_model(dtype=torch.float32, activation="prelu")
    tokens, targets = batch(config)
    corpus = make_corpus("test", "".join("abcdefg"[i * i % 7] for i in range(600)))
    data = evaluate.evaluation_data(corpus, config.replace(curve_windows=2))

    def train_once():
        address_dropout(model, 1, 2)
        loss, gradients = loss_and_gradients(model(tokens), targets, dict(model.named_parameters()))
        return [loss.detach(), *gradients]

    before = train_once()
    for parameter in model.parameters():
        parameter.grad = torch.ones_like(parameter)
    weights = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    torch.manual_seed(3)
    np.random.seed(3)  # noqa: NPY002
    states = torch.get_rng_state(), np.random.get_state()[1].copy()  # noqa: NPY002
    evaluate.curve_point(model, data, config)
    evaluate.final_evaluation(model, data, config)
    evaluate.greedy_continuations(model, data.prompts, 5, config)
    assert torch.equal(torch.get_rng_state(), states[0])
    assert np.array_equal(np.random.get_state()[1], states[1])  # noqa: NPY002
    assert torch.is_grad_enabled() and not torch.is_inference_mode_enabled()
    assert all(module.training for module in model.modules())
    assert all(torch.equal(tensor, weights[name]) for name, tensor in model.state_dict().items())
    assert all(torch.equal(p.grad, torch.ones_like(p)) for p in model.parameters())
    assert all(torch.equal(one, other) for one, other in zip(before, train_once()))


def test_the_losses_are_those_of_the_reference():
    """Every window and every position counts once, in nats, the last group of windows being an incomplete one."""
    from training import evaluate

    model, config = small_model(dtype=torch.float32)
    corpus = make_corpus("test", "".join("abcdefg"[i * i * i % 101 % 7] for i in range(5000)))
    data = evaluate.evaluation_data(corpus, config)
    n_windows = (500 - 1) // 10
    assert n_windows % evaluate.WINDOWS_AT_ONCE
    final = evaluate.final_evaluation(model, data, config)
    weights = {name: parameter.detach().double() for name, parameter in model.named_parameters()}
    tokens = torch.from_numpy(corpus.validation[: n_windows * 10 + 1].astype(np.int64))
    x, y = tokens[:-1].view(n_windows, 10), tokens[1:].view(n_windows, 10)
    whole = config.replace(dropout=0.0, batch_size=n_windows)
    logits = reference_logits(weights, config, x, REFERENCE_ACTIVATIONS["gelu"], reference_masks(whole, 0, 0))
    log_p = logits.log_softmax(-1)
    losses = -log_p.gather(-1, y[..., None])[..., 0]
    assert final["val_loss"] == pytest.approx(losses.mean().item(), rel=1e-6)
    np.testing.assert_allclose(final["window_loss"], losses.mean(1).numpy(), rtol=1e-5)
    assert final["val_accuracy"] == pytest.approx((log_p.argmax(-1) == y).double().mean().item(), abs=1e-12)
    np.testing.assert_allclose(final["log_probabilities"], log_p.numpy(), atol=1e-5)


def test_one_window_and_many_windows_at_once_are_evaluated_alike():
    """What a window's prediction is must not depend on how many windows the split has after it."""
    from training import evaluate

    model, config = small_model(dtype=torch.float32)
    x = torch.from_numpy(randomness.generator(0, "data").integers(0, V, size=(70, config.block_size)))
    whole = evaluate.predict(model, x, config)
    assert np.array_equal(evaluate.predict(model, x[:64], config), whole[:64])


# --- where the draws come from ----------------------------------------------------------------------------------------


def test_dropout_depends_on_its_address_alone():
    model, config = small_model(dtype=torch.float32)
    tokens, _ = batch(config)
    outputs = {}
    for address in [(1, 2), (1, 3), (2, 2), (1, 2)]:
        torch.manual_seed(len(outputs))
        np.random.seed(len(outputs))  # noqa: NPY002
        state = torch.get_rng_state()
        address_dropout(model, *address)
        output = model(tokens)
        assert torch.equal(torch.get_rng_state(), state)
        if address in outputs:
            assert torch.equal(output, outputs[address])
        outputs[address] = output
    assert len({tuple(output.flatten().tolist()) for output in outputs.values()}) == 3


def test_every_dropout_has_a_site_of_its_own():
    model, _ = small_model()
    assert [m.site for m in model.modules() if isinstance(m, Dropout)] == [0, 1, 2, 3, 4, 5]


def test_a_step_without_an_address_is_refused():
    model, config = small_model()
    with pytest.raises(RuntimeError, match="dropout has no address"):
        model(next(batch(config)))


@settings(max_examples=20)
@given(st.floats(0, 1, exclude_max=True), st.integers(0, 2**40), st.integers(0, 10**6))
def test_a_dropped_value_is_zero_and_a_kept_one_keeps_the_mean(probability, seed, step):
    layer = Dropout(probability)
    model = torch.nn.Sequential(layer)
    number_dropouts(model)
    address_dropout(model, seed, step)
    n = 100_000
    x = layer(torch.ones(n, dtype=torch.float64))
    threshold, keep = randomness.dropout_threshold(probability)
    assert set(x.unique().tolist()) <= {0.0, 1 / keep}
    if probability > 0:
        kept = randomness.dropout_levels(seed, step, 0, n) >= threshold
        assert np.array_equal(x.numpy() > 0, kept)
        assert abs(kept.mean() - keep) < 6 * math.sqrt(keep * (1 - keep) / n) + 1e-9


def test_initial_weights_depend_on_seed_and_name_alone():
    """Not on what was built before, on PyTorch's generator, nor on the other parameters."""
    config = ConfigCPU(**SMALL)
    torch.manual_seed(1)
    one = initialize(build_model("charlm", "relu", config, V), 7).state_dict()
    torch.manual_seed(2)
    torch.rand(5)
    deeper = initialize(build_model("charlm", "swish", config.replace(n_layer=3), V), 7).state_dict()
    other = initialize(build_model("charlm", "relu", config, V), 8).state_dict()
    for name, tensor in one.items():
        assert torch.equal(tensor, deeper[name])
        assert torch.equal(tensor, other[name]) == (tensor.dim() == 1)  # biases and norms are constants


def test_a_flipped_bit_changes_one_weight_by_the_least_possible():
    config = ConfigCPU(**SMALL)
    plain = initialize(build_model("charlm", "relu", config, V), 7)
    flipped = [initialize(build_model("charlm", "relu", config, V), 7, flip_bit_seed=seed) for seed in range(20)]
    places = set()
    for model in flipped:
        changed = [
            (name, index, a[index].item(), b[index].item())
            for (name, a), b in zip(plain.state_dict().items(), model.state_dict().values())
            for index in map(tuple, (a != b).nonzero().tolist())
        ]
        assert len(changed) == 1
        name, index, before, after = changed[0]
        ulp = abs(np.spacing(np.float32(before)))
        assert abs(before - after) <= 2 * ulp
        places.add((name, index))
    assert len(places) > 10
