"""Graphs: the class of a node, from its features and those of its neighbours; transductive, so all nodes are seen in training.

The labelled nodes are the training split, the test nodes the validation split. A batch is the whole graph.

digits: the images of tasks/images.py, each joined with the 8 nearest others (Euclidean distance of the pixels) and with
those that have it among theirs. Labelled: the first ten images of each class. Test: the last 1,000 images.
cora: 2,708 papers, their words and citations, with the split of Yang et al. 2016 (arXiv 1603.08861): 140 labelled and 1,000
test nodes. The planetoid files (github.com/kimiyoung/planetoid, MIT license): in the folder CHARLM_CORA, in
data/planetoid/, or downloaded.
"""

import functools
import io
import pickle
from typing import ClassVar, NamedTuple

import numpy as np
import torch

from common.errors import UserError
from tasks.arrays import digest
from tasks.base import Task, autocast, cross_entropy, device_of
from tasks.data_files import DataFile, import_needed, read_data_file

N_NEIGHBOURS = 8
PLANETOID_URL = "https://raw.githubusercontent.com/kimiyoung/planetoid/master/data"
CORA = {  # name -> (SHA-256, bytes)
    "allx": ("9419ba2f26f5c35243db64aba110e0f35a04851609e0dc5433450676ca6b8543", 257_305),
    "ally": ("2b998f5cc7fedc86e7f97ca2498f47a1ffc1462c29e2d578b23bf3f62b6e7d71", 47_959),
    "tx": ("b9afbaa4a400df991f6f02ef677e1e44da55ffc04801fd02f9e673987829226a", 148_025),
    "ty": ("41f5ac76596a1699cc33f53084a2419e92961c42bb75f36fc38e616d348532ad", 28_135),
    "graph": ("58f13302f39dde8852dad6fe6d15b89b077b6d7f837626bce671ef80344b383d", 59_847),
    "test.index": ("297ce89af2b51a6a194181c7dbe1796c6a1cf9cd9349a88383b1b1e227867875", 5_000),
}
CORA_LABELLED = 140


class Data(NamedTuple):
    """features: (N, F) float32; edges: (N, N) bool, symmetric; classes: (N,) int64; labelled, test: nodes."""

    features: np.ndarray
    edges: np.ndarray
    classes: np.ndarray
    labelled: np.ndarray
    test: np.ndarray


def digits() -> Data:
    loaded = import_needed("sklearn.datasets", "scikit-learn", "graph").load_digits()
    x, classes = loaded.data, loaded.target.astype(np.int64)
    distances = (x**2).sum(1)[:, None] - 2 * x @ x.T + (x**2).sum(1)  # exact: pixels are small integers
    np.fill_diagonal(distances, np.inf)
    nearest = np.argsort(distances, axis=1, kind="stable")[:, :N_NEIGHBOURS]
    edges = np.zeros(distances.shape, bool)
    np.put_along_axis(edges, nearest, True, axis=1)
    labelled = np.sort(np.concatenate([np.flatnonzero(classes == c)[:10] for c in range(10)]))
    return Data((x / 16).astype(np.float32), edges | edges.T, classes, labelled, np.arange(len(x))[-1000:])


def cora() -> Data:
    test = np.array(read_cora("test.index").split(), dtype=np.int64)
    parts = {name: unpickle(read_cora(name), f"ind.cora.{name}") for name in ("allx", "tx", "ally", "ty", "graph")}
    order = np.concatenate([np.arange(parts["allx"].shape[0]), test])  # row -> node
    features = np.empty((len(order), parts["allx"].shape[1]), np.float32)
    features[order] = np.concatenate([parts["allx"].toarray(), parts["tx"].toarray()])
    classes = np.empty(len(order), np.int64)
    classes[order] = np.concatenate([parts["ally"], parts["ty"]]).argmax(1)
    edges = np.zeros((len(order), len(order)), bool)
    for node, neighbours in parts["graph"].items():
        edges[node, neighbours] = True
    np.fill_diagonal(edges, False)
    features /= features.sum(1, keepdims=True).clip(min=1)
    return Data(features, edges | edges.T, classes, np.arange(CORA_LABELLED), np.sort(test))


def read_cora(name: str) -> bytes:
    sha256, n_bytes = CORA[name]
    path, url = f"planetoid/ind.cora.{name}", f"{PLANETOID_URL}/ind.cora.{name}"
    return read_data_file(DataFile(f"Cora's {name}", path, sha256, n_bytes, url, "CHARLM_CORA"))


