"""``aegis demo``: a flow of orders through real processes, and a recount of what happened from the log."""
