"""The parts of a runtime, each made from the settings."""
