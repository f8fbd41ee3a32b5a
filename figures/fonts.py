"""Fonts for arbitrary text in figures: characters that DejaVu lacks are taken from other installed fonts.

make_drawable(figure)      # before layout
undrawable("日本語")        # the characters that no installed font has; drawn as a box
"""

import functools
import warnings

from matplotlib import font_manager
from matplotlib.text import Text
from matplotlib.ticker import LogFormatter, LogFormatterMathtext

warnings.filterwarnings("ignore", message=r"Glyph \d+ .* missing from font")  # the report mentions it once


def make_drawable(figure) -> None:
    """Sets the fonts that the characters of each text of a figure need."""
    for text in figure.findobj(Text):
        known = frozenset("\n").union(*map(_characters, text.get_fontfamily()))
        if missing := frozenset(text.get_text()) - known:
            text.set_fontfamily([*text.get_fontfamily(), *_fonts_for(missing)])
    for axes in figure.axes:
        for axis in (axes.xaxis, axes.yaxis):
            if isinstance(axis.get_major_formatter(), LogFormatterMathtext):  # writes formulas
                axis.set_major_formatter(LogFormatter())
                axis.set_minor_formatter(LogFormatter())


def undrawable(text: str) -> list[str]:
    """The printable characters of a text that no installed font has, sorted."""
    wanted = frozenset(character for character in text if character.isprintable())
    return sorted(wanted.difference(*map(_characters, _fonts_for(wanted))))


@functools.cache
def _fonts_for(missing: frozenset[str]) -> tuple[str, ...]:
    """Names of installed fonts that together cover as many of these characters as possible, greedily chosen."""
    names = sorted({entry.name for entry in font_manager.fontManager.ttflist})
    chosen: list[str] = []
    while missing and (best := max(names, key=lambda name: len(missing & _characters(name)), default="")):
        if not missing & _characters(best):
            break
        chosen.append(best)
        missing -= _characters(best)
    return tuple(chosen)


@functools.cache
def _characters(name: str) -> frozenset[str]:
    """The characters of an installed font in its regular face."""
    path = font_manager.findfont(name, fallback_to_default=False)
    return frozenset(map(chr, font_manager.get_font(path).get_charmap()))
