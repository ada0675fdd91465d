import pathlib
import re

ROOT = pathlib.Path(__file__).parents[1]


def pinned(file):
    found = re.findall(r"^([\w.-]+)==(\S+)", (ROOT / file).read_text(), re.MULTILINE)
    return {re.sub(r"[-_.]+", "-", name).lower(): version for name, version in found}


def test_the_hashed_requirements_are_those_of_the_lock_and_each_has_a_hash():
    # After a change of requirements.lock: make lock.
    text = (ROOT / "requirements-hashed.txt").read_text()
    assert pinned("requirements-hashed.txt") == pinned("requirements.lock")
    assert len(re.findall(r"== *\S+ \\\n +--hash=sha256:[0-9a-f]{64}", text)) == len(pinned("requirements.lock"))


def test_the_requirements_name_no_registry():
    for file in ("pyproject.toml", "requirements.txt", "requirements.lock", "requirements-hashed.txt"):
        assert "://" not in (ROOT / file).read_text() and "--index" not in (ROOT / file).read_text()
