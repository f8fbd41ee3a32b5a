"""Text corpora: finding or downloading, verifying, splitting, and cutting into windows and batches.

A corpus is a sequence of characters. Its vocabulary is the sorted distinct characters, and a token is a character's
index there. The first 90% of the tokens are the training split, the rest the validation split. T: block_size.
"""

import hashlib
import os
import platform
import re
import sys
import textwrap
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path

import numpy as np

from common.errors import UserError, unknown
from tasks.data_files import DataFile, DownloadFailed, read_bytes, read_data_file

CORPORA = ("auto", "shakespeare", "pydoc")

SHAKESPEARE_SHA256 = "86c4e6aa9db7c042ec79f339dcb96d42b0075e16b8fc2e86bf0ca57e2dc565ed"
SHAKESPEARE = DataFile(
    "tiny Shakespeare",
    "shakespeare.txt",
    SHAKESPEARE_SHA256,
    1_115_394,
    "https://raw.githubusercontent.com/karpathy/char-rnn/master/data/tinyshakespeare/input.txt",
    "CHARLM_CORPUS",
)
PYDOC_LABEL = r"pydoc-\d[\w.+]*"

TRAINING_FRACTION = 0.9
MOST_DISTINCT_CHARACTERS = 65_536


@dataclass(frozen=True, eq=False)
class Corpus:
    """A text as tokens.

    label: name in results, tables and plots
    text_sha256: of the UTF-8 text; identifies the corpus
    vocabulary: the V distinct characters, sorted
    tokens: (n,) unsigned integers below V, read-only
    n_train: length of the training split, the first tokens
    path: of a user's file, as given
    """

    label: str
    text_sha256: str
    vocabulary: str
    tokens: np.ndarray
    n_train: int
    path: str | None = None

    @property
    def train(self) -> np.ndarray:
        return self.tokens[: self.n_train]

    @property
    def validation(self) -> np.ndarray:
        return self.tokens[self.n_train :]

    @property
    def vocabulary_size(self) -> int:
        return len(self.vocabulary)

    def split(self, name: str) -> np.ndarray:
        """The tokens of the split "train" or "validation"."""
        if name not in ("train", "validation"):
            raise unknown("split", name, ("train", "validation"))
        return self.train if name == "train" else self.validation

    def encode(self, text: str) -> np.ndarray:
        """(len(text),) tokens; raises UserError for a character outside the vocabulary."""
        vocabulary, characters = _code_points(self.vocabulary), _code_points(text)
        tokens = np.searchsorted(vocabulary, characters).clip(max=len(vocabulary) - 1)
        unknown_characters = characters[vocabulary[tokens] != characters]
        if len(unknown_characters):
            raise UserError(f"character {chr(unknown_characters[0])!r} does not occur in corpus {self.label}")
        return tokens.astype(np.uint8 if len(vocabulary) <= 256 else np.uint16)

    def decode(self, tokens) -> str:
        """Inverse of `encode`."""
        return "".join(self.vocabulary[token] for token in np.asarray(tokens).tolist())


def _code_points(text: str) -> np.ndarray:
    """(len(text),) Unicode code points of a text."""
    return np.frombuffer(text.encode("utf-32-le", "surrogatepass"), dtype="<u4")


# --- finding a text -----------------------------------------------------------------------------------------


def load_corpus(name: str = "auto", data_dir="data", progress: bool = True) -> Corpus:
    """The corpus called `name`: one of CORPORA, or a UTF-8 text file by its path.

    `shakespeare` is the file in the environment variable CHARLM_CORPUS, else the one in `data_dir`, else downloaded to
    `data_dir`; always verified. `pydoc`, or its label such as pydoc-3.11.7, is the manual that comes with Python. `auto`
    is Shakespeare, or `pydoc` with a warning if that is unavailable.
    """
    name = str(name)
    if name == "auto":
        return _shakespeare_or_pydoc(data_dir, progress)
    if name == "shakespeare":
        return make_corpus("shakespeare", read_data_file(SHAKESPEARE, data_dir, progress).decode("utf-8"))
    if name in ("pydoc", pydoc_label()):
        return make_corpus(pydoc_label(), pydoc_text())
    return _corpus_from_file(name)


