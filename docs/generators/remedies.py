"""Remedies for messages that do not say what to do."""

# {part of a message: remedy}
REMEDIES: dict[str, str] = {}
