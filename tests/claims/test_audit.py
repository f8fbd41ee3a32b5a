"""Claims about the audit: the claims are well-formed, verdicts follow the studies, docs/audit.md is what it writes."""

import copy
import inspect
import itertools
import re

import numpy as np
import pytest
from simulated_truth import simulated_truth

import audit
from activations import REPORT
from claims import document
from claims import evidence as evidence_module
from claims.comparisons import TESTS, VERDICTS, Evidence
from claims.document import markdown, three_steps
from claims.timing import KINDS, evaluation_batches, measure, trial_seconds
from common import json_files
from common.errors import UserError
from config import Config
from config_cpu import ConfigCPU
from tasks.corpus import SHAKESPEARE_SHA256

CLAIMS, TABLES = evidence_module.read_claims()
BY_ID = {claim["id"]: claim for claim in CLAIMS}
SECTIONS = {"1.2", "2.1", "2.2", "2.3", "2.4", "3.1", "3.2", "3.3", "3.4", "3.5", "4.1", "4.2", "4.3", "4.4", "4.5"}
SECTIONS |= {"5.2", "6.1", "6.2", "7.1", "7.2", "7.3", "7.4", "7.5", "8", "A", "B", "C"}
METRICS = {"top1_disagreement": 1.2, "js_divergence": 0.1, "prediction_differences": 1000}
SHIPPED = json_files.read_json(
    evidence_module.REFERENCE / "matched" / "charlm_relu.json"
)  # its fields make results complete
LOSSES = {"smelu_05": 2.638, "smelu_1": 2.6588, "relu": 2.627, "gelu": 2.627, "swish": 2.6284}


# --- studies whose verdicts are known ---------------------------------------------------------------------------------


def trials(rng, loss, n, noise):
    """n complete trials around a loss, with curves that come down to it."""
    records = []
    for k in range(1, n + 1):
        value = loss + noise * rng.standard_normal()
        history = [
            {"step": s, "train_loss": x, "val_loss": x} for s, x in ((0, 4.17), (50, value + 0.25), (100, value))
        ]
        record = {"trial": k, "seed": 41 + k, "status": "complete", "train_loss": value, "val_loss": value}
        record |= {"train_accuracy": 0.27, "val_accuracy": 0.27 + 0.001 * rng.standard_normal(), "history": history}
        environment = SHIPPED["trials"][0]["environment"] | {"system": "Linux x86_64", "torch": "2.0"}
        records.append(SHIPPED["trials"][0] | record | {"environment": environment})
    return records


def pairs(rng, pd, n, noise):
    """All pairs of n trials around a relative PD."""
    found = []
    for a, b in itertools.combinations(range(1, n + 1), 2):
        value = pd * (1 + noise * rng.standard_normal())
        metrics = {"relative_pd": value} | {name: factor * value for name, factor in METRICS.items()}
        metrics["prediction_differences"] = round(metrics["prediction_differences"])
        history = [
            {"step": s, "relative_pd": x, "top1_disagreement": x}
            for s, x in ((0, 0.03), (50, 0.8 * value), (100, value))
        ]
        ends = {"relative_pd_last_position": 1.02 * value, "top1_disagreement_last_position": 1.2 * value}
        found.append(SHIPPED["pairs"][0] | {"trial_a": a, "trial_b": b, **metrics, **ends, "history": history})
    return found


def write_study(
    folder, pds, losses=LOSSES, n=10, noise=0.01, architectures=("charlm",), sha=SHAKESPEARE_SHA256, **identity
):
    """A study with these relative PDs and losses per activation; returns its folder."""
    config = identity.pop("config", ConfigCPU()).as_dict()
    identity = SHIPPED["identity"] | {
        "protocol": "matched",
        "corpus_sha256": sha,
        "device": "cpu",
        "seed_base": 42,
        **identity,
    }
    identity |= {"vary": identity.get("vary", ["init", "data", "dropout"]), "config": config, "numerics_version": 1}
    json_files.write_json(
        folder / "study.json", {"schema_version": 1, "identity": identity, "provenance": SHIPPED["provenance"]}
    )
    corpus = SHIPPED["corpus"] | {"sha256": sha}
    rng = np.random.default_rng(0)
    for architecture, activation in itertools.product(architectures, pds):
        result = SHIPPED | {"architecture": architecture, "activation": activation, "identity": identity}
        result |= {"corpus": corpus, "n_parameters": 429_824, "summary": {}}
        result["trials"] = trials(rng, losses[activation], n, 0.002)
        result["pairs"] = pairs(rng, pds[activation], n, noise)
        if identity["protocol"] == "published":
            result |= published_figures(result, activation)
        json_files.write_json(folder / f"{architecture}_{activation}.json", result)
    return folder


