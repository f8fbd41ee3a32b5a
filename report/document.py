"""A report as sections of text, tables and figures, and its three renderings: for the terminal, Markdown and HTML.

The HTML is one file that needs nothing else: the style is inside, figures are embedded, there is no script. It is made
for a phone, a desktop and paper. Paragraphs may hold **bold** and `code`; a paragraph that is a list becomes bullets.
"""

import base64
import html
import os
import re
import textwrap
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from urllib.parse import quote

from common import storage
from common.scripts import say

TEXT_WIDTH = 100
# A table with so many columns, no more rows, and a cell of so many characters becomes cards on a phone.
CARD_COLUMNS, CARD_ROWS, CARD_CELL = 5, 24, 15


@dataclass(frozen=True)
class Table:
    """Cells are texts. caption: what is shown, with n and method. note: what a reader has to know besides."""

    headers: list[str]
    rows: list[list[str]]
    caption: str
    note: str = ""


@dataclass(frozen=True)
class Section:
    """key: its address, unique in the document. part: the heading over it, of several architectures; '' for none."""

    key: str
    title: str
    paragraphs: list[str | list[str]] = field(default_factory=list)
    tables: list[Table] = field(default_factory=list)
    figures: list[tuple[Path, str]] = field(default_factory=list)  # (PNG, caption)
    part: str = ""

    def under(self, part: str) -> "Section":
        """The same section under a heading."""
        return replace(self, part=part)


@dataclass(frozen=True)
class Document:
    """title, one line below it, and the sections in order."""

    title: str
    subtitle: str
    sections: list[Section]


# --- numbers in words -----------------------------------------------------------------------------------------------


def parts(sections: Sequence[Section]) -> list[tuple[str, list[Section]]]:
    """Runs of sections under the same heading."""
    found = []
    for section in sections:
        if not found or found[-1][0] != section.part:
            found.append((section.part, []))
        found[-1][1].append(section)
    return found


def columns_aligned(table: Table) -> list[str]:
    """'right' for columns of numbers, 'left' for others."""
    number = re.compile(r"^([-+−]|± )?[\d.,]+( ?%| ?s)?$")
    aligned = []
    for column in zip(*table.rows) if table.rows else [() for _ in table.headers]:
        shown = [cell for cell in column if cell not in ("", "-")]
        aligned.append("right" if shown and all(number.match(cell.replace("**", "")) for cell in shown) else "left")
    return aligned


# --- terminal -------------------------------------------------------------------------------------------------------


def render_text(document: Document, width: int = TEXT_WIDTH) -> str:
    """The document for a terminal."""
    lines = [document.title, "=" * len(document.title), textwrap.fill(plain(document.subtitle), width)]
    for part, sections in parts(document.sections):
        if part:
            lines += ["", part.upper(), "#" * len(part)]
        for section in sections:
            lines += ["", section.title, "-" * len(section.title), *_text_body(section, width)]
    return "\n".join(lines) + "\n"


def _text_body(section, width):
    from tabulate import tabulate

    lines = []
    for paragraph in section.paragraphs:
        if isinstance(paragraph, str):
            lines += [textwrap.fill(plain(paragraph), width), ""]
            continue
        wrapped = [textwrap.fill(plain(item), width, initial_indent="- ", subsequent_indent="  ") for item in paragraph]
        lines += [*wrapped, ""]
    for table in section.tables:
        rows = [[plain(cell) for cell in row] for row in table.rows]
        lines.append(textwrap.fill(plain(table.caption), width))
        lines.append(
            tabulate(rows, table.headers, "simple", disable_numparse=True, colalign=columns_aligned(table))
            if rows
            else "(nothing)"
        )
        lines += [textwrap.fill(plain(table.note), width), ""] if table.note else [""]
    lines += [f"figure: {path}" for path, _ in section.figures]
    while lines and not lines[-1]:
        lines.pop()
    return lines


def plain(text: str) -> str:
    """A text without the marks of **bold** and `code`."""
    return text.replace("**", "").replace("`", "")


# --- Markdown -------------------------------------------------------------------------------------------------------


