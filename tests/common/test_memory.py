"""Claims about memory settings."""

import os

from common.memory import huge_pages_in_new_processes


def test_new_processes_get_huge_pages_unless_the_user_has_tuned_glibc(monkeypatch):
    monkeypatch.setenv("GLIBC_TUNABLES", "glibc.malloc.hugetlb=0")
    huge_pages_in_new_processes()
    assert os.environ["GLIBC_TUNABLES"] == "glibc.malloc.hugetlb=0"
    monkeypatch.delenv("GLIBC_TUNABLES")
    huge_pages_in_new_processes()
    assert os.environ["GLIBC_TUNABLES"] == "glibc.malloc.hugetlb=1"
