"""Claims about the benchmarks: who is compared with whom, and that no goal is judged on the wrong kind of machine."""

import json

import pytest

import benchmark
from benchmarks import goals
from benchmarks.peers import arrangements, compared, nanogpt_step
from benchmarks.together import together
from common.errors import RunError, UserError
from config_cpu import ConfigCPU

# Has the names and arguments of nanoGPT's model.py, and nothing else of it.
MODEL = """
from dataclasses import dataclass
import torch

@dataclass
class GPTConfig:
    block_size: int
    vocab_size: int
    n_layer: int
    n_head: int
    n_embd: int
    dropout: float
    bias: bool

class GPT(torch.nn.Module):
    def __init__(self, config):
        super().__init__()
        self.table = torch.nn.Embedding(config.vocab_size, config.vocab_size)
        print("number of parameters")

    def forward(self, x, y):
        logits = self.table(x)
        return logits, torch.nn.functional.cross_entropy(logits.flatten(0, 1), y.flatten())

    def configure_optimizers(self, weight_decay, learning_rate, betas, device_type):
        return torch.optim.AdamW(self.parameters(), learning_rate, betas, weight_decay=weight_decay)
"""


@pytest.fixture
def checkout(tmp_path):
    (tmp_path / "model.py").write_text(MODEL)
    return tmp_path / "model.py"


@pytest.mark.parametrize(
    ("part", "name", "value", "kinds", "says"),
    [
        ("study", "bfloat16_speedup", 5.0, {"any machine", "native bfloat16"}, "at least 5: met"),
        ("study", "bfloat16_speedup", 4.9, {"any machine", "native bfloat16"}, "at least 5: missed"),
        ("study", "bfloat16_speedup", 9.0, {"any machine"}, "at least 5 with native bfloat16: not applicable here"),
        ("start", "help_s", 0.2, {"any machine"}, "at most 0.2: met"),
        ("start", "help_s", 0.3, {"any machine"}, "at most 0.2: missed"),
        ("start", "help_s", 0.1, set(), "at most 0.2 with any machine: not applicable here"),
        ("study", "published_s", 1.0, {"any machine"}, ""),
    ],
)
def test_a_goal_is_met_or_missed_only_on_the_kind_of_machine_it_is_set_for(part, name, value, kinds, says):
    assert goals.judgement(part, name, value, kinds) == says


@pytest.mark.parametrize(
    ("unit", "isa", "alone"),
    [
        ("AVX512-BF16", None, True),
        ("AVX512-BF16 and AMX", None, False),
        ("AVX512-BF16 and AMX", "AVX512_CORE_BF16", True),
        (None, None, False),
    ],
)
def test_a_share_of_the_peak_of_amx_is_not_judged(unit, isa, alone, monkeypatch):
    monkeypatch.setattr("common.provenance.native_bfloat16", lambda device: unit)
    monkeypatch.delenv("ONEDNN_MAX_CPU_ISA", raising=False)
    if isa:
        monkeypatch.setenv("ONEDNN_MAX_CPU_ISA", isa)
    kinds = goals.machine_kinds()
    assert ("AVX512-BF16 without AMX" in kinds) == alone
    assert ("native bfloat16" in kinds) == (unit is not None)


def test_every_core_is_used_in_every_arrangement_and_without_a_compiler_none_is_compiled():
    assert {(whose, processes) for whose, processes, _ in arrangements(4, False).values()} == {
        ("ours", 1),
        ("ours", 4),
        ("nanogpt", 1),
        ("nanogpt", 4),
    }
    assert sum(compiled for _, _, compiled in arrangements(4, True).values()) == 2
    assert len(arrangements(1, False)) == 2, "on one core the two arrangements are one"


def test_our_best_arrangement_is_compared_with_the_best_of_nanogpt():
    step_s = {
        "ours_a": [0.2, 0.2, 0.2],
        "ours_b": [0.1, 0.1, 0.1],
        "nanogpt_a": [0.15, 0.3, 0.2],
        "nanogpt_b": [0.4] * 3,
    }
    rows = compared("float32", step_s, ConfigCPU(batch_size=2, block_size=50))
    assert rows["float32_best"] == "ours_b against nanogpt_a"
    assert rows["float32_speedup"]["median"] == pytest.approx(2) and rows["float32_speedup"]["n"] == 3
    assert rows["float32_ours_b_tokens_per_s"]["median"] == pytest.approx(1000)


def test_a_step_of_the_checkout_trains_its_model_without_a_word(checkout, capsys):
    config = ConfigCPU(n_layer=1, n_head=1, n_embd=8, block_size=32, batch_size=8, learning_rate=0.1)
    step = nanogpt_step(config, checkout, compiled=False)
    first, *_, last = [step() for _ in range(20)]
    assert last < first - 0.5
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["peers"], "benchmark.py peers needs --nanogpt PATH, a checkout of https://github.com/karpathy/nanoGPT"),
        (["peers", "--nanogpt", "."], "--nanogpt . is not a checkout of nanoGPT: it has no model.py"),
        (["step", "--nanogpt", "."], "--nanogpt is for the part peers; add that part, or leave out --nanogpt"),
        (["cuda", "--quick"], "--quick has no effect on cuda; leave one of them out"),
        (["stp"], "unknown part 'stp'; did you mean 'step'?"),
    ],
)
def test_a_mistake_is_refused_before_anything_is_measured(arguments, says, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match=says.replace("?", r"\?")):
        benchmark.main([*arguments, "--repeats", "1"])


def test_a_process_that_fails_is_an_error_and_not_a_number(capfd):
    with pytest.raises(RunError, match="a process of loads ended without a result"):
        together(1, json.loads, "not JSON")
    assert "TypeError" in capfd.readouterr().err


@pytest.mark.slow
def test_a_quick_run_measures_a_step_and_judges_nothing(run_script):
    done = run_script("benchmark.py", "step", "--quick")
    assert done.returncode == 0, done.stderr
    assert "step share of peak" in done.stdout and "at least 0.65 with AVX-512: not applicable here" in done.stdout
