"""The Plan of a run: which trials of which study, with which configuration, in which folders."""

from dataclasses import dataclass, field
from pathlib import Path

from config import Config
from training.identity import config_of_experiment
from training.trial import Trial, arithmetic, stream_seeds


@dataclass(frozen=True)
class Plan:
    """A run of a study.

    experiments: (architecture, activation) pairs.
    learning_rates: activation or architecture -> learning rate; all others use the configuration's.
    compiled: as in `Trial`.
    probes: measured at each curve point; not part of the identity.
    """

    config: Config
    device: str
    protocol: str
    seed_base: int
    vary: tuple[str, ...]
    n_trials: int
    experiments: tuple[tuple[str, str], ...]
    results_dir: Path
    checkpoints_dir: Path
    plots_dir: Path
    compiled: bool = False
    learning_rates: dict[str, float] = field(default_factory=dict)
    probes: tuple[str, ...] = ()

    def identity(self, task) -> dict:
        """The study's identity: everything that its results depend on."""
        return {
            "protocol": self.protocol,
            **task.identity(),
            "device": self.device,
            "seed_base": self.seed_base,
            "vary": list(self.vary),
            "config": self.config.as_dict(),
            **arithmetic(self.config, self.compiled),
            **({"learning_rates": self.learning_rates} if self.learning_rates else {}),
        }

    def config_of(self, architecture, activation) -> Config:
        """The configuration of one experiment, with its learning rate."""
        return config_of_experiment(self.config, self.learning_rates, architecture, activation)

    def trial(self, architecture, activation, number) -> Trial:
        """The identity of one trial."""
        seeds = stream_seeds(self.seed_base, number, self.vary)
        seed = self.seed_base + number - 1
        how = (self.device, self.protocol, self.compiled)
        config = self.config_of(architecture, activation)
        return Trial(architecture, activation, config, number, seed, seeds, *how)

    def describe(self, task) -> str:
        """One line that describes the study."""
        architectures = list(dict.fromkeys(name for name, _ in self.experiments))
        activations = list(dict.fromkeys(name for _, name in self.experiments))
        what = "corpus" if task.name == "text" else task.name
        return (
            f"study in {self.results_dir}: {', '.join(architectures)} with {', '.join(activations)}, "
            f"{self.n_trials} trials each, {self.protocol} protocol, {what} {task.label}, {self.device}, "
            f"{self.config.max_iters} steps" + (", compiled" if self.compiled else "")
        )
