"""Claims about names and texts in figures: any character, and `$`, are drawn without a warning or an error."""

import matplotlib
import pytest
from fontTools.fontBuilder import FontBuilder
from fontTools.pens.ttGlyphPen import TTGlyphPen
from matplotlib import font_manager
from matplotlib.text import Text

from figures import fonts
from figures.style import STYLE, add_title, panels, save


@matplotlib.rc_context(STYLE)
def draw(folder, title, scale="linear"):
    """A figure with this title, name of the study and tick, drawn."""
    figure, ((axes,),) = panels(2)
    axes.set(yscale=scale, xticks=[0], xticklabels=[title])
    axes.plot([0, 1], [0.1, 1000])
    add_title(figure, title, title)
    save(figure, folder / "figure.png")
    return figure


@pytest.mark.filterwarnings("ignore:Glyph")
@pytest.mark.parametrize("title", ["cost $", "$$", "a $_$ b", r"\frac $\frac{$", "100 % {x}", "日本語 ไทย"])
def test_any_name_is_drawn(tmp_path, title):
    draw(tmp_path, title)
    assert (tmp_path / "figure.png").stat().st_size > 1000


def test_ticks_of_a_logarithmic_axis_are_numbers(tmp_path):
    texts = [text.get_text() for text in draw(tmp_path, "x", "log").findobj(Text)]
    assert "100" in texts and not any("$" in text for text in texts)


@pytest.fixture
def thai_font(tmp_path):
    """An installed font with one character that no other has."""
    builder, pen = FontBuilder(1000, isTTF=True), TTGlyphPen(None)
    for point, move in (((0, 0), pen.moveTo), ((0, 700), pen.lineTo), ((500, 0), pen.lineTo)):
        move(point)
    pen.closePath()
    builder.setupGlyphOrder([".notdef", "kho"])
    builder.setupCharacterMap({0xE02: "kho"})
    builder.setupGlyf({".notdef": pen.glyph(), "kho": pen.glyph()})
    builder.setupHorizontalMetrics({".notdef": (600, 0), "kho": (600, 0)})
    builder.setupHorizontalHeader(ascent=800, descent=-200)
    builder.setupNameTable({"familyName": "Made Up Thai", "styleName": "Regular"})
    builder.setupOS2()
    builder.setupPost()
    builder.save(tmp_path / "thai.ttf")
    before = list(font_manager.fontManager.ttflist)
    font_manager.fontManager.addfont(str(tmp_path / "thai.ttf"))
    fonts._fonts_for.cache_clear()
    yield
    font_manager.fontManager.ttflist[:] = before
    fonts._fonts_for.cache_clear()


def test_what_dejavu_lacks_comes_from_an_installed_font(tmp_path, thai_font):
    assert fonts.undrawable("a ข") == []
    figure = draw(tmp_path, "ข")
    families = {tuple(text.get_fontfamily()) for text in figure.findobj(Text) if "ข" in text.get_text()}
    assert families == {("DejaVu Sans", "Made Up Thai")}
