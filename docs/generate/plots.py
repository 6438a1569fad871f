"""A hook of MkDocs: the plots of ``examples/reproduce/results/`` as ``results/plots/SCALE-NAME.png`` of the site."""

from __future__ import annotations

from pathlib import Path

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files

RESULTS = Path(__file__).resolve().parent.parent.parent / "examples" / "reproduce" / "results"


def on_files(files: Files, config: MkDocsConfig) -> Files:
    for plot in sorted(RESULTS.glob("*/*.png")):
        uri = f"results/plots/{plot.parent.name}-{plot.name}"
        files.append(File.generated(config, uri, abs_src_path=str(plot)))
    return files
