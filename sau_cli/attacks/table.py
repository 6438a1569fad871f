"""The attacks by name. Needs no torch.

A new attack is a file with a subclass of :class:`~sau_cli.attacks.attack.Attack`, and a line here.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

from sau_cli.errors import UsageError

if TYPE_CHECKING:
    from sau_cli.attacks.attack import Attack

ATTACKS = {
    "badnets": "badnets:BadNets",
    "blended": "blended:Blended",
    "sig": "sig:Sig",
    "lc": "lc:LabelConsistent",
    "lf": "lf:LowFrequency",
    "ssba": "ssba:Ssba",
    "trojannn": "trojannn:TrojanNN",
    "input-aware": "input_aware:InputAware",
    "wanet": "wanet:WaNet",
    "bpp": "bpp:Bpp",
    "distributed": "distributed:Distributed",
    "dynamic": "dynamic:Dynamic",
    "adaptive": "adaptive:Adaptive",
}
"""Each name with the module of this package and the class in it."""


def attack_class(name: str) -> type[Attack]:
    """The attack of this name.

    Raises:
        UsageError: there is none.
    """
    if name not in ATTACKS:
        raise UsageError(
            f"there is no attack {name[:50]!r}; give {', '.join(list(ATTACKS)[:-1])} or {list(ATTACKS)[-1]}, "
            "or your own FILE.py:CLASS"
        )
    module, _, wanted = ATTACKS[name].partition(":")
    found: type[Attack] = getattr(import_module(f"sau_cli.attacks.{module}"), wanted)
    return found
