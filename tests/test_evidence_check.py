"""Which answers have times that their evidence supports."""

import pytest

from ivx.agent.evidence_check import supported

EVIDENCE = [(2.0, 4.0), (18.0, 24.0)]


@pytest.mark.parametrize(
    "answer",
    ["19.0 to 21.5 seconds", "between 17 and 19 seconds", "3.5-9 s", "seen from 0 to 60 seconds"],
)
def test_span_that_overlaps_any_evidence_is_supported(answer):
    assert supported(answer, EVIDENCE)


@pytest.mark.parametrize(
    "answer",
    [
        "5.0 to 9.0 seconds",
        "between 7 and 9 seconds",
        "21.0 to 19.0 seconds",
        "1.0 to 10 to 1.0 seconds",
    ],
)
def test_span_elsewhere_or_reversed_is_not_supported(answer):
    assert not supported(answer, EVIDENCE[1:])


@pytest.mark.parametrize(
    "answer", ["red circle", "3", "the score was 2-1", "2 to 3 circles", "2024-05-01", ""]
)
def test_answer_without_span_in_seconds_is_supported(answer):
    assert supported(answer, EVIDENCE)


def test_answer_without_evidence_is_supported():
    assert supported("2.0 to 5.0 seconds", [])
