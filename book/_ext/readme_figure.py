"""Draw the picture of the README and of the book's first page, from a made-up cluster: the classic listing's."""

from pathlib import Path
from types import SimpleNamespace

from mnistdist.cluster.network import listing_addresses
from mnistdist.diagrams import cluster_diagram

TARGET = Path(__file__).resolve().parents[2] / "book" / "_static" / "cluster.svg"


def draw(path=TARGET):
    """Write the picture to ``path`` as SVG, the same bytes each time."""
    import matplotlib as mpl

    tasks = [
        SimpleNamespace(job=job, index=index, address=address, device="core" if job == "worker" else "any core")
        for job, addresses in listing_addresses(1, 2).items()
        for index, address in enumerate(addresses)
    ]
    with mpl.rc_context({"svg.hashsalt": "mnistdist", "svg.fonttype": "path"}):
        cluster_diagram(tasks).savefig(path, format="svg", metadata={"Date": None, "Creator": None})


if __name__ == "__main__":
    draw()
