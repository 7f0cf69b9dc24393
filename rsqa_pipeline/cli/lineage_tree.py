"""A lineage as a tree for the terminal."""

from __future__ import annotations

from rich.text import Text
from rich.tree import Tree

from rsqa_pipeline.lineage.trace import TraceNode


def lineage_tree(root: TraceNode, title: str | None = None) -> Tree:
    """The node and all above it; a version that was shown already is named again but not unfolded again."""
    tree = Tree(title) if title else Tree(_label(root))
    shown: set[tuple[str, str]] = set()
    _grow(tree.add(_label(root)) if title else tree, root, shown)
    return tree


def _grow(branch: Tree, node: TraceNode, shown: set[tuple[str, str]]) -> None:
    shown.add((node.name, node.version))
    for below in node.inputs:
        again = (below.name, below.version) in shown
        twig = branch.add(_label(below) + Text(" (see above)" if again and below.inputs else "", "dim"))
        if not again:
            _grow(twig, below, shown)


def _label(node: TraceNode) -> Text:
    colour = "green" if node.on_disk == "matches" else "red"
    run = node.details.get("run", {})
    facts = [f"code {node.details['code_version'][:8]}"] if "code_version" in node.details else []
    facts += [f"git {run['git_commit'][:8]}"] if "git_commit" in run else []
    facts += [f"mlflow {run['mlflow_run'][:8]}"] if "mlflow_run" in run else []
    return Text.assemble(
        (node.name, "bold"), f" {node.version} ", (str(node.on_disk), colour), (f" {' '.join(facts)}", "dim")
    )