def render_markdown(document: Document, folder: Path) -> str:
    """The document as Markdown that lies in `folder`; figures are linked by relative paths."""
    from tabulate import tabulate

    lines = [f"# {_markdown(document.title)}", "", _markdown(document.subtitle), ""]
    for part, sections in parts(document.sections):
        if part:
            lines += [f"## {_markdown(part)}", ""]
        for section in sections:
            lines += [f"{'###' if part else '##'} {_markdown(section.title)}", ""]
            for paragraph in section.paragraphs:
                items = [paragraph] if isinstance(paragraph, str) else [f"- {item}" for item in paragraph]
                lines += [*map(_markdown, items), ""]
            for table in section.tables:
                headers, *rows = [[_in_cell(cell) for cell in row] for row in (table.headers, *table.rows)]
                lines += [f"*{_markdown(table.caption)}*", ""]
                style = {"tablefmt": "pipe", "disable_numparse": True, "colalign": columns_aligned(table)}
                lines += [tabulate(rows, headers, **style) if rows else "(nothing)", ""]
                lines += [_markdown(table.note), ""] if table.note else []
            for path, caption in section.figures:
                link, text = quote(Path(os.path.relpath(path, folder)).as_posix()), _markdown(caption)
                lines += [f"![{text}]({link})", "", f"*{text}*", ""]
    return "\n".join(lines).rstrip() + "\n"


def _markdown(text: str) -> str:
    """A text in which a name can be neither HTML nor a link; what stands in `code` is literal anyway."""
    pieces = re.split(r"(`[^`\n]*`)", text)
    pieces[::2] = [piece.replace("&", "&amp;").replace("<", "&lt;").replace("](", "]\\(") for piece in pieces[::2]]
    return "".join(pieces)


def _in_cell(text: str) -> str:
    """A text in a cell of a Markdown table."""
    return _markdown(text).replace("|", "\\|").replace("\n", "<br>")


# --- HTML -----------------------------------------------------------------------------------------------------------