def published_figures(result, activation):
    """The report's own figures, as if its protocol had been followed on another machine."""
    names = ("train_loss", "val_loss", "train_accuracy", "val_accuracy")
    for k, record in enumerate(result["trials"][:2]):
        record |= {name: TABLES[f"trial_{name}"][activation][k] / (100 if "accuracy" in name else 1) for name in names}
    pd, differences = TABLES["relative_pd"][activation], TABLES["prediction_differences"][activation]
    figures = {"relative_pd": pd, "prediction_differences": differences, "total_predictions": 1000}
    return {
        "trials": result["trials"],
        "published_pairs": [{"trial_a": p["trial_a"], "trial_b": p["trial_b"], **figures} for p in result["pairs"]],
    }


def flat(pd=0.09, **others):
    """The same relative PD for every activation, but for some."""
    return {name: others.get(name, pd) for name in REPORT}


def verdict_of(claim_id, evidence):
    return evidence_module.answer(BY_ID[claim_id], evidence).verdict


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("studies")


@pytest.fixture(scope="module")
def evidence(folder):
    """The report's figures repeat; matched, ReLU is truly the least reproducible, by 10 %."""
    published = write_study(folder / "published", flat(relu=0.1), n=2, protocol="published")
    return evidence_module.gather([published, write_study(folder / "matched", flat(relu=0.1))])


def timing(factors=None, full=20.0):
    """A timing file's content in which activations take `factors` as long as ReLU."""
    rng = np.random.default_rng(1)
    activations = {}
    for name in REPORT:
        turns = (factors or {}).get(name, 1.0) * (1 + 0.001 * rng.standard_normal((3, 8)))
        seconds = zip(KINDS, turns * np.array([[0.2], [0.05], [0.1]]))
        activations[name] = {kind: list(values) for kind, values in seconds}
    large = {"published_step_s": [full] * 3, "published_evaluation_s": [full / 3] * 3, "fast_step_s": [full / 2] * 3}
    return {
        "schema_version": 1,
        "kind": "timing",
        "config": ConfigCPU().as_dict(),
        "full_config": Config(dtype="float32").as_dict(),
        "n_parameters": {"config": 429_824, "full_config": 10_795_776},
        "repeats": 8,
        "activations": activations,
        "full_size": large,
        "environment": {"cpu": "a processor", "torch": "2.0"},
    }


# --- the claims -------------------------------------------------------------------------------------------------------


def test_there_are_at_least_forty_five_claims_and_each_has_an_id_of_its_own():
    assert len(CLAIMS) >= 45
    assert len(BY_ID) == len(CLAIMS)


@pytest.mark.parametrize("claim", CLAIMS, ids=[claim["id"] for claim in CLAIMS])
def test_a_claim_is_complete_and_its_test_takes_its_parameters(claim):
    assert set(claim) == {"id", "section", "claim", "report", "figures", "test", "with"}
    assert claim["section"] in SECTIONS and claim["claim"].endswith(".") and claim["report"]
    for part in [claim, *claim["with"].get("parts", [])]:
        inspect.signature(TESTS[part["test"]]).bind(None, part.get("figures"), **part["with"])


def test_claims_come_from_every_section_that_makes_any_and_every_test_is_used():
    assert {claim["section"] for claim in CLAIMS} == SECTIONS
    used = {claim["test"] for claim in CLAIMS}
    used |= {part["test"] for claim in CLAIMS for part in claim["with"].get("parts", [])}
    assert used == set(TESTS)


