"""Architectures by name: ours, timm's, torchvision's, and a user's own class."""

from __future__ import annotations

import difflib
import importlib.util
import inspect
import sys
import warnings
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sau_adapters.architecture_index import prefixes
from sau_cli.errors import NotEvaluable, UsageError, reason_of

if TYPE_CHECKING:
    from torch import Tensor, nn

    from sau_cli.description import InputSpec


COUNTER = "num_batches_tracked"
"""A counter of batch norm that nothing depends on; files from before torch 0.4.1 lack it."""


def canonical_name(name: str) -> str:
    """The one name that an architecture is stored under.

    A bare name is looked for among ours, then timm's, then torchvision's; ``timm:NAME`` and
    ``torchvision:NAME`` say which; ``FILE.py:CLASS`` is a user's own.

    Raises:
        UsageError: no such architecture; the sentence names the nearest.
    """
    from sau_adapters.cifar_networks import CIFAR_NETWORKS

    if _is_user_class(name):
        return name
    zoo, _, bare = name.rpartition(":")
    if zoo not in {"", "timm", "torchvision"}:
        raise UsageError(f"architecture {name!r} is unknown; give NAME, timm:NAME, torchvision:NAME or FILE.py:CLASS")
    if not zoo and bare in CIFAR_NETWORKS:
        return bare
    import timm

    if zoo in {"", "timm"} and timm.is_model(bare):
        return f"timm:{bare}"
    from torchvision import models

    zoo_names = models.list_models(module=models)
    if zoo in {"", "torchvision"} and bare in zoo_names:
        return f"torchvision:{bare}"
    known = [*CIFAR_NETWORKS, *timm.list_models(), *zoo_names]
    near = difflib.get_close_matches(bare, known, n=3)
    hint = f"did you mean {' or '.join(near)}?" if near else "see --help for where names come from"
    raise UsageError(f"architecture {name!r} is unknown; {hint}")


def stored_name(name: str) -> str:
    """What a file may say of its architecture: a user's class without the path, since files never name code to run."""
    return f"user:{name.rpartition(':')[2]}" if _is_user_class(name) else name


def build(name: str, *, classes: int, spec: InputSpec) -> nn.Module:
    """A network with fresh weights, by its canonical name. Nothing is downloaded.

    Raises:
        UsageError: an unknown name, or one that cannot take such images.
    """
    from sau_adapters.cifar_networks import CIFAR_NETWORKS

    if _is_user_class(name):
        return _build_user_class(name, classes=classes, channels=spec.channels)
    zoo, _, bare = canonical_name(name).rpartition(":")
    if zoo == "":
        return CIFAR_NETWORKS[bare](classes, spec.channels)
    if zoo == "timm":
        return _build_timm(bare, classes=classes, spec=spec)
    from torchvision import models

    if spec.channels != 3:
        raise UsageError(f"torchvision's {bare} takes 3 channels but the images have {spec.channels}; use timm:{bare}")
    network: nn.Module = models.get_model(bare, weights=None, num_classes=classes)
    return network


def told_sizes(name: str, state: Mapping[str, Tensor], *, height: int, width: int) -> tuple[int | None, int | None]:
    """The class and channel counts that weights tell, by the tensors whose shape depends on them.

    The architecture is built without memory for one and for another count; where a shape differs
    between the two, the weights have the count in that place. The order of tensors plays no part.
    None where no tensor depends on the count, or one is missing from the weights.

    Raises:
        UsageError: an unknown architecture.
    """
    probe = partial(_probe_shapes, name, height=height, width=width)
    some = probe(classes=11, channels=3)
    return _count_from(some, probe(classes=13, channels=3), state), _count_from(
        some, probe(classes=11, channels=1), state
    )


def own_prefix(name: str, state: Mapping[str, Tensor], *, height: int, width: int) -> str:
    """What all names of the weights begin with beside the architecture's own, such as ``module.``; often nothing."""
    possible = prefixes(state)
    if len(possible) == 1:
        return ""
    own = _probe_shapes(name, classes=11, channels=3, height=height, width=width).keys()
    common = [sum(key.removeprefix(prefix) in own for key in state) for prefix in possible]
    return possible[common.index(max(common))]


def all_alike(names: Sequence[str], state: Mapping[str, Tensor], *, classes: int, spec: InputSpec) -> bool:
    """Whether these architectures compute the same from the same weights, on random images."""
    import torch

    from sau_cli.model_state import evaluating

    images = torch.rand(2, spec.channels, spec.height, spec.width, generator=torch.Generator().manual_seed(0))
    said = []
    for name in names:
        try:
            network = build(name, classes=classes, spec=spec)
            load_state(network, state, architecture=name)
            with evaluating(network), torch.no_grad():
                said.append(network(images))
        except (NotEvaluable, UsageError, RuntimeError):
            return False
    return all(torch.allclose(one, said[0], rtol=1e-4, atol=1e-5) for one in said)


def load_state(network: nn.Module, state: Mapping[str, Tensor], *, architecture: str) -> None:
    """Load by name, every tensor or none.

    Raises:
        NotEvaluable: keys are missing, left over or of another shape; the first of each is named.
    """
    own = network.state_dict()
    _compare({key: tuple(tensor.shape) for key, tensor in own.items()}, state, architecture)
    counters = {key: tensor for key, tensor in own.items() if key.endswith(COUNTER)}
    whole = OrderedDict(counters | dict(state))
    # Versions of layers, which torch keeps beside the tensors and safetensors cannot; some networks ask for them.
    whole._metadata = getattr(own, "_metadata", None)  # type: ignore[attr-defined]  # noqa: SLF001
    network.load_state_dict(whole)


