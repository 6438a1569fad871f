"""The configuration by which Keras builds a network: what it says of the network, and the code that it asks for.

Keras builds whatever a configuration names, by importing it. Here it is only read.
"""

from __future__ import annotations

import builtins
import json
import sys
from base64 import b64decode
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from sau_adapters.files import ESCAPE
from sau_cli.inspection.file_facts import FileFinding
from sau_cli.results import Severity

KERAS_CODE, KERAS_CUSTOM = "file.keras-code", "file.keras-custom-object"
"""The findings of a configuration that brings or calls code, and of one that names classes of somebody's own."""
LONGEST_NAME, NAMES_SHOWN = 100, 5
BYTECODE = "a Python function as bytecode"
_OWN = ("keras", "tf_keras", "tensorflow.keras", "tensorflow.python.keras")
"""Packages of Keras itself."""
_COMPUTING = frozenset(
    {"activations", "constraints", "initializers", "losses", "metrics", "ops", "quantizers", "regularizers"}
)
"""Modules of Keras whose functions only compute; others read files, fetch them, or switch its safety off."""
_TF_COMPUTING = frozenset({"", "math", "nn", "image", "linalg", "signal", "bitwise", "__operators__"})
"""Modules of TensorFlow of which the same is true."""
_TOOLS = frozenset({"numpy", "torch", "tensorflow", "jax", "pip", "setuptools", "pkg_resources", "cloudpickle", "dill"})
"""Packages that are there wherever Keras is, beside Python's own, and have no layers of Keras."""
_PROGRAMS = {
    "__lambda__": BYTECODE,
    "TorchModuleWrapper": "a pickled network (TorchModuleWrapper)",
    "TFSMLayer": "another model's program (TFSMLayer)",
}
_NAMES_A_FILE = ("vocabulary", "idf_weights", "handle")
"""Settings of layers that may be a path or an address in place of a value."""
SHORTEST_CODE = 64
"""Characters of a code object; that of ``lambda: 0`` has more."""
_CODE_BYTES = (0x63, 0xE3)
"""How a code object begins that ``marshal`` wrote, without and with the flag of a reference."""
_CODE_STARTS = ("Y", "4")
"""The same in base 64."""
_CONTAINERS = frozenset({"Sequential", "Functional", "Model", "InputLayer"})


@dataclass(frozen=True, slots=True, kw_only=True)
class ConfiguredNetwork:
    """What a configuration says of a network.

    Attributes:
        layers: how many of each class, in the order of the network.
        input: as the first input tells it, without the batch; ``None`` where a size is free.
        classes: the width of the last dense layer, None where there is none.
        activation: of that layer.
    """

    layers: Mapping[str, int]
    input: tuple[int | None, ...] | None
    classes: int | None
    activation: str | None


def network_of(config: object) -> ConfiguredNetwork:
    """Read off the layers; a configuration that makes no sense tells nothing."""
    layers = [entry for entry in _objects(config) if _is_layer(entry)]
    dense = next((_config(layer) for layer in reversed(layers) if layer["class_name"] == "Dense"), {})
    units, activation = dense.get("units"), dense.get("activation")
    return ConfiguredNetwork(
        layers=dict(Counter(_short(layer["class_name"]) for layer in layers if layer["class_name"] not in _CONTAINERS)),
        input=_input_of(layers),
        classes=units if isinstance(units, int) else None,
        activation=_short(activation) if isinstance(activation, str) else None,
    )


def config_findings(*configs: object) -> tuple[FileFinding, ...]:
    """Code that Keras would run to build these, places outside of the file, and classes that only their maker has."""
    code: dict[str, None] = {}
    outside: dict[str, None] = {}
    custom: dict[str, None] = {}
    for config in configs:
        for text in _texts(config):
            if _is_code(text):
                code[BYTECODE] = None
        for entry in _objects(config):
            told = _code_in(entry)
            if told:
                code[told] = None
            elif _is_custom(entry):
                custom[_called(entry)] = None
            outside |= {f"{_short(entry['class_name'])} reads {_short(path)!r}": None for path in _files_of(entry)}
    findings = []
    if code:
        findings.append(
            FileFinding(
                id=KERAS_CODE,
                severity=Severity.CRITICAL,
                sentence=f"its configuration asks for {_listed(code)}, which is code; ask for ONNX, or for a model "
                "without Lambda layers and functions of its own",
            )
        )
    if outside:
        findings.append(
            FileFinding(
                id=ESCAPE,
                severity=Severity.HIGH,
                sentence=f"its configuration names files outside of it ({_listed(outside)}); do not use it",
            )
        )
    if custom:
        findings.append(
            FileFinding(
                id=KERAS_CUSTOM,
                severity=Severity.LOW,
                sentence=f"it needs {_listed(custom)}, which Keras does not have; what they compute is not in the file",
            )
        )
    return tuple(findings)


def parsed(text: str) -> object:
    """A configuration, from JSON.

    Raises:
        ValueError: it is none.
    """
    try:
        return json.loads(text)
    except RecursionError as error:
        raise ValueError("its configuration is nested deeper than any network") from error


def _inside(config: object) -> Iterator[object]:
    """Everything in a configuration, outer before inner and in its order, without recursion."""
    left = [config]
    while left:
        entry = left.pop()
        yield entry
        if isinstance(entry, dict):
            left.extend(reversed(entry.values()))
        elif isinstance(entry, list):
            left.extend(reversed(entry))


