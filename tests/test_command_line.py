import subprocess
import sys

import pytest

from resnet_jax.__main__ import VERBS, main


def test_an_unknown_verb_ends_with_2():
    run = subprocess.run([sys.executable, "-m", "resnet_jax", "dance"], capture_output=True, text=True)
    assert run.returncode == 2 and "models" in run.stderr


@pytest.mark.parametrize("verb", VERBS)
def test_every_verb_says_what_it_takes(verb, capsys):
    try:
        code = main([verb, "--help"])
    except SystemExit as end:
        code = end.code
    said = capsys.readouterr().out
    assert code == 0 and (f"python -m resnet_jax {verb}" in said or f"resnet-jax {verb}" in said)


def test_nothing_is_said_when_the_reader_of_the_output_has_gone():
    command = [sys.executable, "-m", "resnet_jax", "models", "cifar_resnet20", "--format=json"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        process.stdout.close()
        assert (process.stderr.read(), process.wait()) == (b"", 128 + 13)
