"""The Task API: the wire that openclaw runners, bots and bridges speak, over host tasks."""
