"""A CycloneDX 1.6 ML-BOM of an exported model, with a model card.

The document is built by ``cyclonedx-python-lib``; it has no model cards yet, so the card is put into its JSON, in the
form of the official schema.
"""

# Its classes get their constructors from a decorator that pyright does not see through.
# pyright: reportCallIssue=false, reportAttributeAccessIssue=false

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any
from uuid import NAMESPACE_URL, uuid5

from cyclonedx.model import HashAlgorithm, HashType, Property
from cyclonedx.model.bom import Bom
from cyclonedx.model.component import Component, ComponentType, Pedigree
from cyclonedx.output import make_outputter
from cyclonedx.schema import OutputFormat, SchemaVersion

from sau_cli.description import Description
from sau_cli.exporting.provenance import Origin
from sau_cli.exporting.verification import Verification
from sau_cli.results import Measure

MODEL_REF = "exported-model"


def bill_of_materials(
    *,
    exported: Mapping[str, str],
    origins: Sequence[Origin],
    description: Description,
    verification: Verification,
    preprocessing: Mapping[str, Any],
    versions: Mapping[str, str],
) -> str:
    """The document, ending in a newline.

    Args:
        exported: the SHA-256 of each file, by name; the graph comes first.
        preprocessing: what the graph is fed, as its metadata tells.
        versions: of what took part; ``sau`` is the tool.
    """
    (name, sha256), *beside = exported.items()
    model = Component(
        name=name,
        type=ComponentType.MACHINE_LEARNING_MODEL,
        bom_ref=MODEL_REF,
        hashes=[_sha256(sha256)],
        description=f"image classifier, {description.architecture}, {description.classes} classes",
        components=[
            Component(name=file_name, type=ComponentType.DATA, bom_ref=file_name, hashes=[_sha256(digest)])
            for file_name, digest in beside
        ],
        pedigree=Pedigree(
            ancestors=[
                Component(
                    name=origin.name or origin.role,
                    type=ComponentType.MACHINE_LEARNING_MODEL,
                    bom_ref=f"{origin.role}-{number}",
                    hashes=[_sha256(origin.sha256)],
                    properties=[Property(name="sau:role", value=origin.role)],
                )
                for number, origin in enumerate(origins, start=1)
                if origin.role in {"received", "purified"}
            ]
        )
        if origins
        else None,
    )
    bom = Bom(serial_number=uuid5(NAMESPACE_URL, f"urn:sha256:{sha256}"))
    bom.metadata.component = model
    for tool, version in versions.items():
        kind = ComponentType.APPLICATION if tool == "sau" else ComponentType.LIBRARY
        bom.metadata.tools.components.add(Component(name=tool, version=version, type=kind, bom_ref=f"tool-{tool}"))
    document = json.loads(make_outputter(bom, OutputFormat.JSON, SchemaVersion.V1_6).output_as_string())
    document["metadata"]["component"]["modelCard"] = _card(description, verification, preprocessing)
    return json.dumps(document, indent=2, allow_nan=False) + "\n"


def _card(description: Description, verification: Verification, preprocessing: Mapping[str, Any]) -> dict[str, Any]:
    shape = ", ".join(f"{key} {preprocessing[key]}" for key in ("layout", "dtype", "channels", "height", "width"))
    told = f"{shape}, pixels from {' to '.join(map(str, preprocessing['range']))}"
    metrics = [_metric("top-1 agreement with PyTorch", verification.agreement, "clean images")]
    if verification.exported_accuracy is not None:
        metrics.append(_metric("accuracy", verification.exported_accuracy, "clean images"))
    metrics += [_metric("attack success rate", row.exported_asr, row.trigger) for row in verification.triggers]
    limits = ["A low attack success rate holds for the triggers that were tried, and for no other."]
    if not verification.real:
        limits.append("No data was at hand: the exported file was compared with PyTorch on random images only.")
    parameters: dict[str, Any] = {
        "approach": {"type": "supervised"},
        "task": "image classification",
        "modelArchitecture": description.architecture,
        "inputs": [{"format": told}],
        "outputs": [{"format": f"{preprocessing['output']} of {description.classes} classes"}],
    }
    if description.data is not None:
        parameters["datasets"] = [{"type": "dataset", "name": description.data}]
    return {
        "modelParameters": parameters,
        "quantitativeAnalysis": {"performanceMetrics": metrics},
        "considerations": {"technicalLimitations": limits},
        "properties": [
            {"name": "sau:images", "value": str(verification.images)},
            {"name": "sau:largest-logit-difference", "value": f"{verification.largest_difference:g}"},
        ],
    }


def _metric(kind: str, measure: Measure, part: str) -> dict[str, Any]:
    low, high = measure.ci95
    return {
        "type": kind,
        "value": f"{measure.value:.6g}",
        "slice": part,
        "confidenceInterval": {"lowerBound": f"{low:.6g}", "upperBound": f"{high:.6g}"},
    }


def _sha256(digest: str) -> HashType:
    return HashType(alg=HashAlgorithm.SHA_256, content=digest)
