"""A report as data, rendered for the terminal, as Markdown and as a self-contained HTML page.

Paragraphs may contain **bold** and `code`; a list of paragraphs becomes bullets. The HTML is made from page.html and
page.css. LaTeX tables are in report/export.py.
"""

import base64
import functools
import html
import os
import re
import sys
import textwrap
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote

from tabulate import tabulate

from analysis.words import plural
from common.errors import with_type
from common.files import write_atomically
from common.scripts import as_typed, say

TEXT_WIDTH = 100


@dataclass(frozen=True)
class Table:
    """A table of strings. caption: what is shown, with n and method. note: a footnote."""

    headers: list[str]
    rows: list[list[str]]
    caption: str
    note: str = ""

    @functools.cached_property
    def aligned(self) -> list[str]:
        """'right' for columns of numbers, else 'left'."""
        number = re.compile(r"^([-+−]|± )?[\d.,]+( ?%| ?s)?$")
        columns = list(zip(*self.rows)) or [()] * len(self.headers)
        shown = [[cell for cell in column if cell not in ("", "-")] for column in columns]
        return ["right" if cells and all(number.match(plain(cell)) for cell in cells) else "left" for cells in shown]


@dataclass(frozen=True, eq=False)
class Figure:
    """A figure to be drawn by draw(results, folder, *data); see figures/style.py."""

    caption: str
    draw: Callable[..., Path]
    results: dict | list[dict]
    data: tuple = ()


Content = str | list[str] | Table | Figure


@dataclass(frozen=True)
class Section:
    """The content under one heading, in order.

    brief: also printed on the terminal. folded: collapsed in HTML. part: the heading above it, if there are several
    architectures; '' for none.
    """

    title: str
    content: list[Content]
    brief: bool = False
    folded: bool = False
    part: str = ""

    @property
    def slug(self) -> str:
        """Its anchor, unique in the document."""
        return re.sub(r"[^a-z0-9]+", "-", f"{self.part} {self.title}".lower()).strip("-")

    def all(self, kind: type) -> list:
        """The section's items of a type, such as Table or Figure."""
        return [item for item in self.content if isinstance(item, kind)]


@dataclass(frozen=True)
class Document:
    """Title, a line below it, and the sections in order; the first one is the answer."""

    title: str
    subtitle: str
    sections: list[Section]

    @property
    def figures(self) -> list[Figure]:
        return [figure for section in self.sections for figure in section.all(Figure)]


def plain(text: str) -> str:
    """A text without the markup of **bold** and `code`."""
    return text.replace("**", "").replace("`", "")


# --- terminal and Markdown ------------------------------------------------------------------------------------------


def render_text(document: Document, width: int = TEXT_WIDTH) -> str:
    """The brief sections of a document, for a terminal."""
    lines, part = [document.title, "=" * len(document.title), textwrap.fill(document.subtitle, width)], ""
    for section in document.sections:
        if section.brief:
            if section.part != part:
                part = section.part
                lines += ["", part.upper(), "#" * len(part)] if part else []
            lines += ["", section.title, "-" * len(section.title)]
            for item in section.content:
                lines += _as_text(item, width)
    return "\n".join(lines) + "\n"


def _as_text(item, width):
    match item:
        case str():
            return [textwrap.fill(plain(item), width)]
        case list():
            bullet = {"initial_indent": "- ", "subsequent_indent": "  "}
            return [textwrap.fill(plain(entry), width, **bullet) for entry in item]
        case Table():
            body = tabulate(
                [[plain(cell) for cell in row] for row in item.rows],
                item.headers,
                "simple",
                disable_numparse=True,
                colalign=item.aligned if item.rows else None,
            )
            texts = [item.caption, body, item.note]
            return ["", *(text if text is body else textwrap.fill(plain(text), width) for text in texts if text)]
    return []  # a figure


def render_markdown(document: Document, folder: Path, paths: Mapping[Figure, Path]) -> str:
    """The document as Markdown for a file in `folder`; the figures in `paths` are linked by relative paths."""
    lines, part = [f"# {_marked_down(document.title)}", "", _marked_down(document.subtitle), ""], ""
    for section in document.sections:
        if section.part != part:
            part = section.part
            lines += [f"## {_marked_down(part)}", ""] if part else []
        lines += [f"{'###' if part else '##'} {_marked_down(section.title)}", ""]
        for item in section.content:
            lines += _as_markdown(item, folder, paths)
    return "\n".join(lines).rstrip() + "\n"


