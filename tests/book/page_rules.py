"""The book's rules on its text: structure of a chapter, exercises, pictures, links and citations.

`CHAPTER_RULES` apply to a notebook, `TEXT_RULES` to every page's Markdown, `broken_links` to the book as a whole.
"""

import itertools
import re
from dataclasses import dataclass
from pathlib import Path

import nbformat
import yaml
from markdown_it.renderer import RendererHTML
from mdit_py_plugins.anchors.index import slugify
from myst_parser.config.main import MdParserConfig
from myst_parser.parsers.mdit import create_md_parser

from tests.book.book_rules import alt_complaint

ROOT = Path(__file__).parents[2]
EXTENSIONS = yaml.safe_load((ROOT / "_config.yml").read_text(encoding="utf-8"))["parse"]["myst_enable_extensions"]
PARSER = create_md_parser(MdParserConfig(enable_extensions=set(EXTENSIONS)), RendererHTML)
FORBIDDEN = r"\b(TODO|FIXME|XXX|lorem ipsum|coming soon|to be written|placeholder text|click here)\b|/work/|design\.md"
CODE_DIRECTIVES = ("code", "code-block", "code-cell", "literalinclude", "math", "bibliography")
OPENING = ("You learn", "You need", "Minutes")
CLOSING = ("Summary", "Exercises", "References")


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


def pictures_have_alt(text):
    alts = [(token.attrs["src"], token.content) for token in inline(text) if token.type == "image"]
    alts += [(d.argument, d.options.get("alt")) for d in directives(text) if d.name in ("figure", "image")]
    for token in [*tokens(text), *inline(text)]:
        for tag in re.findall(r"<img\b[^>]*>", token.content if token.type.startswith("html_") else ""):
            alts.append((tag, "".join(re.findall(r'alt="([^"]*)"', tag))))
    return [f"{name}: {alt_complaint(alt)}" for name, alt in alts if alt_complaint(alt)]


TEXT_RULES = [one_title, nothing_forbidden, pictures_have_alt]


def opens_with_table(notebook):
    """What you learn, what you need, how many minutes: a table right under the title."""
    opening = "\n".join(cell.source for cell in notebook.cells[:2] if cell.cell_type == "markdown")
    missing = [word for word in OPENING if word not in opening]
    if missing or not ("{list-table}" in opening or re.search(r"^\|.*\|$", opening, re.M)):
        return [f"no opening table under the title (missing: {missing or 'the table'})"]
    return [] if re.search(r"Minutes\W+\d+", opening) else ["the opening table's Minutes is no number"]


def closes_in_order(notebook):
    """Summary, Exercises and References end a chapter, in this order, none of them empty."""
    text = markdown(notebook)
    titles = [title for level, title in headings(text) if level == 2]
    if tuple(titles[-3:]) != CLOSING:
        return [f"the last headings are {titles[-3:]}, expected {list(CLOSING)}"]
    complaints = [f"{title}: empty" for title in CLOSING if not section(text, title)]
    entries = re.findall(r"^[-*] .+(?:\n {2,}.+)*", section(text, "References") or "", re.M)
    if not entries:
        complaints.append("References: no list of what to read and why")
    for entry in entries:
        if len(re.sub(r"\{cite[^}]*\}`[^`]*`|\[[^\]]*\]\([^)]*\)", "", entry).split()) < 5:
            complaints.append(f"References: no word on why to read {entry!r}")
    return complaints