def check_state(name: str, state: Mapping[str, Tensor], *, classes: int, spec: InputSpec) -> None:
    """Compare weights with an architecture before it takes any memory, where its code allows that.

    Raises:
        NotEvaluable: as :func:`load_state`.
    """
    if _is_user_class(name):
        return
    own = _shapes_on("meta", name, classes=classes, spec=spec)
    if own:
        _compare(own, state, name)


def _compare(own: Mapping[str, tuple[int, ...]], state: Mapping[str, Tensor], architecture: str) -> None:
    missing = [key for key in own if key not in state and not key.endswith(COUNTER)]
    extra = [key for key in state if key not in own]
    unlike = [key for key in own if key in state and own[key] != tuple(state[key].shape)]
    if missing or extra or unlike:
        parts = []
        if missing:
            parts.append(f"{len(missing)} tensors are missing (first {missing[0]!r})")
        if extra:
            parts.append(f"{len(extra)} have no place (first {extra[0]!r})")
        if unlike:
            key = unlike[0]
            parts.append(
                f"{len(unlike)} have another shape (first {key!r}: {tuple(state[key].shape)} "
                f"in the file, {own[key]} in the network)"
            )
        raise NotEvaluable(f"the weights do not fit {architecture}: {'; '.join(parts)}; give the right --arch")


def _probe_shapes(name: str, *, classes: int, channels: int, height: int, width: int) -> dict[str, tuple[int, ...]]:
    """Shapes of a network's tensors, without memory where its code allows; none where it cannot be built so."""
    from sau_cli.description import InputSpec

    spec = InputSpec(channels=channels, height=height, width=width, mean=(0.0,) * channels, std=(1.0,) * channels)
    # The second is for code that needs values while it builds.
    return _shapes_on("meta", name, classes=classes, spec=spec) or _shapes_on("cpu", name, classes=classes, spec=spec)


def _shapes_on(device: str, name: str, *, classes: int, spec: InputSpec) -> dict[str, tuple[int, ...]]:
    """Shapes of a network's tensors, built on this device; none where it cannot be built there."""
    import torch

    with suppress(UsageError, RuntimeError), torch.device(device), warnings.catch_warnings(action="ignore"):
        network = build(name, classes=classes, spec=spec)
        return {key: tuple(tensor.shape) for key, tensor in network.state_dict().items()}
    return {}


def _count_from(
    some: Mapping[str, tuple[int, ...]], other: Mapping[str, tuple[int, ...]], state: Mapping[str, Tensor]
) -> int | None:
    for key in some.keys() & other.keys():
        place = next((at for at, (one, two) in enumerate(zip(some[key], other[key], strict=False)) if one != two), None)
        if place is not None and key in state and state[key].ndim == len(some[key]):
            return int(state[key].shape[place])
    return None


def _is_user_class(name: str) -> bool:
    return ".py:" in name


def _build_user_class(name: str, *, classes: int, channels: int) -> nn.Module:
    """Run the user's own file and call the class, with ``num_classes`` and ``in_channels`` where it takes them."""
    from torch import nn

    file, _, wanted = name.rpartition(":")
    path = Path(file)
    spec = importlib.util.spec_from_file_location(path.stem, path)
    if not path.is_file() or spec is None or spec.loader is None:
        raise UsageError(f"--arch {name!r}: there is no file {file}; give FILE.py:CLASS")
    module = importlib.util.module_from_spec(spec)
    sys.modules[path.stem] = module
    try:
        spec.loader.exec_module(module)
    except (Exception, SystemExit) as error:
        reason = f"{type(error).__name__}: {reason_of(error)}"
        raise UsageError(f"--arch {name!r}: {file} could not be run ({reason}); repair it") from error
    made = getattr(module, wanted, None)
    if made is None:
        raise UsageError(f"--arch {name!r}: {file} has no {wanted}; give the name of a class in it")
    offered: dict[str, Any] = {"num_classes": classes, "in_channels": channels}
    try:
        accepted = inspect.signature(made).parameters
        network = made(**{key: value for key, value in offered.items() if key in accepted})
    except (Exception, SystemExit) as error:
        reason = f"{type(error).__name__}: {reason_of(error)}"
        raise UsageError(f"--arch {name!r}: calling {wanted} failed ({reason}); repair it") from error
    if not isinstance(network, nn.Module):
        raise UsageError(f"--arch {name!r}: {wanted} made no torch.nn.Module; give a class of one")
    return network


def _build_timm(bare: str, *, classes: int, spec: InputSpec) -> nn.Module:
    """Timm's network for this input; a fixed-size one (a ViT, say) is built at the size of the images."""
    import timm

    options: dict[str, Any] = {"pretrained": False, "num_classes": classes, "in_chans": spec.channels}
    try:
        try:
            network: nn.Module = timm.create_model(bare, img_size=(spec.height, spec.width), **options)
        except TypeError:
            network = timm.create_model(bare, **options)
    except (RuntimeError, ValueError, AssertionError, ZeroDivisionError, IndexError) as error:
        raise UsageError(
            f"timm's {bare} cannot be built for {spec.channels}x{spec.size} images ({reason_of(error)}); "
            "choose another --arch"
        ) from error
    return network
