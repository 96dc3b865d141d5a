"""Export: the final model file, calibrated, written and verified; other formats for other programs."""
