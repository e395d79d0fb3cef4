"""Where the chapters use which name of TensorFlow: found in the cells, so that the index page has nothing to keep."""

import ast
import re
from collections import Counter, defaultdict
from pathlib import Path

import nbformat

from book._ext.outputs import syntax

# Options and methods that people look for by their own name.
OTHERS = re.compile(
    r"\b(use_locking|container|allow_soft_placement|device_filters|log_device_placement|make_callable|partial_run"
    r"|operation_timeout_in_ms|timeout_in_ms|replicas_to_aggregate|total_num_replicas|local_init_op"
    r"|ready_for_local_init_op|recovery_wait_secs|max_wait_secs|intra_op_parallelism_threads"
    r"|inter_op_parallelism_threads|allow_growth|per_process_gpu_memory_fraction|CUDA_VISIBLE_DEVICES|global_step"
    r"|should_stop|request_stop|start_queue_runners|prepare_or_wait_for_session|get_chief_queue_runner"
    r"|get_init_tokens_op|make_session_run_hook|server\.join|server\.target)\b"
)
UNREMARKABLE = re.compile(r"tf\.(u?int\d+|float\d+|bool|newaxis|logging\.\w+)$")
MOST = 4  # sections for each name


def used(source):
    """The names of TensorFlow that a cell uses, whole: ``tf.train.Server``, and options by their own names."""
    tree, chains = syntax(source), set()
    for node in ast.walk(tree):
        parts = []
        while isinstance(node, ast.Attribute):
            parts.append(node.attr)
            node = node.value
        if parts and isinstance(node, ast.Name) and node.id == "tf":
            chains.add(".".join(["tf", *reversed(parts)]))
    whole = {name for name in chains if not any(other.startswith(f"{name}.") for other in chains)}
    return {name for name in whole if not UNREMARKABLE.match(name)} | set(OTHERS.findall(source if tree.body else ""))


def sections(folder):
    """``{name: [(page's title, section's title, page's file), ...]}`` of all notebooks, those with most cells first."""
    found, titles = defaultdict(Counter), {}
    for path in sorted(Path(folder).glob("*.ipynb")):
        heading = None
        for cell in nbformat.read(path, as_version=4).cells:
            if cell.cell_type == "markdown":
                for level, title in re.findall(r"^(#{1,3}) +(.+?) *$", cell.source, re.M):
                    if level == "#":
                        titles[path.name] = title
                    heading = title
            else:
                for name in used(cell.source):
                    found[name][path.name, heading] += 1
    index = {}
    for name, places in found.items():
        chapters = [place for place in places if not re.match(r"(Exercise|Question) \d", place[1])]
        ranked = sorted(chapters or places, key=lambda place: -places[place])[:MOST]
        index[name] = [(titles[page], title, page) for page, title in ranked]
    return dict(sorted(index.items(), key=lambda item: item[0].lower()))
