"""Names of architectures that say what else the network is made with, such as ``timm:resnet18?global_pool=max``.

Needs no torch.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any
from urllib.parse import parse_qsl, quote, urlencode

from sau_cli.errors import UsageError

TOLD_OTHERWISE = frozenset({"num_classes", "in_chans", "img_size"})
"""What a description says in words of its own."""
IN_TRAINING = frozenset(
    {"drop_rate", "drop_path_rate", "drop_block_rate", "attn_drop_rate", "proj_drop_rate", "pos_drop_rate"}
    | {"patch_drop_rate", "head_drop_rate", "bn_momentum", "zero_init_last", "weight_init", "fix_init"}
)
"""What plays no part in what a network computes once it is trained."""
NOT_OURS = frozenset(
    {"pretrained", "pretrained_cfg", "pretrained_cfg_overlay", "pretrained_model_args", "checkpoint_path", "cache_dir"}
    | {"features_only", "out_indices", "feature_cfg", "scriptable", "exportable", "no_jit", "device", "dtype"}
)
"""What timm takes that names files, or another thing than a classifier."""
MOST_ARGUMENTS, LONGEST_ARGUMENTS = 20, 400


def with_arguments(name: str, arguments: Mapping[str, Any]) -> str:
    """The name with the arguments that matter, in alphabetical order.

    >>> with_arguments("timm:resnet18", {"drop_rate": 0.2, "num_classes": 3, "global_pool": "max"})
    'timm:resnet18?global_pool=max'

    Raises:
        ValueError: arguments that no name can hold.
    """
    plain = {key: value for key, value in arguments.items() if key not in TOLD_OTHERWISE | IN_TRAINING | NOT_OURS}
    if not all(isinstance(key, str) and key.isidentifier() for key in plain) or len(plain) > MOST_ARGUMENTS:
        raise ValueError("it was made with arguments that have no names")
    told = {key: value if _is_word(value) else json.dumps(value) for key, value in sorted(plain.items())}
    query = urlencode(told, quote_via=quote)
    if len(query) > LONGEST_ARGUMENTS:
        raise ValueError(
            f"it was made with {', '.join(told)[:200]}, of which sau keeps {LONGEST_ARGUMENTS} letters at most"
        )
    return f"{name}?{query}" if query else name


def parted(name: str) -> tuple[str, dict[str, Any]]:
    """The bare name, and the arguments: the inverse of :func:`with_arguments`.

    >>> parted("timm:resnet18?global_pool=max&output_stride=16")
    ('timm:resnet18', {'global_pool': 'max', 'output_stride': 16})

    Raises:
        UsageError: what follows the question mark is no list of arguments, or has one that is not for sau to set.
    """
    bare, _, query = name.partition("?")
    try:
        told = dict(parse_qsl(query, strict_parsing=True, max_num_fields=MOST_ARGUMENTS)) if query else {}
    except ValueError as error:
        raise UsageError(
            f"architecture {name[:100]!r} has arguments that cannot be read; write NAME?KEY=VALUE&..."
        ) from error
    strange = sorted(key for key in told if not key.isidentifier() or key in TOLD_OTHERWISE | NOT_OURS)
    if strange:
        raise UsageError(f"architecture {name[:100]!r} sets {strange[0]!r}, which is not set in a name; leave it out")
    return bare, {key: _value(text) for key, text in told.items()}


def _is_word(value: object) -> bool:
    """Whether a text reads as itself and not as JSON."""
    return isinstance(value, str) and _value(value) == value


def _value(text: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return text
