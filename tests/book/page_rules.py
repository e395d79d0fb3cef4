"""The book's rules on its text: structure of a chapter, exercises, pictures.

`CHAPTER_RULES` apply to a notebook, `TEXT_RULES` to every page's Markdown. Links, pictures, references and citations
that lead nowhere are found by the book's build, in which every warning is an error.
"""

import itertools
import re
from dataclasses import dataclass
from pathlib import Path

import nbformat
import yaml
from markdown_it.renderer import RendererHTML
from myst_parser.config.main import MdParserConfig
from myst_parser.parsers.mdit import create_md_parser

from tests.book.book_rules import code_cells, images, is_checked, solutions

ROOT = Path(__file__).parents[2]
EXTENSIONS = yaml.safe_load((ROOT / "_config.yml").read_text(encoding="utf-8"))["parse"]["myst_enable_extensions"]
PARSER = create_md_parser(MdParserConfig(enable_extensions=set(EXTENSIONS)), RendererHTML)
FORBIDDEN = r"\b(TODO|FIXME|XXX|lorem ipsum|coming soon|to be written|placeholder text|click here)\b|/work/|design\.md"
CODE_DIRECTIVES = ("code", "code-block", "code-cell", "literalinclude", "math", "bibliography")
# A role, a directive, a target or a comment of MyST's, but not Python's {name} in code.
SPHINX_ONLY = r"\{[a-z][\w:-]*\}`[^`]*`|^ *(?:`{3,}|:{3,})\{[^}]*\}|^\([\w-]+\)=|^% .*"
OPENING = ("You learn", "You need", "Minutes")
CLOSING = ("Summary", "Questions", "Exercises", "References")


@dataclass
class Directive:
    """A MyST directive of a page: its name, its argument, its options and the text after them."""

    name: str
    argument: str
    options: dict
    body: str


def read_directive(token):
    """The directive that a fenced block is, or None for plain code."""
    match = re.match(r"\{([\w:-]+)\} *(.*)$", token.info.strip())
    if token.type not in ("fence", "colon_fence") or not match:
        return None
    lines, options = token.content.splitlines(), {}
    while lines and (option := re.match(r"\s*:([\w-]+): *(.*)$", lines[0])):
        options[option[1]] = option[2].strip()
        lines.pop(0)
    return Directive(match[1], match[2].strip(), options, "\n".join(lines))


def tokens(text):
    """The parts of a Markdown text as the book's own parser sees them, those inside directives included."""
    found = []
    for token in PARSER.parse(text):
        found.append(token)
        directive = read_directive(token)
        if directive and directive.name not in CODE_DIRECTIVES:
            found += tokens(directive.body)
    return found


def directives(text):
    """The directives of a Markdown text, those inside others included."""
    return [directive for directive in map(read_directive, tokens(text)) if directive]


def inline(text):
    """The parts of its lines: links, pictures, roles, words."""
    return [child for token in tokens(text) for child in token.children or ()]


def markdown(notebook):
    """The Markdown of a notebook's cells, one text."""
    return "\n\n".join(cell.source for cell in notebook.cells if cell.cell_type == "markdown")


def headings(text):
    """(level, title) of each heading."""
    parts = tokens(text)
    return [
        (int(token.tag[1]), "".join(child.content for child in following.children if child.type != "myst_role"))
        for token, following in itertools.pairwise(parts)
        if token.type == "heading_open"
    ]


def section(text, title):
    """What stands under a heading of level 2, up to the next one."""
    match = re.search(rf"^## +{re.escape(title)} *$(.*?)(?=^## |\Z)", text, re.M | re.S)
    return match[1].strip() if match else None


def one_title(text):
    titles = [title for level, title in headings(text) if level == 1]
    if len(titles) != 1 or not text.lstrip().startswith(("# ", "(")):
        return [f"{len(titles)} headings of level 1 {titles}, expected one, first of all"]
    return []


def nothing_forbidden(text):
    return [f"forbidden: {match[0]!r}" for match in re.finditer(FORBIDDEN, text)]


def alt_complaint(alt):
    """What is wrong with a picture's text alternative, or None."""
    if not alt or not alt.strip():
        return "no alt text"
    if re.match(r"(an? |the )?(figure|image|picture|plot|chart|graph|diagram|drawing|screenshot)\b", alt.strip(), re.I):
        return f"alt text says that it is a picture, not what it shows: {alt[:50]!r}"
    if len(alt.split()) < 6:
        return f"alt text of fewer than 6 words: {alt!r}"
    return None


def pictures_have_alt(text):
    alts = [(token.attrs["src"], token.content) for token in inline(text) if token.type == "image"]
    alts += [(d.argument, d.options.get("alt")) for d in directives(text) if d.name in ("figure", "image")]
    for token in [*tokens(text), *inline(text)]:
        for tag in re.findall(r"<img\b[^>]*>", token.content if token.type.startswith("html_") else ""):
            alts.append((tag, "".join(re.findall(r'alt="([^"]*)"', tag))))
    return [f"{name}: {alt_complaint(alt)}" for name, alt in alts if alt_complaint(alt)]


