import pathlib
import re

ROOT = pathlib.Path(__file__).parents[1]


def pins(file):
    """The lines of a file for Python 3.12."""
    lines = [line for line in (ROOT / file).read_text().splitlines() if 'python_version < "3.12"' not in line]
    return re.sub(r' *; python_version >= "3.12"', "", "\n".join(lines))


def pinned(file):
    """What a file pins for Python 3.12, by name."""
    found = re.findall(r"^([\w.-]+)==(\S+)", pins(file), re.MULTILINE)
    return {re.sub(r"[-_.]+", "-", name).lower(): version for name, version in found}


def test_the_hashed_requirements_are_those_of_the_lock_and_each_has_a_hash():
    # After a change of requirements.lock: make lock.
    hashed = re.findall(r"== *\S+ \\\n +--hash=sha256:[0-9a-f]{64}", pins("requirements-hashed.txt"))
    assert pinned("requirements-hashed.txt") == pinned("requirements.lock")
    assert len(hashed) == len(pinned("requirements.lock")) > 90


def test_the_requirements_name_no_registry():
    for file in ("pyproject.toml", "requirements.txt", "requirements.lock", "requirements-hashed.txt"):
        assert "://" not in (ROOT / file).read_text() and "--index" not in (ROOT / file).read_text()
