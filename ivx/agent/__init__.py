"""The video agent: a model that looks again, searches, cites and answers in one context."""
