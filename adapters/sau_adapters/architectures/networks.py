"""Architectures by name: ours, timm's, torchvision's, and a user's own class."""

from __future__ import annotations

import difflib
import inspect
import warnings
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from contextlib import suppress
from functools import partial
from math import prod
from typing import TYPE_CHECKING, Any

from sau_adapters.architectures.arguments import parted, with_arguments
from sau_adapters.architectures.state_names import Prefix, is_irrelevant, naming_for, prefixes, without
from sau_cli.errors import NotEvaluable, UsageError, argument, reason_of

if TYPE_CHECKING:
    from torch import Tensor, nn

from sau_adapters.user_code import is_user_class, user_class
from sau_cli.description import InputSpec


def canonical_name(name: str) -> str:
    """The one name that an architecture is stored under.

    A bare name is looked for among ours, then timm's, then torchvision's; ``timm:NAME`` and
    ``torchvision:NAME`` say which; ``FILE.py:CLASS`` is a user's own. Arguments that timm is to make the network with
    follow a question mark; those that change nothing are left out.

    Raises:
        UsageError: no such architecture; the sentence names the nearest.
    """
    from sau_adapters.architectures.cifar_networks import CIFAR_NETWORKS

    if is_user_class(name):
        return name
    name, arguments = parted(name)
    zoo, _, bare = name.rpartition(":")
    if zoo not in {"", "timm", "torchvision"}:
        raise UsageError(
            f"architecture {name[:100]!r} is unknown; give NAME, timm:NAME, torchvision:NAME or FILE.py:CLASS"
        )
    if not zoo and bare in CIFAR_NETWORKS:
        return bare
    import timm

    if zoo in {"", "timm"} and timm.is_model(bare):
        return with_arguments(f"timm:{bare}", _that_matter(bare, arguments))
    if arguments:
        raise UsageError(f"architecture {name!r} takes no arguments; leave out what follows the question mark")
    from torchvision import models

    zoo_names = models.list_models(module=models)
    if zoo in {"", "torchvision"} and bare in zoo_names:
        return f"torchvision:{bare}"
    known = [*CIFAR_NETWORKS, *timm.list_models(), *zoo_names]
    near = difflib.get_close_matches(bare, known, n=3)
    hint = f"did you mean {' or '.join(near)}?" if near else "give timm:NAME, torchvision:NAME or FILE.py:CLASS"
    raise UsageError(f"architecture {name!r} is unknown; {hint}")


def stored_name(name: str) -> str:
    """What a file may say of its architecture: a user's class without the path, since files never name code to run."""
    return f"user:{name.rpartition(':')[2]}" if is_user_class(name) else name


def build(name: str, *, classes: int, spec: InputSpec) -> nn.Module:
    """A network with fresh weights, by its canonical name. Nothing is downloaded.

    Raises:
        UsageError: an unknown name, or one that cannot take such images.
    """
    from sau_adapters.architectures.cifar_networks import CIFAR_NETWORKS

    if is_user_class(name):
        return _build_user_class(name, classes=classes, channels=spec.channels)
    known, arguments = parted(canonical_name(name))
    zoo, _, bare = known.rpartition(":")
    if zoo == "":
        return CIFAR_NETWORKS[bare](classes, spec.channels)
    if zoo == "timm":
        return _build_timm(bare, arguments, classes=classes, spec=spec)
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
    more, grey = probe(classes=13, channels=3), probe(classes=11, channels=1)
    return _count_from(some, more, state, (11, 13)), _count_from(some, grey, state, (3, 1))


def as_named(name: str, state: Mapping[str, Tensor], *, height: int, width: int) -> dict[str, Tensor]:
    """The weights under the architecture's own names, in the plainest way that gives it all of them and no other.

    Where no renaming does, and the architecture is timm's, its own loader's rule for weights of other makes is tried.
    """
    shapes = {key: tuple(tensor.shape) for key, tensor in state.items()}
    own = _probe_shapes(name, classes=11, channels=3, height=height, width=width)
    named = naming_for(own, shapes).applied(state) if own or len(prefixes(state)) > 1 else dict(state)
    if {key for key in named if not is_irrelevant(key)} != {key for key in own if not is_irrelevant(key)}:
        named = _by_loader_of_timm(name, named, own, height=height, width=width) or named
    return named


MUCH_LARGER = 2
"""A network of more than so many times the numbers of a file is none that the file holds under other names."""


