"""The sections of a report, in order: functions from a View to a Section, or None if it does not apply.

To add a section, write such a function and list it here.
"""

from collections.abc import Callable, Sequence
from dataclasses import replace

from analysis.curves import CommonLoss
from analysis.results import Margins, Study
from report import facts
from report.answer import TITLE, answer, comparisons
from report.details import (
    each_activation,
    groups,
    measures,
    other_text,
    outlying,
    spread,
    trade_off,
    training,
    trials,
)
from report.document import Document, Section
from report.one_bit import one_bit
from report.score import score
from report.several_studies import architectures, arithmetics, check_comparable, sources
from report.view import View

OF_A_STUDY_FIRST = (one_bit, architectures)
OF_AN_ARCHITECTURE = (
    *(answer, score, comparisons, sources, arithmetics, training, trade_off, measures, groups),
    *(spread, outlying, other_text, trials, each_activation),
)
OF_A_STUDY_LAST = (facts.study_facts, facts.methods)


def build(
    study: Study,
    others: Sequence[Study] = (),
    margins: Margins = Margins(),  # noqa: B008 - it is frozen
    baselines="not asked for",
    common: CommonLoss | None = None,
    passage_of: Callable | None = None,
) -> Document:
    """The document of a study; parameters as in report/view.py. Reads and writes no files and draws no figures."""
    check_comparable([study, *others])
    missing = facts.what_is_missing(study.cells, study.planned)
    trained = replace(study, cells=[cell for cell in study.cells if cell.trials])
    whole = View(trained, trained.cells, margins, others, missing, (), baselines, common, passage_of)
    if not trained.cells:
        nothing = Section(TITLE, ["**No trial is complete**, so there is nothing to compare yet."], brief=True)
        everything = replace(whole, study=study, cells=study.cells)
        return Document(facts.title(study), facts.subtitle(study), [nothing, facts.study_facts(everything)])
    found = [make(whole) for make in OF_A_STUDY_FIRST]
    several = len(trained.architectures) > 1
    for cells in trained.architectures.values():
        view = replace(whole, cells=cells, unfinished=facts.unfinished(study, cells))
        part = cells[0].architecture_label if several else ""
        own = [section for make in OF_AN_ARCHITECTURE if (section := make(view)) is not None]
        found += [replace(section, part=part, brief=section.brief and not several) for section in own]
    found += [make(whole) for make in OF_A_STUDY_LAST]
    return Document(facts.title(study), facts.subtitle(study), [section for section in found if section is not None])
