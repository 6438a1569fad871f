"""Networks of Hugging Face transformers, built from a configuration and weights at hand. Nothing is fetched."""

from __future__ import annotations

import inspect
import re
from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

import torch
from safetensors.torch import load_file

from sau_adapters.architectures.networks import differences
from sau_adapters.architectures.state_names import is_irrelevant
from sau_adapters.silence import silenced
from sau_adapters.zoos.transformers_folders import BGR, CHANNEL_ORDER, ZOO
from sau_cli.description import Description
from sau_cli.errors import NotEvaluable, reason_of

if TYPE_CHECKING:
    from torch import Tensor, nn

TIMES = 2
"""How many values more than the file has the network may have, before it takes any memory."""
_FOREIGN = re.compile(r"_.*|.*(attn_implementation|experts_implementation|quantization|auto_map|dtype|backbone).*")
"""Settings that choose code or files, at any depth: no configuration of a stranger is asked for these."""
_REPEATS = re.compile(r"layers|depths?$|blocks|repeats|stages")
"""Settings that say how often a part of the network is repeated."""


def check_installed(model: Path) -> None:
    """Raises NotEvaluable where the extra is not installed."""
    if find_spec("transformers") is None:
        raise NotEvaluable(
            f"{model} is a network of transformers, which is not installed; pip install 'sau-cli[transformers]'"
        )


def network_of(description: Description, state: Mapping[str, Tensor], *, path: Path) -> nn.Module:
    """The network of a description with these weights: pixels to logits (N, K).

    Weights are placed by the rules of transformers' own loader, which knows the names of older versions.

    Args:
        description: with the configuration; nothing in it chooses code or files.
        path: of the weights, for the sentence.

    Raises:
        NotEvaluable: transformers is not installed or does not know the class, the configuration builds nothing, or
            tensors are missing, left over or of another shape.
    """
    check_installed(path)
    name = description.architecture.removeprefix(ZOO)
    with silenced():
        made, config = _class_and_config(name, description, state, path)
        _check_extent(made, config, state, path)
        try:
            network, info = made.from_pretrained(
                None,
                config=config,
                state_dict={key: tensor.clone() for key, tensor in state.items()},
                dtype=torch.float32,
                local_files_only=True,
                ignore_mismatched_sizes=True,
                output_loading_info=True,
            )
        except Exception as error:
            raise _unbuilt(name, path, error) from error
    unlike = differences(
        missing=sorted(key for key in info["missing_keys"] if not is_irrelevant(key)),
        extra=sorted(key for key in info["unexpected_keys"] if not is_irrelevant(key)),
        unlike=sorted((key, tuple(told), tuple(own)) for key, told, own in info["mismatched_keys"]),
    )
    if unlike or info["error_msgs"]:
        raise NotEvaluable(
            f"{path} does not fit {name} as its configuration describes it: "
            f"{unlike or str(info['error_msgs'][0])[:200]}; ask for an intact folder"
        )
    strange = next((key for key, parameter in network.named_parameters() if not parameter.is_floating_point()), None)
    if strange is not None:
        raise NotEvaluable(f"{path} has no real numbers in {strange[:100]!r}; ask for weights that are not quantised")
    if description.config and description.config.get(CHANNEL_ORDER) == BGR:
        network.register_forward_pre_hook(_blue_first)
    network.register_forward_hook(_logits)
    ready: nn.Module = network
    return ready.eval()


def as_saved(network: nn.Module) -> dict[str, Tensor]:
    """A network's weights under the names that transformers writes, those that they were read under."""
    with TemporaryDirectory() as folder:
        with silenced():
            network.save_pretrained(folder, max_shard_size="1000TB")  # type: ignore[operator]
        return {name: tensor.clone() for name, tensor in load_file(Path(folder, "model.safetensors")).items()}


def _class_and_config(name: str, description: Description, state: Mapping[str, Tensor], path: Path) -> tuple[Any, Any]:
    """The class of that name, and its configuration with those of the told settings that are the class's own."""
    import transformers
    from transformers.models.auto.modeling_auto import MODEL_FOR_IMAGE_CLASSIFICATION_MAPPING_NAMES as CLASSIFIERS

    listed = [(names,) if isinstance(names, str) else names for names in CLASSIFIERS.values()]
    if name not in {class_name for names in listed for class_name in names}:
        raise NotEvaluable(
            f"{path} is a {name}, which transformers {transformers.__version__} does not have; "
            "pip install -U transformers"
        )
    told = {key: value for key, value in (description.config or {}).items() if key != CHANNEL_ORDER}
    repeated = max(_repeats(told), default=0)
    if repeated > max(len(state), 1):
        raise NotEvaluable(
            f"{path} has {len(state)} tensors, and its configuration says {repeated:,} layers; ask for an intact folder"
        )
    try:
        made = getattr(transformers, name)
        own = inspect.signature(made.config_class.__init__).parameters
        general = inspect.signature(transformers.PretrainedConfig.__init__).parameters
        settings = {key: _safe(value) for key, value in told.items() if key in own and key not in general}
        settings = {key: value for key, value in settings.items() if not _FOREIGN.fullmatch(key)}
        return made, made.config_class(**settings, num_labels=description.classes)
    except Exception as error:
        raise _unbuilt(name, path, error) from error


def _check_extent(made: Any, config: Any, state: Mapping[str, Tensor], path: Path) -> None:
    """Raises NotEvaluable for a network far larger than its file, before it takes any memory."""
    try:
        with torch.device("meta"):
            own = made(config).state_dict()
    except Exception as error:
        raise _unbuilt(made.__name__, path, error) from error
    needed, there = (sum(tensor.numel() for tensor in tensors.values()) for tensors in (own, state))
    if needed > TIMES * max(there, 1):
        raise NotEvaluable(
            f"{path} has {there:,} values, and a {made.__name__} as its configuration describes it has {needed:,}; "
            "ask for an intact folder"
        )


def _safe(value: Any) -> Any:
    """A setting without those inside it that choose code or files."""
    if isinstance(value, Mapping):
        return {key: _safe(inside) for key, inside in value.items() if not _FOREIGN.fullmatch(key)}
    return [_safe(inside) for inside in value] if isinstance(value, list) else value


def _repeats(told: Mapping[str, Any]) -> list[int]:
    """How often parts are repeated, as far as whole numbers say it, at any depth."""
    found = [
        number
        for key, value in told.items()
        if _REPEATS.search(key)
        for number in (value if isinstance(value, list) else [value])
        if isinstance(number, int) and not isinstance(number, bool)
    ]
    return found + [number for value in told.values() if isinstance(value, Mapping) for number in _repeats(value)]


def _unbuilt(name: str, path: Path, error: Exception) -> NotEvaluable:
    return NotEvaluable(
        f"transformers cannot build the {name} that {path} is of ({reason_of(error)}); ask for an intact folder"
    )


def _logits(network: nn.Module, images: Any, output: Any) -> Tensor:
    """Of what a classifier of transformers gives, what the contract asks for."""
    del network, images
    # One family, PPLCNet, has no output of that name.
    logits: Tensor = output["logits"] if "logits" in output else output["last_hidden_state"]
    return logits


def _blue_first(network: nn.Module, images: tuple[Tensor]) -> tuple[Tensor]:
    del network
    return (images[0].flip(1),)
