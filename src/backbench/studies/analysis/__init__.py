"""Tables and answers of a study: pure functions of records, without torch."""
