"""Damages files of a study, and says what the program makes of it: never another number, a traceback, or no end.

    venv/bin/python tests/helpers/damage.py --count 500

A small study is built once, half finished: with results, values per window, checkpoints, curves, predictions that await
their comparison, and a running trial's state. Each case copies it, damages one file or swaps two, reads it as the
analysis does, and brings it to completion in this process. Case k is the same every time.
"""

import argparse
import contextlib
import io
import os
import random
import shutil
import signal
import sys
import tempfile
from collections import Counter
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
if __name__ == "__main__":
    sys.path[:0] = [str(ROOT), str(ROOT / "tests" / "helpers")]

import run_all_experiments
import studies
import train
from analyze_results import read_study
from benchmarks import scaling
from common import json_files, storage
from common.errors import RunError, UserError
from study.jobs import FUNCTIONS
from training.trial import Interrupted

LIMIT_S = 120  # a case takes less than a second on an idle machine
SAME, AGAIN, REFUSED = "the same numbers", "made again, the same numbers", "refused by name"
KINDS = {
    "study": "results/study.json",
    "summary": "results/all_experiments_summary.json",
    "result": "results/charlm_*.json",
    "values of a trial": "results/charlm_*/trial_*.safetensors",
    "values of pairs": "results/charlm_*/pairs_*.safetensors",
    "checkpoint": "checkpoints/charlm_*/trial_?.pt",
    "state": "checkpoints/charlm_*/trial_*.partial.pt",
    "predictions": "checkpoints/charlm_*/*.predictions.safetensors",
    "point of a curve": "checkpoints/charlm_*/*.curve/*.safetensors",
    "study of the checkpoints": "checkpoints/study.json",
}


# --- the study ------------------------------------------------------------------------------------------------------


class Engine(scaling.Engine):
    """Runs jobs in this process; `done` counts them by what they do, and unexpected errors are kept in `faults`."""

    def __init__(self, context, broken=()):
        super().__init__(context)
        self.broken, self.done, self.faults = broken, Counter(), []

    def events(self):
        job, reported = self.waiting.popleft(), []
        self.done[job.function] += 1
        try:
            if job.name in self.broken:
                raise RunError("as was asked for")
            found = FUNCTIONS[job.function](self.context, reported.append, lambda: False, **job.arguments)
        except (RunError, UserError) as error:
            return [("failed", job, str(error))]
        except Exception as error:
            self.faults.append(f"{type(error).__name__}: {error}")
            return [("failed", job, str(error))]
        return [*(("progress", job, event) for event in reported), ("done", job, found)]

    def stop(self):
        self.waiting.clear()

    def close(self):
        pass


def complete(folder, corpus, trials, broken=()):
    """Brings the study in a folder to completion: (exit status or the error, everything said, the engine)."""
    engines, said = [], io.StringIO()

    def make_engine(args, plan, workers, context):
        engines.append(Engine(context, broken))
        return engines[0]

    real, run_all_experiments.make_engine = run_all_experiments.make_engine, make_engine
    folders = [f"--{kind}-dir={folder}/{kind}" for kind in ("results", "checkpoints", "plots")]
    options = [*studies.TINY, f"--corpus={corpus}", "--activations=relu,gelu", f"--trials={trials}", *folders]
    try:
        with contextlib.redirect_stdout(said), contextlib.redirect_stderr(said):
            outcome = run_all_experiments.main(options)
    except (RunError, UserError) as error:
        outcome = error
    finally:
        run_all_experiments.make_engine = real
    return outcome, said.getvalue(), engines[0] if engines else None


def build(folder: Path, corpus: Path) -> None:
    """The half-finished study: two trials of each activation, one pair, and the beginning of another trial."""
    outcome, said, _ = complete(folder, corpus, 2, [f"charlm_gelu pairs of {k}" for k in (1, 2)])
    assert isinstance(outcome, RunError), said
    from tasks.registry import load_task

    partial = folder / "checkpoints" / "charlm_relu" / "trial_3.partial.pt"
    with contextlib.suppress(Interrupted):
        task = load_task("text", str(corpus))
        train.run_trial(studies.a_trial(3), task, partial, should_stop=studies.stop_after(3))
    missing = [kind for kind, pattern in KINDS.items() if not list(folder.glob(pattern))]
    assert not missing, missing


def numbers(folder: Path) -> dict:
    """Every number of a study, of which a damaged one must not have another."""
    found = {}
    for result in storage.read_study(folder / "results")[1]:
        name = storage.name_of(result)
        found[name] = json_files.stable({key: value for key, value in result.items() if key != "path"})
        found |= {f"{name} {array}": values.tolist() for array, values in storage.read_values(result).items()}
    found["summary"] = json_files.stable(json_files.read_json(folder / "results" / storage.SUMMARY_FILE)["experiments"])
    return found


# --- damage ---------------------------------------------------------------------------------------------------------


def _changed(change):
    def damage(path, others, rng):
        data = bytearray(path.read_bytes())
        path.write_bytes(change(data, rng))

    return damage


def _flip(data, rng):
    data[rng.randrange(len(data))] ^= 1 << rng.randrange(8)
    return data


def _fill(data, rng):
    start = rng.randrange(len(data))
    end = min(len(data), start + rng.randrange(1, 2000))
    data[start:end] = rng.choice((b"\0", b"\xff", b"["))[:1] * (end - start)
    return data


def _in_place_of(make):
    def damage(path, others, rng):
        path.unlink()
        make(path)

    return damage


def _swap(path, others, rng):
    other = rng.choice(others)
    data = path.read_bytes()
    path.write_bytes(other.read_bytes())
    other.write_bytes(data)


def _copy(path, others, rng):
    shutil.copy(path, path.with_name(f"{path.stem} (copy){path.suffix}"))


