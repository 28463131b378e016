"""The training stage: stream clip stores, merge, train, and measure what was learned."""
