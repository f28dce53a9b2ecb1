from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from abmesh.experiment.errors import StateError
from controller.codec.evidence import pack, unpack
from controller.decision.history import Evidence
from controller.evidence.summary import SliceEvidence, VariantEvidence
from tests.controller.decision.support import arm

COUNTS = st.integers(0, 10**12)
SLICES = st.builds(SliceEvidence, COUNTS, COUNTS, COUNTS, COUNTS)
BINS = st.dictionaries(
    st.tuples(st.sampled_from([0.0, 1.0, 1.1, 95.0, 1200.0]), st.sampled_from([0.1, 1.0, 10.0, 100.0])),
    st.integers(1, 10**12),
    max_size=5,
)
VARIANTS = st.builds(
    VariantEvidence,
    st.dictionaries(st.sampled_from([0, 200, 404, 500, 503]), COUNTS, max_size=4),
    COUNTS,
    st.dictionaries(st.integers(0, 49), SLICES, max_size=5),
    st.dictionaries(st.integers(0, 9), BINS, max_size=3),
)
EVIDENCE = st.dictionaries(st.sampled_from(["model-a", "model-b", "null", "ü"]), VARIANTS, max_size=3)


@given(EVIDENCE)
@settings(deadline=None)
def test_packed_evidence_comes_back_as_it_was(evidence: Evidence) -> None:
    text = pack(evidence)
    assert text.isascii()
    assert unpack(text) == evidence


@pytest.mark.parametrize("text", ["x", "ünpacked", pack({})[:-2], pack({"a": arm(10)})[3:]])
def test_damaged_evidence_is_an_error(text: str) -> None:
    with pytest.raises(StateError, match="packed evidence is damaged"):
        unpack(text)


def test_no_text_is_no_evidence() -> None:
    assert unpack("") == {}
