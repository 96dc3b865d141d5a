"""The serve package."""
