"""The embedded data source: procedural overhead scenes whose every object is known."""