STYLE = """
:root { --ink: #1d1d1f; --quiet: #5f6368; --line: #dcdfe3; --accent: #0b57a4; }
* { box-sizing: border-box; }
html { -webkit-text-size-adjust: 100%; scroll-behavior: smooth; }
body {
  margin: 0; color: var(--ink); background: #fff; overflow-wrap: break-word;
  font: 16px/1.55 system-ui, -apple-system, "Segoe UI", Roboto, "Helvetica Neue", "DejaVu Sans", sans-serif;
}
header, .page { max-width: 78rem; margin: 0 auto; padding: 0 1.25rem; }
header { padding-top: 2rem; }
h1 { font-size: 1.85rem; line-height: 1.2; margin: 0 0 .5rem; }
h2 { font-size: 1.35rem; line-height: 1.25; margin: 2.75rem 0 .75rem; padding-top: .75rem; }
h2 { border-top: 1px solid var(--line); }
h2.part { font-size: 1.6rem; border-top: 3px solid var(--ink); }
h3 { font-size: 1.12rem; margin: 2rem 0 .5rem; }
p, ul { margin: .6rem 0; max-width: 46rem; }
ul { padding-left: 1.2rem; }
li { margin: .3rem 0; }
code { font: .92em ui-monospace, Menlo, Consolas, monospace; }
a { color: var(--accent); }
.lead { color: var(--quiet); margin: 0; }
.page { display: grid; grid-template-columns: 14.5rem minmax(0, 1fr); gap: 2.5rem; }
nav { position: sticky; top: 0; align-self: start; max-height: 100vh; overflow-y: auto; }
nav { padding: 2.75rem 0 2rem; font-size: .875rem; }
nav b { display: block; margin-bottom: .3rem; }
nav input, nav label { display: none; }
nav ul { list-style: none; margin: 0; padding: 0; }
nav ul ul { padding-left: .8rem; }
nav li { margin: 0; }
nav a { display: block; padding: .16rem 0; color: var(--quiet); text-decoration: none; }
nav a:hover { color: var(--accent); }
main > section:first-child h2 { border-top: 0; margin-top: 1.5rem; }
.table { margin: 1.1rem 0 1.4rem; overflow-x: auto; }
table { border-collapse: collapse; font-size: .875rem; line-height: 1.4; font-variant-numeric: tabular-nums; }
caption { caption-side: top; text-align: left; padding-bottom: .45rem; }
caption, .note, figcaption { font-size: .875rem; color: var(--quiet); max-width: 46rem; }
th, td { padding: .34rem .7rem .34rem 0; text-align: left; vertical-align: top; }
th, td { border-bottom: 1px solid var(--line); }
thead th { border-bottom: 1.5px solid var(--ink); vertical-align: bottom; font-weight: 600; }
tbody th { font-weight: 600; }
td.right, th.right { text-align: right; }
th:last-child, td:last-child { padding-right: 0; }
td.left:last-child { min-width: 8rem; }
.ci { color: var(--quiet); white-space: nowrap; }
.note { margin-top: -.7rem; }
figure { margin: 1.4rem 0; }
figure img { width: 100%; max-width: 54rem; height: auto; display: block; }
figure div { overflow-x: auto; }
figcaption { margin-top: .45rem; }
footer { color: var(--quiet); font-size: .8rem; padding: 2.5rem 0; }
@media (max-width: 60rem) {
  .page { display: block; }
  nav { position: static; max-height: none; padding: 1rem 0 0; }
  nav b { display: none; }
  nav label { display: block; border: 1px solid var(--line); border-radius: .4rem; padding: .5rem .8rem; }
  nav label { font-weight: 600; cursor: pointer; }
  nav label::after { content: "+"; float: right; }
  nav input:checked + label::after { content: "\\2212"; }
  nav label + ul { display: none; padding: .4rem .8rem; }
  nav input:checked + label + ul { display: block; }
  nav a { padding: .4rem 0; }
}
@media (max-width: 40rem) {
  header, .page { padding: 0 1rem; }
  header { padding-top: 1.25rem; }
  h1 { font-size: 1.45rem; }
  h2 { font-size: 1.22rem; margin-top: 2rem; }
  figure img { width: 42rem; max-width: none; }
  .table caption { max-width: calc(100vw - 2rem); }
  .table th:first-child { position: sticky; left: 0; background: #fff; }
  .cards table, .cards caption, .cards tbody, .cards tr, .cards th, .cards td { display: block; }
  .cards thead { display: none; }
  .cards tr { border: 1px solid var(--line); border-radius: .5rem; padding: .55rem .8rem; margin: 0 0 .7rem; }
  .cards th, .cards td { border: 0; padding: .12rem 0; text-align: left !important; }
  .cards td { display: flex; justify-content: space-between; gap: 1rem; }
  .cards td > span { text-align: right; }
  .cards td::before { content: attr(data-label); color: var(--quiet); }
  .cards td:empty { display: none; }
}
@media print {
  @page { size: A4; margin: 16mm 15mm; }
  body { font-size: 9.5pt; line-height: 1.4; }
  header, .page { max-width: none; padding: 0; }
  .page { display: block; }
  nav { position: static; max-height: none; overflow: visible; padding: .5rem 0 0; columns: 2; font-size: 8.5pt; }
  nav b { display: block; column-span: all; }
  nav label { display: none !important; }
  nav label + ul { display: block !important; padding: 0; }
  nav a { color: var(--ink); padding: 0; }
  h1 { font-size: 17pt; }
  h2 { font-size: 13pt; margin-top: 1.4rem; }
  h3 { font-size: 11pt; }
  h2, h3, caption { break-after: avoid; }
  figure, tr, li { break-inside: avoid; }
  thead { display: table-header-group; }
  p, ul, caption, figcaption, .note { max-width: none; }
  .table { overflow: visible; }
  table { font-size: 8pt; width: 100%; }
  th, td { padding: .2rem .6rem .2rem 0; }
  figure img { max-width: 100%; max-height: 215mm; width: auto; }
  a { color: inherit; text-decoration: none; }
  footer { display: none; }
}
"""


