"""A model file looked at in one call, as tests do it."""

from __future__ import annotations

from pathlib import Path

from sau_adapters.models import OpenedModel, locate, open_model
from sau_cli.inspection.file_facts import FileFacts


def file_facts(path: Path) -> FileFacts:
    """What a model file is."""
    return open_model(locate(path)).facts


def read_checkpoint(path: Path) -> OpenedModel:
    """A model whose weights and description are there; raises what keeps them from being so."""
    opened = open_model(locate(path))
    _ = opened.state, opened.description, opened.network
    return opened
