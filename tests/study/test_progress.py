"""What a running study says of itself."""

import pytest

from study import progress


@pytest.fixture
def clock(monkeypatch):
    """The time as `progress` reads it, in seconds; a test moves it on."""
    now = [0.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: now[0])
    return now


def record(number):
    losses = {"val_loss": 2.5, "val_accuracy": 0.27}
    return {"trial": number, "status": "complete", "training_time_s": 1, "evaluation_time_s": 1, **losses}


def test_time_left_is_the_rest_at_the_pace_so_far(clock):
    shown = progress.Progress(total=4, n_trials=4, max_iters=100)
    clock[0] = 30
    shown.trial_done("charlm_relu", record(1))
    assert shown.time_left() == f"about {progress.duration(90)} left"


def test_steps_that_an_earlier_run_did_are_not_this_runs_pace(clock, capsys):
    """A trial found at step 50 of 100, at step 100 after 45 s: so 0.45 trials took 45 s, and one and a tenth are left."""
    shown = progress.Progress(total=2, n_trials=2, max_iters=100)
    shown.resumed("charlm_relu", 1, 50)
    assert "trial 1 of 2  resumes from step 50 of 100" in capsys.readouterr().out
    assert shown.time_left() == "time left not known yet"
    clock[0] = 45
    shown.step("charlm_relu", 1, 100, 2.5)
    assert shown.time_left() == f"about {progress.duration(110)} left"


def test_steps_that_a_dead_worker_did_in_this_run_are(clock, capsys):
    shown = progress.Progress(total=1, n_trials=1, max_iters=100)
    clock[0] = 50
    shown.step("charlm_relu", 1, 50, 2.5)
    shown.resumed("charlm_relu", 1, 40)
    assert shown.time_left() == f"about {progress.duration(50 / 0.45 * 0.55)} left"
