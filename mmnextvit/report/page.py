"""The page of a report: what stands on it as data, and its HTML.

It is one file without scripts that asks no network for anything: images stand in it.
Whatever comes from files or from the user, as the names of classes, is escaped.
"""

import base64
import mimetypes
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from jinja2 import Environment

from ..utils.messages import escape


class Picture(NamedTuple):
    """An image on the page, which is a file of the folder too.

    Attributes:
        name: Of the file, plain ASCII.
        content: Its bytes, PNG or JPEG.
        alt: What is seen, for who does not see it.
        caption: A line below it.
        details: Further lines, which are shown on demand.
        wide: Whether it takes the whole width.
    """

    name: str
    content: bytes
    alt: str
    caption: str = ''
    details: Sequence[str] = ()
    wide: bool = False


class Table(NamedTuple):
    """A table, whose first column names the rows."""

    columns: Sequence[str]
    rows: Sequence[Sequence[str]]


class Block(NamedTuple):
    """A part of a section: a heading, what to look for, and what it shows."""

    title: str = ''
    text: str = ''
    table: Table | None = None
    legend: Sequence[tuple[str, str]] = ()  # colour as in CSS, and what it means
    pictures: Sequence[Picture] = ()


class Section(NamedTuple):
    """A section of the page.

    Attributes:
        key: By which the page links to it, plain ASCII.
        title: Its heading.
        text: What it is about, in a sentence or two.
        blocks: Its parts.
        files: CSV files with all its numbers, by their names in plain ASCII.
    """

    key: str
    title: str
    text: str
    blocks: Sequence[Block]
    files: Mapping[str, bytes] = {}

    @property
    def pictures(self) -> list[Picture]:
        """All images of the section."""
        return [picture for block in self.blocks for picture in block.pictures]


class Page(NamedTuple):
    """A page.

    Attributes:
        title: Of the run.
        facts: What counts most: a number, its name, and what it means.
        origin: What the report is made of, as names and values.
        left_out: Why something is missing, in sentences.
        sections: In their order.
    """

    title: str
    facts: Sequence[tuple[str, str, str]]
    origin: Sequence[tuple[str, str]]
    left_out: Sequence[str]
    sections: Sequence[Section]


def embed(picture: Picture) -> str:
    """An image as an address that holds it."""
    kind = mimetypes.guess_type(picture.name)[0]
    return f'data:{kind};base64,{base64.b64encode(picture.content).decode()}'


def render(page: Page) -> str:
    """The HTML of a page."""
    # Codes that no HTML may hold come from names in files: they are written out.
    environment = Environment(
        autoescape=True, trim_blocks=True, lstrip_blocks=True, finalize=_finalize
    )
    return environment.from_string(TEMPLATE).render(page=page, embed=embed, style=STYLE)


def _finalize(value: object) -> object:
    if isinstance(value, str) and type(value) is str and not value.isprintable():
        return escape(value, keep='\n')
    return value


STYLE = """
:root { --ink: #1c2430; --soft: #5b6675; --line: #dfe4ea; --paper: #ffffff;
  --ground: #f4f6f8; --mark: #0072b2; }
* { box-sizing: border-box; }
html { scroll-behavior: smooth; -webkit-text-size-adjust: 100%; }
body { margin: 0; background: var(--ground); color: var(--ink);
  font: 16px/1.5 system-ui, "Segoe UI", Roboto, "Helvetica Neue", Arial,
  "DejaVu Sans", sans-serif; }
header, main, footer { max-width: 1180px; margin: 0 auto; padding: 0 20px; }
header { padding-top: 32px; }
h1 { font-size: 1.7rem; line-height: 1.2; margin: 0 0 4px; overflow-wrap: anywhere; }
h2 { font-size: 1.3rem; margin: 0 0 4px; }
h3 { font-size: 1.02rem; margin: 28px 0 2px; }
p { margin: 0 0 12px; max-width: 76ch; }
.soft, figcaption, dt { color: var(--soft); }
.facts { display: grid; gap: 12px; margin: 20px 0; padding: 0; list-style: none;
  grid-template-columns: repeat(auto-fit, minmax(150px, 1fr)); }
.facts li, section { background: var(--paper); border: 1px solid var(--line);
  border-radius: 10px; }
.facts li { padding: 12px 16px; }
.facts b { display: block; font-size: 1.55rem; line-height: 1.3; }
.facts span { display: block; font-weight: 600; font-size: .92rem; }
.facts small { color: var(--soft); }
nav { display: flex; flex-wrap: wrap; gap: 6px 18px; margin: 0 0 18px; }
a { color: var(--mark); text-decoration: none; }
a:hover { text-decoration: underline; }
section { padding: 22px 24px; margin: 0 0 18px; }
.notice { border-left: 5px solid #e69f00; }
.notice ul { margin: 6px 0 0; padding-left: 20px; }
.pictures { display: grid; gap: 18px; margin-top: 10px;
  grid-template-columns: repeat(auto-fill, minmax(min(100%, 500px), 1fr)); }
figure { margin: 0; min-width: 0; }
figure.wide { grid-column: 1 / -1; }
figure img { display: block; width: 100%; height: auto; border-radius: 6px; }
figcaption { font-size: .92rem; padding-top: 6px; overflow-wrap: anywhere; }
figcaption b { color: var(--ink); font-weight: 600; }
details { margin-top: 2px; }
details ul { margin: 4px 0 0; padding-left: 20px; }
summary { cursor: pointer; color: var(--mark); }
.scroll { overflow-x: auto; }
table { border-collapse: collapse; margin: 8px 0 4px; font-size: .95rem;
  font-variant-numeric: tabular-nums; }
th, td { padding: 4px 14px 4px 0; text-align: right; white-space: nowrap;
  border-bottom: 1px solid var(--line); }
th { color: var(--soft); font-weight: 600; }
th:first-child, td:first-child { text-align: left; max-width: 24em;
  overflow: hidden; text-overflow: ellipsis; }
.legend { display: flex; flex-wrap: wrap; gap: 4px 18px; margin: 8px 0 2px;
  padding: 0; list-style: none; font-size: .92rem; }
.legend i { display: inline-block; width: 14px; height: 14px; margin-right: 6px;
  border: 3px solid; border-radius: 3px; vertical-align: -2px; }
.files { font-size: .92rem; margin: 16px 0 0; }
dl { display: grid; grid-template-columns: max-content 1fr; gap: 2px 14px;
  margin: 0; font-size: .92rem; }
dd { margin: 0; overflow-wrap: anywhere; }
footer { padding-bottom: 40px; color: var(--soft); font-size: .92rem; }
@media (max-width: 560px) {
  header, main, footer { padding-left: 10px; padding-right: 10px; }
  section { padding: 16px 14px; }
  .facts { grid-template-columns: repeat(2, 1fr); }
  dl { grid-template-columns: 1fr; } dd { margin-bottom: 6px; }
}
@media print {
  body { background: none; font-size: 11pt; } nav { display: none; }
  section, .facts li { border: 0; padding: 8px 0; }
  figure, tr, .facts li { break-inside: avoid; } h2, h3 { break-after: avoid; }
  .pictures { grid-template-columns: repeat(2, 1fr); }
}
"""