def _by_loader_of_timm(
    name: str, state: Mapping[str, Tensor], own: Mapping[str, tuple[int, ...]], *, height: int, width: int
) -> dict[str, Tensor] | None:
    """What timm itself would make of weights with other names; None where it has no rule, or it does not help."""
    import sys

    import torch

    from sau_cli.devices import out_of_memory

    if not name.startswith("timm:") or not own:
        return None
    if sum(map(prod, own.values())) > MUCH_LARGER * sum(tensor.numel() for tensor in state.values()):
        return None  # nor is a network built that a few tensors could not be of
    spec = InputSpec(channels=3, height=height, width=width, mean=(0.0,) * 3, std=(1.0,) * 3)
    with warnings.catch_warnings(action="ignore"):
        try:
            network = build(name, classes=11, spec=spec)
        except UsageError:  # not for images of this size
            return None
        rule = getattr(sys.modules[type(network).__module__], "checkpoint_filter_fn", None)
        try:
            made = rule(dict(state), network) if rule else {}
        except _NOT_FOR_SUCH as error:
            if isinstance(error, RuntimeError) and out_of_memory(error):
                raise
            return None
    tensors = {key: value for key, value in made.items() if isinstance(value, torch.Tensor)}
    whole = {key for key in tensors if not is_irrelevant(key)} == {key for key in own if not is_irrelevant(key)}
    return tensors if whole else None


_NOT_FOR_SUCH = (LookupError, RuntimeError, ValueError, TypeError, AttributeError, AssertionError)
"""What a rule of timm raises for tensors whose names or shapes it does not know."""


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
    return all(torch.allclose(logits, said[0], rtol=1e-4, atol=1e-5) for logits in said)


def load_state(network: nn.Module, state: Mapping[str, Tensor], *, architecture: str) -> None:
    """Load by name, every tensor or none.

    Raises:
        NotEvaluable: keys are missing, left over or of another shape; the first of each is named.
    """
    own = network.state_dict()
    _compare({key: tuple(tensor.shape) for key, tensor in own.items()}, state, architecture)
    for key, tensor in state.items():
        if key in own and own[key].is_floating_point() and not tensor.is_floating_point():
            raise NotEvaluable(
                f"the weights hold {str(tensor.dtype).removeprefix('torch.')} values in {key[:100]!r}, where "
                f"{architecture} has real numbers; ask for weights that are not complex or quantised"
            )
    counters = {key: tensor for key, tensor in own.items() if is_irrelevant(key)}
    whole = OrderedDict(counters | {key: tensor for key, tensor in state.items() if key in own})
    # Versions of layers, which torch keeps beside the tensors and safetensors cannot; some networks ask for them.
    whole._metadata = getattr(own, "_metadata", None)  # type: ignore[attr-defined]  # noqa: SLF001
    network.load_state_dict(whole)


def check_state(name: str, state: Mapping[str, Tensor], *, classes: int, spec: InputSpec) -> None:
    """Compare weights with an architecture before it takes any memory, where its code allows that.

    Raises:
        NotEvaluable: as :func:`load_state`.
    """
    if is_user_class(name):
        return
    own = _shapes_on("meta", name, classes=classes, spec=spec)
    if own:
        _compare(own, state, name)


def _compare(own: Mapping[str, tuple[int, ...]], state: Mapping[str, Tensor], architecture: str) -> None:
    unlike = _differences(own, {key: tuple(tensor.shape) for key, tensor in state.items()})
    if unlike:
        raise NotEvaluable(
            f"the weights do not fit {architecture}: {unlike}; give the right "
            f"{argument('architecture')} or {argument('image_size')}"
        )


def _differences(own: Mapping[str, tuple[int, ...]], told: Mapping[str, tuple[int, ...]]) -> str:
    """What of a file's tensors does not fit a network's, in words; nothing where all do."""
    missing = [key for key in own if key not in told and not is_irrelevant(key)]
    extra = [key for key in told if key not in own and not is_irrelevant(key)]
    unlike = [(key, told[key], own[key]) for key in own if key in told and own[key] != told[key]]
    return differences(missing=missing, extra=extra, unlike=unlike)


def differences(
    *,
    missing: Sequence[str],
    extra: Sequence[str],
    unlike: Sequence[tuple[str, tuple[int, ...], tuple[int, ...]]],
) -> str:
    """What does not fit, in words; nothing where all does.

    Args:
        unlike: a tensor, its shape in the file and that in the network.
    """
    parts = []
    if missing:
        parts.append(f"{len(missing)} tensors are missing ({_some(missing)})")
    if extra:
        parts.append(f"{len(extra)} have no place ({_some(extra)})")
    if unlike:
        key, told, own = unlike[0]
        parts.append(
            f"{len(unlike)} have another shape (first {key[:100]!r}: {told} in the file, {own} in the network)"
        )
    return "; ".join(parts)


