"""How a running study shows itself: tqdm bars on a terminal, plain lines in a log.

A module of its own, so that the study's logic prints nothing and the two displays cannot drift apart. A line in a log
stands alone: time, trial, step, loss, how much is done, and how long the rest will take.
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
    """Counts trials and estimates the time left.

    Args:
      total: trials that this run has to train.
      n_trials: trials per activation, for 'trial 3 of 10'.
      max_iters: steps of a trial.
    """

    def __init__(self, total, n_trials, max_iters):
        self.total, self.n_trials, self.max_iters = total, n_trials, max_iters
        self.done = 0
        self.fractions = {}  # running trial -> share of its steps
        self.found_done = 0.0  # trials' worth of steps that an earlier run had done
        self.started = time.monotonic()
        self.last_line = {}
        self.bars = None
        if sys.stderr.isatty() and total:
            from tqdm import tqdm

            self.bars = {None: tqdm(total=total, unit="trial", desc="study", position=0, dynamic_ncols=True)}

    def say(self, text):
        """A line that stays."""
        if self.bars:
            self.bars[None].write(text, file=sys.stderr)
        else:
            elapsed = int(time.monotonic() - self.started)
            print(f"[{elapsed // 3600:02d}:{elapsed // 60 % 60:02d}:{elapsed % 60:02d}] {text}", flush=True)

    def time_left(self) -> str:
        """An estimate from the trials and shares of trials done so far."""
        reached = self.done + sum(self.fractions.values())
        worked = reached - self.found_done
        if worked < 0.1 or not self.total:  # the start, which comes once, would be taken for the pace
            return "time left unknown yet"
        elapsed = time.monotonic() - self.started
        return f"about {duration(elapsed / worked * max(self.total - reached, 0))} left"

    def resumed(self, name, number, step):
        """A trial resumes from a step that it, or an earlier run of the study, had saved."""
        if (name, number) not in self.fractions:  # else it is this run's own work, after a worker died
            self.fractions[name, number] = self._share(step)
            self.found_done += self._share(step)
        self.say(f"{name}  trial {number} of {self.n_trials}  resumes from step {step} of {self.max_iters}")

    def _share(self, step):
        return min(step / self.max_iters, 1) * 0.9  # evaluation is about the last tenth

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
        """A trial has ended, in whatever way."""
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
        else:
            text = f"{record['status'].upper()}: {record['reason']}"
        self.say(
            f"{name}  trial {record['trial']} of {self.n_trials}  {text}"
            f"  | {self.done} of {self.total} trials done, {self.time_left()}"
        )

    def close(self):
        """Leaves the terminal as it was."""
        for bar in (self.bars or {}).values():
            bar.close()
