"""Code sessions on one runner: who lives here, what they run, what is kept of them."""
