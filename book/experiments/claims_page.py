"""Write the scorecard's page, book/claims.md, from the stored results: ``python -m book.experiments.claims_page``."""

import json
import sys

from mdit_py_plugins.anchors.index import slugify

from book.experiments.blocks import FOLDER
from book.experiments.scorecard import FILES, load_all, scorecard
from book.experiments.significance import OUT_OF_REACH

PAGE = FOLDER.parent / "claims.md"
MARK = {"reproduced": "✓", "not reproduced": "✗", "out of reach": "○"}

HEAD = """\
# Claims, and what came of them

% Made by `python -m book.experiments.claims_page` from book/experiments: edit that, not this.

This page puts to the test what the classic text, papers and manuals say about parameter servers, as far as one machine
can. None of it is typed by hand: a command makes the page from the stored results of repeated experiments (`make
experiments`), and a test compares the two.

Each claim says that something is larger, smaller or the same. The two sides of a comparison are measured one after the
other in the same block, in ten blocks; each block gives one ratio. A sign-flip test counts exactly how often chance
alone would bring ratios as far from 1 ({doc}`async_or_sync` explains it). That share, $p$, is corrected for the number
of claims with Holm's method. A claim whose blocks all agree has the smallest corrected $p$ that ten blocks allow for
SOMANY claims, SMALLEST. It says how sure the direction is, and not how large the difference is.

- A claim is *reproduced* if all of its comparisons come out as claimed and the corrected $p$ of the weakest is below
  0.05.
- A claim is *not reproduced* if, with this small network and these few processes, the comparisons show the opposite, or
  show nothing. The line says which. It does not mean that the claim is wrong where it was made.
- A claim is *out of reach* if one machine cannot test it.

"""


def cited(source):
    """A link to the heading of a source on the references page."""
    return f"[{source}](references.md#{slugify(source)})"


def page(rows, environments):
    """The page's text, for the scorecard's rows and the environments of the experiments (a dict each)."""
    tested = sum(row["verdict"] != OUT_OF_REACH for row in rows)
    head = HEAD.replace("SOMANY", str(tested)).replace("SMALLEST", f"{tested * 2 / 2**10:.3f}")
    lines = [head, "## At a glance\n\n| | claim | source |\n|---|---|---|\n"]
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
