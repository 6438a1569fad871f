"""Which attacks a command means: ours by name, or a user's own class, each with settings."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from sau_adapters.user_code import is_user_class, user_class
from sau_cli.attacks.table import attack_class
from sau_cli.errors import UsageError, argument

if TYPE_CHECKING:
    from sau_cli.attacks.attack import Attack

YES, NO = ("true", "yes", "on", "1"), ("false", "no", "off", "0")


def chosen_class(choice: str) -> type[Attack]:
    """The class of ``NAME`` or ``FILE.py:CLASS``, with or without settings behind it.

    Raises:
        UsageError: there is none, or it is no attack.
    """
    name = choice.partition(",")[0]
    if not is_user_class(name):
        return attack_class(name)
    from sau_cli.attacks.attack import Attack

    found = user_class(name, named_by="attack")
    if not (isinstance(found, type) and issubclass(found, Attack)):
        raise UsageError(f"{argument('attack')} {name!r} is no subclass of sau_cli.attacks.attack.Attack; make it one")
    return found


def name_of_attack(choice: str) -> str:
    """What reports and triggers call it: the name, or the user's class without its path."""
    return choice.partition(",")[0].rpartition(":")[2]


def chosen_attack(choice: str, flags: Mapping[str, Any]) -> Attack:
    """The attack of ``NAME,setting=value,...``; ``flags`` are settings by name, of which it takes those it has.

    Raises:
        UsageError: an unknown setting or a value of another kind or outside its range.
    """
    found = chosen_class(choice)
    known = found.flags()
    given = {name: value for name, value in flags.items() if name in known}
    for part in choice.split(",")[1:]:
        key, equals, text = part.partition("=")
        name = key.strip().replace("-", "_")
        if not equals or name not in known:
            told = ", ".join(setting_name.replace("_", "-") for setting_name in known) or "no settings"
            raise UsageError(f"{argument('attack')} {choice!r}: {key!r} is no setting of it; it has {told}")
        given[name] = _value(text.strip(), known[name][0], f"{argument('attack')} {choice!r}: {key}")
    try:
        return found(**given)
    except (TypeError, ValueError) as error:
        raise UsageError(f"{argument('attack')} {choice!r} could not be made ({error}); repair its class") from error


def _value(text: str, kind: type, what: str) -> Any:
    try:
        if kind is bool and text.lower() in (*YES, *NO):
            return text.lower() in YES
        if kind is not bool:
            return kind(text)
    except ValueError:
        pass
    raise UsageError(f"{what} {text[:50]!r} is no {'yes or no' if kind is bool else kind.__name__}; give one")
