"""Pictures before a model: sources, measurements, audit, duplicates, corrections, splits."""
