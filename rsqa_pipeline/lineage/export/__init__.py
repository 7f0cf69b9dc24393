"""The records in the formats of other tools."""
