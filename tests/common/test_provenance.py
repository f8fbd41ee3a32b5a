"""A result names the commit of this program, and of nothing else."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
pytestmark = pytest.mark.skipif(shutil.which("git") is None, reason="git is not on this machine")


def git(folder, *arguments):
    who = ("-c", "user.name=A", "-c", "user.email=a@b.c")
    done = subprocess.run(["git", *who, *arguments], cwd=folder, check=True, capture_output=True, text=True)
    return done.stdout.strip()


def repository(folder):
    """Makes a folder a repository, commits what is in it, and returns the commit."""
    git(folder, "init", "-q")
    git(folder, "add", ".")
    git(folder, "commit", "-q", "--allow-empty", "-m", f"what lies in {folder.name}")
    return git(folder, "rev-parse", "HEAD")


def commit_of(program, **environment):
    """What the program in a folder says is its commit."""
    code = "from common.provenance import git_commit; print(git_commit())"
    command = ["env", *(f"{name}={value}" for name, value in environment.items()), sys.executable, "-c", code]
    return subprocess.run(command, cwd=program, check=True, capture_output=True, text=True).stdout.strip()


@pytest.fixture
def program(tmp_path):
    """The program's folder in somebody's project; in neither has git been at work."""
    folder = tmp_path / "project" / "a copy"
    (folder / "common").mkdir(parents=True)
    shutil.copy(ROOT / "common" / "provenance.py", folder / "common")
    return folder


def test_a_checkout_names_its_commit_and_says_where_files_differ_from_it(program):
    commit = repository(program)
    assert commit_of(program) == commit
    with open(program / "common" / "provenance.py", "a") as file:
        file.write("# changed\n")
    assert commit_of(program) == f"{commit}+changes"


def test_a_repository_around_the_program_is_not_taken_for_its_own(program):
    commit = repository(program.parent)
    assert commit_of(program) == "None"
    own = repository(program)
    assert commit_of(program) == own != commit


def test_a_repository_that_the_environment_names_is_not_taken_for_its_own(program, tmp_path):
    (tmp_path / "other").mkdir()
    repository(tmp_path / "other")
    other = {"GIT_DIR": tmp_path / "other" / ".git", "GIT_WORK_TREE": tmp_path / "other"}
    other["GIT_INDEX_FILE"] = tmp_path / "other" / ".git" / "index"
    assert commit_of(program, **other) == "None"
    assert commit_of(program, **other) == "None"
    assert repository(program) == commit_of(program, **other)


def test_a_second_working_tree_of_the_program_names_its_own_commit(program, tmp_path):
    repository(program)
    git(program, "worktree", "add", "-q", str(tmp_path / "second"))
    git(tmp_path / "second", "commit", "-q", "--allow-empty", "-m", "one more")
    assert commit_of(tmp_path / "second") == git(tmp_path / "second", "rev-parse", "HEAD") != commit_of(program)
