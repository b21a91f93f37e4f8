"""Numbers of things in messages: "1 image", "2,000 images"."""


def counted(number: int, noun: str, plural: str = "") -> str:
    """The number and what it counts, `noun` of one; its plural is with an s where none is given."""
    return f"{number:,} {noun if number == 1 else plural or f'{noun}s'}"


def verb(number: int, one: str, many: str) -> str:
    """The verb of so many: verb(1, "is", "are")."""
    return one if number == 1 else many
