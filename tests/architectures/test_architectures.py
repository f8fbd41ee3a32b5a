"""Claims about every architecture with every activation, and about what the checks of user-defined ones would catch."""

import math
import random
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import nn
from torch.nn import functional as F

import activations
from activations import ACTIVATIONS
from architectures.checks import VOCABULARY, Case, check, tiny_config
from architectures.registry import (
    ARCHITECTURES,
    architectures_of,
    build_model,
    count_parameters,
    initialize,
    register_architecture,
    solve_width,
    supports,
)
from common.errors import UserError
from config import Config
from config_cpu import ConfigCPU
from model import Dropout

ROOT = Path(__file__).resolve().parents[2]
V = 65
TEXT = architectures_of("text")
GRID = [(one, other) for one in TEXT for other in ACTIVATIONS if supports(one, other) is None]
SIZES = {"cpu": ConfigCPU(), "full": Config()}


# --- the whole grid ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("architecture", "activation"), GRID)
def test_every_architecture_with_every_activation_is_what_its_name_says(architecture, activation):
    """Causal; the activation acts; it learns everywhere, starts ignorant, can overfit; it is stored and it repeats."""
    assert check(architecture, activation, ConfigCPU()) == []


def test_only_a_gated_activation_in_the_plain_recurrence_is_left_out_of_the_grid():
    left_out = {(one, other) for one in TEXT for other in ACTIVATIONS} - set(GRID)
    assert left_out == {("rnn", name) for name, kind in ACTIVATIONS.items() if kind.gated}
    assert len({name for _, name in left_out}) == 3
    with pytest.raises(UserError, match="rnn cannot use the activation swiglu: swiglu is gated, so it halves"):
        build_model("rnn", "swiglu", ConfigCPU(), V)


@pytest.mark.parametrize("architecture", TEXT)
def test_the_graph_holds_the_named_activation_as_often_as_the_architecture_says(architecture):
    expected = {"hybridlm": 2, "convlm": 9, "tinylstm": 1, "gru": 1, "lstm_attention": 1}.get(architecture, 3)
    config = ConfigCPU(n_layer=3, n_head=2, n_embd=8, block_size=8)
    model = build_model(architecture, "mish", config, 9)
    assert sum(isinstance(module, nn.Mish) for module in model.modules()) == expected
    assert ARCHITECTURES[architecture].n_activations(config) == expected
    assert not any(isinstance(module, (nn.ReLU, nn.GELU, nn.SiLU)) for module in model.modules())


# --- equal size -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("architecture", TEXT)
def test_architectures_are_as_large_as_charlm(architecture, size):
    config = SIZES[size]
    target = count_parameters("charlm", config, V)
    width = solve_width(architecture, config, V)
    found = count_parameters(architecture, config, V, width)
    if architecture == "charlm_single_head":
        assert (found, width) == (target, config.n_embd)
    assert abs(found / target - 1) < 0.03
    if size == "cpu":
        model = build_model(architecture, "gelu", config, V)
        assert model.sizes == {"width": width, "n_parameters": found, "n_parameters_charlm": target}


