"""Every figure is a readable PNG of the right name, for any number of trials, whatever is missing."""

import copy
import itertools
import struct
import warnings
from pathlib import Path

import matplotlib
import numpy as np
import pytest
from made_results import STEPS, damaged, make_result, summarized
from matplotlib.figure import Figure
from matplotlib.text import Text

import activations
import plot_utils
from analysis import results as results_module
from analysis.estimates import Estimate, pair_interval, pair_matrix
from analysis.labels import ARCHITECTURES, short_label
from analysis.series import mean_curve, pair_curves
from analysis.words import plus_minus
from figures import functions, style

REPORT = activations.REPORT
MANY = (*activations.BUILT_IN, "smelu_0.25", "a_user_defined_$activation$_with_a_long_name")


@pytest.fixture
def figures(monkeypatch):
    """Every figure that is saved, with the texts drawn in its PNG and their places; pyplot holds none of them."""
    saved, drawn = [], []
    save, draw, draw_figure = style.save, Text.draw, Figure.draw

    def keep(figure, path):
        path = save(figure, path)
        figure.drawn_texts = list(drawn)
        saved.append(figure)
        return path

    def begin(figure, renderer):
        drawn.clear()
        return draw_figure(figure, renderer)

    def note(text, renderer, *args, **kwargs):
        if text.get_visible() and text.get_text().strip():
            place = Text.get_window_extent(text, renderer)  # without the arrow of an annotation
            drawn.append((text.get_text(), place, text.get_rotation()))
        return draw(text, renderer, *args, **kwargs)

    monkeypatch.setattr(style, "save", keep)
    monkeypatch.setattr(functions, "save", keep)
    monkeypatch.setattr(Figure, "draw", begin)
    monkeypatch.setattr(Text, "draw", note)
    yield saved
    import matplotlib.pyplot

    assert matplotlib.pyplot.get_fignums() == []


def check_png(path: Path, folder: Path, name: str):
    """The file has the right name, is a PNG, and is neither a stamp nor a wall."""
    assert path == folder / name
    data = path.read_bytes()
    assert data[:8] == b"\x89PNG\r\n\x1a\n" and data[-8:-4] == b"IEND"
    width, height = struct.unpack(">II", data[16:24])
    assert 1000 <= width <= 2000 and 150 <= height <= 2000, (width, height)


def words(figure):
    return " ".join(" ".join(text.split()) for text, _, _ in figure.drawn_texts)


def check_readable(figure):
    """Texts are there, none is cut off, and no two lie on each other."""
    assert len(figure.drawn_texts) > 2
    page = figure.bbox.padded(1)
    for text, box, _ in figure.drawn_texts:
        assert page.x0 <= box.x0 and box.x1 <= page.x1 and page.y0 <= box.y0 and box.y1 <= page.y1, text
    straight = [(text, box) for text, box, rotation in figure.drawn_texts if rotation % 90 == 0]
    for (one, a), (other, b) in itertools.combinations(straight, 2):
        across = min(a.x1, b.x1) - max(a.x0, b.x0)
        up = min(a.y1, b.y1) - max(a.y0, b.y0)
        touching = across > 2 and up > 0.35 * min(a.height, b.height)
        assert not touching, f"{one!r} lies on {other!r}"


ONE = ("training_curves", "reproducibility", "summary")
ACROSS = ("all_validation_curves", "pd_at_equal_loss", "pareto", "forest")


@pytest.mark.parametrize("n", [1, 2, 3, 10])
@pytest.mark.parametrize("kind", ONE)
def test_an_activation_has_its_three_figures_for_any_number_of_trials(kind, n, tmp_path, figures):
    path = getattr(plot_utils, kind)(make_result("smelu_05", n), tmp_path)
    check_png(path, tmp_path, f"charlm_smelu_05_cpu_{kind}.png")
    text = words(figures[0])
    assert f"n = {n} trial" in text and "shakespeare" in text and "matched protocol" in text
    assert "SmeLU β=0.5" in text and "CharLM" in text
    check_readable(figures[0])
    assert ("needs two complete trials" in text) == (n == 1 and kind != "training_curves")


@pytest.mark.parametrize("n", [1, 2, 3, 10])
@pytest.mark.parametrize("kind", ACROSS)
def test_activations_are_compared_for_any_number_of_trials(kind, n, tmp_path, figures):
    results = [make_result(name, n) for name in REPORT]
    check_png(getattr(plot_utils, kind)(results, tmp_path), tmp_path, f"charlm_cpu_{kind}.png")
    text = words(figures[0])
    assert f"n = {n} trial" in text and "shakespeare" in text and "matched protocol" in text
    check_readable(figures[0])
    if kind == "all_validation_curves":
        assert all(label in text for label in ("SmeLU β=0.5", "SmeLU β=1", "ReLU", "GELU", "Swish"))