def _objects(config: object) -> Iterator[dict[str, Any]]:
    """What Keras would build."""
    return (entry for entry in _inside(config) if isinstance(entry, dict) and isinstance(entry.get("class_name"), str))


def _texts(config: object) -> Iterator[str]:
    return (text for text in _inside(config) if isinstance(text, str))


def _config(entry: Mapping[str, Any]) -> Mapping[str, Any]:
    inner = entry.get("config")
    return inner if isinstance(inner, dict) else {}


def _is_layer(entry: Mapping[str, Any]) -> bool:
    """Whether it stands in a network: an object with a name, as initialisers, types and optimisers are not built."""
    module = str(entry.get("module"))
    helper = _is_own(module) and not {"layers", "models"}.intersection(module.split(".")) and module != "keras"
    return "name" in _config(entry) and not helper and entry["class_name"] != "DTypePolicy"


def _code_in(entry: Mapping[str, Any]) -> str:
    """What an object would run, for a sentence; nothing for one that only computes."""
    match entry["class_name"]:
        case kind if kind in _PROGRAMS:
            return _PROGRAMS[kind]
        case "Lambda":
            return _in_lambda(_config(entry).get("function"))
        case "TFOpLambda":
            return _of_tensorflow(str(_config(entry).get("function")).removeprefix("compat.v1."))
        case "function":
            return _named(entry.get("module"), str(entry.get("config")))
        case kind:
            module = str(entry.get("module"))
            foreign = module.partition(".")[0] in sys.stdlib_module_names | _TOOLS
            return f"{_short(module)}.{_short(kind)}" if foreign else ""


def _named(module: object, name: str) -> str:
    """A function by its module and name; Keras looks for one of no module among those that its user registered."""
    if module is None or module == "builtins":
        return f"the function {_short(name)} of Python" if hasattr(builtins, name) else ""
    return "" if _is_computing(module) else f"the function {_short(module)}.{_short(name)}"


def _of_tensorflow(function: str) -> str:
    inside, _, name = function.rpartition(".")
    harmless = inside in _TF_COMPUTING and not name.startswith(("py_function", "numpy_function", "load_"))
    return "" if harmless else f"the function tf.{_short(function)}"


def _in_lambda(function: object) -> str:
    """What the function of a Lambda layer is, for a sentence; nothing for one that is told where it stands itself."""
    if not isinstance(function, dict):
        return BYTECODE if isinstance(function, list) else f"the function {_short(function)} in a Lambda layer"
    if function.get("class_name") == "__lambda__" or _is_computing(function.get("module")):
        return ""
    return f"the function {_short(function.get('config'))} in a Lambda layer"


def _is_code(text: str) -> bool:
    """Whether a text is a code object, as Keras writes one: marshalled, in base 64."""
    packed = "".join(text.split())
    if len(packed) < SHORTEST_CODE or not packed.startswith(_CODE_STARTS):
        return False
    try:
        code = b64decode(packed, validate=True)
    except ValueError:
        return False
    return code[0] in _CODE_BYTES and code[2:5] == b"\0\0\0"  # how many arguments it takes, in four bytes


def _is_computing(module: object) -> bool:
    """Whether it is a module of Keras whose functions only compute."""
    parts = [part for part in str(module).split(".") if part not in {"src", "api", "_tf_keras", "_v2"}]
    return _is_own(str(module)) and any(part in _COMPUTING for part in parts[:3])


def _is_own(module: str) -> bool:
    return any(module == package or module.startswith(f"{package}.") for package in _OWN)


def _is_custom(entry: Mapping[str, Any]) -> bool:
    """Whether an object is of somebody's own class or function, so that Keras alone cannot build it."""
    kind = entry["class_name"]
    if kind.startswith("__"):
        return False
    if ">" in kind or (kind == "function" and entry.get("module") in {None, "builtins"}):
        return True
    return "module" in entry and not _is_own(str(entry["module"]))


def _called(entry: Mapping[str, Any]) -> str:
    """An object of somebody's own, for a sentence: with its module, or the name that it is registered by."""
    if entry["class_name"] == "function":
        return f"the function {_short(entry.get('config'))}"
    module, registered = entry.get("module"), entry.get("registered_name")
    where = f" of {_short(module)}" if module else ""
    return f"{_short(registered if isinstance(registered, str) and '>' in registered else entry['class_name'])}{where}"


def _files_of(entry: Mapping[str, Any]) -> Iterator[str]:
    """Paths and addresses that a layer would read when it is built."""
    settings = _config(entry)
    return (value for name in _NAMES_A_FILE if isinstance(value := settings.get(name), str) and value)


def _input_of(layers: list[dict[str, Any]]) -> tuple[int | None, ...] | None:
    for layer in layers:
        config = _config(layer)
        shape = config.get("batch_shape") or config.get("batch_input_shape")
        if isinstance(shape, list) and len(shape) > 1:
            return tuple(size if isinstance(size, int) else None for size in shape[1:])
    return None


def _short(text: object) -> str:
    told = str(text)
    return told if len(told) <= LONGEST_NAME else f"{told[:LONGEST_NAME]}..."


def _listed(named: Mapping[str, None]) -> str:
    shown = ", ".join(list(named)[:NAMES_SHOWN])
    return f"{shown} and {len(named) - NAMES_SHOWN} more" if len(named) > NAMES_SHOWN else shown
