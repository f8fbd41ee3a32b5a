"""Claims about the activations: each is its published formula, and what is said of it holds."""

import math
import subprocess
import sys

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

import activations
from activations import ACTIVATIONS, REPORT, SMOOTHNESS, GeneralizedSmeLU, SmeLU, get_activation
from common.errors import UserError

ELEMENTWISE = [name for name, entry in ACTIVATIONS.items() if not entry.gated]
GATED = [name for name, entry in ACTIVATIONS.items() if entry.gated]
BETAS = [0.1, 0.25, 0.3, 0.5, 1.0, 2.0, 3.7]


def value_and_gradient(module, x):
    """y and dy/dx of an elementwise module at the points x."""
    x = x.clone().requires_grad_()
    y = module(x)
    y.sum().backward()
    return y.detach(), x.grad


def smelu_by_hand(x, beta):
    """(value, derivative) of SmeLU at a number, from the three cases of arXiv 2010.09931."""
    if x <= -beta:
        return 0.0, 0.0
    if x >= beta:
        return x, 1.0
    return (x + beta) ** 2 / (4 * beta), (x + beta) / (2 * beta)


def erf_gelu(x):
    return x * (1 + math.erf(x / math.sqrt(2))) / 2


def softplus(x):
    return math.log1p(math.exp(x))


# Each written out from its definition, in Python's own arithmetic.
BY_HAND = {
    "smelu_05": lambda x: smelu_by_hand(x, 0.5)[0],
    "smelu_1": lambda x: smelu_by_hand(x, 1.0)[0],
    "relu": lambda x: max(0.0, x),
    "gelu": erf_gelu,
    "swish": lambda x: x / (1 + math.exp(-x)),
    "gelu_tanh": lambda x: x * (1 + math.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3))) / 2,
    "mish": lambda x: x * math.tanh(softplus(x)),
    "elu": lambda x: x if x > 0 else math.exp(x) - 1,
    "selu": lambda x: 1.0507009873554805 * (x if x > 0 else 1.6732632423543772 * (math.exp(x) - 1)),
    "leaky_relu": lambda x: x if x > 0 else 0.01 * x,
    "squared_relu": lambda x: max(0.0, x) ** 2,
    "softplus": softplus,
    "prelu": lambda x: x if x > 0 else 0.25 * x,
    "apl": lambda x: max(0.0, x) - 0.125 * max(0.0, -0.5 - x) - 0.125 * max(0.0, 0.5 - x),
    # 0 up to -0.5, slope 1 from 1 on, and between them a parabola whose derivative goes from 0 to 1
    "gsmelu_0.5_1": lambda x: 0.0 if x <= -0.5 else (x + 0.5) ** 2 / 3 if x < 1 else x - 0.25,
}


