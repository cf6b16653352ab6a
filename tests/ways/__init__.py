"""The three ways to forward, each as a gateway composes it, under one and the same suite of content tests."""
