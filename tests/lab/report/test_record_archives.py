"""Archives of runs are read as the folders that were packed, and harm nobody."""

import io
import json
import os
import pathlib
import shutil
import struct
import tracemalloc
import zipfile

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from benchmarks.studies import keep
from resnet_jax.__main__ import main
from resnet_jax.errors import UserError
from resnet_jax.lab.report.runs import find
from resnet_jax.run import archives
from resnet_jax.run.archives import packed, read_archive, read_stored
from resnet_jax.run.files import read_json

RESULTS = pathlib.Path(__file__).parents[3] / "results"
MEASUREMENT = {
    "what": "deletion",
    "networks": [
        {
            "name": "r20",
            "blocks": 1,
            "whole": {"error": 0.1, "loss": 1.0},
            "without": [{"block": "b", "place": 1, "keeps_shape": True, "error": 0.2, "loss": 1.0}],
        }
    ],
}


def contents(folder):
    """The bytes of each file below a folder by its name."""
    return {file.relative_to(folder).as_posix(): file.read_bytes() for file in folder.rglob("*") if file.is_file()}


@pytest.fixture
def folders(tmp_path):
    """A folder with a sweep and a folder of single runs, as another program unpacks them."""
    for name in ("studies/zero_init", "digits"):
        with zipfile.ZipFile(RESULTS / f"{name}.zip") as archive:
            archive.extractall(tmp_path / "folders" / pathlib.Path(name).name)
    analysis = tmp_path / "folders" / "digits" / "seed0" / "analysis"
    analysis.mkdir()
    (analysis / "deletion.json").write_text(json.dumps(MEASUREMENT))
    return tmp_path / "folders"


def pack(folder, archive):
    assert main(["report", str(folder), f"--archive={archive}"]) == 0
    return archive


def test_the_report_of_archives_is_that_of_their_folders_to_the_byte(folders, tmp_path, monkeypatch, capsys):
    for folder in folders.iterdir():
        pack(folder, tmp_path / "archives" / f"{folder.name}.zip")
    for here in (folders, tmp_path / "archives"):
        monkeypatch.chdir(here)
        assert main(["report", ".", f"--out={tmp_path / here.name / '..' / f'page_{here.name}' / 'page.html'}"]) == 0
    pages = [contents(tmp_path / f"page_{name}") for name in ("folders", "archives")]
    assert pages[0] == pages[1]
    assert {"page.html", "page.md", "page_figures/zero_init_curves.png"} <= set(pages[0]) and len(pages[0]) == 6
    capsys.readouterr()
    printed = []
    for here, suffix in ((folders, ""), (tmp_path / "archives", ".zip")):
        monkeypatch.chdir(here)
        for name in (f"zero_init{suffix}", f"digits{suffix}", f"digits{suffix}/seed1"):
            assert main(["report", name]) == 0
            printed.append(capsys.readouterr())
    assert printed[:3] == printed[3:] and all(each.out and not each.err for each in printed)
    assert "deletion (r20)" in printed[1].out and "digits/seed1" in printed[2].out


def test_an_archive_holds_the_bytes_of_every_record_and_equal_folders_give_equal_ones(folders, tmp_path):
    for folder in folders.iterdir():
        archive = pack(folder, tmp_path / "one.zip")
        with zipfile.ZipFile(archive) as opened:
            assert {name: opened.read(name) for name in opened.namelist()} == contents(folder)
            assert {info.date_time for info in opened.infolist()} == {(1980, 1, 1, 0, 0, 0)}
        copy = tmp_path / "copy" / folder.name
        for file in sorted(contents(folder), reverse=True):
            (copy / file).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(folder / file, copy / file)
            os.utime(copy / file, (10**9, 10**9))
        (copy / "checkpoints" / "5").mkdir(parents=True)
        (copy / "checkpoints" / "5" / "arrays.json").write_text("{}")
        assert pack(copy, tmp_path / "two.zip").read_bytes() == archive.read_bytes()


def test_the_committed_archives_are_those_of_their_files():
    found = sorted(RESULTS.rglob("*.zip"))
    assert len(found) >= 19
    for archive in found:
        with zipfile.ZipFile(archive) as opened:
            infos = opened.infolist()
            assert opened.testzip() is None
        assert [info.filename for info in infos] == sorted(info.filename for info in infos)
        assert {info.date_time for info in infos} == {(1980, 1, 1, 0, 0, 0)}
        notes = []
        assert any(find([archive], notes)) and not notes


def test_a_folder_beside_its_archive_is_read_instead(folders, tmp_path):
    pack(folders / "digits", folders / "digits.zip")
    found = find([folders], notes := [])
    assert len(found.runs) == 6 and notes == [f"{folders / 'digits.zip'} is left out: the folder beside it is read."]


