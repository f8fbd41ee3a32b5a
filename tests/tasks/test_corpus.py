"""Claims about the corpus: what is found where, what is refused, and which characters every window holds."""

import hashlib
import http.server
import os
import pickle
import subprocess
import sys
import threading
import time
import urllib.request
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from common.errors import UserError, unknown
from tasks import corpus as corpora
from tasks import data_files
from tasks.corpus import (
    batch_starts,
    check_length,
    curve_windows,
    evaluation_starts,
    evaluation_windows,
    evenly_spaced,
    load_corpus,
    make_corpus,
    n_windows,
    window_starts,
    windows,
)

texts = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=400)
TINY = "To be, or not to be,\r\nthat is the question: ünïcode 😀\n" * 9


@pytest.fixture
def tiny_shakespeare(monkeypatch, tmp_path):
    """Lets TINY stand for Shakespeare: its bytes; the working folder is an empty one."""
    data = TINY.encode()
    monkeypatch.delenv("CHARLM_CORPUS", raising=False)
    known = replace(corpora.SHAKESPEARE, sha256=hashlib.sha256(data).hexdigest(), n_bytes=len(data))
    monkeypatch.setattr(corpora, "SHAKESPEARE", known)
    monkeypatch.chdir(tmp_path)
    return data


@pytest.fixture
def serve(monkeypatch):
    """serve(body) answers every download on this machine with `body`; gives the list of paths asked for."""
    servers = []

    def start(body: bytes, missing: int = 0) -> list[str]:
        asked = []

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_GET(self):
                asked.append(self.path)
                self.send_response(200)
                self.send_header("Content-Length", str(len(body) + missing))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *_):
                pass

        server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        threading.Thread(target=server.serve_forever, daemon=True).start()
        servers.append(server)
        monkeypatch.setenv("no_proxy", "127.0.0.1")
        here = f"http://127.0.0.1:{server.server_port}/input.txt"
        monkeypatch.setattr(corpora, "SHAKESPEARE", replace(corpora.SHAKESPEARE, url=here))
        return asked

    yield start
    for server in servers:
        server.shutdown()
        server.server_close()


def mistake(*arguments, **options) -> str:
    """The one sentence that loading such a corpus ends with."""
    with pytest.raises(UserError) as caught:
        load_corpus(*arguments, **options)
    assert "\n" not in str(caught.value)
    return str(caught.value)


# --- the report's section 2.2 -------------------------------------------------------------------------------


def test_shakespeare_is_the_reports(shakespeare):
    assert shakespeare.label == "shakespeare"
    assert len(shakespeare.tokens) == 1_115_394
    assert (len(shakespeare.train), len(shakespeare.validation)) == (1_003_854, 111_540)
    assert shakespeare.vocabulary == "\n !$&',-.3:;?ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"
    assert shakespeare.vocabulary_size == 65
    assert shakespeare.text_sha256 == corpora.SHAKESPEARE.sha256
    assert shakespeare.decode(shakespeare.tokens[:14]) == "First Citizen:"


def test_shakespeare_evaluates_on_871_windows_of_each_split(shakespeare):
    for split in ("train", "validation"):
        x, y = evaluation_windows(shakespeare, split, 128)
        assert x.shape == y.shape == (871, 128)
        assert y.size == 111_488
    numbers = evaluation_starts(shakespeare, "train", 128) // 128
    assert numbers[1] == 7842 // 871
    assert numbers[-1] == 870 * 7842 // 871


# --- where a corpus is found --------------------------------------------------------------------------------


def test_the_environment_variable_comes_before_the_data_folder(tiny_shakespeare, monkeypatch, tmp_path):
    (tmp_path / "elsewhere.txt").write_bytes(tiny_shakespeare)
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "shakespeare.txt").write_bytes(b"something else")
    monkeypatch.setenv("CHARLM_CORPUS", str(tmp_path / "elsewhere.txt"))
    for name in ("shakespeare", "auto"):
        found = load_corpus(name)
        assert (found.label, found.decode(found.tokens)) == ("shakespeare", TINY)


def test_the_data_folder_comes_before_a_download(tiny_shakespeare, serve, tmp_path):
    asked = serve(tiny_shakespeare)
    (tmp_path / "texts").mkdir()
    (tmp_path / "texts" / "shakespeare.txt").write_bytes(tiny_shakespeare)
    assert load_corpus("shakespeare", data_dir="texts").label == "shakespeare"
    assert asked == []


