"""Names out of files, as they may be shown: one line, of sane length, of visible characters."""

MOST_SHOWN = 160
"""Characters of a name that are shown."""


def plain_name(text: object, most: int = MOST_SHOWN) -> str:
    """The name with what cannot be seen escaped, and its middle left out where it is long."""
    name = str(text)
    if len(name) > most:
        name = f"{name[: most * 2 // 3]}…{name[-(most // 3) :]}"
    return "".join(_visible(one) for one in name)


def plain_names(names: list[str] | tuple[str, ...], most: int = 3) -> str:
    """Some names and how many more there are."""
    shown = ", ".join(plain_name(one, 60) for one in names[:most])
    return shown if len(names) <= most else f"{shown} and {len(names) - most:,} more"


def megabytes(size: int) -> str:
    """A size in bytes as text, with its unit."""
    for unit, scale in (("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if size >= scale:
            return f"{size / scale:.1f} {unit}"
    return f"{size} bytes"


def _visible(character: str) -> str:
    if character.isprintable():
        return character
    return character.encode("unicode_escape", "surrogatepass").decode("ascii")
