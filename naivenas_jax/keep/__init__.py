"""Networks in files that hold data alone: saved, and loaded without running code of theirs."""
