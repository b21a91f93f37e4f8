"""Addresses as they may be shown or kept: without what gives access."""

import re
from typing import Any

USER = re.compile(r"(?<=://)[^/@\s]*@")  # user:password@
# ?signature=…, up to what ends a word: paths may be joined by "::", and a sentence goes on.
QUERY = re.compile(r"(https?://[^\s?#]*)[?#](?:(?!::)\S)*?(?=[:;,.)'\"]*(?:\s|$|::))")


def shown(text: str) -> str:
    """A text whose addresses lost password, signature and token."""
    return QUERY.sub(r"\1", USER.sub("", text))


def shown_in(value: Any) -> Any:
    """The same for every text inside dicts, lists and tuples."""
    if isinstance(value, str):
        return shown(value)
    if isinstance(value, dict):
        return {key: shown_in(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return type(value)(map(shown_in, value))
    return value