def test_counting_parameters_makes_no_numbers_and_does_not_load_a_compiler():
    program = (
        "import sys, torch, config; from architectures import registry as a\n"
        "before = torch.get_rng_state()\n"
        "print(a.count_parameters('charlm', config.Config(), 65, 4608))\n"
        "print(torch.equal(before, torch.get_rng_state()), 'torch._dynamo' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=True)
    count, rest = done.stdout.split("\n", 1)
    assert int(count) > 1e9  # 4 GB of float32 numbers, if there were any
    assert rest.split() == ["True", "False"]


@pytest.mark.parametrize("architecture", [name for name in TEXT if ARCHITECTURES[name].takes_gated])
def test_a_gated_unit_costs_as_many_parameters_as_an_ungated_one(architecture):
    """Within rounding of the hidden width, to which the gate adds a bias for each of its channels."""
    config = ConfigCPU()
    plain, gated = (build_model(architecture, name, config, V).sizes for name in ("relu", "swiglu"))
    assert plain["width"] == gated["width"]
    assert gated["n_parameters"] == pytest.approx(plain["n_parameters"], rel=0.01)


# --- what each is said to be ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("architecture", ["convlm", "mlp"])
def test_the_receptive_field_is_as_stated(architecture):
    """The last output sees the first character of its receptive field, and nothing before it."""
    config = ConfigCPU(n_layer=1, n_head=2, n_embd=16, block_size=40)
    field = ARCHITECTURES[architecture].receptive_field(config)
    assert field == {"convlm": 15, "mlp": 16}[architecture]
    model = Case(architecture, "gelu", config).lively_model().eval()
    tokens = torch.arange(40)[None] % VOCABULARY
    before = model(tokens)
    for distance, seen in ((field - 1, True), (field, False), (field + 1, False)):
        other = tokens.clone()
        other[0, -1 - distance] += 1 if other[0, -1 - distance] == 0 else -1
        assert torch.equal(model(other)[0, -1], before[0, -1]) != seen


def test_the_receptive_field_of_convlm_covers_the_context_at_both_sizes():
    for config in SIZES.values():
        assert ARCHITECTURES["convlm"].receptive_field(config) >= config.block_size - 1


def test_minigpt_has_a_tied_head_and_scaled_residual_projections():
    config = ConfigCPU(n_layer=4)
    model = initialize(build_model("minigpt", "gelu", config, V), 1)
    assert [name for name, p in model.named_parameters() if V in p.shape] == ["token_embedding.weight"]
    for name, parameter in model.named_parameters():
        if parameter.dim() == 2:
            residual = name.endswith(("attention.projection.weight", "feed_forward.contract.weight"))
            expected = 0.02 / math.sqrt(2 * 4) if residual else 0.02
            assert parameter.std().item() == pytest.approx(expected, rel=0.05), name
    case = Case("minigpt", "gelu", tiny_config(config))
    model, changed = case.lively_model().eval(), case.lively_model().eval()
    with torch.no_grad():
        changed.token_embedding.weight[5] *= 2  # a character that is not in the text is still predicted
    tokens = torch.zeros(1, 3, dtype=torch.long)
    difference = changed(tokens) - model(tokens)
    assert difference[..., 5].all() and not difference[..., :5].any() and not difference[..., 6:].any()


def test_minigpt_has_a_dropout_after_its_embeddings():
    model = build_model("minigpt", "gelu", ConfigCPU(dropout=0.5), V)
    assert model.dropout.site == 0 and model.dropout.probability == 0.5


def test_nanotransformer_has_no_biases_and_no_dropout():
    model = build_model("nanotransformer", "gelu", ConfigCPU(dropout=0.5), V).train()
    assert not [name for name, _ in model.named_parameters() if name.endswith("bias")]
    assert all(module.probability == 0 for module in model.modules() if isinstance(module, Dropout))
    tokens = torch.arange(20)[None]
    torch.testing.assert_close(model(tokens), model.eval()(tokens), rtol=0, atol=1e-6)


def test_the_plain_recurrence_is_elmans():
    """h_t = f(W x_t + U h_(t-1) + b), written out, in float64."""
    from architectures import networks

    layer = networks.ElmanLayer(3, nn.Tanh()).double()
    x = torch.linspace(-2, 2, 2 * 5 * 3, dtype=torch.float64).view(2, 5, 3)
    reference = nn.RNN(3, 3, batch_first=True).double()
    with torch.no_grad():
        reference.weight_ih_l0.copy_(layer.input.weight)
        reference.weight_hh_l0.copy_(layer.recurrent.weight)
        reference.bias_ih_l0.copy_(layer.input.bias)
        reference.bias_hh_l0.zero_()
    torch.testing.assert_close(layer(x)[0], reference(x)[0], rtol=1e-12, atol=1e-12)


# --- every check can fail ---------------------------------------------------------------------------------------------


class Sound(nn.Module):
    """A user's model that passes: each output sees its own character and the one before."""

    def __init__(self, config, make_activation, vocabulary_size):
        super().__init__()
        self.embedding = nn.Embedding(vocabulary_size, config.n_embd)
        self.positions = nn.Embedding(config.block_size, config.n_embd)
        self.hidden = nn.Linear(2 * config.n_embd, 4 * config.n_embd)
        self.activation = make_activation()
        self.dropout = nn.Dropout(config.dropout)
        self.head = nn.Linear(4 * config.n_embd, vocabulary_size)

    def features(self, tokens):
        x = self.embedding(tokens) + self.positions.weight[: tokens.shape[1]]
        return self.hidden(torch.cat([x, F.pad(x, (0, 0, 1, 0))[:, :-1]], dim=-1))

    def forward(self, tokens):
        return self.head(self.dropout(self.activation(self.features(tokens))))


class LooksAhead(Sound):
    def features(self, tokens):
        return super().features(tokens.roll(-1, 1))


class LooksAheadAsItTrains(Sound):
    def features(self, tokens):
        x = super().features(tokens)
        return x - x.mean(dim=1, keepdim=True) if self.training else x


class IsBlind(Sound):
    def features(self, tokens):
        return super().features(torch.where(torch.arange(tokens.shape[1]) == 7, 0, tokens))


class IgnoresItsActivation(Sound):
    def forward(self, tokens):
        return self.head(self.dropout(F.relu(self.features(tokens))))


class CallsItsActivationInVain(Sound):
    def forward(self, tokens):
        x = self.features(tokens)
        return self.head(self.dropout(F.relu(x))) + 0 * self.activation(x).sum()


class HasAnUnusedParameter(Sound):
    def __init__(self, *arguments):
        super().__init__(*arguments)
        self.spare = nn.Linear(2, 2)


class CutsAGradient(Sound):
    def features(self, tokens):
        return super().features(tokens).detach()


class IsSureFromTheStart(Sound):
    def forward(self, tokens):
        return super().forward(tokens) * 1e5


class CannotLearnByHeart(Sound):
    def forward(self, tokens):
        return 0.1 * torch.tanh(super().forward(tokens))


class KeepsSomethingApart(Sound):
    def __init__(self, *arguments):
        super().__init__(*arguments)
        self.scale = 1 + random.random()

    def forward(self, tokens):
        return super().forward(tokens) * self.scale


class DrawsItsOwnDropout(Sound):
    def forward(self, tokens):
        return self.head(F.dropout(self.activation(self.features(tokens)), 0.2, self.training))


class DrawsFromElsewhere(Sound):
    def forward(self, tokens):
        return super().forward(tokens) * (1 + 0.1 * random.random() * self.training)


class HasTheWrongShape(Sound):
    def forward(self, tokens):
        return super().forward(tokens)[:, -1]


class TakesFullLengthOnly(Sound):
    def features(self, tokens):
        return self.hidden(torch.cat([self.embedding(tokens) + self.positions.weight] * 2, dim=-1))


class GivesNaN(Sound):
    def forward(self, tokens):
        return super().forward(tokens).log()


class GivesATuple(Sound):
    def forward(self, tokens):
        return super().forward(tokens), None


class CannotBeMade(Sound):
    def __init__(self, config, make_activation, vocabulary_size):
        raise KeyError("width")


class HasNoActivation(Sound):
    def __init__(self, *arguments):
        super().__init__(*arguments)
        self.activation = nn.ReLU()


class DrawsInsideARecurrence(Sound):
    def __init__(self, *arguments):
        super().__init__(*arguments)
        self.recurrence = nn.LSTM(16, 16, 2, dropout=0.1)


@pytest.fixture
def registered():
    """Registers a user-defined one for one test."""
    before = dict(ARCHITECTURES), dict(ACTIVATIONS)
    yield
    for registry, old in zip((ARCHITECTURES, ACTIVATIONS), before):
        registry.clear()
        registry.update(old)


@pytest.mark.usefixtures("registered")
@pytest.mark.parametrize(
    ("model", "problem"),
    [
        (LooksAhead, r"position 1 sees position 2: the model looks ahead"),
        (LooksAheadAsItTrains, r"position \d+ sees position \d+ in training"),
        (IsBlind, r"the character at position 8 changes no output"),
        (IgnoresItsActivation, r"the activation gelu at activation is created but never used"),
        (CallsItsActivationInVain, r"relu in place of gelu gives the same outputs"),
        (HasAnUnusedParameter, r"no gradient reaches the parameter spare.weight"),
        (CutsAGradient, r"no gradient reaches the parameter embedding.weight"),
        (IsSureFromTheStart, r"the loss at initialization is [\d.]+, not within 10% of ln V = 2.398"),
        (CannotLearnByHeart, r"the model cannot overfit one batch: after 250 steps its loss is still 2"),
        (KeepsSomethingApart, r"a checkpoint does not restore the model"),
        (DrawsItsOwnDropout, r"draws from PyTorch's global generator, so"),
        (DrawsFromElsewhere, r"the same seeds do not give the same weights"),
        (HasTheWrongShape, r"for 2 sequences of 20 characters .* the shape \(2, 11\), not \(2, 20, 11\)"),
        (TakesFullLengthOnly, r"for 1 sequences of 1 characters .* the shape \(1, 20, 11\), not \(1, 1, 11\)"),
        (GivesNaN, r"the logits of 2 sequences of 20 characters are not all finite"),
        (GivesATuple, r"the model returns a tuple instead of a tensor"),
        (CannotBeMade, r"cannot be built: KeyError: 'width'"),
        (HasNoActivation, r"should use the activation gelu at least once, but it contains: none"),
        (DrawsInsideARecurrence, r"has a dropout inside recurrence \(LSTM\)"),
    ],
)
def test_a_model_that_is_not_what_it_should_be_is_found_out(model, problem):
    register_architecture("own", model)
    found = check("own", "gelu", ConfigCPU())
    assert any(re.search(problem, one) for one in found), found
    assert not any("\n" in one for one in found)


@pytest.mark.usefixtures("registered")
def test_a_sound_model_of_a_readers_own_passes_with_every_activation_that_it_can_take():
    register_architecture("own", Sound)
    for activation in ("relu", "smelu_1", "prelu", "smelu_0.25"):
        assert check("own", activation, Config()) == []
    assert "is gated" in check("own", "swiglu", ConfigCPU())[0]


@pytest.mark.usefixtures("registered")
@pytest.mark.parametrize(
    ("function", "facts", "problem"),
    [
        (lambda x: x.sum(-1), {}, r"turns the shape \(3, 5, 8\) into \(3, 5\), not \(3, 5, 8\)"),
        (lambda x: x.chunk(2, -1)[0], {}, r"into \(3, 5, 4\), not \(3, 5, 8\)"),
        (lambda x: F.relu(x), {"gated": True}, r"into \(3, 5, 8\), not \(3, 5, 4\)"),
        (lambda x: (x, x), {}, r"returns a tuple instead of a tensor"),
        (lambda x: x.log(), {}, r"the activation own is nan at -100"),
        (lambda x: x.exp(), {}, r"the activation own is inf at 88.8"),
        (lambda x: x.abs().sqrt(), {}, r"the derivative of activation own is (nan|inf) at 0"),
        (lambda x: torch.ones_like(x), {}, r"has no derivative"),
        (lambda x: x @ torch.ones(3, 3), {}, r"charlm with own raises RuntimeError: "),
        (lambda x: x.cumsum(1).flip(1), {}, r"position \d+ sees position \d+"),
        (lambda x: F.dropout(F.gelu(x), 0.1), {}, r"global generator"),
    ],
)
def test_an_activation_that_will_not_do_is_found_out(function, facts, problem):
    activations.register("own", function, **facts)
    found = check("charlm", "own", ConfigCPU())
    assert any(re.search(problem, one) for one in found), found


@pytest.mark.usefixtures("registered")
def test_sound_activations_of_a_readers_own_pass():
    activations.register("own", lambda x: x * torch.sigmoid(4 * x))
    activations.register("own_gated", lambda x: x.chunk(2, -1)[0].tanh() * x.chunk(2, -1)[1], gated=True)
    assert check("charlm", "own", ConfigCPU()) == check("charlm", "own_gated", ConfigCPU()) == []


def test_the_checks_leave_the_global_generators_as_they_were():
    torch.manual_seed(5)
    random.seed(5)
    before = torch.get_rng_state(), random.getstate()
    check("charlm", "relu", ConfigCPU())
    assert torch.equal(torch.get_rng_state(), before[0]) and random.getstate() == before[1]


def test_a_model_that_has_just_been_built_predicts():
    """The first lines of architectures/registry.py, as a reader would type them."""
    model = build_model("convlm", "gelu", ConfigCPU(), vocabulary_size=65)
    initialize(model, seed=42)
    assert model(torch.zeros(2, 7, dtype=torch.long)).shape == (2, 7, 65)