TEMPLATE = """\
<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="generator" content="mmnextvit report">
<title>{{ page.title }}</title>
<link rel="icon" href="data:,">
<style>{{ style | safe }}</style>
</head>
<body>
<header>
<h1>{{ page.title }}</h1>
<p class="soft">How well the detector finds things, what it gets wrong, and what it was
trained on.</p>
{% if page.facts %}
<ul class="facts">
{% for number, name, meaning in page.facts %}
<li><b>{{ number }}</b><span>{{ name }}</span><small>{{ meaning }}</small></li>
{% endfor %}
</ul>
{% endif %}
<nav aria-label="Sections">
{% for section in page.sections %}
<a href="#{{ section.key }}">{{ section.title }}</a>
{% endfor %}
</nav>
</header>
<main>
{% if page.left_out %}
<section class="notice">
<h2>Left out</h2>
<ul>
{% for reason in page.left_out %}
<li>{{ reason }}</li>
{% endfor %}
</ul>
</section>
{% endif %}
{% for section in page.sections %}
<section id="{{ section.key }}">
<h2>{{ section.title }}</h2>
<p class="soft">{{ section.text }}</p>
{% for block in section.blocks %}
{% if block.title %}
<h3>{{ block.title }}</h3>
{% endif %}
{% if block.text %}
<p>{{ block.text }}</p>
{% endif %}
{% if block.table %}
<div class="scroll"><table>
<thead><tr>
{% for column in block.table.columns %}
<th scope="col">{{ column }}</th>
{% endfor %}
</tr></thead>
<tbody>
{% for row in block.table.rows %}
<tr>
{% for cell in row %}
<td>{{ cell }}</td>
{% endfor %}
</tr>
{% endfor %}
</tbody>
</table></div>
{% endif %}
{% if block.legend %}
<ul class="legend">
{% for colour, meaning in block.legend %}
<li><i style="border-color: {{ colour }}"></i>{{ meaning }}</li>
{% endfor %}
</ul>
{% endif %}
{% if block.pictures %}
<div class="pictures">
{% for picture in block.pictures %}
<figure{% if picture.wide %} class="wide"{% endif %}>
<img src="{{ embed(picture) }}" alt="{{ picture.alt }}">
{% if picture.caption or picture.details %}
<figcaption>{{ picture.caption }}
{% if picture.details %}
<details><summary>each of them</summary><ul>
{% for line in picture.details %}
<li>{{ line }}</li>
{% endfor %}
</ul></details>
{% endif %}
</figcaption>
{% endif %}
</figure>
{% endfor %}
</div>
{% endif %}
{% endfor %}
{% if section.files %}
<p class="files soft">All numbers:
{% for file in section.files %}
<a href="{{ file }}">{{ file }}</a>{{ ', ' if not loop.last }}
{% endfor %}
</p>
{% endif %}
</section>
{% endfor %}
</main>
<footer>
<dl>
{% for name, value in page.origin %}
<dt>{{ name }}</dt><dd>{{ value }}</dd>
{% endfor %}
</dl>
</footer>
</body>
</html>
"""
