"""Whatever happens to a file of a study: the same numbers, made again, or refused by name."""

from collections import Counter

import damage
import pytest


@pytest.fixture(scope="module")
def cases(tmp_path_factory, tiny_corpus_file):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("os.fsync", lambda descriptor: None)
        yield damage.Cases(tmp_path_factory.mktemp("damage"), tiny_corpus_file)


@pytest.mark.slow
def test_sixty_damages_and_swaps_give_no_other_number_no_traceback_and_an_end(cases, monkeypatch):
    monkeypatch.setattr("os.fsync", lambda descriptor: None)
    counts = Counter(cases.verdict(number)[1] for number in range(60))
    assert counts.keys() == {damage.SAME, damage.AGAIN, damage.REFUSED}, counts
