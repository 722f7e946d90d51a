"""T5's encoder, CogVideoX's conditioning on prompts."""