@pytest.mark.parametrize("n", [2, 4])
def test_what_is_missing_is_left_out_and_said(n, tmp_path, figures):
    results = [damaged(make_result(name, n)) for name in ("relu", "gelu")]
    for kind in ONE:
        getattr(plot_utils, kind)(results[0], tmp_path)
    for kind in ACROSS:
        getattr(plot_utils, kind)(results, tmp_path)
    for figure in figures:
        assert "2 trials diverged or failed" in words(figure) or "4 trials diverged or failed" in words(figure)
        assert f"n = {n - 2} trial" in words(figure)
        check_readable(figure)


@pytest.mark.parametrize("n", [2, 3, 10])
def test_the_matrices_of_a_study_without_curves_are_readable(n, tmp_path, figures):
    plot_utils.reproducibility(make_result("relu", n, "published"), tmp_path)
    check_readable(figures[0])
    matrices = [ax for ax in figures[0].axes if ax.get_xlabel() == "trial"]
    assert [len(ax.texts) for ax in matrices] == [n * (n - 1) // 2] * 2  # a number for each pair


def test_the_published_protocol_has_no_curves_of_pairs_and_the_figures_say_so(tmp_path, figures):
    results = [make_result(name, 2, "published") for name in REPORT]
    plot_utils.pd_at_equal_loss(results, tmp_path)
    assert "There are no curves of pairs" in words(figures[0])
    plot_utils.reproducibility(results[0], tmp_path)
    assert "published protocol" in words(figures[1]) and "Along training" not in words(figures[1])


@pytest.mark.parametrize("kind", ACROSS)
def test_twenty_activations_fit_one_figure(kind, tmp_path, figures):
    results = [make_result(name, 3) for name in MANY]
    more = ({name: i / len(MANY) for i, name in enumerate(MANY)},) if kind == "pareto" else ()
    path = getattr(plot_utils, kind)(results, tmp_path, *more)
    check_png(path, tmp_path, f"charlm_cpu_{kind}.png")
    assert all(short_label(name) in words(figures[0]) for name in MANY if kind != "forest" or name != "relu")
    check_readable(figures[0])


def test_the_forest_shows_every_verdict_and_the_margins_that_were_asked_for(tmp_path, figures):
    results = [make_result(name, 4) for name in REPORT]
    margins = results_module.Margins(0.5, 0.25)
    plot_utils.forest(results, tmp_path, margins)
    compared = results_module.primary_comparisons([results_module.Cell(r) for r in results], margins)
    relu = results_module.estimate(results_module.Cell(make_result("relu", 4)), "relative_pd").mean
    for ax, name, margin in zip(figures[0].axes, results_module.PRIMARY, (0.5, 0.25 * relu)):
        assert ax.patches[0].get_x() == pytest.approx(-margin)
        shown = [line.get_marker() for line in ax.lines if line.get_marker() not in ("None", "none", "")]
        others = [activation for activation in REPORT if activation != "relu"]
        markers = {"different": "o", "equivalent": "s", "inconclusive": "D"}
        assert shown == [markers[compared[activation, name].verdict] for activation in others]
    assert "margin of interest around ReLU" in words(figures[0])
    check_readable(figures[0])


def test_nothing_to_show_is_said(tmp_path, figures):
    alone = make_result("relu", 1)
    plot_utils.forest([alone], tmp_path)
    plot_utils.pd_at_equal_loss([alone], tmp_path)
    plot_utils.sources([alone], tmp_path, ["dropout"])
    plot_utils.sources_along_training([alone], tmp_path, ["dropout"])
    plot_utils.published_against_matched([alone], tmp_path, [])
    plot_utils.architecture_heatmap([alone], tmp_path, "relative_pd")
    plot_utils.pareto([alone], tmp_path)
    plot_utils.gradient_norms([alone], tmp_path)
    plot_utils.probes_along_training([alone], tmp_path)
    assert all("n = 1" in words(figure) for figure in figures) and len(figures) == 9


def test_each_source_has_a_panel_in_which_its_activations_are_drawn_along_training(tmp_path, figures):
    results = [make_result("relu", 3), make_result("gelu", 3), make_result("relu", 3)]
    plot_utils.sources_along_training(results, tmp_path, ["everything", "everything", "dropout"])
    first, second = figures[0].axes
    assert [ax.get_title(loc="left") for ax in (first, second)] == ["everything", "dropout"]
    named = [{line.get_label() for line in ax.lines} & {"ReLU", "GELU"} for ax in (first, second)]
    assert named == [{"ReLU", "GELU"}, {"ReLU"}] and first.get_yscale() == "log"
    check_readable(figures[0])


def test_an_activation_without_pairs_is_left_out_of_disagreement_along_training(tmp_path, figures):
    plot_utils.pd_at_equal_loss([make_result("relu", 1), make_result("gelu", 3)], tmp_path)
    assert {line.get_label() for line in figures[0].axes[0].lines} & {"ReLU", "GELU"} == {"GELU"}


def test_a_probe_is_drawn_along_training_and_against_relative_pd_at_the_same_steps(tmp_path, figures):
    """A noise scale that is planted as ten times the mean relative PD lies on that line; step 0 is left out of it.

    Its variances and norms differ between trials, so that only the ratio of their means gives it.
    """
    results = [make_result(name, 3) for name in ("relu", "gelu")]
    for result in results:
        steps, _, estimates = pair_curves(result, "relative_pd")
        for k, trial in enumerate(result["trials"]):
            for point in trial["history"]:
                mean = dict(zip(steps.tolist(), (e.mean for e in estimates)))[point["step"]]
                planted = {"variance": 10 * mean * (2 - k), "squared_norm": (0.1, 0.9, 2.0)[k]}
                point["probes"] = {"noise_scale": {} if point["step"] == 0 else planted}
    plot_utils.probes_along_training(results, tmp_path)
    left, right = figures[0].axes
    assert len(right.lines) == 4 and "noise scale (sequences)" in left.get_ylabel()
    for line in right.lines:
        assert line.get_ydata() == pytest.approx(10 * np.asarray(line.get_xdata()))
    check_readable(figures[0])


def test_a_point_whose_noise_scale_is_unknown_is_a_gap_without_a_warning(tmp_path, figures):
    results = [make_result(name, 3) for name in ("relu", "gelu")]
    for trial in (trial for result in results for trial in result["trials"]):
        for k, point in enumerate(trial["history"]):
            point["probes"] = {"noise_scale": {"variance": 3.0, "squared_norm": -1.0 if k == 1 else 1.0}}
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        plot_utils.probes_along_training(results, tmp_path)
    assert np.isnan(figures[0].axes[0].lines[0].get_ydata()).tolist().count(True) == 1


def test_the_untrained_model_does_not_flatten_the_disagreement_of_trained_ones(tmp_path, figures):
    """At step 0 of these results top-1 disagreement is 0.98, afterwards 0.3 and 0.1."""
    plot_utils.pd_at_equal_loss([make_result(name, 3) for name in REPORT], tmp_path)
    plot_utils.reproducibility(make_result("relu", 3), tmp_path)
    for panel in (figures[0].axes[2], figures[0].axes[3], figures[1].axes[3]):
        assert panel.get_ylim()[1] < 0.5
    assert figures[0].axes[1].xaxis_inverted()


def test_a_passage_shows_every_character_at_its_own_shade(tmp_path, figures):
    text = "To be,\n\tor $not$ to be\x00 " + "x" * 70 + "\n"
    share = [None, *np.linspace(0, 1, len(text) - 1)]
    path = plot_utils.disagreement_passage(make_result("relu", 3), tmp_path, text, share, 3)
    check_png(path, tmp_path, "charlm_relu_cpu_passage.png")
    signs = "".join(t.get_text() for t in figures[0].axes[0].texts)
    assert signs == text.replace(" ", "·").replace("\n", "↵").replace("\t", "→").replace("\x00", "□")
    shades = figures[0].axes[0].images[0].get_array()
    assert np.ma.count(shades) == len(text) - 1 and shades.max() == 1
    with pytest.raises(ValueError):
        plot_utils.disagreement_passage(make_result("relu", 3), tmp_path, text, share[1:], 3)


@pytest.mark.parametrize("names", [("relu",), REPORT], ids=len)
def test_sources_stand_next_to_all_of_them(names, tmp_path, figures):
    labels = ("all three", "initial weights", "one bit of one initial weight", "nothing")
    several = [(label, make_result(name, 10 if label != "nothing" else 1)) for label in labels for name in names]
    path = plot_utils.sources([result for _, result in several], tmp_path, [label for label, _ in several])
    check_png(path, tmp_path, "charlm_cpu_sources.png")
    assert "not measured" in words(figures[0]) and "], n = 10" in words(figures[0])
    check_readable(figures[0])


@pytest.mark.parametrize("n_sizes", [0, 1, 2, 7])
def test_sensitivity_stands_against_every_size(n_sizes, tmp_path, figures):
    sizes = [989_920, 2_036_728, 5_107_104, 10_126_968, 20_237_848, 49_483_520, 100_132_864][:n_sizes]

    def spread(mean, low):
        return Estimate(mean, None, 5, low, 3 * mean, None, None, "made up")

    rows = [
        {"n_parameters": size}
        | {name: spread(0.02 / (i + 1), None if i == 1 else 0.0) for name in ("val_loss", "relative_pd")}
        for i, size in enumerate(sizes)
    ]
    claims = {"val_loss": "Validation loss: falls", "relative_pd": "Relative PD"}
    path = plot_utils.sensitivity_against_size([make_result("relu", 3)], tmp_path, rows, claims)
    check_png(path, tmp_path, "charlm_cpu_sensitivity_against_size.png")
    check_readable(figures[0])
    assert ("100M" in words(figures[0])) == (n_sizes == 7)
    assert ("No size has a between-activation SD" in words(figures[0])) == (n_sizes == 0)


def of_architecture(name, activation, loss=None):
    result = {**make_result(activation, 3), "architecture": name}
    if loss is not None:
        result["trials"] = [trial | {"val_loss": loss} for trial in result["trials"]]
    return result


@pytest.mark.parametrize("names", [REPORT, MANY], ids=len)
def test_the_heat_map_has_a_number_in_every_cell(names, tmp_path, figures):
    results = [of_architecture(a, name) for a in ARCHITECTURES for name in names if (a, name) != ("convlm", names[1])]
    path = plot_utils.architecture_heatmap(results, tmp_path, "val_loss")
    check_png(path, tmp_path, "all_cpu_heatmap_val_loss.png")
    assert [t.get_text() for t in figures[0].axes[0].texts].count("–") == 1
    assert len(figures[0].axes[0].texts) == len(ARCHITECTURES) * len(names)
    check_readable(figures[0])


def test_the_heat_map_is_pale_where_a_difference_is_within_the_margin(tmp_path, figures):
    """A study whose activations hardly differ must not look like one in which they do."""
    for gelu in (2.601, 2.7):
        results = [of_architecture("charlm", "relu", 2.6), of_architecture("charlm", "gelu", gelu)]
        plot_utils.architecture_heatmap(results, tmp_path, "val_loss", results_module.Margins(loss=0.0104))
    pale, strong = (figure.axes[0].images[0] for figure in figures)
    assert pale.get_clim() == pytest.approx((-0.4, 0.4)) and strong.get_clim()[1] == pytest.approx(100 * 0.1 / 2.6)
    np.testing.assert_allclose(pale.get_array()[0], [0, 100 * 0.001 / 2.6], atol=1e-9)


def test_an_interval_is_drawn_and_printed_only_as_far_as_the_measure_can_be():
    result = copy.deepcopy(make_result("relu", 3))
    for k, pair in enumerate(result["pairs"]):
        pair["edit_distance"] = 0.1 * k
        for point in pair["history"]:
            point["top1_disagreement"] = 1 - 0.02 * k
    result = summarized(result)
    assert result["summary"]["edit_distance"]["ci95"][0] < 0  # the file keeps what was computed
    estimates = pair_curves(result, "top1_disagreement")[2]
    assert all(estimate.high == 1 and 0 < estimate.low < estimate.mean for estimate in estimates)
    shown = results_module.estimate(results_module.Cell(result), "edit_distance")
    assert (shown.low, shown.high) == (0, result["summary"]["edit_distance"]["ci95"][1])
    assert plus_minus(shown, 2) == f"0.10 [0.00, {shown.high:.2f}]"  # half a width would say less than nothing
    losses = mean_curve(np.array([[0.1], [3.0]]), "val_loss")
    assert losses[0].low == 0 and losses[0].high > 3


def test_the_reports_pd_stands_beside_the_matched_one_on_one_scale(tmp_path, figures):
    rows = [
        {"activation": name, "reported": 0.5 + 0.004 * i, "published": 0.5 + 0.004 * i, "same_models": 0.09 + 0.001 * i}
        | {"mean": 0.088, "low": 0.084, "high": 0.092, "n": 10}
        for i, name in enumerate(REPORT)
    ]
    rows[1] |= {"published": None, "low": None, "high": None}
    path = plot_utils.published_against_matched([make_result(name, 2) for name in REPORT], tmp_path, rows)
    check_png(path, tmp_path, "charlm_cpu_published_against_matched.png")
    small, large = figures[0].axes
    assert np.ptp(small.get_xticks()[:2]) == pytest.approx(np.ptp(large.get_xticks()[:2]))
    scales = [np.ptp(ax.get_xlim()) / ax.get_window_extent().width for ax in (small, large)]
    assert scales[0] == pytest.approx(scales[1], rel=0.01)
    assert small.get_xlim()[1] < large.get_xlim()[0]
    assert words(figures[0]).count("n = 2") == 4 and "same contexts, n = 10, 95% CI" in words(figures[0])
    check_readable(figures[0])


def test_every_activation_has_one_look_of_its_own():
    looks = [tuple(map(str, style.activation_style(name).values())) for name in activations.BUILT_IN]
    assert len(set(looks)) == len(looks)
    assert style.activation_style("my_own") == style.activation_style("my_own")
    assert style.activation_style("relu")["color"] == "#000000"


def test_a_figure_is_also_written_as_a_vector_file_and_the_same_each_time(tmp_path):
    for kind in ("svg", "pdf"):
        with matplotlib.rc_context({"savefig.format": kind}):
            path = plot_utils.forest([make_result(name, 3) for name in REPORT], tmp_path)
            first = path.with_suffix(f".{kind}").read_bytes()
            plot_utils.forest([make_result(name, 3) for name in REPORT], tmp_path)
        assert first[:5] in (b"<?xml", b"%PDF-") and path.with_suffix(f".{kind}").read_bytes() == first
        assert path.read_bytes()[:4] == b"\x89PNG"


def test_the_curves_of_pairs_have_the_interval_of_significance():
    result = make_result("relu", 5)
    steps, values, estimates = pair_curves(result, "relative_pd")
    assert list(steps) == list(STEPS) and values.shape == (10, 3)
    expected = pair_interval(
        pair_matrix([(p["trial_a"] - 1, p["trial_b"] - 1, p["history"][2]["relative_pd"]) for p in result["pairs"]], 5)
    )
    assert estimates[2] == expected


def test_a_users_own_style_changes_no_figure(tmp_path):
    """Such as stands in a matplotlibrc; LaTeX may not even be installed."""
    expected = plot_utils.summary(make_result(n=3), tmp_path).read_bytes()
    own = {"text.usetex": True, "font.size": 30, "savefig.format": "jpg", "axes.grid": True, "lines.marker": "x"}
    with matplotlib.rc_context(own):
        assert plot_utils.summary(make_result(n=3), tmp_path).read_bytes() == expected


def test_drawing_leaves_matplotlib_as_it_was(tmp_path):
    before = dict(matplotlib.rcParams)
    plot_utils.summary(make_result(n=3), tmp_path)
    assert dict(matplotlib.rcParams) == before


def test_the_activations_are_drawn_from_the_command_line(tmp_path, capsys, figures):
    file = tmp_path / "deep" / "shapes.png"
    assert plot_utils.main(["activations", "--output", str(file)]) == 0
    assert file.exists() and capsys.readouterr().out == f"{file}\n"
    titles = [ax.get_title(loc="left") for ax in figures[0].axes]
    assert [activations.record(name).label for name in activations.BUILT_IN] == titles[: len(activations.BUILT_IN)]
    check_readable(figures[0])
    with pytest.raises(SystemExit) as stop:
        plot_utils.main(["activation"])
    assert stop.value.code == 2


def test_the_slopes_drawn_are_derivatives():
    x = np.linspace(-3, 3, 601)
    for name in ("gelu", "smelu_1", "swiglu"):
        y, slope = functions.value_and_slope(name, activations.record(name).gated, x)
        np.testing.assert_allclose(slope[1:-1], (y[2:] - y[:-2]) / (x[2:] - x[:-2]), atol=1e-2)


def test_the_printed_smelu_is_shown_to_jump(tmp_path, figures):
    path = plot_utils.smelu_printed_formula(tmp_path / "smelu.png")
    check_png(path, tmp_path, "smelu.png")
    assert "jump of 0.462" in words(figures[0])  # 2 / (1 + 1/e) - 1
    check_readable(figures[0])
