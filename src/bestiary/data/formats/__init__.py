"""Readers of the formats that people keep labels in; each returns a `label_table.LabelTable`."""
