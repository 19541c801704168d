"""The message format itself, see `data_pipelines.sources.messages`."""


def convert(value, where: str, fields: dict[str, str], suffix: str) -> list[dict]:
    """The entry as it is."""
    del where, fields, suffix
    return [value]
