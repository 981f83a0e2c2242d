"""The report: one self-contained page, a pure function of records, predictions and optional evidence."""
