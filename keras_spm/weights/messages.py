"""Text for messages, whose names and values may come from a file."""

_LONGEST_TEXT = 300
_MOST_NAMES = 8


def shortened(text):
    """Text for a message: of bounded length, and without control characters."""
    text = str(text)
    if len(text) > _LONGEST_TEXT:
        text = f"{text[:_LONGEST_TEXT]}… ({len(text)} characters)"
    return "".join(
        letter if letter.isprintable() or letter == "\n" else repr(letter)[1:-1] for letter in text
    )


def listed(names):
    """Names for a message: the first of them, and how many more there are."""
    names = [str(name) for name in names]
    rest = len(names) - _MOST_NAMES
    shown = ", ".join(map(shortened, names[:_MOST_NAMES]))
    return f"{shown} and {rest} more" if rest > 0 else shown
