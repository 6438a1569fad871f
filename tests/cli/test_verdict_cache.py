"""What is known of the same content is not done again, and nothing but what this cache wrote is believed."""

from __future__ import annotations

import json
import os
import shutil
import zlib
from pathlib import Path

import pytest
import torch

from sau_adapters.architectures.cifar_networks import CIFAR_NETWORKS
from sau_adapters.caches import cache_folder
from sau_adapters.classifiers.saving import save_classifier
from sau_adapters.verdict_cache import cache_limit
from sau_cli.commands import fleet
from sau_cli.errors import UsageError
from tests.cli.conftest import one_sentence
from tests.support.toys import describe

INSPECT = ("inspect", "models", "--effort", "quick", "--jobs", "1", "--json", "r.json", "--force")


@pytest.fixture
def models(tmp_path, monkeypatch) -> Path:
    """Three models, one of which is cut short; they were written a while ago."""
    folder = tmp_path / "models"
    folder.mkdir()
    for number in range(3):
        torch.manual_seed(number)
        classifier = describe(CIFAR_NETWORKS["small_cnn"](10, 1))
        save_classifier(folder / f"{number}.safetensors", classifier, classifier.description, force=False)
    cut = folder / "2.safetensors"
    cut.write_bytes(cut.read_bytes()[:-10])
    monkeypatch.setattr("sau_adapters.verdict_cache.SETTLED_FOR", 0.0)
    return folder


def report() -> dict:
    return json.loads(Path("r.json").read_text())


def known() -> int:
    return int(report()["details"]["from_cache"])


def entries() -> list[Path]:
    return sorted(path for path in (cache_folder() / "verdicts").rglob("*") if path.is_file())


def test_an_unchanged_registry_is_not_done_again(call, models, monkeypatch):
    first = call(*INSPECT)
    assert first.code == 3, first.err
    assert known() == 0
    before = report()
    monkeypatch.setattr(fleet.CommandWork, "__call__", lambda _: pytest.fail("it was done again"))
    again = call(*INSPECT)
    assert again.code == 3
    assert "all verdicts were known" in again.err
    after = report()
    assert known() == 3
    assert {**after, "details": None} == {**before, "details": None}


@pytest.mark.parametrize(
    "change",
    [
        pytest.param(lambda models: (models / "0.safetensors").write_bytes(b"x" * 99), id="weights"),
        pytest.param(lambda models: (models / "config.json").write_text("{}"), id="beside"),
    ],
)
def test_what_was_changed_is_done_again(call, models, change):
    call(*INSPECT)
    change(models)
    call(*INSPECT)
    assert known() < 3


@pytest.mark.parametrize("words", [("--seed", "1"), ("--device", "cpu"), ("--policy", "p.toml"), ("--no-cache",)])
def test_what_changes_a_verdict_is_in_the_key(call, models, words):
    Path("p.toml").write_text("[policy]\nmax-score = 0.5\n")
    call(*INSPECT)
    call(*INSPECT, *words)
    assert known() == 0


def test_the_content_of_a_policy_of_data_and_of_settings_is_in_the_key(call, models):
    Path("p.toml").write_text("[policy]\nmax-score = 0.5\n")
    call(*INSPECT, "--policy", "p.toml")
    call(*INSPECT, "--policy", "p.toml")
    assert known() == 3
    Path("p.toml").write_text("[policy]\nmax-score = 0.6\n")
    call(*INSPECT, "--policy", "p.toml")
    assert known() == 0
    Path("sau.toml").write_text('normalisation = "none"\n')
    call(*INSPECT, "--policy", "p.toml")
    assert known() == 0


def test_touched_or_copied_models_are_known_by_their_content(call, models):
    call(*INSPECT)
    for path in models.iterdir():
        shutil.copy(path, path.with_suffix(".copy"))
        path.with_suffix(".copy").replace(path)
    call(*INSPECT)
    assert known() == 3


