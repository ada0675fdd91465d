"""Names from files and from other people on the screen, in the log and in figures."""

import unicodedata

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from resnet_jax.errors import DataError, UserError
from resnet_jax.printable import printable


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("Übung 猫 🐈", "Übung 猫 🐈"),
        ("\x1b[2J\x07", r"\x1b[2J\x07"),
        ("a\r\nb\tc", r"a\r\nb\tc"),
        ("\u202egpj.exe", r"\u202egpj.exe"),
        ("a\u200bb\u2028c", r"a\u200bb\u2028c"),
        ("\ud800", r"\ud800"),
        ("\x9b31m", r"\x9b31m"),
        (b"x\x1b", r"b'x\x1b'"),
    ],
)
def test_what_steers_a_terminal_or_hides_is_escaped_and_all_else_stays(text, shown):
    assert printable(text) == shown


@settings(deadline=None, derandomize=True, database=None)
@given(st.text(st.characters(codec=None), max_size=300), st.integers(20, 100))
def test_any_text_becomes_one_line_that_can_be_encoded_and_is_short(text, most):
    shown = printable(text, most)
    shown.encode()
    assert not {unicodedata.category(c) for c in shown} & {"Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp"}
    assert len(shown) <= 10 * most and printable(shown, len(shown)) == shown


def test_of_a_long_name_both_ends_are_shown():
    assert printable("a" * 5000 + "z", 25) == f"{'a' * 10} ... {'a' * 9}z"


def test_every_error_for_the_user_is_one_printable_line_whose_advice_is_kept():
    error = DataError(f"{'x' * 5000}\x1b[2J\n is damaged: get it again.")
    assert "\x1b" not in str(error) and "\n" not in str(error)
    assert len(str(error)) < 2100 and str(error).endswith("is damaged: get it again.")
    assert str(UserError("plain")) == "plain"