# --- verdicts follow the studies --------------------------------------------------------------------------------------


def test_without_studies_only_the_reports_own_figures_and_formulas_are_judged():
    answers = {claim["id"]: evidence_module.answer(claim, Evidence()) for claim in CLAIMS}
    answered = {name for name, answer in answers.items() if answer.verdict != "untested"}
    assert answered >= {
        "pd-definition",
        "smelu-formula",
        "relu-jump",
        "hypothesis-own-table",
        "gelu-own-table",
        "stages",
    }
    judged = {BY_ID[name]["test"] for name in answered}
    assert judged <= {"definition", "printed_smelu", "discontinuous", "own_order", "own_spans", "own_ratio", "own_sum"}
    assert all(answers[name].why for name in answers)


def test_the_reports_own_contradictions_are_found():
    found = {claim["id"] for claim in CLAIMS if evidence_module.answer(claim, Evidence()).verdict == "contradicted"}
    assert {"pd-definition", "smelu-formula", "relu-jump", "hypothesis-own-table", "gelu-own-table"} <= found
    assert {"relu-worst", "pd-clusters", "smelu-churn-own", "smelu-longer"} <= found


def test_a_true_difference_is_found_and_the_reports_claim_reproduced(evidence):
    for name in ("smooth-beats-relu", "gelu-beats-relu", "swish-beats-relu", "every-smooth", "matters"):
        assert verdict_of(name, evidence) == "reproduced"


@pytest.mark.parametrize(
    ("relu", "noise", "verdict"),
    [
        (0.1, 0.01, "reproduced"),
        (0.08, 0.01, "contradicted"),
        (0.09, 0.005, "not reproduced"),
        (0.09, 0.2, "inconclusive"),
    ],
)
def test_the_verdict_on_smooth_activations_is_what_the_study_shows(tmp_path, relu, noise, verdict):
    found = evidence_module.gather([write_study(tmp_path / "study", flat(relu=relu), noise=noise)])
    answer = evidence_module.answer(BY_ID["smooth-beats-relu"], found)
    assert answer.verdict == verdict
    assert "n = 10" in answer.ours and "[" in answer.ours
    if verdict == "inconclusive":
        assert answer.trials_needed > 10 and f"about {answer.trials_needed} seeds needed" in answer.why


def test_a_figure_that_only_the_reports_protocol_gives_is_its_artefact(folder, evidence, tmp_path):
    for name in ("pd-half", "disagreement"):
        assert verdict_of(name, evidence) == "artefact of the protocol"
    reverse = flat(smelu_1=0.11)
    other = evidence_module.gather([folder / "published", write_study(tmp_path / "matched", reverse)])
    assert verdict_of("smelu-1-beats-relu", other) == verdict_of("pd-best", other) == "artefact of the protocol"
    alone = evidence_module.gather([tmp_path / "matched"])
    assert verdict_of("smelu-1-beats-relu", alone) == verdict_of("pd-best", alone) == "contradicted"


def test_a_lower_pd_that_comes_with_a_higher_loss_is_said_to(tmp_path):
    losses = LOSSES | {"smelu_1": 2.75}
    found = evidence_module.gather([write_study(tmp_path / "study", flat(smelu_1=0.08), losses)])
    answer = evidence_module.answer(BY_ID["smelu-1-beats-relu"], found)
    assert answer.verdict == "reproduced"
    assert "SmeLU β=1 has the higher loss" in answer.why
    assert (
        "higher loss"
        not in evidence_module.answer(BY_ID["smelu-1-beats-relu"], evidence_module.gather([tmp_path / "study"])).ours
    )


def test_the_reports_figures_repeat_within_their_tolerance_and_not_beyond(folder, evidence):
    names = [claim["id"] for claim in CLAIMS if claim["test"] == "figures_repeat"]
    assert {verdict_of(name, evidence) for name in names} == {"reproduced"}
    changed = copy.deepcopy(evidence)
    changed.cells["published"]["gelu"].result["published_pairs"][0]["relative_pd"] = 0.5288
    assert verdict_of("table-pd", changed) == "not reproduced"
    assert verdict_of("table-loss", changed) == "reproduced"


