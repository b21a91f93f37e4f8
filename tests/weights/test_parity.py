"""The parity table's rows within their limits; marked interop."""

import pytest

pytestmark = pytest.mark.interop


@pytest.fixture(scope="module")
def spiece(tmp_path_factory):
    import vocabulary

    return vocabulary.t5_like(tmp_path_factory.mktemp("spiece"))


@pytest.mark.parametrize(
    "case",
    [
        *("vitb32", "vitl14", "vith14", "rn50", "rn50x4", "clip_of_transformers", "release"),
        *("siglip_of_open_clip", "siglip_of_transformers"),
    ],
)
def test_the_same_features(case, spiece, tmp_path):
    import parity

    rows = list(parity.CASES[case](tmp_path, spiece))
    assert rows
    for row in rows:
        for key, limit in parity.LIMITS.items():
            assert getattr(row, key) <= limit, row


def test_every_case_is_tested():
    import parity

    assert set(parity.CASES) == set(test_the_same_features.pytestmark[-1].args[1])
