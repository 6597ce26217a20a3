"""Runs the notebooks and compares their two forms; or writes the .ipynb files anew from the .py files.

    python -m experiments.notebooks.check            # runs all, changes no file
    python -m experiments.notebooks.check --write    # runs all and stores what they print and draw

The .py form (jupytext, "percent" cells) is the one to edit. NOTEBOOK_SCALE scales the steps that they train.
"""

import argparse
import concurrent.futures
import os
import re
import sys
import tempfile
import time
from pathlib import Path

import jupytext
import nbformat
from nbclient import NotebookClient
from nbformat import NotebookNode

FOLDER = Path(__file__).parent
#: Larger ones are not shown by code-hosting sites.
LARGEST = 1_000_000
#: What must not be in an output: absolute paths of the machine that ran it.
PATHS = re.compile(r"(?<![\w.:/])/(?:home|root|tmp|usr|opt|work|Users|private|var)/\w")


def names() -> list[str]:
    """The notebooks, by name."""
    return sorted(path.stem for path in FOLDER.glob("*.ipynb"))


def source(name: str) -> NotebookNode:
    """The notebook as its .py form has it, without outputs; cells are numbered, so that ids do not change."""
    notebook = jupytext.read(FOLDER / f"{name}.py")
    for number, cell in enumerate(notebook.cells):
        cell.id = f"cell-{number}"
    return notebook


def execute(notebook: NotebookNode) -> NotebookNode:
    """Runs every cell in a fresh kernel and an empty folder."""
    with tempfile.TemporaryDirectory() as folder:
        client = NotebookClient(
            notebook,
            timeout=1800,
            kernel_name="python3",
            record_timing=False,
            resources={"metadata": {"path": folder}},
        )
        client.execute()
    return notebook


def problems(name: str) -> list[str]:
    """What is wrong with the committed files, as sentences."""
    path = FOLDER / f"{name}.ipynb"
    committed = nbformat.read(path, as_version=4)
    found = []
    cells = [[(cell.cell_type, cell.source) for cell in n.cells] for n in (committed, source(name))]
    if cells[0] != cells[1]:
        found.append(f"{name}.ipynb and {name}.py differ: run with --write {name}")
    if path.stat().st_size > LARGEST:
        found.append(f"{name}.ipynb has {path.stat().st_size} bytes, more than {LARGEST}")
    for cell in committed.cells:
        for output in cell.get("outputs", []):
            if output.output_type == "error" or output.get("name") == "stderr":
                found.append(f"{name}.ipynb shows an error or a warning: {str(output)[:200]}")
            text = {k: v for k, v in output.get("data", {}).items() if not k.startswith("image/")}
            if match := PATHS.search(f"{output.get('text', '')} {text}"):
                found.append(f"{name}.ipynb shows a path of the machine that ran it: {match[0]}...")
    return found


def run(name: str, write: bool) -> list[str]:
    """Runs one notebook; returns what is wrong."""
    start = time.perf_counter()
    notebook = execute(source(name))
    print(f"{name}: {time.perf_counter() - start:.0f} seconds", flush=True)
    if write:
        nbformat.write(notebook, FOLDER / f"{name}.ipynb")
    return problems(name)


def main() -> int:
    """Runs the notebooks named on the command line, or all."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("names", nargs="*", help="notebooks, without .py; all if none")
    parser.add_argument("--write", action="store_true", help="store the outputs in the .ipynb")
    arguments = parser.parse_args()
    chosen = arguments.names or names()
    # Side by side where no time is measured: most of it is compiling.
    workers = 1 if arguments.write else os.cpu_count()
    with concurrent.futures.ThreadPoolExecutor(workers) as pool:
        found = [
            line for lines in pool.map(lambda n: run(n, arguments.write), chosen) for line in lines
        ]
    for line in found:
        print(line, file=sys.stderr)
    return bool(found)


if __name__ == "__main__":
    sys.exit(main())
