"""Write the scorecard's page, book/claims.md, from the stored results: ``python -m book.experiments.claims_page``."""

import json
import re
import sys

from book.experiments.blocks import FOLDER
from book.experiments.scorecard import FILES, load_all, scorecard

PAGE = FOLDER.parent / "claims.md"
MARK = {"reproduced": "✓", "not reproduced": "✗", "out of reach": "○"}

HEAD = """\
# Claims, and what came of them

% Made by `python -m book.experiments.claims_page` from book/experiments: edit that, not this.

What the classic text, papers and manuals say about parameter servers, each put to the test as far as one machine can.
Nothing on this page is typed: a command makes it from the stored results of repeated experiments (`make
experiments`), and a test compares the two.

A claim says that something is larger, smaller or the same. What is compared is measured in the same block, one after
the other, in ten blocks; each block gives a ratio. How often chance alone would bring ratios as far from 1 is counted
exactly (a sign-flip test; with five blocks it could never call a difference significant: {doc}`async_or_sync`), and
corrected for the number of claims (Holm). A claim of several comparisons counts as *reproduced* only if all of them
come out as claimed and the corrected $p$ of the weakest is below 0.05.
*Not reproduced* means that here, with a small network and few processes, it did not come out so, or that the opposite
did: the line says which. It does not mean that the claim is wrong where it was made.

"""


def cited(source):
    """A link to a source on the references page; its anchor is what Markdown makes of the heading."""
    return f"[{source}](references.md#{re.sub(r'[^a-z0-9 -]', '', source.lower()).replace(' ', '-')})"


def page(rows, environments):
    """The page's text, for the scorecard's rows and the environments of the experiments (a dict each)."""
    lines = [HEAD, "## At a glance\n\n| | claim | source |\n|---|---|---|\n"]
    lines += [f"| {MARK[row['verdict']]} | {row['claim']} | {cited(row['source'])} |\n" for row in rows]
    counts = {verdict: sum(row["verdict"] == verdict for row in rows) for verdict in MARK}
    lines.append(f"\n{'; '.join(f'{MARK[verdict]} {verdict}: {count}' for verdict, count in counts.items())}.\n")
    lines.append("\n## One by one\n")
    for row in rows:
        lines.append(f"\n**{row['claim']}** ({cited(row['source'])})\n\n")
        lines += [f"- {name}: {row[key]}\n" for name, key in (("Theirs", "theirs"), ("Ours", "ours"))]
        lines.append(f"- {MARK[row['verdict']]} *{row['verdict'].capitalize()}*: {row['why']}\n")
    lines.append("\n## Where this was measured\n\n| | |\n|---|---|\n")
    for name in environments[0]:
        values = dict.fromkeys(environment[name] for environment in environments)
        lines.append(f"| {name} | {' / '.join(values)} |\n")
    return "".join(lines)


def main():
    """Write the page; returns the exit status."""
    PAGE.write_text(page(*from_results()), encoding="utf-8")
    print(PAGE.relative_to(FOLDER.parents[1]))
    return 0


def from_results():
    """The scorecard's rows, and the environment of each file of results."""
    stamps = [json.loads(path.read_text(encoding="utf-8"))["environment"] for path in FILES]
    return scorecard(load_all()), stamps


if __name__ == "__main__":
    sys.exit(main())
