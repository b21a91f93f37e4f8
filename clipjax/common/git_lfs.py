"""Files that Git LFS has not fetched: a few lines of text in place of what they are named after."""

POINTER = b"version https://git-lfs"  # how such a file begins
LONGEST = 1024  # bytes of one
FETCH = "a pointer of Git LFS; git lfs pull fetches it"


def is_pointer(content: bytes) -> bool:
    """Whether a file with this content, or beginning, has not been fetched."""
    return content.startswith(POINTER)
