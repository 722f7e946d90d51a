"""CLIP's text tower and its tokenizer."""