def test_our_figures_come_from_the_studies(evidence):
    before = evidence_module.answer(BY_ID["table-loss"], evidence)
    changed = copy.deepcopy(evidence)
    for record in changed.cells["published"]["relu"].result["trials"]:
        record["val_loss"] += 1.0
    after = evidence_module.answer(BY_ID["table-loss"], changed)
    assert "ReLU 2.62" in before.ours and "ReLU 3.62" in after.ours
    for pair in changed.cells["matched"]["relu"].result["pairs"]:
        pair["relative_pd"] *= 2
    assert (
        evidence_module.answer(BY_ID["pd-ranking"], evidence).ours
        != evidence_module.answer(BY_ID["pd-ranking"], changed).ours
    )


def test_the_spread_of_losses_is_judged_by_its_own_test(evidence):
    answer = evidence_module.answer(BY_ID["spread-ranking"], evidence)
    assert answer.verdict == "inconclusive" and answer.trials_needed > 1000  # GELU and Swish: 0.0028 and 0.0029
    changed = copy.deepcopy(evidence)
    for record in changed.cells["matched"]["smelu_1"].result["trials"]:
        record["val_loss"] = 2.6588 + 10 * (record["val_loss"] - 2.6588)
    assert verdict_of("spread-highest", changed) == "reproduced"


def test_architectures_are_judged_one_by_one(tmp_path, evidence):
    names = ("charlm", "minigpt", "nanotransformer", "hybridlm", "convlm", "rnn", "gru")
    equal = dict.fromkeys(REPORT, 2.63)
    found = evidence_module.gather([write_study(tmp_path / "equal", flat(), equal, architectures=names)])
    assert verdict_of("four-insensitive", found) == "reproduced"
    assert verdict_of("charlm-only", found) == "not reproduced"
    assert verdict_of("minigpt-smelu", found) in ("reproduced", "inconclusive")
    found = evidence_module.gather([write_study(tmp_path / "apart", flat(), architectures=names)])
    assert verdict_of("four-insensitive", found) == "contradicted"
    assert verdict_of("four-insensitive", evidence) == "untested"


def test_claims_about_the_full_size_wait_for_it(tmp_path, evidence):
    waiting = {name for name in BY_ID if verdict_of(name, evidence) == "untested"}
    assert {"charlm-full", "scale", "swish-both", "swish-loss", "swish-pd", "step-full", "speed-ranking"} <= waiting
    full = write_study(tmp_path / "full", flat(swish=0.08), LOSSES | {"swish": 1.4974}, n=5, config=Config())
    found = evidence_module.gather([full])
    assert verdict_of("swish-both", found) == verdict_of("swish-loss", found) == "reproduced"
    assert verdict_of("swish-pd", found) == "not reproduced"


def test_sizes_trained_for_different_numbers_of_steps_are_not_compared(tmp_path):
    full = write_study(tmp_path / "full", flat(swish=0.08), n=5, config=Config())
    small = write_study(tmp_path / "small", flat(), n=5)
    found = evidence_module.gather([full, small])
    assert verdict_of("charlm-full", found) == "reproduced"
    assert verdict_of("scale", found) == "untested"


