"""What the tensors of a file are called, and what a network may call them: the ways to read one for the other.

Training code puts words before names, keeps a loss or a metric beside the network, or gives the head another name; old
releases named layers otherwise. Each way here is a renaming, never a matching by position. Needs no torch.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from math import prod
from typing import TypeVar

DEEPEST_PREFIX = 5
PREFIX_SHARE, MOST_PARTS = 0.8, 3
"""Share of the names that a prefix begins, and how many different first parts are looked at together."""
Prefix = tuple[str, ...]
"""What names begin with beside the architecture's own: the first of these that a name has, if any."""
Shapes = Mapping[str, tuple[int, ...]]
Value = TypeVar("Value")


@dataclass(frozen=True, slots=True, kw_only=True)
class Naming:
    """A way to read the tensors of a file.

    Attributes:
        names: of the network's tensors, by the file's; a tensor that is not there is left out.
        prefix: what was taken off.
        told: what else was done, in words, as a sentence goes on; nothing where that is all.
    """

    names: Mapping[str, str]
    prefix: Prefix = ()
    told: str = ""

    def applied(self, tensors: Mapping[str, Value]) -> dict[str, Value]:
        """Tensors, or what is told of each, under the network's names."""
        return {self.names[name]: value for name, value in tensors.items() if name in self.names}


def namings(shapes: Shapes) -> Iterator[Naming]:
    """The ways to read a file's tensors, the plainest first: with and without a prefix, then all else."""
    plain = [
        Naming(names={name: without(name, prefix) for name in shapes}, prefix=prefix) for prefix in prefixes(shapes)
    ]
    yield from plain
    seen = {frozenset(naming.names.items()) for naming in plain}
    for naming in plain:
        for other in _others(naming, shapes):
            key = frozenset(other.names.items())
            if key not in seen and len(set(other.names.values())) == len(other.names):
                seen.add(key)
                yield other


def naming_for(own: Iterable[str], shapes: Shapes) -> Naming:
    """The plainest way to read a file's tensors that gives a network all of its own and no other.

    Where there is none, the prefix that gives most.

    Args:
        own: the names that the network has.
    """
    wanted = {name for name in own if not is_irrelevant(name)}
    plain: list[tuple[int, Naming]] = []
    for naming in namings(shapes):
        given = {name for name in naming.names.values() if not is_irrelevant(name)}
        if given == wanted:
            return naming
        if not naming.told:
            plain.append((len(given & wanted), naming))
    best = max(plain, key=lambda pair: pair[0])[1]
    for inside in (prefix[0] for prefix in prefixes(wanted) if len(prefix) == 1):  # which holds the file's within it
        if {f"{inside}{name}" for name in shapes if not is_irrelevant(name)} == wanted:
            names = {name: f"{inside}{name}" for name in shapes}
            return Naming(names=names, told=f"read as {inside[:-1]} of the network")
    return best


def _others(naming: Naming, shapes: Shapes) -> Iterator[Naming]:
    """Ways to read what is beside the network, and names of old, in every combination that changes something."""
    for cleaned in (naming, _without_training(naming), _without_normalisation(naming, shapes)):
        for renamed in (cleaned, *(_renamed(cleaned, *rule) for rule in RENAMINGS)):
            yield renamed
            yield from _with_usual_head(renamed, shapes)


_TRAINING = re.compile(
    r"(^|[._])(loss\w*|criterion\w*|metrics?|acc|accuracy|top\d|f1|precision|recall|auroc|auc|confmat|confusion\w*"
    r"|\w*_(loss|criterion|metrics?|acc|accuracy|f1|auroc|confmat|confusion))([._]|$)"
)
"""Names of losses and metrics, which training modules keep beside the network."""


def _without_training(naming: Naming) -> Naming:
    """Losses and metrics left out; where a prefix was taken off, of what does not begin with it alone."""
    beside = [
        name
        for name in naming.names
        if _TRAINING.search(name.rpartition(".")[0] or name) and not (naming.prefix and name.startswith(naming.prefix))
    ]
    if not beside:
        return naming
    left = ", ".join(beside[:3]) + f" and {len(beside) - 3} more" * (len(beside) > 3)
    names = {name: own for name, own in naming.names.items() if name not in beside}
    return Naming(names=names, prefix=naming.prefix, told=_and(naming.told, f"{left} left out, of a loss or a metric"))


_DEVIATION = {"mean": "std", "mu": "sigma"}


def normalisation_of(shapes: Shapes) -> tuple[str, str] | None:
    """The names of the mean and the deviation of a layer that normalises images; None where there is no such one pair.

    >>> normalisation_of({"normalize.mean": (3,), "normalize.std": (1, 3, 1, 1), "net.fc.weight": (10, 64)})
    ('normalize.mean', 'normalize.std')
    """
    found = []
    for name in shapes:
        inside, _, last = name.rpartition(".")
        if last not in _DEVIATION:
            continue
        other = f"{inside}.{_DEVIATION[last]}" if inside else _DEVIATION[last]
        if other in shapes and all(prod(shapes[either]) in {1, 3} for either in (name, other)):
            found.append((name, other))
    return found[0] if len(found) == 1 else None


def _without_normalisation(naming: Naming, shapes: Shapes) -> Naming:
    """The buffers of a layer in front of the network left out, which are read as its normalisation."""
    pair = normalisation_of(shapes)
    if pair is None:
        return naming
    names = {name: own for name, own in naming.names.items() if name not in pair}
    told = _and(naming.told, f"{' and '.join(pair)} read as its normalisation")
    return Naming(names=names, prefix=naming.prefix, told=told)


_SWIN_LATER = re.compile(r"^layers\.(\d)\.downsample\.")


