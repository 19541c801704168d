"""Names of evidence: e1, e2, ... in order of first appearance."""

from ivx.text.labels import Label

# A label, or an inspected span.
Evidence = Label | tuple[float, float]


class EvidenceNames:
    """Assigns names; the same evidence keeps its name."""

    def __init__(self) -> None:
        self._names: dict[Evidence, str] = {}

    def name(self, evidence: Evidence) -> str:
        """The name of a label or of an inspected span."""
        return self._names.setdefault(evidence, f"e{len(self._names) + 1}")

    def span(self, name: str) -> tuple[float, float] | None:
        """The span of a name, in seconds of the video; None if the name is unknown."""
        for evidence, other in self._names.items():
            if other == name:
                return evidence.span if isinstance(evidence, Label) else evidence
        return None

    @property
    def assigned(self) -> tuple[str, ...]:
        """All assigned names."""
        return tuple(self._names.values())