def render_html(document: Document) -> str:
    """The document as one self-contained HTML file."""
    pieces, contents = [], []
    for part, sections in parts(document.sections):
        entries = "".join(f'<li><a href="#{_slug(s)}">{_inline(s.title)}</a></li>' for s in sections)
        if part:
            pieces.append(f'<h2 class="part">{_inline(part)}</h2>')
            entries = f'<li><a href="#{_slug(sections[0])}">{_inline(part)}</a><ul>{entries}</ul></li>'
        contents.append(entries)
        pieces += [_html_section(section, "h3" if part else "h2") for section in sections]
    navigation = (
        '<nav aria-label="Contents"><b>Contents</b><input type="checkbox" id="open-contents">'
        f'<label for="open-contents">Contents</label><ul>{"".join(contents)}</ul></nav>'
    )
    return (
        '<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{_inline(document.title)}</title><style>{STYLE}</style></head>\n<body>"
        f'<header><h1>{_inline(document.title)}</h1><p class="lead">{_inline(document.subtitle)}</p></header>\n'
        f'<div class="page">{navigation}\n<main>{"".join(pieces)}'
        "<footer>Written by analyze_results.py.</footer></main></div></body></html>\n"
    )


def _slug(section):
    return re.sub(r"[^a-z0-9]+", "-", f"{section.part} {section.key}".strip().lower())


def _html_section(section, heading):
    body = []
    for paragraph in section.paragraphs:
        if isinstance(paragraph, str):
            body.append(f"<p>{_inline(paragraph)}</p>")
        else:
            body.append("<ul>" + "".join(f"<li>{_inline(item)}</li>" for item in paragraph) + "</ul>")
    body += [_html_table(table) for table in section.tables]
    for path, caption in section.figures:
        data = base64.b64encode(Path(path).read_bytes()).decode()
        body.append(
            f'<figure><div><img src="data:image/png;base64,{data}" alt="{html.escape(caption, quote=True)}"></div>'
            f"<figcaption>{_inline(caption)}</figcaption></figure>"
        )
    title = f"<{heading}>{_inline(section.title)}</{heading}>"
    return f'\n<section id="{_slug(section)}">{title}{"".join(body)}</section>'


def _html_table(table):
    if not table.rows:
        return f'<p class="note">{_inline(table.caption)} (nothing)</p>'
    aligned = columns_aligned(table)
    longest = max(len(cell) for row in table.rows for cell in row)
    cards = len(table.headers) >= CARD_COLUMNS and len(table.rows) <= CARD_ROWS and longest >= CARD_CELL
    head = "".join(f'<th scope="col" class="{side}">{_inline(text)}</th>' for text, side in zip(table.headers, aligned))
    rows = []
    for row in table.rows:
        cells = [f'<th scope="row" class="{aligned[0]}">{_inline(row[0])}</th>']
        for text, label, side in zip(row[1:], table.headers[1:], aligned[1:]):
            name = html.escape(plain(label), quote=True)
            cells.append(
                f'<td class="{side}" data-label="{name}">{f"<span>{_inline(text)}</span>" if text else ""}</td>'
            )
        rows.append(f"<tr>{''.join(cells)}</tr>")
    note = f'<p class="note">{_inline(table.note)}</p>' if table.note else ""
    return (
        f'<div class="table{" cards" if cards else ""}"><table><caption>{_inline(table.caption)}</caption>'
        f"<thead><tr>{head}</tr></thead><tbody>{''.join(rows)}</tbody></table></div>{note}"
    )


def _inline(text):
    """Escaped text with **bold** and `code`, intervals kept on one line, and minus signs that look like ones."""
    text = html.escape(text, quote=False)
    text = re.sub(r"\*\*(.+?)\*\*", r"<b>\1</b>", text)
    text = re.sub(r"`(.+?)`", r"<code>\1</code>", text)
    text = re.sub(r"(\[[-+\d][^\]]*\])", r'<span class="ci">\1</span>', text)
    text = re.sub(r"(^|[\s(\[>])-(?=\d)", "\\1\N{MINUS SIGN}", text)
    return text.replace("\n", "<br>")


# --- where it goes --------------------------------------------------------------------------------------------------


def publish(document: Document, folder: Path, names: tuple[str, str]) -> None:
    """Prints a document, and writes it into a folder as Markdown and HTML, under these two names."""
    say(render_text(document))
    for name, content in zip(names, (render_markdown(document, folder), render_html(document))):
        storage.write_atomically(folder / name, content.encode())
    print(f"written: {folder / names[0]} and {folder / names[1]}")
