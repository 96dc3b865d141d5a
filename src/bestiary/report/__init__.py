"""Pages and text made from a run folder: report, audit page, model card, comparison."""
