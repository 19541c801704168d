"""Names of evidence: e1, e2, ... in the order in which it comes up."""

from ivx.text.labels import Label

# A label, or a span that was looked at.
Evidence = Label | tuple[float, float]


class EvidenceNames:
    """Gives names; what comes up again keeps the one it has."""

    def __init__(self):
        self._names: dict[Evidence, str] = {}

    def name(self, evidence: Evidence) -> str:
        """The name of a label or of a span that was looked at."""
        return self._names.setdefault(evidence, f"e{len(self._names) + 1}")

    def span(self, name: str) -> tuple[float, float] | None:
        """Seconds of the video that a name stands for; None if there is no such name."""
        for evidence, given in self._names.items():
            if given == name:
                return evidence.span if isinstance(evidence, Label) else evidence
        return None

    @property
    def given(self) -> tuple[str, ...]:
        """All names so far."""
        return tuple(self._names.values())