def load_recorded(record: dict, given: str = "auto") -> Corpus:
    """The corpus of a stored result; raises UserError if it is unavailable.

    Parameters
    ----------
    record : dict
        {label, sha256, ...} from the result.
    given : str
        Where to find it, as for `load_corpus`; auto: according to the record.
    """
    label, digest = record["label"], record["sha256"]
    name = given
    if given == "auto":
        name = record.get("path") or ("pydoc" if re.fullmatch(PYDOC_LABEL, label) else label)
    made_on = f"the result was made on {label}, SHA-256 {digest[:12]}..."
    if name not in CORPORA and not os.path.exists(name):
        raise UserError(f"{made_on}, but {name} does not exist; give the text with --corpus FILE")
    corpus = load_corpus(name)
    if corpus.text_sha256 != digest:
        advice = "" if name in CORPORA else "; give the right one with --corpus FILE"
        raise UserError(f"{made_on}, but {name} is another text{advice}")
    return corpus


def make_corpus(label: str, text: str, path: str | None = None) -> Corpus:
    """A corpus from a text in memory."""
    if not text:
        raise UserError(f"corpus {label} is empty")
    vocabulary = "".join(sorted(set(text)))
    if len(vocabulary) > MOST_DISTINCT_CHARACTERS:
        raise UserError(
            f"corpus {label} has {len(vocabulary):,} distinct characters, more than {MOST_DISTINCT_CHARACTERS:,}"
        )
    sha256 = hashlib.sha256(text.encode("utf-8")).hexdigest()
    tokens = Corpus(label, sha256, vocabulary, np.empty(0, np.uint8), 0).encode(text)
    tokens.flags.writeable = False
    return Corpus(label, sha256, vocabulary, tokens, int(TRAINING_FRACTION * len(tokens)), path)


def pydoc_label() -> str:
    return f"pydoc-{platform.python_version()}"


def pydoc_text() -> str:
    """The topics of Python's manual, sorted by name, joined by a blank line."""
    try:
        from pydoc_data.topics import topics
    except ImportError:
        raise UserError("corpus pydoc is unavailable: this Python lacks its manual, pydoc_data") from None
    return "\n\n".join(topics[topic] for topic in sorted(topics))


def _corpus_from_file(name: str) -> Corpus:
    path = Path(name)
    if not os.path.exists(path):
        if name.startswith("pydoc-"):
            raise UserError(f"corpus {name} is the manual of another Python version; this one has {pydoc_label()}")
        if get_close_matches(name.lower(), CORPORA):
            raise UserError(f"{unknown('corpus', name, CORPORA)}; and there is no file of that name")
        raise UserError(f"corpus file {name} does not exist; built-in corpora: {', '.join(CORPORA)}")
    try:
        text = read_bytes(path).decode("utf-8")
    except UnicodeDecodeError as error:
        wrong = error.object[error.start]
        raise UserError(f"corpus file {name} is not UTF-8: byte {wrong:#04x} at offset {error.start:,}") from None
    return make_corpus(_label_of_file(path, text), text, os.fsencode(name).decode("utf-8", "replace"))


def _label_of_file(path, text):
    """The file's name, marked if it is the name of a built-in corpus with other content."""
    name = os.fsencode(path.name).decode("utf-8", "replace")
    label = "".join(character if character.isprintable() else "\N{REPLACEMENT CHARACTER}" for character in name)
    is_shakespeare = hashlib.sha256(text.encode("utf-8")).hexdigest() == SHAKESPEARE.sha256
    taken = label.lower() in CORPORA or re.fullmatch(PYDOC_LABEL, label.lower())
    return f"{label} (a file)" if taken and not is_shakespeare else label


