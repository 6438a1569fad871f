"""Models of the hub, fetched into its cache when a user asks for it: their weights, and what describes them.

A pickle is never fetched, and neither is code.
"""

from __future__ import annotations

import errno
import logging
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from sau_adapters.zoos.folders import INDEX, ONNX_WITHIN, SAFETENSORS
from sau_adapters.zoos.names import hub_name
from sau_cli.errors import Interrupted, NotEvaluable, UsageError, argument, reason_of

DESCRIBING = ("config.json", "preprocessor_config.json")
PICKLES = (".bin", ".pt", ".pth", ".ckpt", ".pkl", ".tar")
BESIDE_ONNX = ("_data", ".data")
"""What is put behind the name of an ONNX file for that of the file in which it keeps tensors."""
FILES_SHOWN = 3


@dataclass(frozen=True, slots=True, kw_only=True)
class HubFiles:
    """What is to be fetched of a repository.

    Attributes:
        model: as the user named it.
        revision: a branch, a tag or a commit; None for the main branch.
        commit: what that is now.
        sizes: bytes of each file; None where the hub does not tell.
    """

    model: Path
    repository: str
    revision: str | None
    commit: str
    sizes: Mapping[str, int | None]

    @property
    def size(self) -> int:
        """Bytes of all of them together."""
        return sum(size or 0 for size in self.sizes.values())


def files_on_hub(model: Path) -> HubFiles:
    """Ask the hub what there is of a model, and choose what is to be fetched.

    Raises:
        UsageError: no such repository or revision, a name that is none, or the hub must not be asked.
        NotEvaluable: nothing that is safe to fetch, no way to the hub, or no right to read.
    """
    repository, revision = hub_name(model)
    with _answering(model, repository, revision):
        from huggingface_hub import HfApi

        info = HfApi().model_info(repository, revision=revision, files_metadata=True)
    sizes = {sibling.rfilename: sibling.size for sibling in info.siblings or ()}
    chosen = _chosen(model, repository, tuple(sizes))
    return HubFiles(
        model=model,
        repository=repository,
        revision=revision,
        commit=str(info.sha),
        sizes={name: sizes[name] for name in chosen},
    )


def fetch(files: HubFiles, *, progress: bool) -> None:
    """Fetch what is not in the cache yet, one file after another, so that it can be stopped.

    Args:
        progress: show bars on standard error.

    Raises:
        UsageError, NotEvaluable: as :func:`files_on_hub`; the disk is full, or the model changed meanwhile.
        Interrupted: files that are whole are kept.
    """
    from huggingface_hub import hf_hub_download

    with _answering(files.model, files.repository, files.revision), _bars(shown=progress):
        for name in files.sizes:
            path = Path(hf_hub_download(files.repository, name, revision=files.revision))
            if files.commit not in path.parts:
                raise NotEvaluable(
                    f"{files.model} was changed on the hub while it was fetched; run the same command again"
                )


def _chosen(model: Path, repository: str, names: tuple[str, ...]) -> tuple[str, ...]:
    """The weights that would be opened, and what describes them; a smaller file comes first."""
    weights = _weights(model, repository, [name for name in names if not {"/", "\\"}.intersection(name)])
    if not weights and ONNX_WITHIN in names:
        weights = _with_tensors(ONNX_WITHIN, names)
    if weights:
        return (*(name for name in DESCRIBING if name in names), *weights)
    pickles = [name for name in names if name.endswith(PICKLES)]
    if pickles:
        raise NotEvaluable(
            f"{model} has its weights only as pickles ({', '.join(pickles[:FILES_SHOWN])}), which can hold code and "
            f"are never fetched; ask for safetensors, or get one at your own risk with hf download {repository} "
            f"{pickles[0]}, and give the file"
        )
    raise NotEvaluable(
        f"{model} has no weights that sau reads: neither safetensors nor ONNX; ask its makers, or give another model"
    )


def _weights(model: Path, repository: str, names: list[str]) -> tuple[str, ...]:
    tensors = [name for name in names if name.endswith(".safetensors")]
    if SAFETENSORS in tensors:
        return (SAFETENSORS,)
    if INDEX in names:
        return (INDEX, *tensors)
    several = tensors or [name for name in names if name.endswith(".onnx")]
    if len(several) > 1:
        raise UsageError(
            f"{model} has several models ({', '.join(several[:FILES_SHOWN])}); get the one that you mean with "
            f"hf download {repository} {several[0]}, and give the file"
        )
    return tuple(tensors) or tuple(file for name in several for file in _with_tensors(name, names))


