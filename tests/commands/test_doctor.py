import jax
import pytest

from resnet_jax.__main__ import main
from resnet_jax.commands import doctor


def test_the_installation_is_described_without_secrets(capsys, monkeypatch):
    monkeypatch.setenv("HF_TOKEN", "hf_hidden")
    monkeypatch.setenv("JAX_ENABLE_X64", "0")
    monkeypatch.setattr(doctor.onednn, "missing", lambda: "there is no C++ compiler: install g++.")
    assert main(["doctor", "--no-check"]) == 0
    said = capsys.readouterr().out
    lines = {line.split()[0]: line.split()[1:] for line in said.splitlines() if line.startswith(" ")}
    assert lines["jax"] == [jax.__version__] and lines["JAX_ENABLE_X64"] == ["0"]
    assert lines["HF_TOKEN"] == ["set"] and "hf_hidden" not in said
    assert "not used: there is no C++ compiler: install g++." in said and "Self-check" not in said


@pytest.mark.parametrize(
    ("name", "value", "said"),
    [
        ("TOLERANCE", 0.0, "the fast implementation differs"),
        ("evaluate", lambda config, folder: {"top1": 0.0}, "the evaluation of a checkpoint differs"),
        ("train", lambda config, folder: {"top1": 0.1, "loss": 3.0}, "trained to a top-1 of 10.0%"),
    ],
)
def test_what_does_not_work_is_an_error(name, value, said, monkeypatch, capsys):
    monkeypatch.setattr(doctor, name, value)
    if name == "train":
        monkeypatch.setattr(doctor, "evaluate", value)
    assert main(["doctor"]) == 2
    assert said in capsys.readouterr().err