def test_a_download_is_kept_and_not_repeated(tiny_shakespeare, serve, tmp_path):
    asked = serve(tiny_shakespeare)
    for _ in range(2):
        assert load_corpus("shakespeare", progress=False).text_sha256 == corpora.SHAKESPEARE.sha256
    assert asked == ["/input.txt"]
    assert os.listdir(tmp_path / "data") == ["shakespeare.txt"]
    assert (tmp_path / "data" / "shakespeare.txt").read_bytes() == tiny_shakespeare


def test_a_download_shows_its_progress_on_a_terminal_only(tiny_shakespeare, serve, monkeypatch, capsys, tmp_path):
    serve(tiny_shakespeare)
    load_corpus("shakespeare", data_dir="first")
    assert capsys.readouterr().err == ""
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True, raising=False)
    load_corpus("shakespeare", data_dir="second", progress=False)
    assert capsys.readouterr().err == ""
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True, raising=False)
    load_corpus("shakespeare", data_dir="third")
    assert "Shakespeare: 100%" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("body", "missing"),
    [(b"<html>Please sign in</html>", 0), (TINY.encode()[:-1], 1), (TINY.encode() + b"more", 0)],
    ids=["another page", "cut short", "too long"],
)
def test_a_wrong_download_is_not_kept(tiny_shakespeare, serve, body, missing, capsys):
    serve(body, missing)
    assert "could not be downloaded" in mistake("shakespeare")
    assert load_corpus("auto").label.startswith("pydoc-")
    assert "NOT SHAKESPEARE" in capsys.readouterr().err
    assert not os.path.exists("data") or os.listdir("data") == []


def test_a_download_that_cannot_be_stored_leaves_nothing(tiny_shakespeare, serve, monkeypatch, tmp_path):
    serve(tiny_shakespeare)

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    assert "No space left on device" in mistake("shakespeare")
    assert os.listdir(tmp_path / "data") == []


def test_a_host_that_never_answers_costs_no_more_than_the_time_limit(tiny_shakespeare, monkeypatch):
    """Also where the operating system's own limits, as on looking up a name, are longer."""
    monkeypatch.setattr(urllib.request, "urlopen", lambda *_, **__: time.sleep(60))
    monkeypatch.setattr(data_files, "CONNECTION_TIMEOUT_S", 0.2)
    began = time.monotonic()
    assert "(no connection within 0.2 s)" in mistake("shakespeare")
    assert time.monotonic() - began < 30


def test_without_a_network_auto_is_pydoc_and_says_so_loudly(tiny_shakespeare, capsys):
    found = load_corpus("auto")
    version = ".".join(str(part) for part in sys.version_info[:3])
    assert found.label.startswith(f"pydoc-{version}")
    assert found.text_sha256 == load_corpus("pydoc").text_sha256
    warning = capsys.readouterr().err
    assert "THIS IS NOT SHAKESPEARE" in warning
    assert found.label in warning
    assert warning.isascii()
    assert len(warning.splitlines()) > 8


def test_pydoc_is_pythons_manual_in_the_order_of_its_topics():
    from pydoc_data.topics import topics

    found = load_corpus("pydoc")
    text = found.decode(found.tokens)
    first, second = sorted(topics)[:2]
    assert text.startswith(topics[first] + "\n\n" + topics[second])
    assert len(text) == sum(map(len, topics.values())) + 2 * (len(topics) - 1)
    assert load_corpus(found.label).text_sha256 == found.text_sha256


def test_any_file_is_a_corpus_and_its_line_ends_stay(tmp_path):
    path = tmp_path / "my text.txt"
    text = "\ufeffone\r\ntwo\rthree\n" * 5
    path.write_bytes(text.encode())
    found = load_corpus(str(path))
    assert found.label == "my text.txt"
    assert found.decode(found.tokens) == text
    assert found.text_sha256 == hashlib.sha256(path.read_bytes()).hexdigest()


