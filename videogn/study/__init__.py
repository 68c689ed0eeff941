"""The paper's claim at a size anyone can run: norms, batch sizes and seeds on made-up motion."""
