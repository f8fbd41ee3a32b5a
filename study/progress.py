"""Progress of a running study: tqdm bars on a terminal, plain lines in a log.

Each log line is self-contained: time, trial, step, loss, trials done, and the estimated time left.
"""

import sys
import time

LINE_EVERY_S = 10.0


def duration(seconds: float) -> str:
    """'45 s', '12 min', '3 h 20 min'."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 90 else f"{minutes // 60} h {minutes % 60:02d} min"


class Progress:
    """Shows progress and estimates the time left.

    Parameters
    ----------
    total : int
        Trials to train in this run.
    n_trials : int
        Trials per activation, for 'trial 3 of 10'.
    max_iters : int
        Steps per trial.
    """

    def __init__(self, total, n_trials, max_iters):
        self.total, self.n_trials, self.max_iters = total, n_trials, max_iters
        self.done = 0
        self.fractions = {}  # running trial -> fraction done
        self.found_done = 0.0  # done by earlier runs, in trials
        self.started = time.monotonic()
        self.last_line = {}
        self.bars = None
        if sys.stderr.isatty() and total:
            from tqdm import tqdm

            self.bars = {None: tqdm(total=total, unit="trial", desc="study", position=0, dynamic_ncols=True)}

    def say(self, text):
        """Prints a line, above the bars if there are any."""
        if self.bars:
            self.bars[None].write(text, file=sys.stderr)
        else:
            elapsed = int(time.monotonic() - self.started)
            print(f"[{elapsed // 3600:02d}:{elapsed // 60 % 60:02d}:{elapsed % 60:02d}] {text}", flush=True)

    def time_left(self) -> str:
        """The estimated time left, from the trials and fractions of trials done in this run."""
        reached = self.done + sum(self.fractions.values())
        worked = reached - self.found_done
        if worked < 0.1 or not self.total:  # too early: start-up time would dominate the estimate
            return "time left not known yet"
        elapsed = time.monotonic() - self.started
        return f"about {duration(elapsed / worked * max(self.total - reached, 0))} left"

    def resumed(self, name, number, step):
        """A trial resumes from a saved step."""
        if (name, number) not in self.fractions:  # else a worker died and the steps are this run's
            self.fractions[name, number] = self._share(step)
            self.found_done += self._share(step)
        self.say(f"{name}  trial {number} of {self.n_trials}  resumes from step {step} of {self.max_iters}")

    def _share(self, step):
        return min(step / self.max_iters, 1) * 0.9  # the final evaluation counts as a tenth

    def step(self, name, number, step, loss):
        """A running trial has done `step` steps."""
        self.fractions[name, number] = self._share(step)
        if self.bars:
            self._bar(name, number).update(step - self._bar(name, number).n)
            if loss is not None:
                self._bar(name, number).set_postfix(loss=f"{loss:.4f}")
            return
        now = time.monotonic()
        if now - self.last_line.get((name, number), -LINE_EVERY_S) >= LINE_EVERY_S:
            self.last_line[name, number] = now
            shown = "" if loss is None else f"  loss {loss:.4f}"
            self.say(
                f"{name}  trial {number} of {self.n_trials}  step {step:>5} of {self.max_iters}{shown}"
                f"  | {self.done} of {self.total} trials done, {self.time_left()}"
            )

    def _bar(self, name, number):
        from tqdm import tqdm

        if (name, number) not in self.bars:
            taken = {bar.pos for bar in self.bars.values()}
            position = next(p for p in range(1, 1000) if -p not in taken and p not in taken)
            self.bars[name, number] = tqdm(
                total=self.max_iters,
                unit="step",
                desc=f"{name} {number}",
                position=position,
                leave=False,
                dynamic_ncols=True,
            )
        return self.bars[name, number]

    def trial_done(self, name, record):
        """A trial has ended, whatever its status."""
        self.done += 1
        self.fractions.pop((name, record["trial"]), None)
        if self.bars:
            bar = self.bars.pop((name, record["trial"]), None)
            if bar is not None:
                bar.close()
            self.bars[None].update(1)
        took = (record["training_time_s"] or 0) + (record["evaluation_time_s"] or 0)
        if record["status"] == "complete":
            text = f"val loss {record['val_loss']:.4f}  val accuracy {record['val_accuracy']:.2%}  {took:.1f} s"
            if score := record.get("score"):
                text = f"{score['name']} {score['value']:.2f}  {text}"
        else:
            text = f"{record['status'].upper()}: {record['reason']}"
        self.say(
            f"{name}  trial {record['trial']} of {self.n_trials}  {text}"
            f"  | {self.done} of {self.total} trials done, {self.time_left()}"
        )

    def close(self):
        """Closes the bars."""
        for bar in (self.bars or {}).values():
            bar.close()