def test_loading_a_corpus_leaves_torch_alone():
    code = "import sys; from tasks import corpus; print([m for m in ('torch', 'tqdm', 'urllib.request') if m in sys.modules])"
    folder = Path(corpora.__file__).parents[1]
    done = subprocess.run([sys.executable, "-c", code], cwd=folder, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


# --- mistakes -----------------------------------------------------------------------------------------------


def test_an_unknown_name_names_the_nearest_and_lists_all():
    message = mistake("Shakespear")
    assert "unknown corpus 'Shakespear'; did you mean 'shakespeare'?" in message
    assert message.endswith("known: auto, shakespeare, pydoc; and there is no file of that name")
    assert str(unknown("activation", "GeLU", ["relu", "gelu"])).endswith("did you mean 'gelu'? known: relu, gelu")
    assert str(unknown("study", "a", [])).startswith("unknown study 'a'; known:")


def test_the_manual_of_another_python_is_not_taken_for_this_ones():
    assert "the manual of another Python" in mistake("pydoc-2.7.18")


def test_a_path_that_holds_no_text_is_refused(tmp_path):
    assert "does not exist" in mistake(str(tmp_path / "none.txt"))
    assert "does not exist" in mistake("x" * 5000 + ".txt")
    assert "is a folder" in mistake(str(tmp_path))
    assert "is a device or a pipe" in mistake(os.devnull)
    (tmp_path / "empty.txt").touch()
    assert "is empty" in mistake(str(tmp_path / "empty.txt"))


def test_a_file_that_may_not_be_read_is_refused(tiny_corpus_file, monkeypatch):
    def refuse(_):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "read_bytes", refuse)
    assert "cannot be read: Permission denied" in mistake(str(tiny_corpus_file))


def test_text_that_is_not_utf8_is_refused_with_the_place(tmp_path):
    path = tmp_path / "latin.txt"
    path.write_bytes("abcé".encode("latin-1"))
    message = mistake(str(path))
    assert "not UTF-8" in message
    assert "0xe9 at offset 3" in message


def test_a_wrong_environment_variable_is_an_error_even_where_auto_could_go_on(tiny_shakespeare, monkeypatch, tmp_path):
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "shakespeare.txt").write_bytes(tiny_shakespeare)
    other = tmp_path / "other.txt"
    other.write_bytes(tiny_shakespeare.replace(b"\r\n", b"\n"))
    for name in ("shakespeare", "auto"):
        monkeypatch.setenv("CHARLM_CORPUS", str(tmp_path / "nowhere.txt"))
        message = mistake(name)
        assert "CHARLM_CORPUS" in message
        assert "does not exist" in message
        monkeypatch.setenv("CHARLM_CORPUS", str(other))
        message = mistake(name)
        assert "CHARLM_CORPUS" in message
        assert hashlib.sha256(other.read_bytes()).hexdigest() in message
        assert corpora.SHAKESPEARE.sha256 in message
    assert load_corpus("pydoc").label == load_corpus(corpora.pydoc_label()).label


def test_a_wrong_file_in_the_data_folder_is_an_error_and_stays(tiny_shakespeare, serve, tmp_path):
    serve(tiny_shakespeare)
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "shakespeare.txt").write_bytes(b"mine")
    for name in ("shakespeare", "auto"):
        assert "is not tiny Shakespeare" in mistake(name)
    assert (tmp_path / "data" / "shakespeare.txt").read_bytes() == b"mine"


def test_more_characters_than_tokens_can_number_are_refused():
    def first_characters(count: int) -> str:
        return "".join(chr(code) for code in range(0x10000, 0x10000 + count))

    assert make_corpus("big", first_characters(65_536)).tokens[-1] == 65_535
    with pytest.raises(UserError, match=r"65,537 distinct characters"):
        make_corpus("big", first_characters(65_537))


def test_a_corpus_too_short_for_a_window_per_split_is_refused():
    enough = make_corpus("enough", "ab" * 45)  # splits of 81 and 9
    check_length(enough, 8)
    with pytest.raises(UserError, match=r"validation split has 9 characters.* block_size 9 needs 10"):
        check_length(enough, 9)
    with pytest.raises(UserError, match=r"train split has 0 characters"):
        check_length(make_corpus("one", "a"), 8)


# --- tokens -------------------------------------------------------------------------------------------------


@given(texts)
def test_decoding_undoes_encoding(text):
    corpus = make_corpus("any", text)
    assert corpus.decode(corpus.encode(text)) == text
    assert corpus.decode(corpus.tokens) == text
    assert list(corpus.vocabulary) == sorted(set(text))
    assert corpus.n_train == int(0.9 * len(text))
    assert corpus.decode(corpus.train) + corpus.decode(corpus.validation) == text


def test_a_character_that_the_corpus_lacks_is_refused():
    corpus = make_corpus("ac", "acca")
    for stranger in ("b", "z", "A", "😀", "\udc80"):
        with pytest.raises(UserError, match="does not occur in corpus ac"):
            corpus.encode("a" + stranger)
    assert len(corpus.encode("")) == 0
    with pytest.raises(UserError, match="unknown split 'val'; did you mean 'validation'"):
        corpus.split("val")


