import pytest

from resnet_jax.run import tables

STRANGE = "[red]a\x1b[31m|b"
ROWS = [("one", "1"), ("", "22"), (STRANGE, "333")]


def lines(capsys):
    return capsys.readouterr().out.splitlines()


def test_text_of_anybody_is_shown_as_it_is_without_control_characters(capsys):
    tables.show(("name [bold]", "#count"), ROWS, total=("all", "356"))
    said = "\n".join(lines(capsys))
    assert "name [bold]" in said and "[red]a\\x1b[31m|b" in said and "\x1b" not in said
    assert said.index("333") < said.index("356")


def test_numbers_stand_to_the_right_and_a_row_without_a_name_belongs_to_the_one_above(capsys):
    tables.show(("name", "#count"), ROWS, title="A title")
    said = lines(capsys)
    first = next(i for i, line in enumerate(said) if "one" in line)
    assert said[0].strip() == "A title"
    assert said[first].endswith("    1 │") and said[first + 1].endswith("   22 │")
    assert said[first + 2].startswith("├") and "333" in said[first + 3]


@pytest.mark.parametrize("total", [(), ("all", "356")])
def test_markdown_has_the_same_cells(capsys, total):
    tables.show(("name", "#count"), ROWS[:2], total=total, style="markdown")
    expected = ["| name | count |", "| --- | ---: |", "| one | 1 |", "|  | 22 |"]
    assert lines(capsys) == expected + (["| all | 356 |"] if total else [])
    assert tables.markdown(("a",), [("b|c",)]).endswith("| b\\|c |")
