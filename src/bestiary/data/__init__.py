"""Where pictures come from: sources, the audit, the split, and a drawn collection to try it all on."""