def _as_markdown(item, folder, paths):
    match item:
        case str():
            return [_marked_down(item), ""]
        case list():
            return [*(f"- {_marked_down(entry)}" for entry in item), ""]
        case Table():
            lines = [f"*{_marked_down(item.caption)}*", "", markdown_table(item.headers, item.rows, item.aligned), ""]
            return [*lines, _marked_down(item.note), ""] if item.note else lines
        case Figure() if item in paths:
            link = quote(Path(os.path.relpath(paths[item], folder)).as_posix())
            return [f"![{_marked_down(item.caption)}]({link})", "", f"*{_marked_down(item.caption)}*", ""]
    return []


def markdown_table(headers: Sequence[str], rows: Sequence[Sequence[str]], aligned: Sequence[str]) -> str:
    """A table in Markdown, with the cells escaped."""
    cells = [[_marked_down(cell).replace("|", "\\|") for cell in row] for row in rows]
    style = {"tablefmt": "pipe", "disable_numparse": True, "colalign": aligned if rows else None}
    return tabulate(cells, [_marked_down(header) for header in headers], **style)


def _marked_down(text: str) -> str:
    """A text escaped so that names cannot become HTML or links, except inside `code`, which is literal."""
    pieces = re.split(r"(`[^`\n]*`)", text)
    pieces[::2] = [piece.replace("&", "&amp;").replace("<", "&lt;").replace("](", "]\\(") for piece in pieces[::2]]
    return "".join(pieces)


# --- HTML -----------------------------------------------------------------------------------------------------------


def render_html(document: Document, paths: Mapping[Figure, Path]) -> str:
    """The document as a self-contained HTML page; the figures in `paths` are embedded."""
    import jinja2

    here = Path(__file__).parent
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(here), autoescape=True, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters |= {"inline": _inline, "embedded": _embedded, "plain": plain}
    environment.tests |= {"table": lambda x: isinstance(x, Table), "figure": lambda x: isinstance(x, Figure)}
    style = (here / "page.css").read_text(encoding="utf-8")
    return environment.get_template("page.html").render(document=document, paths=paths, style=style)


def _inline(text):
    """HTML of a text: escaped, with **bold** and `code`, intervals kept on one line, and typographic minus signs."""
    import markupsafe

    text = html.escape(text, quote=False)
    text = re.sub(r"\*\*(.+?)\*\*", r"<b>\1</b>", text)
    text = re.sub(r"`(.+?)`", r"<code>\1</code>", text)
    text = re.sub(r"(\[[-+\d][^\]]*\])", r'<span class="ci">\1</span>', text)
    return markupsafe.Markup(re.sub(r"(^|[\s(\[>])-(?=\d)", "\\1\N{MINUS SIGN}", text))


def _embedded(path):
    return f"data:image/png;base64,{base64.b64encode(Path(path).read_bytes()).decode()}"


# --- output ---------------------------------------------------------------------------------------------------------


def write(document: Document, folder: Path, names: tuple[str, str], paths: Mapping[Figure, Path]) -> None:
    """Writes a document to a folder as Markdown and HTML, under these two names, with the figures drawn so far."""
    texts = (render_markdown(document, folder, paths), render_html(document, paths))
    for name, content in zip(names, texts):
        write_atomically(folder / name, content.encode())


def publish(document: Document, folder: Path, names: tuple[str, str], plots: Path | None) -> bool:
    """Writes the files, prints the brief sections, then draws the figures to `plots` and writes the files again.

    The text is written before any figure is drawn. A figure that fails is reported in one line and left out.

    Parameters
    ----------
    document : Document
    folder : path
        For the two files.
    names : (str, str)
        Of the Markdown and the HTML file.
    plots : path or None
        None: no figures.

    Returns
    -------
    bool
        Whether every figure was drawn.
    """
    write(document, folder, names, {})
    say(render_text(document))
    paths = _draw(document.figures, plots) if plots is not None else {}
    if paths:
        write(document, folder, names, paths)
    drawn = f"; {plural(len(paths), 'figure')} in {as_typed(plots)}" if paths else ""
    say(f"All sections: {' and '.join(as_typed(folder / name) for name in names)}{drawn}")
    return plots is None or len(paths) == len(document.figures)


def _draw(figures, folder):
    """Figure -> its PNG, for those that could be drawn; failures are printed on stderr."""
    from figures.drawing import draw_all

    print(f"drawing {plural(len(figures), 'figure')}", file=sys.stderr, flush=True)
    outcomes = draw_all([(figure.draw, (figure.results, folder, *figure.data)) for figure in figures])
    for figure, outcome in zip(figures, outcomes):
        if isinstance(outcome, Exception):
            reason = with_type(outcome).splitlines()[0]
            print(f"the figure {figure.draw.__name__} was not drawn: {reason}", file=sys.stderr, flush=True)
    return {figure: path for figure, path in zip(figures, outcomes) if not isinstance(path, Exception)}