def _some(keys: Sequence[str]) -> str:
    return f"{'first ' if len(keys) > 3 else ''}{', '.join(repr(key[:100]) for key in keys[:3])}"


def explained(name: str, shapes: Mapping[str, tuple[int, ...]], prefix: Prefix, *, pixels: int) -> str:
    """Which of a file's tensors do not fit an architecture, in words; nothing where it cannot be built to see.

    Args:
        pixels: on a side, of the images that it is built for.
    """
    import torch

    bare = {without(key, prefix): shape for key, shape in shapes.items()}
    hollow = {key: torch.empty(shape, device="meta") for key, shape in bare.items()}
    classes, channels = told_sizes(name, hollow, height=pixels, width=pixels)
    own = _probe_shapes(name, classes=classes or 11, channels=channels or 3, height=pixels, width=pixels)
    return _differences(own, bare) if own else ""


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
    some: Mapping[str, tuple[int, ...]],
    other: Mapping[str, tuple[int, ...]],
    state: Mapping[str, Tensor],
    counts: tuple[int, int],
) -> int | None:
    """The count that weights have where a shape is one count in ``some`` and the other in ``other``.

    Shapes that only follow from the count, such as the width of a layer behind, tell nothing.
    """
    for key, shape in some.items():
        if key not in other or key not in state or len(other[key]) != len(shape) or state[key].ndim != len(shape):
            continue
        for place, sizes in enumerate(zip(shape, other[key], strict=True)):
            if sizes == counts:
                return int(state[key].shape[place])
    return None


def _build_user_class(name: str, *, classes: int, channels: int) -> nn.Module:
    """Call the user's own class, with ``num_classes`` and ``in_channels`` where it takes them."""
    from torch import nn

    made, wanted = user_class(name, named_by="architecture"), name.rpartition(":")[2]
    offered: dict[str, Any] = {"num_classes": classes, "in_channels": channels}
    try:
        accepted = inspect.signature(made).parameters
        network = made(**{key: value for key, value in offered.items() if key in accepted})
    except (Exception, SystemExit) as error:
        reason = f"{type(error).__name__}: {reason_of(error)}"
        raise UsageError(
            f"{argument('architecture')} {name!r}: calling {wanted} failed ({reason}); repair it"
        ) from error
    if not isinstance(network, nn.Module):
        raise UsageError(f"{argument('architecture')} {name!r}: {wanted} made no torch.nn.Module; give a class of one")
    return network


def _that_matter(bare: str, arguments: Mapping[str, Any]) -> dict[str, Any]:
    """Arguments without the pooling that the network has anyway, which timm writes into every folder."""
    import timm
    import torch

    kept = dict(arguments)
    if "global_pool" in kept:
        with torch.device("meta"), warnings.catch_warnings(action="ignore"), suppress(*_CANNOT_BUILD):
            network = timm.create_model(bare, pretrained=False)
            places = [network, getattr(network, "head", None), getattr(network, "global_pool", None)]
            places.append(getattr(places[1], "global_pool", None))
            own = {getattr(place, name, None) for place in places[:2] for name in ("global_pool", "pool_type")}
            own |= {getattr(place, "pool_type", None) for place in places}
            if kept["global_pool"] in own:
                del kept["global_pool"]
    return kept


_CANNOT_BUILD = (RuntimeError, ValueError, AssertionError, ZeroDivisionError, IndexError, KeyError)
"""What timm raises for sizes and arguments that a network cannot have."""


def _build_timm(bare: str, arguments: Mapping[str, Any], *, classes: int, spec: InputSpec) -> nn.Module:
    """Timm's network for this input; a fixed-size one (a ViT, say) is built at the size of the images."""
    import timm

    options: dict[str, Any] = {"pretrained": False, "num_classes": classes, "in_chans": spec.channels, **arguments}
    try:
        try:
            network: nn.Module = timm.create_model(bare, img_size=(spec.height, spec.width), **options)
        except TypeError:
            network = timm.create_model(bare, **options)
    except TypeError as error:
        if not arguments:
            raise
        raise UsageError(
            f"timm's {bare} is not made with {', '.join(arguments)} ({reason_of(error)}); "
            f"choose another {argument('architecture')}"
        ) from error
    except _CANNOT_BUILD as error:
        raise UsageError(
            f"timm's {bare} cannot be built for {spec.channels}x{spec.size} images ({reason_of(error)}); "
            f"choose another {argument('architecture')}"
        ) from error
    return network