def _with_tensors(onnx: str, names: list[str] | tuple[str, ...]) -> tuple[str, ...]:
    return (onnx, *(onnx + ending for ending in BESIDE_ONNX if onnx + ending in names))


@contextmanager
def _answering(model: Path, repository: str, revision: str | None) -> Iterator[None]:
    """Around asking the hub: whatever goes wrong there is one sentence."""
    from huggingface_hub import errors

    try:
        yield
    except (UsageError, NotEvaluable):
        raise
    except KeyboardInterrupt as error:
        raise Interrupted(
            f"interrupted while {model} was fetched; files that are whole are kept, and the same command goes on"
        ) from error
    except errors.GatedRepoError as error:
        raise NotEvaluable(
            f"{model} is gated; accept its terms on the page of the model, and set HF_TOKEN to a token of that account"
        ) from error
    except errors.RevisionNotFoundError as error:
        raise UsageError(
            f"{repository} has no revision {revision or 'main'!r} on the hub; give a branch, a tag or a commit of it"
        ) from error
    except errors.RepositoryNotFoundError as error:
        raise UsageError(
            f"the hub has no {repository}, or it is private; check the name, or set HF_TOKEN to a token that may read"
        ) from error
    except errors.HFValidationError as error:
        raise UsageError(f"{model} is no name of a model on the hub; give hf-hub:ORG/NAME") from error
    except Exception as error:  # its client of HTTP is another in each version, and so are that one's errors
        raise _explained(model, error) from error


def _explained(model: Path, error: Exception) -> UsageError | NotEvaluable:
    """What went wrong on the way to the hub, or on the disk."""
    from huggingface_hub import errors

    causes: list[BaseException] = [error]
    while (cause := causes[-1].__cause__ or causes[-1].__context__) is not None and cause not in causes:
        causes.append(cause)
    if any(isinstance(cause, errors.OfflineModeIsEnabled) for cause in causes):
        return UsageError(
            f"{model} cannot be fetched, as HF_HUB_OFFLINE forbids it; "
            f"unset that, or leave {argument('download')} out to take "
            "what this machine's cache has"
        )
    full = next(
        (cause for cause in causes if isinstance(cause, OSError) and cause.errno in {errno.ENOSPC, errno.EDQUOT}), None
    )
    if full is not None:
        return UsageError(
            f"{model} cannot be fetched, as the disk is full; make room, or set HF_HOME to another place, and run the "
            "same command again: files that are whole are kept"
        )
    status = next((cause.response.status_code for cause in causes if isinstance(cause, errors.HfHubHTTPError)), None)
    if status in {401, 403}:
        return NotEvaluable(f"the hub refuses {model} ({status}); set HF_TOKEN to a token that may read it")
    if status is not None:
        return NotEvaluable(f"the hub answers {status} for {model}; try again later")
    unwritable = (PermissionError, FileExistsError, NotADirectoryError)
    denied = next((cause for cause in causes if isinstance(cause, unwritable)), None)
    if denied is not None:
        return UsageError(
            f"{model} cannot be kept ({reason_of(denied)}); set HF_HOME to a place that can be written to"
        )
    return NotEvaluable(
        f"the hub cannot be reached for {model} ({reason_of(causes[-1])}); "
        f"check the network, or leave {argument('download')} out "
        "to take what this machine's cache has"
    )


@contextmanager
def _bars(*, shown: bool) -> Iterator[None]:
    """The hub's own bars of progress, or none; what it logs is left out."""
    from huggingface_hub.utils.tqdm import are_progress_bars_disabled, disable_progress_bars, enable_progress_bars

    log = logging.getLogger("huggingface_hub")
    level, hidden = log.level, are_progress_bars_disabled()
    with warnings.catch_warnings(action="ignore"):
        try:
            log.setLevel(logging.ERROR)
            if not shown:
                disable_progress_bars()
            yield
        finally:
            log.setLevel(level)
            if not shown and not hidden:
                enable_progress_bars()
