"""Shows files from outside of docs/ on the site: results with their pictures, notebooks, pages of the top level.

A page links them where they lie in the repository, as `../experiments/results/stability.md`, so that the link works in
a checkout too. On the site the repository's root lies at docs/: such a link loses one `../`.
"""

import re
from pathlib import Path
from typing import Any

from mkdocs.structure.files import File, Files

ROOT = Path(__file__).parent.parent
#: What pages may link, as patterns from the repository's root.
SHOWN = (
    "CHANGELOG.md",
    "CONTRIBUTING.md",
    "CITATION.cff",
    "experiments/launch/README.md",
    "experiments/notebooks/*.ipynb",
    "experiments/results/**/*.md",
    "experiments/results/**/*.png",
    "experiments/results/**/*.json",
)


def on_files(files: Files, config: Any) -> Files:
    """Adds the shown files to the site.

    Args:
        files: those of docs/.
        config: of mkdocs.
    """
    for pattern in SHOWN:
        for path in sorted(ROOT.glob(pattern)):
            name = path.relative_to(ROOT).as_posix()
            files.append(File.generated(config, name, abs_src_path=str(path)))
    return files


def on_page_markdown(markdown: str, page: Any, **_: Any) -> str:
    """The page with its links out of docs/ pointing to where the site has what they mean.

    Args:
        markdown: of the page.
        page: of mkdocs; pages from outside of docs/ link each other as they are.
    """
    if page.file.generated_by is not None:
        return markdown
    out = "../" * (page.file.src_uri.count("/") + 1)
    return re.sub(rf"(\]\(){re.escape(out)}(?!\.\./)", rf"\1{out[3:]}", markdown)