@pytest.mark.parametrize("name", ELEMENTWISE)
def test_each_activation_is_its_formula(name):
    x = torch.linspace(-6, 6, 241, dtype=torch.float64)
    y = get_activation(name).double()(x)
    expected = torch.tensor([BY_HAND[name](float(point)) for point in x], dtype=torch.float64)
    torch.testing.assert_close(y, expected, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("name", GATED)
def test_each_gated_unit_gates_one_half_with_the_other(name):
    gate = {"swiglu": BY_HAND["swish"], "geglu": erf_gelu, "reglu": BY_HAND["relu"]}[name]
    x = torch.randn(5, 3, 8, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    expected = torch.tensor([gate(float(v)) for v in x[..., :4].flatten()]).view(5, 3, 4) * x[..., 4:]
    torch.testing.assert_close(get_activation(name)(x), expected, rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize("beta", BETAS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_smelu_and_its_derivative_are_the_formula_at_the_knees_and_between(beta, dtype):
    points = [-10, -beta - 1e-3, -beta, -beta / 2, 0, beta / 3, beta, beta + 1e-3, 10]
    x = torch.tensor(points, dtype=dtype)
    value, gradient = value_and_gradient(SmeLU(beta), x)
    expected = torch.tensor([smelu_by_hand(float(v), beta) for v in x], dtype=torch.float64)
    exactness = {torch.float32: 3e-7, torch.float64: 1e-15}[dtype] * max(beta, 1)
    torch.testing.assert_close(value.double(), expected[:, 0], rtol=0, atol=exactness)
    torch.testing.assert_close(gradient.double(), expected[:, 1], rtol=0, atol=exactness)


@given(beta=st.floats(1e-3, 1e3), start=st.floats(0, 100))
def test_smelu_is_exactly_x_from_beta_on_and_exactly_zero_up_to_minus_beta(beta, start):
    for dtype in (torch.float32, torch.float64, torch.bfloat16):
        x = torch.tensor([beta, beta * (1 + start), beta + start], dtype=dtype)
        x = x[x.double() >= beta]
        assert torch.equal(SmeLU(beta)(x), x)
        x = torch.tensor([-beta, -beta * (1 + start), -beta - start], dtype=dtype)
        x = x[x.double() <= -beta]
        assert SmeLU(beta)(x).abs().max() <= 1e-7 * beta if len(x) else True
    far = torch.tensor([2 * beta, -2 * beta])
    value, gradient = value_and_gradient(SmeLU(beta), far)
    assert value.tolist() == [far[0].item(), 0]
    assert gradient.tolist() == [1, 0]


def test_smelu_passes_the_gradient_check_of_torch():
    x = torch.tensor([-2, -1.1, -0.4, 0, 0.3, 0.9, 1.1, 4], dtype=torch.float64, requires_grad=True)
    for beta in (0.5, 1.0, 3.0):
        assert torch.autograd.gradcheck(SmeLU(beta), x)


def test_smelu_of_infinity_and_nan():
    x = torch.tensor([math.inf, -math.inf, math.nan])
    value, gradient = value_and_gradient(SmeLU(1.0), x)
    assert value[:2].tolist() == [math.inf, 0]
    assert gradient[:2].tolist() == [1, 0]
    assert value[2].isnan()
    assert gradient[2].isnan()


def test_smelu_leaves_its_input_alone_and_takes_any_layout():
    x = torch.randn(6, 4, generator=torch.Generator().manual_seed(1))
    before = x.clone()
    transposed = SmeLU(1.0)(x.t())
    assert torch.equal(x, before)
    assert torch.equal(transposed, SmeLU(1.0)(x).t())
    assert SmeLU(1.0)(x[:0]).shape == (0, 4)


@pytest.mark.parametrize("name", [*ELEMENTWISE, *GATED])
def test_bfloat16_is_float32_rounded(name):
    """Alone and under autocast: within a few units of bfloat16's last place, in value and gradient."""
    module = get_activation(name)
    x = torch.linspace(-4, 4, 64).bfloat16()
    value, gradient = value_and_gradient(module, x.float())
    with torch.autocast("cpu", torch.bfloat16):
        narrow, narrow_gradient = value_and_gradient(module, x)
    tolerance = {"rtol": 0.02, "atol": 0.02}
    torch.testing.assert_close(narrow.float(), value, **tolerance)
    torch.testing.assert_close(narrow_gradient.float(), gradient, **tolerance)


def test_smelu_in_bfloat16_is_rounded_once():
    x = torch.linspace(-2, 2, 1001).bfloat16()
    value, gradient = value_and_gradient(SmeLU(0.7), x)
    assert value.dtype == gradient.dtype == torch.bfloat16
    wide, wide_gradient = value_and_gradient(SmeLU(0.7), x.float())
    assert torch.equal(value, wide.bfloat16())
    assert torch.equal(gradient, wide_gradient.bfloat16())


@pytest.mark.parametrize(("alpha", "beta"), [(1.0, 1.0), (0.5, 2.0), (3.0, 0.25)])
@pytest.mark.parametrize(("left", "right", "offset"), [(0.0, 1.0, 0.0), (0.1, 1.0, -0.3), (-0.2, 0.7, 0.4)])
def test_generalized_smelu_joins_its_two_lines_smoothly(alpha, beta, left, right, offset):
    """Against the coefficients of its parabola, solved from value and slope at -alpha and slope at beta."""
    a = (right - left) / (2 * (alpha + beta))
    b = left + 2 * a * alpha
    c = offset - a * alpha**2 + b * alpha

    def expected(x):
        if x <= -alpha:
            return left * (x + alpha) + offset, left
        if x < beta:
            return a * x**2 + b * x + c, 2 * a * x + b
        return right * (x - beta) + a * beta**2 + b * beta + c, right

    x = torch.linspace(-5, 5, 101, dtype=torch.float64)
    value, gradient = value_and_gradient(GeneralizedSmeLU(alpha, beta, left, right, offset), x)
    wanted = torch.tensor([expected(float(v)) for v in x], dtype=torch.float64)
    torch.testing.assert_close(value, wanted[:, 0], rtol=0, atol=1e-12)
    torch.testing.assert_close(gradient, wanted[:, 1], rtol=0, atol=1e-12)


def test_generalized_smelu_without_asymmetry_is_smelu():
    x = torch.linspace(-3, 3, 100)
    assert torch.equal(GeneralizedSmeLU(0.8, 0.8)(x), SmeLU(0.8)(x))


# --- the facts about each activation -----------------------------------------------------------------------


def derivatives(name):
    """(x, first derivative, second derivative by differences) on a fine grid with 0 and the knees on it."""
    x = torch.arange(-4000, 4001, dtype=torch.float64) / 1000
    _, first = value_and_gradient(get_activation(name).double(), x)
    return x, first, first.diff() / 1e-3


@pytest.mark.parametrize("name", ELEMENTWISE)
def test_the_smoothness_class_is_right(name):
    """A kink is a jump of the first derivative; a corner of the derivative is a jump of the second."""
    _, first, second = derivatives(name)
    jump_of_first, jump_of_second = first.diff().abs().max(), second.diff().abs().max()
    observed = "C0" if jump_of_first > 0.05 else "C1" if jump_of_second > 0.05 else "C-infinity"
    assert ACTIVATIONS[name].smoothness == observed


@pytest.mark.parametrize("name", ELEMENTWISE)
def test_monotonicity_is_right(name):
    entry = ACTIVATIONS[name]
    module = get_activation(name)
    if entry.learnable:  # what it may learn counts: turn every slope around
        for parameter in module.parameters():
            parameter.data.neg_()
    _, gradient = value_and_gradient(module, torch.linspace(-8, 8, 2001))
    assert entry.monotone == bool((gradient >= 0).all())


@pytest.mark.parametrize("name", list(ACTIVATIONS))
def test_gated_and_learnable_are_right(name):
    entry, module = ACTIVATIONS[name], get_activation(name)
    assert module(torch.randn(2, 3, 8)).shape == (2, 3, 4 if entry.gated else 8)
    assert entry.learnable == bool(list(module.parameters()))
    assert entry.smoothness in SMOOTHNESS
    assert entry.label
    assert entry.formula
    assert entry.name == name


@pytest.mark.parametrize("name", [name for name, entry in ACTIVATIONS.items() if entry.learnable])
def test_learnable_ones_start_at_fixed_values_and_learn(name):
    state = torch.random.get_rng_state()
    first, second = get_activation(name), get_activation(name)
    assert torch.equal(torch.random.get_rng_state(), state)
    for a, b in zip(first.parameters(), second.parameters()):
        assert torch.equal(a, b)
    first(torch.linspace(-2, 2, 100)).square().sum().backward()
    assert all((parameter.grad != 0).all() for parameter in first.parameters())


def test_torchs_own_module_is_used_where_there_is_one():
    own = {
        "relu": nn.ReLU,
        "gelu": nn.GELU,
        "swish": nn.SiLU,
        "mish": nn.Mish,
        "elu": nn.ELU,
        "selu": nn.SELU,
    }
    own |= {"gelu_tanh": nn.GELU, "leaky_relu": nn.LeakyReLU, "softplus": nn.Softplus, "prelu": nn.PReLU}
    assert {name: type(get_activation(name)) for name in own} == own


# --- names --------------------------------------------------------------------------------------------------


def test_every_spelling_has_one_name():
    spellings = {
        "smelu_0.5": "smelu_05",
        "smelu_0.50": "smelu_05",
        "smelu_1.0": "smelu_1",
        "smelu_0.250": "smelu_0.25",
        "smelu_2.0": "smelu_2",
        "smelu_1e-3": "smelu_0.001",
        "SiLU": "swish",
        " ReLU ": "relu",
        "gsmelu_0.50_1.0": "gsmelu_0.5_1",
        "gsmelu_1_2_0.10": "gsmelu_1_2_0.1",
        "gsmelu_2_2_0": "smelu_2",
    }
    assert {name: activations.resolve(name) for name in spellings} == spellings
    assert all(activations.resolve(name) == name for name in ACTIVATIONS)
    assert set(REPORT) <= set(ACTIVATIONS)


@given(beta=st.floats(1e-20, 1e20))
def test_any_positive_beta_has_a_name_of_its_own_that_finds_it(beta):
    name = activations.resolve(f"smelu_{beta!r}".replace("e+", "e"))
    assert activations.resolve(name) == name
    assert get_activation(name).beta == beta
    assert ACTIVATIONS[name].smoothness == "C1"


def test_members_of_a_family_are_found_but_not_listed():
    listed = list(ACTIVATIONS)
    assert activations.record("smelu_0.25").label == "SmeLU β=0.25"
    assert ACTIVATIONS["smelu_0.25"].formula == "0 up to -0.25; (x + 0.25)^2 / 1; x from 0.25 on"
    assert list(ACTIVATIONS) == listed


@pytest.mark.parametrize("name", ["gelo", "smelu_0", "smelu_-1", "smelu_025", "smelu_nan", "smelu_1_2", "smelu", ""])
def test_an_unknown_name_is_refused_with_a_similar_one_and_all_others(name):
    with pytest.raises(UserError) as refusal:
        get_activation(name)
    message = str(refusal.value)
    assert message.startswith(f"unknown activation {name!r};") and ("did you mean " in message) == bool(name)
    assert all(known in message for known in (*ACTIVATIONS, "smelu_<beta>"))


def test_each_call_gives_a_fresh_module_that_bears_its_name():
    first, second = get_activation("smelu_0.5"), get_activation("smelu_05")
    assert first is not second
    assert first.activation_name == second.activation_name == "smelu_05"
    assert first.is_activation


# --- user-defined -----------------------------------------------------------------------------------------


@pytest.fixture
def registry(monkeypatch):
    """Readers' activations of this test are forgotten after it."""
    before = dict(ACTIVATIONS)
    yield ACTIVATIONS
    ACTIVATIONS.clear()
    ACTIVATIONS.update(before)


def test_a_reader_adds_an_activation_in_one_call(registry):
    activations.register("my_swish", lambda x: x * torch.sigmoid(2 * x), smoothness="C-infinity", monotone=False)
    assert activations.resolve("My_Swish") == "my_swish"
    assert registry["my_swish"].smoothness == "C-infinity"
    assert get_activation("my_swish")(torch.zeros(3)).tolist() == [0, 0, 0]
    activations.register("my_swish", nn.Hardswish)  # a notebook's cell is run again
    assert isinstance(get_activation("my_swish"), nn.Hardswish)
    assert registry["my_swish"].smoothness is None


@pytest.mark.parametrize(
    ("name", "factory", "facts", "complaint"),
    [
        ("relu", nn.ReLU, {}, "exists already"),
        ("silu", nn.SiLU, {}, "exists already"),
        ("smelu_7", nn.SiLU, {}, "exists already"),
        ("My Act", nn.SiLU, {}, "is not a valid"),
        ("../act", nn.SiLU, {}, "is not a valid"),
        ("act", nn.SiLU, {"smoothness": "very"}, "unknown smoothness 'very'"),
        ("act", nn.Linear, {}, "cannot be created"),
        ("act", dict, {}, "must be an nn.Module class"),
    ],
)
def test_what_cannot_be_registered_is_refused(registry, name, factory, facts, complaint):
    before = dict(registry)
    with pytest.raises(UserError, match=complaint):
        activations.register(name, factory, **facts)
    assert dict(registry) == before


def test_an_activation_file_gives_the_one_thing_that_it_defines(registry, tmp_path):
    path = tmp_path / "anything.py"
    path.write_text(
        "import torch\nfrom torch import nn\nfrom activations import SmeLU\n"
        "SMOOTHNESS, MONOTONE = 'C1', True\n"
        "def _helper(x):\n    return torch.relu(x)\n"
        "class MySquare(nn.Module):\n    def forward(self, x):\n        return _helper(x) ** 2\n"
    )
    assert activations.load_activation_file(path) == "my_square"
    assert get_activation("my_square")(torch.tensor([-1.0, 3.0])).tolist() == [0, 9]
    entry = registry["my_square"]
    assert (entry.smoothness, entry.monotone, entry.gated) == ("C1", True, False)
    assert len(entry.source_sha256) == 64


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("", "must define one public class or function; it has: none"),
        ("def a(x): return x\ndef b(x): return x", "it has: a, b"),
        ("def a(x) return x", "does not run: SyntaxError"),
        ("raise ValueError('no luck')", "does not run: ValueError: no luck"),
        ("exit(3)", "does not run: SystemExit"),
        ("def relu(x): return x", "exists already"),
    ],
)
def test_a_bad_activation_file_is_one_clear_sentence(registry, tmp_path, text, complaint):
    path = tmp_path / "act.py"
    path.write_text(text)
    with pytest.raises(UserError, match=complaint) as refusal:
        activations.load_activation_file(path)
    assert "\n" not in str(refusal.value)


def test_a_missing_activation_file_is_named(tmp_path):
    with pytest.raises(UserError, match=r"cannot read the activation file .*nowhere\.py"):
        activations.load_activation_file(tmp_path / "nowhere.py")


# --- cost ---------------------------------------------------------------------------------------------------

COST = """
import sys, time, torch
torch.set_num_threads(1)
from activations import get_activation
x, grad = torch.randn(4096, 512).requires_grad_(), torch.randn(4096, 512)
best = {}
for _ in range(40):
    for name in ("relu", "smelu_1"):
        x.grad = None
        start = time.thread_time()
        get_activation(name)(x).backward(grad)
        best[name] = min(best.get(name, 9), time.thread_time() - start)
print(best["smelu_1"] / best["relu"])
"""


def test_smelu_costs_about_twice_as_much_as_relu():
    """Forward and backward on 4096 x 512 float32. About 2.0 measured; a busy machine may differ."""
    ratio = float(subprocess.run([sys.executable, "-c", COST], capture_output=True, text=True, check=True).stdout)
    assert ratio < 4


@given(beta=st.floats(1e-3, 1e3) | st.sampled_from([0.5, 1.0, 2.0]), kind=st.sampled_from(["", "_centred"]))
def test_the_canonical_name_of_any_smelu_is_a_name_of_it(beta, kind):
    found = activations.record(f"smelu_{activations._number(beta)}{kind}")
    assert activations.resolve(found.name) == found.name and activations.record(found.name).label == found.label
