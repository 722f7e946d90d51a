"""T5's encoder, which conditions CogVideoX on prompts."""
