from pathlib import Path

import pytest

from sau_cli.commands.outputs import purified_name


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ("a/model.safetensors", "a/model.purified.safetensors"),
        ("model.pth.tar", "model.purified.safetensors"),
        ("resnet-1.5.pt", "resnet-1.5.purified.safetensors"),
        ("weights", "weights.purified.safetensors"),
        ("vendor.pth#ema_model", "vendor.purified.safetensors"),
    ],
)
def test_where_a_purified_model_goes(given, expected):
    assert purified_name(Path(given)) == Path(expected)


def test_where_the_model_in_the_working_folder_goes(tmp_path, monkeypatch):
    (tmp_path / "net" / "sub").mkdir(parents=True)
    for folder, given in (("net", "."), ("net/sub", "..")):
        monkeypatch.chdir(tmp_path / folder)
        assert purified_name(Path(given)) == tmp_path / "net.purified.safetensors"
