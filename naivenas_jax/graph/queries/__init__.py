"""What a graph answers when it is asked: its handles, its summary, and which edits it allows."""