def resealed(entry: Path) -> None:
    """As somebody who knows how an entry is made, but not this cache's key."""
    told = json.loads(zlib.decompress(entry.read_bytes()[65:]))
    told["report"]["verdict"], told["report"]["exit_code"] = "passed", 0
    entry.write_bytes(entry.read_bytes()[:65] + zlib.compress(json.dumps(told).encode()))


SPOILT = {
    "a byte": lambda entry: entry.write_bytes(entry.read_bytes()[:-1] + b"?"),
    "empty": lambda entry: entry.write_bytes(b""),
    "cut short": lambda entry: entry.write_bytes(entry.read_bytes()[:100]),
    "another verdict": resealed,
    "another model's": lambda entry: shutil.copy(next(file for file in entries() if file != entry), entry),
    "no text": lambda entry: entry.write_bytes(os.urandom(500)),
}


@pytest.mark.parametrize("spoil", SPOILT.values(), ids=SPOILT)
def test_an_entry_that_was_changed_is_not_believed_and_made_anew(call, models, spoil):
    call(*INSPECT)
    before = report()
    spoil(entries()[0])
    done = call(*INSPECT)
    assert done.code == 3
    assert "was not believed, and made anew" in done.err
    assert known() == 2
    assert report()["models"] == before["models"]
    call(*INSPECT)
    assert known() == 3


def test_a_cache_from_elsewhere_is_not_believed(call, models, monkeypatch, tmp_path):
    call(*INSPECT)
    shutil.copytree(cache_folder(), tmp_path / "theirs")
    (tmp_path / "theirs" / "secret").write_bytes(os.urandom(32))
    monkeypatch.setenv("SAU_CACHE_DIR", str(tmp_path / "theirs"))
    call(*INSPECT)
    assert known() == 0


def test_what_is_a_bug_or_a_lack_of_memory_is_not_kept(call, models, monkeypatch):
    def broken(*_, **__):
        raise MemoryError

    monkeypatch.setattr("sau_cli.commands.inspect.examine", broken)
    call(*INSPECT)
    assert len(entries()) == 1  # of the model that is cut short


def test_a_model_that_changes_while_it_is_looked_at_is_not_kept(call, models, monkeypatch):
    from sau_cli.commands import inspect as command

    real = command.examine

    def meanwhile(*words, **named):
        for path in models.iterdir():
            path.write_bytes(path.read_bytes())
        return real(*words, **named)

    monkeypatch.setattr(command, "examine", meanwhile)
    call(*INSPECT)
    assert known() == 0
    call(*INSPECT)
    assert known() <= 1  # the one that is cut short was done last


def test_the_oldest_entries_go_when_the_limit_is_reached(call, models, monkeypatch):
    monkeypatch.setenv("SAU_CACHE_LIMIT", "3KB")
    fetched = cache_folder() / "models" / "fetched.safetensors"
    fetched.parent.mkdir(parents=True)
    fetched.write_bytes(bytes(9000))
    call(*INSPECT)
    own = [path for path in cache_folder().rglob("*") if path.is_file() and path != fetched]
    assert sum(path.stat().st_size for path in own) <= 3032
    assert fetched.stat().st_size == 9000  # of another cache in the same folder


def test_a_cache_that_cannot_be_used(call, models, monkeypatch):
    monkeypatch.setenv("SAU_CACHE_LIMIT", "much")
    one_sentence(call(*INSPECT), 2, "SAU_CACHE_LIMIT='much' is no size")
    monkeypatch.delenv("SAU_CACHE_LIMIT")
    Path("file").write_text("")
    monkeypatch.setenv("SAU_CACHE_DIR", "file/cache")
    one_sentence(call(*INSPECT), 2, "the cache file/cache cannot be used", "--no-cache")


@pytest.mark.parametrize(("told", "limit"), [("500MB", 500_000_000), ("2 GB", 2_000_000_000), ("7", 7)])
def test_sizes(monkeypatch, told, limit):
    monkeypatch.setenv("SAU_CACHE_LIMIT", told)
    assert cache_limit() == limit
    monkeypatch.setenv("SAU_CACHE_LIMIT", "-1GB")
    with pytest.raises(UsageError):
        cache_limit()