def test_an_archive_that_was_replaced_is_read_again(tmp_path):
    for content in (b'{"a": 1}', b'{"a": 22}'):
        (tmp_path / "x.zip").write_bytes(packed({"seed0/summary.json": content}))
        assert read_json(tmp_path / "x.zip" / "seed0" / "summary.json") == json.loads(content)
    assert read_json(tmp_path / "x.zip" / "seed1" / "summary.json") is None
    with pytest.raises(OSError, match="more than 8 bytes"):
        read_stored(tmp_path / "x.zip" / "seed0" / "summary.json", 8)


def test_sweeps_of_the_benchmark_keep_the_records_of_runs_that_are_no_longer_there(folders, tmp_path):
    archive = tmp_path / "records" / "zero_init.zip"
    before = contents(folders / "zero_init")
    keep(folders / "zero_init", archive)
    variant = next(folder for folder in sorted((folders / "zero_init").iterdir()) if folder.is_dir())
    shutil.rmtree(variant)
    (folders / "zero_init" / "sweep.json").write_text("{}")
    keep(folders / "zero_init", archive)
    assert read_archive(archive) == before | {"sweep.json": b"{}"}


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["digits", "zero_init", "--archive=x.zip"], "packs one folder"),
        (["digits", "--archive=x.tar"], "packs one folder"),
        (["empty", "--archive=x.zip"], "empty has no records of runs"),
        (["nowhere.zip"], "there is no folder nowhere.zip"),
    ],
)
def test_wrong_use_of_archives_is_refused_in_a_sentence(arguments, said, folders, monkeypatch, capsys):
    monkeypatch.chdir(folders)
    (folders / "empty").mkdir()
    assert main(["report", *arguments]) == 2
    assert said in capsys.readouterr().err and not (folders / "x.zip").exists()


def zipped(*files, method=zipfile.ZIP_DEFLATED):
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w", method) as archive:
        for name, data in files:
            archive.writestr(name, data)
    return content.getvalue()


def claiming(archive, size):
    """An archive of one file that claims to have another size, in both places."""
    entry = archive.index(b"PK\1\2")
    claim = struct.pack("<I", size)
    return archive[:22] + claim + archive[26 : entry + 24] + claim + archive[entry + 28 :]


SUMMARY = ("seed0/config.json", b"{}")
HARMFUL = {
    "no archive": b"PK",
    "cut": zipped(SUMMARY)[:-30],
    "of a flipped bit": zipped(SUMMARY, method=zipfile.ZIP_STORED).replace(b"{}", b"{ "),
    "leading out": zipped(("../out.json", b"{}")),
    "absolute": zipped(("/out.json", b"{}")),
    "a file as a folder": zipped(SUMMARY, ("seed0/config.json/x", b"")),
    "a folder as a file": zipped(SUMMARY, ("seed0", b"")),
    "another method": zipped(SUMMARY, method=zipfile.ZIP_LZMA),
    "a bomb": zipped(("seed0/config.json", bytes(2**29))),
    "a bomb that claims little": claiming(zipped(("seed0/config.json", bytes(2**28))), 10),
    "one that claims much": claiming(zipped(SUMMARY), 2**28),
    "many files": zipped(*((f"seed{i}/x", b"") for i in range(20_001))),
}


@pytest.mark.parametrize("kind", HARMFUL)
def test_a_harmful_archive_is_left_out_with_a_sentence_and_little_memory(kind, tmp_path):
    (tmp_path / "runs").mkdir()
    (tmp_path / "runs" / "x.zip").write_bytes(HARMFUL[kind])
    before = contents(tmp_path)
    tracemalloc.start()
    try:
        found = find([tmp_path / "runs"], notes := [])
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert not any(found) and len(notes) == 1 and "x.zip" in notes[0] and "leave it out" in notes[0]
    assert peak < 20e6 and contents(tmp_path) == before


def test_no_archive_is_written_that_would_be_refused(monkeypatch):
    monkeypatch.setattr(archives, "MOST_BYTES", 10)
    assert packed({"a": bytes(10)})
    with pytest.raises(UserError, match="pack fewer runs"):
        packed({"a": bytes(10), "b": b"1"})


SOUND = (RESULTS / "digits_precision.zip").read_bytes()


@settings(
    max_examples=200,
    deadline=None,
    derandomize=True,
    database=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(
    st.lists(st.tuples(st.integers(0, 2000), st.integers(0, 255)), min_size=1, max_size=3),
    st.booleans(),
    st.integers(0, 100),
)
def test_an_archive_of_any_bytes_is_read_or_left_out(tmp_path, changes, end, cut):
    raw = bytearray(SOUND)
    for place, value in changes:
        raw[-place - 1 if end else place] = value
    (tmp_path / "x.zip").write_bytes(raw[: len(raw) - max(0, cut - 80)])
    found = find([tmp_path / "x.zip"], notes := [])
    assert any(found) or notes