def unpickle(content: bytes, what: str):
    """An array, a scipy matrix, or lists by node, from a pickle of Python 2; raises UserError if it holds anything else."""
    from numpy._core.multiarray import _reconstruct
    from scipy.sparse import csr_matrix

    admitted = {
        "numpy.core.multiarray._reconstruct": _reconstruct,
        "numpy.ndarray": np.ndarray,
        "numpy.dtype": np.dtype,
        "scipy.sparse.csr.csr_matrix": csr_matrix,
        "collections.defaultdict": lambda kind: {},
        "__builtin__.list": list,
    }

    class Unpickler(pickle.Unpickler):
        def find_class(self, module, name):
            if f"{module}.{name}" not in admitted:
                raise UserError(f"{what} holds {module}.{name}; only arrays of numpy and scipy are unpickled")
            return admitted[f"{module}.{name}"]

    try:
        return Unpickler(io.BytesIO(content), encoding="latin1").load()
    except UserError:
        raise
    except Exception as error:  # a damaged pickle can fail in any way
        raise UserError(f"{what} cannot be unpickled: {error}") from None


class Graph(Task):
    """Inputs are (features (N, F), adjacency (N, N), nodes (K,)), outputs (K, 1, C) for these nodes.

    The adjacency matrix includes self-loops and is normalized: D^-1/2 (A + I) D^-1/2 (Kipf & Welling 2017).
    """

    name = "graph"
    unused = ("block_size", "batch_size")
    data_sets: ClassVar = {"digits": digits, "cora": cora}

    def __init__(self, label: str, data: Data):
        self.label, self.data, self.sha256 = label, data, digest(*data)
        self.n_classes = int(data.classes.max()) + 1
        self.model_sizes = {"n_features": data.features.shape[1], "n_classes": self.n_classes}
        self.nodes = {"train": data.labelled, "validation": data.test}
        self._on_device = functools.lru_cache(2)(self._tensors)

    @classmethod
    def load(cls, data):
        label = cls.data_set(data)
        return cls(label, cls.data_sets[label]())

    def __getstate__(self):
        return {"label": self.label, "data": self.data}

    def __setstate__(self, state):
        self.__dict__.update(Graph(**state).__dict__)

    @classmethod
    def defaults(cls, data):
        fields = {"n_layer": 1, "n_head": 2, "n_embd": 64, "learning_rate": 0.01, "max_iters": 200, "eval_interval": 20}
        fields |= {"curve_windows": 1000, "batch_size": 100, "dropout": 0.5, "weight_decay": 0.1}
        of_cora = {"batch_size": CORA_LABELLED, "dropout": 0.8, "weight_decay": 0.5}
        return fields | (of_cora if cls.data_set(data) == "cora" else {})

    def facts(self):
        sizes = {"n_nodes": len(self.data.classes), "n_edges": int(self.data.edges.sum()) // 2}
        return super().facts() | sizes | {f"n_{split}": len(nodes) for split, nodes in self.nodes.items()}

    def _tensors(self, device):
        """(features, adjacency) on a device."""
        linked = (self.data.edges | np.eye(len(self.data.edges), dtype=bool)).astype(np.float32)
        scale = 1 / np.sqrt(linked.sum(1))
        arrays = self.data.features, linked * scale[:, None] * scale
        return tuple(torch.from_numpy(array).to(device) for array in arrays)

    def _batch(self, nodes, device):
        """(x, y) of these nodes."""
        y = torch.from_numpy(self.data.classes[nodes])[:, None].to(device)
        return (*self._on_device(str(device)), torch.from_numpy(nodes).to(device)), y

    def example_batch(self, config):
        """Eight nodes in the surroundings of the first one: the 40 nodes that most walks of two steps lead to."""
        features, adjacency = self._on_device("cpu")
        part = (adjacency @ adjacency[0]).argsort(descending=True, stable=True)[:40]
        y = torch.from_numpy(self.data.classes)[part[:8], None]
        return (features[part], adjacency[part][:, part], torch.arange(len(y))), y

    def training_loss(self, model, generator, config):
        device = device_of(model)
        x, y = self._batch(self.data.labelled, device)
        with autocast(config, device):
            logits = model(x)
        return cross_entropy(logits, y)

    def targets(self, split, config):
        return self.data.classes[self.nodes[split]][:, None]

    def log_probabilities(self, model, split, config, chosen=None):
        nodes = self.nodes[split] if chosen is None else self.nodes[split][chosen]
        x, _ = self._batch(nodes, device_of(model))
        was_training = model.training
        with torch.inference_mode(), autocast(config, x[0].device):
            logits = model.eval()(x)
        model.train(was_training)
        yield torch.log_softmax(logits.float(), dim=-1)
