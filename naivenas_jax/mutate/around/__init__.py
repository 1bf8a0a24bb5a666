"""What every verb does before and after the change itself: fallback, callbacks, a trial on shapes."""
