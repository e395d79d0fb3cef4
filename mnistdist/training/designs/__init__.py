"""How the graph of one worker is built and run."""
