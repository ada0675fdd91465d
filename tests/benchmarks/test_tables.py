"""The tables of the pages are what the records give."""

import json

import pytest

from benchmarks import tables


@pytest.mark.parametrize("page", tables.PAGES)
def test_a_page_has_the_tables_that_its_records_give(page):
    text = (tables.ROOT / page).read_text()
    assert tables.MARKED.search(text)
    assert tables.written(text) == text, "run `python benchmarks/tables.py`."


def test_a_table_is_made_of_its_record_and_what_stands_around_it_is_left(tmp_path, monkeypatch):
    monkeypatch.setattr(tables, "ROOT", tmp_path)
    (tmp_path / "mps.json").write_text(json.dumps({"images_per_second": {"3 at once": [1000.0, 2000.0, 4500.0]}}))
    page = "Before.\n\n<!-- table: together mps.json -->\nold\n<!-- end of table -->\n\nAfter.\n"
    assert tables.written(page) == (
        "Before.\n\n<!-- table: together mps.json -->\n\n"
        "| runs | images a second, all | each |\n| --- | ---: | ---: |\n| 3 at once | 7,500 | 2,500 |\n\n"
        "<!-- end of table -->\n\nAfter.\n"
    )


@pytest.mark.parametrize(
    "marker, said",
    [("speeds gone.json", "there is no record gone.json"), ("sums mps.json", "there is no table 'sums': use one of")],
)
def test_what_is_not_there_is_said(marker, said, tmp_path, monkeypatch):
    monkeypatch.setattr(tables, "ROOT", tmp_path)
    with pytest.raises(SystemExit, match=said):
        tables.written(f"<!-- table: {marker} -->\n<!-- end of table -->\n")


@pytest.mark.parametrize(
    "value, shown",
    [
        (None, ""),
        (7243.4, "7,243"),
        (26.24, "26.2"),
        (0.8437, "0.84"),
        (3.456, "3.46"),
        (99.96, "100.0"),
        (726.1, "726"),
    ],
)
def test_numbers_have_three_digits(value, shown):
    assert tables.number(value) == shown
