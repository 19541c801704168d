"""Names of evidence: e1, e2, ... in the order in which it comes up."""

from collections.abc import Hashable


class EvidenceNames:
    """Gives names; what comes up again keeps the one it has."""

    def __init__(self):
        self._names: dict[Hashable, str] = {}

    def name(self, evidence: Hashable) -> str:
        """The name of a label or of a span that was looked at."""
        return self._names.setdefault(evidence, f"e{len(self._names) + 1}")

    @property
    def given(self) -> tuple[str, ...]:
        """All names so far."""
        return tuple(self._names.values())