def exercises_are_solved(notebook):
    """Two to four exercises, each with a folded solution whose code runs."""
    found = directives(markdown(notebook))
    asked = [d.options.get("label", "") for d in found if d.name in ("exercise", "exercise-start")]
    complaints = [] if 2 <= len(asked) <= 4 else [f"{len(asked)} exercises, expected 2 to 4"]
    complaints += ["an exercise without a label"] * asked.count("")
    solved = [d.argument for d in found if d.name == "solution-start"]
    if any(d.name == "solution" for d in found):
        complaints.append("{solution} can't hold code that runs: use {solution-start} and {solution-end}")
    if sorted(asked) != sorted(solved):
        complaints.append(f"exercises {sorted(asked)}, solutions {sorted(solved)}")
    for directive in found:
        if directive.name == "solution-start" and "dropdown" not in directive.options.get("class", ""):
            complaints.append(f"the solution of {directive.argument} isn't folded (:class: dropdown)")
    current, runs = None, set()
    for cell in notebook.cells:
        if cell.cell_type == "code":
            runs.add(current)
            continue
        for directive in directives(cell.source):
            if directive.name in ("solution-start", "solution-end"):
                current = directive.argument if directive.name == "solution-start" else None
    complaints += [f"the solution of {label} runs no code" for label in solved if label not in runs]
    return complaints


CHAPTER_RULES = [opens_with_table, closes_in_order, exercises_are_solved]


def read_page(path):
    """(Markdown, labels of figures that cells draw) of a page, notebook or Markdown file."""
    if path.suffix != ".ipynb":
        return path.read_text(encoding="utf-8"), set()
    notebook = nbformat.read(path, as_version=4)
    figures = {cell.metadata.get("mystnb", {}).get("figure", {}).get("name") for cell in notebook.cells}
    return markdown(notebook), figures - {None}


def anchors(text):
    """What `#...` can name on a page: its headings, as the renderer shortens them."""
    found = []
    for _, title in headings(text):
        slug = slugify(title)
        repeated = sum(re.fullmatch(rf"{re.escape(slug)}(-\d+)?", other) is not None for other in found)
        found.append(f"{slug}-{repeated}" if repeated else slug)
    return set(found)


def labels(text, figures=()):
    """What roles can name on a page: `(label)=`, names and labels of directives, figures drawn by cells."""
    named = {d.options[key] for d in directives(text) for key in ("name", "label") if key in d.options}
    return {token.content for token in tokens(text) if token.type == "myst_target"} | named | set(figures)


def links(text):
    """(kind, target) of what a page points to: "link", "picture", or the name of a role."""
    for token in inline(text):
        if token.type == "link_open":
            yield "link", token.attrs["href"]
        elif token.type == "image":
            yield "picture", token.attrs["src"]
        elif token.type == "myst_role":
            yield token.meta["name"], re.sub(r"^.*<([^>]+)>$", r"\1", token.content, flags=re.S).strip()
    yield from (("picture", d.argument) for d in directives(text) if d.name in ("figure", "image"))


def broken_links(pages, bibliography=""):
    """Every link, anchor, reference and citation that leads nowhere, over all pages of a book.

    Args:
        pages: the paths of the pages.
        bibliography: the text of the BibTeX file.
    """
    read = {path.resolve(): read_page(path) for path in pages}
    every_label = set().union(*(labels(*page) for page in read.values()))
    keys = set(re.findall(r"^@\w+\{([^,\s]+),", bibliography, re.M))

    def leads_nowhere(path, kind, target):
        if kind in ("link", "picture"):
            file, _, anchor = target.partition("#")
            page = (path.parent / file).resolve() if file else path
            known = anchors(read[page][0]) | every_label if page in read else set()
            outside = re.match(r"(https?|mailto):", target)
            return not outside and (not page.exists() or (anchor and anchor not in known))
        if kind.startswith("cite"):
            return not {key.strip() for key in target.split(",")} <= keys
        if kind == "doc":
            return not any((path.parent / (target + end)).exists() for end in (".ipynb", ".md"))
        return kind in ("ref", "numref", "eq") and target not in every_label

    return [
        f"{path.name}: {kind} to {target}"
        for path, (text, _) in read.items()
        for kind, target in links(text)
        if leads_nowhere(path, kind, target)
    ]


def book_pages(root):
    """The pages of the book: notebooks and Markdown files of `book/`."""
    return sorted(path for path in Path(root, "book").iterdir() if path.suffix in (".ipynb", ".md"))
