"""Text from files and from other people, as a terminal, a log, TensorBoard and a figure can safely show it."""

ELLIPSIS = " ... "


def printable(text: object, most: int = 200) -> str:
    """Return text on one line: escaped as in a Python string, and at most `most` characters long.

    Control characters, terminal escape sequences, line breaks, marks that change the direction of writing, zero-width
    characters and lone surrogates are escaped. Of a longer text the middle is left out.
    """
    text = str(text)
    if len(text) > most:
        kept = most - len(ELLIPSIS)
        text = f"{text[: kept - kept // 2]}{ELLIPSIS}{text[len(text) - kept // 2 :]}"
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)
