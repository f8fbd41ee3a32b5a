"""Claims about the architectures for graphs: every check, with the activations that differ in kind, and with all in one."""

import pytest
import torch
from grids import grid
from torch.nn import functional as F

from architectures.checks import check
from architectures.graphs import GraphAttention, GraphConvolution
from architectures.registry import ARCHITECTURES, architectures_of, build_model
from config_cpu import ConfigCPU

pytest.importorskip("sklearn", reason="scikit-learn is not installed (requirements-tasks.txt)")
from tasks.registry import load_task

NAMES = architectures_of("graph")


@pytest.fixture(scope="module")
def digits():
    return load_task("graph")


@pytest.mark.parametrize(("architecture", "activation"), grid("graph", "gcn"))
def test_an_architecture_with_an_activation_passes_every_check(architecture, activation, digits):
    """The activation acts; it learns everywhere, starts ignorant, can overfit; it is stored and it repeats."""
    assert check(architecture, activation, ConfigCPU(), digits) == []


def random_graph(n=7, n_features=5):
    generator = torch.Generator().manual_seed(1)
    edges = torch.rand(n, n, generator=generator) < 0.3
    linked = (edges | edges.T | torch.eye(n, dtype=torch.bool)).float()
    return torch.randn(n, n_features, generator=generator), linked / linked.sum(1, keepdim=True)


def test_attention_is_a_mean_over_neighbours_weighted_by_their_scores():
    """Against the formula of Veličković et al. 2018, eq. 1 to 4, node by node."""
    x, adjacency = random_graph()
    layer = GraphAttention(5, 6, n_head=2).double()
    with torch.no_grad():
        for parameter in layer.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=torch.Generator().manual_seed(2)))
    found = layer(x.double(), adjacency.double(), None)
    h = (x.double() @ layer.linear.weight.T).view(7, 2, 3)
    for i in range(7):
        neighbours = adjacency[i].nonzero()[:, 0].tolist()
        for head in range(2):
            a = torch.cat([layer.receiver[head], layer.sender[head]])
            scores = torch.stack([F.leaky_relu(a @ torch.cat([h[i, head], h[j, head]]), 0.2) for j in neighbours])
            expected = (scores.softmax(0)[:, None] * h[neighbours, head]).sum(0)
            torch.testing.assert_close(
                found[i, 3 * head : 3 * head + 3], expected + layer.bias[3 * head : 3 * head + 3]
            )


@pytest.mark.parametrize("layer", [GraphConvolution, GraphAttention])
def test_asking_for_some_nodes_changes_nothing_about_them(layer):
    x, adjacency = random_graph()
    built = layer(5, 4, 2)
    torch.nn.init.normal_(built.linear.weight)
    nodes = torch.tensor([5, 1])
    torch.testing.assert_close(built(x, adjacency, nodes), built(x, adjacency, None)[nodes])


@pytest.mark.parametrize("architecture", NAMES)
def test_a_node_sees_neighbours_within_one_step_more_than_there_are_hidden_layers(architecture):
    config = ConfigCPU(n_layer=2, n_embd=8, n_head=2)
    model = build_model(architecture, "gelu", config, {"n_features": 3, "n_classes": 4})
    assert ARCHITECTURES[architecture].n_activations(config) == 2
    path = torch.eye(6) + torch.eye(6).roll(1, 0).tril(-1) + torch.eye(6).roll(-1, 0).triu(1)
    x = torch.ones(6, 3)
    before = model((x, path / 3, torch.arange(6)))
    x[0] = 2
    changed = (model((x, path / 3, torch.arange(6))) != before).any(dim=(1, 2))
    assert changed.tolist() == [True] * 4 + [False] * 2