def test_families_are_compared_on_the_ground_truth(evidence):
    """Half of the simulated cases of every family matter: no difference; without those of recurrent models there is one."""
    known = simulated_truth()
    assert verdict_of("recurrent", evidence) == "untested"
    assert verdict_of("recurrent", Evidence(truth=known)) == "inconclusive"
    k = [k // 5 % 2 for k in range(len(known))]  # 0: matters
    calm = {name: c for (name, c), even in zip(known.items(), k) if (c["family"] == "recurrent") == bool(even)}
    assert verdict_of("recurrent", Evidence(truth=calm)) == "contradicted"


# --- time -------------------------------------------------------------------------------------------------------------


def test_speed_is_judged_on_a_timing_run_alone(tmp_path, evidence):
    json_files.write_json(tmp_path / "timing.json", timing({"smelu_1": 1.21, "gelu": 1.02}))
    found = evidence_module.gather([tmp_path / "timing.json"])  # a timing file may stand among the studies
    assert verdict_of("smelu-cost", found) == "reproduced"
    assert verdict_of("step-small", found) == verdict_of("trial-time", found) == "reproduced"
    slower = Evidence(timing=timing(dict.fromkeys(REPORT, 10.0)))  # another processor refutes no second
    assert verdict_of("step-small", slower) == verdict_of("trial-time", slower) == "untested"
    equal = Evidence(timing=timing())
    assert verdict_of("smelu-cost", equal) == verdict_of("beta-time", equal) == "not reproduced"
    assert verdict_of("smelu-cost", evidence) == "untested"


def test_the_full_size_step_is_timed_and_its_first_loss_estimate_told(evidence):
    answer = evidence_module.answer(BY_ID["step-full"], Evidence(timing=timing(full=20.0)))
    assert answer.verdict == "contradicted"
    assert "20 s" in answer.ours and "400 batches" in answer.why and "2,687 s" in answer.why  # 20 + 400 x 20 / 3
    assert verdict_of("step-full", Evidence(timing=timing(full=3000.0))) == "reproduced"


def test_the_timing_run_times_every_activation_and_step_in_turn():
    sizes = {
        "n_layer": 1,
        "n_head": 2,
        "n_embd": 8,
        "block_size": 8,
        "batch_size": 2,
        "max_iters": 10,
        "eval_interval": 5,
    }
    small, full = ConfigCPU(**sizes), Config(**sizes, dtype="float32")
    content = measure(small, full, repeats=2, steps=2, full_steps=1, say=lambda text: None)
    assert list(content["activations"]) == list(REPORT)
    for kinds in [*content["activations"].values(), content["full_size"]]:
        assert set(kinds) == set(KINDS) and all(min(seconds) > 0 for seconds in kinds.values())
    assert content["summary"]["relu"]["fast_step_s"]["n"] == 2
    estimates = 3  # before steps 0, 5 and 9
    assert evaluation_batches(content["config"]) == estimates * 2 * small.eval_iters
    kinds = content["activations"]["relu"]
    expected = 10 * kinds["published_step_s"][0] + 300 * kinds["published_evaluation_s"][0]
    assert trial_seconds(content, "relu")[0] == pytest.approx(expected)


# --- which studies are used -------------------------------------------------------------------------------------------


def test_another_corpus_is_refused_in_one_sentence(tmp_path, run_script):
    other = write_study(tmp_path / "other", flat(), sha="0" * 64)
    with pytest.raises(UserError, match="tiny Shakespeare"):
        evidence_module.gather([other])
    done = run_script("audit.py", other)
    assert done.returncode == 2 and done.stderr.count("\n") == 1 and "Traceback" not in done.stderr


@pytest.mark.parametrize(
    ("identity", "reason"),
    [
        ({"config": ConfigCPU(n_embd=64)}, "n_embd"),
        ({"protocol": "published", "seed_base": 7}, "seed_base"),
        ({"vary": ["init"]}, "not everything varies"),
    ],
)
def test_a_study_of_something_else_is_not_used_and_named(tmp_path, identity, reason):
    found = evidence_module.gather([write_study(tmp_path / "mine", flat(), n=2, **identity)])
    assert not found.cells
    assert len(found.notes) == 1 and "mine was not used" in found.notes[0] and reason in found.notes[0]


def test_of_two_studies_of_one_kind_the_larger_is_used(tmp_path):
    small, large = (write_study(tmp_path / str(n), flat(), n=n) for n in (4, 6))
    for order in ([small, large], [large, small]):
        assert len(evidence_module.gather(order).cells["matched"]["relu"].trials) == 6


def test_pairs_of_another_number_of_trials_are_not_the_reports(tmp_path):
    found = evidence_module.gather([write_study(tmp_path / "three", flat(), n=3, protocol="published")])
    assert verdict_of("table-pd", found) == "untested"
    assert verdict_of("table-loss", found) == "reproduced"  # of trials 1 and 2


def test_a_study_with_some_of_the_activations_leaves_claims_about_the_others_untested(tmp_path):
    found = evidence_module.gather([write_study(tmp_path / "two", {"relu": 0.1, "gelu": 0.09})])
    assert verdict_of("gelu-beats-relu", found) == "reproduced"
    assert verdict_of("swish-beats-relu", found) == verdict_of("pd-ranking", found) == "untested"


def test_a_missing_timing_file_and_a_folder_without_a_study_are_mistakes(tmp_path):
    with pytest.raises(UserError, match="is no file"):
        evidence_module.gather([], tmp_path / "none.json")
    with pytest.raises(UserError, match="contains no study"):
        evidence_module.gather([tmp_path])


# --- the document -----------------------------------------------------------------------------------------------------


def test_the_audit_prints_every_claim_and_writes_a_document_with_its_figures(folder, evidence, tmp_path, capsys):
    assert audit.run([folder / "published", folder / "matched"], output=tmp_path / "docs" / "audit.md") == 0
    printed, text = capsys.readouterr().out, (tmp_path / "docs" / "audit.md").read_text(encoding="utf-8")
    assert all(f"({claim['id']})" in printed for claim in CLAIMS)
    assert all(claim["claim"] in text for claim in CLAIMS)
    counts = [int(number) for number in re.findall(r"^### .* \((\d+)\)$", text, re.MULTILINE)]
    assert sum(counts) == len(CLAIMS)
    for picture in re.findall(r"!\[.*\]\((.*)\)", text):
        assert (tmp_path / "docs" / picture).read_bytes().startswith(b"\x89PNG")
    assert str(tmp_path) not in text and "None " not in text.replace("None diverged", "") and "nan" not in text.split()


def test_the_three_steps_lead_from_the_reports_figure_to_the_matched_one(evidence):
    text = "\n".join(three_steps(evidence, TABLES, "relative_pd"))
    row = next(line for line in text.splitlines() if line.startswith("| ReLU"))
    report, published, last, everywhere = (float(cell) for cell in row.strip("| ").split("|")[1:])
    assert (report, published) == (0.5151, 0.5151)
    assert everywhere < last < 0.2
    assert "Order at step 1: SmeLU β=1 < SmeLU β=0.5 < ReLU < GELU < Swish" in text


def test_the_document_says_nothing_of_studies_that_were_not_given():
    answers = [evidence_module.answer(claim, Evidence()) for claim in CLAIMS]
    text = markdown(Evidence(), CLAIMS, answers, TABLES)
    assert "three steps" not in text and "side by side" not in text
    assert {answer.verdict for answer in answers} <= set(VERDICTS)


def test_docs_audit_is_what_the_command_generates_from_the_shipped_studies():
    studies, timing_file = evidence_module.shipped()
    if not studies:
        pytest.skip("results/reference contains no study of the report's text")
    found = evidence_module.gather(studies, timing_file)
    answers = [evidence_module.answer(claim, found) for claim in CLAIMS]
    text = markdown(found, CLAIMS, answers, TABLES)
    assert evidence_module.DOCUMENT.read_text(encoding="utf-8") == text, "run: python audit.py --write"


def test_what_the_public_code_shows_follows_from_the_values_that_it_quotes():
    """The range and the ANOVA of the report's three PDs each, before and after the result file was changed."""
    from scipy import stats

    text = document.PUBLIC_CODE.read_text(encoding="utf-8")
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in text.splitlines() if line.startswith("|")]
    before, after = rows[2:]
    for row in (before, after):
        groups = [[float(x) for x in (a if a != "the same" else b).split(",")] for a, b in zip(row[1:4], before[1:4])]
        means = [np.mean(group) for group in groups]
        assert row[4] == f"{(max(means) - min(means)) / means[2]:.2%}"
        assert row[5] == f"p = {stats.f_oneway(*groups).pvalue:.{2 if row is before else 1}g}"
    assert f"p = {stats.f.sf(8.32, 2, 6):.3f}" in text
