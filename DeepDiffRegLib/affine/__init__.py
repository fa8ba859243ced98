"""The start: rough alignment before anything deforms."""