TEXT_RULES = [one_title, nothing_forbidden, pictures_have_alt]


def opens_with_list(notebook):
    """What you learn, what you need, how many minutes: a list right under the title."""
    items = re.findall(r"^- \*\*(.+?)\*\*: (.+)$", notebook.cells[0].source if notebook.cells else "", re.M)
    if tuple(name for name, _ in items) != OPENING:
        return [f"the title is followed by a list of {[name for name, _ in items]}, expected {list(OPENING)}"]
    return [] if items[-1][1].isdigit() else ["the opening list's Minutes is no number"]


def plain_markdown(notebook):
    """Roles, directives and targets are read by Sphinx alone: JupyterLab and hosting sites show them raw."""
    complaints = []
    for i, cell in enumerate(notebook.cells):
        for match in re.finditer(SPHINX_ONLY, cell.source if cell.cell_type == "markdown" else "", re.M):
            complaints.append(f"cell {i}: {match[0]!r} is raw text in JupyterLab")
    return complaints


def closes_in_order(notebook):
    """Summary, Exercises and References end a chapter, in this order, none of them empty."""
    text = markdown(notebook)
    titles = [title for level, title in headings(text) if level == 2]
    if tuple(titles[-len(CLOSING) :]) != CLOSING:
        return [f"the last headings are {titles[-len(CLOSING) :]}, expected {list(CLOSING)}"]
    complaints = [f"{title}: empty" for title in CLOSING if not section(text, title)]
    entries = re.findall(r"^[-*] .+(?:\n {2,}.+)*", section(text, "References") or "", re.M)
    if not entries:
        complaints.append("References: no list of what to read and why")
    for entry in entries:
        if len(re.sub(r"\[[^\]]*\]\([^)]*\)", "", entry).split()) < 5:
            complaints.append(f"References: no word on why to read {entry!r}")
    return complaints


def answers(notebook, kind):
    """``{heading: positions of the code cells under it}`` for the headings "kind 1", "kind 2" and so on."""
    found, heading = {}, None
    for i, cell in enumerate(notebook.cells):
        if cell.cell_type == "code":
            if heading:
                found[heading].append(i)
            continue
        for title in re.findall(r"^#+ +(.+?) *$", cell.source, re.M):
            heading = title if re.fullmatch(rf"{kind} \d+", title) else None
            if heading:
                found[heading] = []
    return found


def solved(notebook, kind, least, most):
    """Questions or exercises, numbered from 1, each with a folded cell that is checked."""
    found, complaints = answers(notebook, kind), []
    if list(found) != [f"{kind} {number}" for number in range(1, len(found) + 1)] or not least <= len(found) <= most:
        complaints.append(f"{kind}: {list(found)}, expected {least} to {most}, numbered from 1")
    for heading, positions in found.items():
        folded = [notebook.cells[i] for i in positions if i in solutions(notebook)]
        if not any(is_checked(cell) for cell in folded):
            complaints.append(f"{heading}: no folded cell that is checked (tag hide-cell)")
    return complaints


def questions_are_answered(notebook):
    """At least five questions, each with a folded answer that a checked cell computes."""
    return solved(notebook, "Question", 5, 12)


def exercises_are_solved(notebook):
    """Two to four exercises, each with a folded solution whose code runs."""
    return solved(notebook, "Exercise", 2, 4)


def folded_everywhere(notebook):
    """What the book folds, JupyterLab collapses."""
    hidden = {"outputs_hidden": True, "source_hidden": True}
    return [
        f"cell {i}: folded in the book, and not in JupyterLab (metadata jupyter)"
        for i in sorted(solutions(notebook))
        if notebook.cells[i].metadata.get("jupyter") != hidden
    ]


def figures_have_alt(notebook):
    """Pictures have alt text and a caption, in the cell's metadata `mystnb`, and a cell of their own."""
    complaints = []
    for i, cell in code_cells(notebook):
        if not images(cell):
            continue
        told = cell.metadata.get("mystnb", {})
        problem = alt_complaint(told.get("image", {}).get("alt"))
        if problem:
            complaints.append(f"cell {i}: {problem}")
        if not told.get("figure", {}).get("caption") or not told.get("figure", {}).get("name"):
            complaints.append(f"cell {i}: a figure needs a caption and a name")
        if len(cell.outputs) > 1:
            complaints.append(f"cell {i}: {len(cell.outputs)} outputs: a figure is to be its cell's only one")
    return complaints


CHAPTER_RULES = [opens_with_list, plain_markdown, closes_in_order, questions_are_answered, exercises_are_solved]
CHAPTER_RULES += [folded_everywhere, figures_have_alt]


def read_page(path):
    """The Markdown of a page, notebook or Markdown file."""
    if path.suffix == ".ipynb":
        return markdown(nbformat.read(path, as_version=4))
    return path.read_text(encoding="utf-8")


def book_pages(root):
    """The pages of the book: notebooks and Markdown files of `book/`."""
    return sorted(path for path in Path(root, "book").iterdir() if path.suffix in (".ipynb", ".md"))
