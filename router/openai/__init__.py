"""OpenAI's resources that outlive a request: responses that clients continue, and conversations."""