def test_a_corpus_cannot_be_changed_and_travels_between_processes():
    corpus = make_corpus("tiny", TINY)
    with pytest.raises(ValueError, match="read-only"):
        corpus.tokens[0] = 1
    with pytest.raises(AttributeError):
        corpus.label = "other"
    copy = pickle.loads(pickle.dumps(corpus))
    assert (copy.text_sha256, copy.decode(copy.tokens)) == (corpus.text_sha256, TINY)


def test_many_characters_take_wider_tokens():
    assert make_corpus("narrow", "".join(map(chr, range(256)))).tokens.dtype == np.uint8
    assert make_corpus("wide", "".join(map(chr, range(257)))).tokens.dtype == np.uint16


# --- windows ------------------------------------------------------------------------------------------------


@given(st.integers(1, 500), st.integers(1, 40), st.data())
def test_windows_hold_each_token_and_the_next(n, block_size, data):
    tokens = np.arange(n)
    starts = window_starts(n, block_size)
    assert len(starts) == n_windows(n, block_size) == (n - 1) // block_size
    x, y = windows(tokens, starts, block_size)
    assert x.dtype == y.dtype == np.int64
    assert x.shape == y.shape == (len(starts), block_size)
    assert x.flags.c_contiguous
    assert y.flags.c_contiguous
    # Consecutive, without a gap: their characters in order are the split's, short of an incomplete window.
    assert np.array_equal(x.ravel(), np.arange(len(starts) * block_size))
    assert np.array_equal(y, x + 1)
    assert n - 1 - x.size < block_size


@given(st.integers(1, 2000).flatmap(lambda total: st.tuples(st.just(total), st.integers(1, total))))
def test_a_spread_is_strictly_increasing_and_reaches_over_everything(total_and_count):
    total, count = total_and_count
    indices = evenly_spaced(total, count)
    assert indices.tolist() == [i * total // count for i in range(count)]
    assert indices[0] == 0
    assert indices[-1] < total
    assert (np.diff(indices) > 0).all()
    assert np.diff([*indices, total]).max() <= -(-total // count)


def test_a_spread_cannot_have_more_indices_than_there_are():
    assert len(evenly_spaced(5, 0)) == 0
    with pytest.raises(ValueError, match="there are no"):
        evenly_spaced(5, 6)


@given(st.integers(1, 300), st.integers(1, 400))
def test_curves_use_as_many_windows_as_asked_for_or_all(total, count):
    indices = curve_windows(total, count)
    assert indices.tolist() == [j * total // min(count, total) for j in range(min(count, total))]


@given(texts, st.integers(1, 30))
def test_both_splits_are_evaluated_on_whole_windows_of_their_own(text, block_size):
    corpus = make_corpus("any", text)
    n_validation = n_windows(len(corpus.validation), block_size)
    n_train = n_windows(len(corpus.train), block_size)
    validation = evaluation_starts(corpus, "validation", block_size)
    train = evaluation_starts(corpus, "train", block_size)
    assert validation.tolist() == [i * block_size for i in range(n_validation)]
    count = min(n_validation, n_train)
    assert train.tolist() == [i * n_train // count * block_size for i in range(count)]
    for split in ("train", "validation"):
        x, y = evaluation_windows(corpus, split, block_size)
        for start, x_row, y_row in zip(evaluation_starts(corpus, split, block_size), x, y):
            assert np.array_equal(x_row, corpus.split(split)[start : start + block_size])
            assert np.array_equal(y_row, corpus.split(split)[start + 1 : start + block_size + 1])


@given(st.integers(1, 50), st.integers(1, 50), st.integers(0, 2**32))
def test_batches_stay_within_the_split(block_size, spare, seed):
    n = block_size + spare
    starts = batch_starts(np.random.default_rng(seed), n, block_size, 64)
    assert starts.shape == (64,)
    assert starts.min() >= 0
    x, y = windows(np.arange(n), starts, block_size)
    assert y.max() <= n - 1
    assert np.array_equal(x[:, 0], starts)


def test_batches_reach_every_start_and_repeat_with_the_generator():
    starts = batch_starts(np.random.default_rng(1), 12, 4, 2000)
    assert sorted(set(starts.tolist())) == list(range(8))
    assert np.bincount(starts).min() > 2000 / 8 * 0.7
    assert np.array_equal(starts, batch_starts(np.random.default_rng(1), 12, 4, 2000))