def _over(path, others, rng):
    path.write_bytes(rng.choice(others).read_bytes())


DAMAGES = {
    "a bit flipped": _changed(_flip),
    "a region overwritten": _changed(_fill),
    "truncated": _changed(lambda data, rng: data[: rng.randrange(len(data))]),
    "something appended": _changed(lambda data, rng: data + bytes(rng.randrange(1, 100))),
    "empty": _changed(lambda data, rng: b""),
    "nested deeply": _changed(lambda data, rng: b"[" * 100_000),
    "deleted": _in_place_of(lambda path: None),
    "a pipe": _in_place_of(os.mkfifo),
    "a link to /dev/zero": _in_place_of(lambda path: path.symlink_to("/dev/zero")),
    "a link to nothing": _in_place_of(lambda path: path.symlink_to("nothing")),
    "a folder": _in_place_of(Path.mkdir),
    "swapped with another": _swap,
    "overwritten by another": _over,
    "copied": _copy,
}


def damage(folder: Path, rng) -> str:
    """Damages one file, or swaps two; says what was done."""
    kind, what = rng.choice(list(KINDS)), rng.choice(list(DAMAGES))
    path = rng.choice(sorted(folder.glob(KINDS[kind])))
    of_a_kind = sorted(set(folder.glob(KINDS[kind])) - {path})
    others = of_a_kind if of_a_kind and rng.random() < 0.6 else sorted(set(_files(folder)) - {path})
    DAMAGES[what](path, others, rng)
    return f"{path.relative_to(folder)}: {what}"


def _files(folder):
    return [path for pattern in KINDS.values() for path in folder.glob(pattern)]


# --- verdicts -------------------------------------------------------------------------------------------------------


class Endless(BaseException):
    pass


def _stop(*_):
    raise Endless


class Cases:
    """The study, its copies, and what becomes of them."""

    def __init__(self, folder: Path, corpus: Path):
        self.folder, self.corpus = folder, corpus
        build(folder / "half", corpus)
        shutil.copytree(folder / "half", folder / "whole")
        self.before = self._read(folder / "half")
        outcome, said, engine = complete(folder / "whole", corpus, 3)
        assert outcome == 0, f"{outcome}\n{said}"
        self.after, self.jobs = numbers(folder / "whole"), engine.done

    def _read(self, folder):
        """What the analysis reads: name -> the records and pairs of an experiment."""
        cells = read_study(folder / "results").cells
        return {cell.activation: (json_files.stable([cell.trials, cell.pairs]), repr(cell.arrays)) for cell in cells}

    def verdict(self, number: int) -> tuple[str, str]:
        """(what was done, one of SAME, AGAIN, REFUSED) of a case; an AssertionError says what went wrong instead."""
        folder = self.folder / f"case_{number}"
        shutil.copytree(self.folder / "half", folder)
        done = damage(folder, random.Random(number))
        signal.signal(signal.SIGALRM, _stop)
        signal.alarm(LIMIT_S)
        try:
            self._analyze(folder)
            return done, self._complete(folder)
        except Endless:
            raise AssertionError(f"case {number}, {done}: no end") from None
        except AssertionError as error:
            raise AssertionError(f"case {number}, {done}: {error}") from error
        except Exception as error:
            raise AssertionError(f"case {number}, {done}: traceback, {type(error).__name__}: {error}") from error
        finally:
            signal.alarm(0)
            shutil.rmtree(folder)

    def _analyze(self, folder):
        """The analysis reads no other number; what it cannot read, it names."""
        try:
            with contextlib.redirect_stderr(io.StringIO()):
                found = self._read(folder)
        except (RunError, UserError) as error:
            return _check_refusal(folder, error)
        for activation, (stable, arrays) in found.items():
            assert stable == self.before[activation][0], f"the analysis reads other numbers of {activation}"
            assert arrays in self.before[activation][1] or len(arrays) < len(self.before[activation][1])

    def _complete(self, folder):
        for _ in range(2):  # a job that is refused is a failure, and the next run may make again what it lacked
            outcome, said, engine = complete(folder, self.corpus, 3)
            assert "Traceback" not in said and not (engine and engine.faults), engine.faults if engine else said
            if outcome == 0:
                found = numbers(folder)
                difference = json_files.first_difference(self.after, found)
                assert difference is None, f"another number: {difference:.300}"
                return SAME if engine.done == self.jobs else AGAIN
        _check_refusal(folder, f"{outcome} {said}" if "see above" in str(outcome) else outcome)
        return REFUSED


def _check_refusal(folder, error):
    text = str(error)
    assert str(folder) in text, f"refused, but no file is named: {text}"
    assert "see above" in text or "\n" not in text, text


def main():
    p = argparse.ArgumentParser(description="Damage a small study many times, and count what the program makes of it.")
    p.add_argument("--count", type=int, default=500, help="how many cases (default: %(default)s)")
    p.add_argument("--first", type=int, default=0, help="the number of the first case (default: %(default)s)")
    args = p.parse_args()
    counts, faults = Counter(), []
    with tempfile.TemporaryDirectory() as folder:
        corpus = Path(folder) / "tiny.txt"
        corpus.write_text((ROOT / "README.md").read_text(encoding="utf-8")[:4000], encoding="utf-8")
        cases = Cases(Path(folder), corpus)
        for number in range(args.first, args.first + args.count):
            try:
                counts[cases.verdict(number)[1]] += 1
            except AssertionError as error:
                faults.append(str(error))
                print(error, flush=True)
    for verdict, count in counts.most_common():
        print(f"{count:5d} {verdict}")
    print(f"{len(faults):5d} wrong")
    return 1 if faults else 0


if __name__ == "__main__":
    sys.exit(main())
