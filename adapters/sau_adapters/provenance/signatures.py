"""Signatures of an exported file and its sidecars, by OpenSSF's ``model-signing``, which is an extra.

The signature is a Sigstore bundle made with a key of one's own; nothing is sent anywhere.
"""

from __future__ import annotations

import base64
import json
import os
import warnings
from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path

from sau_adapters.files import check_readable
from sau_cli.errors import NotEvaluable, UsageError, argument, reason_of


def check_installed() -> None:
    """Raises UsageError where the extra is not installed."""
    if find_spec("model_signing") is None or find_spec("OpenSSL") is None:
        raise UsageError("signing needs model-signing, which is not installed; pip install model-signing pyopenssl")


def signature_path(path: Path) -> Path:
    """Where the signature of a file is: ``NAME.onnx.sig``."""
    return path.with_name(f"{path.name}.sig")


def sign(path: Path, *, private_key: Path) -> None:
    """Sign a file and all files beside it, into :func:`signature_path`.

    Args:
        path: in a folder that has nothing else in it.
        private_key: an elliptic curve key in PEM, without a password.

    Raises:
        UsageError: the extra is not installed, or the key is none.
    """
    check_installed()
    check_readable(private_key, what="a private key")
    with warnings.catch_warnings(action="ignore"):
        from model_signing import signing

        named = path.parent / ".signed" / path.name  # the folder's name becomes the name of what is signed
        named.mkdir(parents=True)
        for file in path.parent.iterdir():
            if file.is_file():
                os.link(file, named / file.name)
        try:
            signing.Config().use_elliptic_key_signer(private_key=private_key).sign(named, signature_path(path))
        except OSError:
            raise
        except Exception as error:
            raise UsageError(
                f"{argument('sign_key')} {private_key} cannot sign ({reason_of(error)}); "
                "give an elliptic curve key in PEM, "
                "as openssl ecparam -name prime256v1 -genkey writes it"
            ) from error


def check_key(private_key: Path) -> None:
    """Say before the work starts that a key could not sign. Raises UsageError."""
    check_installed()
    check_readable(private_key, what="a private key")
    with warnings.catch_warnings(action="ignore"):
        from model_signing import signing

        try:
            signing.Config().use_elliptic_key_signer(private_key=private_key)
        except Exception as error:
            raise UsageError(
                f"{argument('sign_key')} {private_key} is no key that signs ({reason_of(error)}); "
                "give an elliptic curve key in "
                "PEM, as openssl ecparam -name prime256v1 -genkey writes it"
            ) from error


def broken_signature(path: Path, *, files: Mapping[str, str], public_key: Path, place: str = "public_key") -> str:
    """Whether the signature of a file holds: nothing where it does, else why not, in words.

    Args:
        files: the SHA-256 of all that the signature must be of, by name, as they were read.
        place: the argument that names the key.

    Raises:
        UsageError: the extra is not installed, or the key is none.
        NotEvaluable: the signature cannot be read.
    """
    check_installed()
    check_readable(public_key, what="a public key")
    bundle = signature_path(path)
    with warnings.catch_warnings(action="ignore"):
        from model_signing import verifying

        try:
            config = verifying.Config().use_elliptic_key_verifier(public_key=public_key)
        except Exception as error:
            raise UsageError(
                f"{argument(place)} {public_key} is no public key ({reason_of(error)}); give one in PEM"
            ) from error
        try:
            config.set_ignore_unsigned_files(True).verify(path.parent, bundle)
        except Exception as error:  # noqa: BLE001 (whatever keeps it from holding)
            return f"{bundle.name} does not hold with this key ({reason_of(error)})"
    try:
        payload = json.loads(base64.b64decode(json.loads(bundle.read_text())["dsseEnvelope"]["payload"]))
        signed = {
            resource["name"]: (resource["algorithm"], resource["digest"])
            for resource in payload["predicate"]["resources"]
        }
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise NotEvaluable(f"{bundle} cannot be read ({reason_of(error)}); get it again") from error
    left_out = [name for name, sha256 in files.items() if signed.get(name) != ("sha256", sha256)]
    return f"{bundle.name} is the signature of other files, and not of {', '.join(left_out)[:200]}" if left_out else ""