# --- Shakespeare or pydoc ------------------------------------------------------------------------------------


def _shakespeare_or_pydoc(data_dir, progress: bool) -> Corpus:
    try:
        return load_corpus("shakespeare", data_dir, progress)
    except DownloadFailed as error:
        corpus = load_corpus("pydoc")
        _warn(
            "THIS IS NOT SHAKESPEARE.",
            f"The corpus is {corpus.label}, Python's manual ({len(corpus.tokens):,} characters), instead."
            " No result on it is comparable with the report's. Results, tables and plots show the corpus.",
            f"Reason: {error}.",
        )
        return corpus


def _warn(*paragraphs: str) -> None:
    """Prints a box on stderr, in ASCII so that it looks the same on every terminal and in every log."""
    lines = [""]
    for paragraph in paragraphs:
        lines += [*textwrap.wrap(paragraph, width=88, break_on_hyphens=False), ""]
    box = ["", "#" * 94, *(f"## {line:<88} ##" for line in lines), "#" * 94, ""]
    print("\n".join(box), file=sys.stderr, flush=True)


# --- windows and batches ------------------------------------------------------------------------------------


def check_length(corpus: Corpus, block_size: int) -> None:
    """Raises UserError unless each split has at least one window of `block_size` characters and a next character."""
    for name in ("train", "validation"):
        n = len(corpus.split(name))
        if n_windows(n, block_size) < 1:
            raise UserError(
                f"corpus {corpus.label} is too short: its {name} split has {n:,} characters,"
                f" and one window of block_size {block_size:,} needs {block_size + 1:,}"
            )


def n_windows(n: int, block_size: int) -> int:
    """The number of consecutive windows of T characters, each followed by another character, in n characters."""
    return max(n - 1, 0) // block_size


def window_starts(split_length: int, block_size: int) -> np.ndarray:
    """(n_windows,) offsets of the windows of a split: i T for window i."""
    return np.arange(n_windows(split_length, block_size)) * block_size


def evenly_spaced(total: int, count: int) -> np.ndarray:
    """(count,) strictly increasing indices below `total`, spread evenly: floor(i total / count)."""
    if count > total:
        raise ValueError(f"there are no {count} different indices below {total}")
    return np.arange(count) * total // max(count, 1)


def windows(tokens: np.ndarray, starts: np.ndarray, block_size: int) -> tuple[np.ndarray, np.ndarray]:
    """(x, y), each (len(starts), T) int64: the T tokens from each start, and the same shifted by one."""
    both = tokens[np.asarray(starts)[:, None] + np.arange(block_size + 1)].astype(np.int64)
    return np.ascontiguousarray(both[:, :-1]), np.ascontiguousarray(both[:, 1:])


def evaluation_starts(corpus: Corpus, split: str, block_size: int) -> np.ndarray:
    """(W,) offsets of the windows on which a split is evaluated.

    All W windows of the validation split; as many of the training split (or all of it), evenly spaced.
    """
    of_split = window_starts(len(corpus.split(split)), block_size)
    count = min(n_windows(len(corpus.validation), block_size), len(of_split))
    return of_split[evenly_spaced(len(of_split), count)]


def evaluation_windows(corpus: Corpus, split: str, block_size: int) -> tuple[np.ndarray, np.ndarray]:
    """(x, y), each (W, T) int64: all contexts and targets on which a split is evaluated."""
    return windows(corpus.split(split), evaluation_starts(corpus, split, block_size), block_size)


def curve_windows(n_evaluation_windows: int, count: int) -> np.ndarray:
    """Indices of the evaluation windows used for curves: floor(j W / count), or all if there are fewer."""
    return evenly_spaced(n_evaluation_windows, min(count, n_evaluation_windows))


def batch_starts(generator: np.random.Generator, split_length: int, block_size: int, batch_size: int) -> np.ndarray:
    """(batch_size,) independent offsets, uniform in [0, split_length - T)."""
    return generator.integers(0, split_length - block_size, size=batch_size)