def _swin(name: str) -> str | None:
    """Where a Swin halves the image stood one stage earlier, and masks and indices were saved."""
    if name.endswith((".relative_position_index", ".attn_mask")):
        return None
    name = _SWIN_LATER.sub(lambda found: f"layers.{int(found[1]) + 1}.downsample.", name)
    return re.sub(r"^head\.(weight|bias)$", r"head.fc.\1", name)


def _densenet(name: str) -> str | None:
    return re.sub(r"(denselayer\d+\.(?:norm|relu|conv))\.([12])\.", r"\1\2.", name)


def _without_module(name: str) -> str | None:
    return re.sub(r"(^|\.)module\.", r"\1", name)


def _without_buffers(name: str) -> str | None:
    return None if name.endswith((".relative_position_index", ".attn_mask", ".position_ids")) else name


RENAMINGS = (
    (_without_module, "the word module left out of names"),
    (_densenet, "names of DenseNets as old releases of torchvision wrote them"),
    (_swin, "names of Swin as timm up to 0.6 and its authors wrote them"),
    (_without_buffers, "indices and masks left out, which the network makes itself"),
)
"""Names of old: what each becomes, None for what is left out; and how that is told. torchvision's and timm's own
loaders do the same."""


def _renamed(naming: Naming, rename: Callable[[str], str | None], told: str) -> Naming:
    names = {name: new for name, own in naming.names.items() if (new := rename(own)) is not None}
    changed = names != dict(naming.names)
    return Naming(names=names, prefix=naming.prefix, told=_and(naming.told, told) if changed else naming.told)


HEADS = ("fc", "classifier", "head", "head.fc", "heads.head", "linear", "classifier.1")
"""What networks call their last layer."""
_LAST = re.compile(r"^((?:fc|classifier|heads?|linear|last_linear|output|logits|head\.fc)(?:\.\w+)*)\.(weight|bias)$")


def _with_usual_head(naming: Naming, shapes: Shapes) -> Iterator[Naming]:
    """One linear layer at the end with a name of its own, such as ``fc.1`` behind a dropout, under the usual ones."""
    last = {name: found for name, own in naming.names.items() if (found := _LAST.match(own)) is not None}
    layers = {found[1] for found in last.values()}
    if len(layers) != 1 or not any(len(shapes[name]) == 2 for name in last):
        return
    (layer,) = layers
    for head in HEADS:
        if head != layer:
            names = {name: f"{head}.{last[name][2]}" if name in last else own for name, own in naming.names.items()}
            yield Naming(names=names, prefix=naming.prefix, told=_and(naming.told, f"its head {layer} read as {head}"))


def _and(told: str, more: str) -> str:
    return f"{told}; {more}" if told else more


def prefixes(names: Iterable[str]) -> tuple[Prefix, ...]:
    """What could be taken off the names: nothing first, then one part after another that most of them share.

    Last, the first part of each, where these are few, as for a body and a head that were put together.

    >>> prefixes(["module.net.a.weight", "module.net.b"])
    ((), ('module.',), ('module.net.',))
    >>> prefixes(["body.a.weight", "body.b.weight", "head.c.weight"])
    ((), ('body.', 'head.'))
    """
    names = [name for name in names if not is_irrelevant(name)]
    found: list[Prefix] = [()]
    shared = common = ""
    while names and len(found) < DEEPEST_PREFIX:
        rest = Counter(name[len(shared) :].partition(".")[0] for name in names if name.startswith(shared))
        longer = f"{shared}{rest.most_common(1)[0][0]}."
        having = sum(name.startswith(longer) and len(name) > len(longer) for name in names)
        if having < PREFIX_SHARE * len(names):
            break
        shared = longer
        common = shared if having == len(names) else common
        found.append((shared,))
    apart = tuple(sorted({common + name[len(common) :].partition(".")[0] + "." for name in names}))
    bare = {without(name, apart) for name in names}
    if 1 < len(apart) <= MOST_PARTS and len(bare) == len(names) and not bare & set(names):
        found.append(apart)
    return tuple(found)


def networks_in(shapes: Shapes) -> tuple[str, ...]:
    """What the tensors' names of several networks in one file begin with; nothing where it holds one.

    They are several where all tensors lie under two words or more, and under each are the same ones.

    >>> networks_in({"model.a": (2, 3), "model.b": (2,), "ema_model.module.a": (2, 3), "ema_model.module.b": (2,)})
    ('model', 'ema_model')
    """
    parts: dict[str, dict[str, tuple[int, ...]]] = {}
    for name, shape in shapes.items():
        first, dot, rest = name.partition(".")
        if dot and not is_irrelevant(name):
            parts.setdefault(first, {})[rest] = tuple(shape)
    if len(parts) < 2 or min(map(len, parts.values())) < 2:
        return ()
    ways = [{_bare(tensors, prefix) for prefix in prefixes(tensors)} for tensors in parts.values()]
    return tuple(parts) if set.intersection(*ways) else ()


def _bare(tensors: Shapes, prefix: Prefix) -> frozenset[tuple[str, tuple[int, ...]]]:
    return frozenset((without(name, prefix), shape) for name, shape in tensors.items())


def without(name: str, prefix: Prefix) -> str:
    """A name without what it begins with.

    >>> without("head.fc.weight", ("backbone.", "head."))
    'fc.weight'
    """
    return next((name[len(start) :] for start in prefix if name.startswith(start) and len(name) > len(start)), name)


def is_irrelevant(name: str) -> bool:
    """Whether a tensor is a counter, of batch norm, of averaged weights or of a profiler: nothing depends on it."""
    return name.rpartition(".")[2] in {"num_batches_tracked", "n_averaged", "total_ops", "total_params"}
