"""Ray alone: the driver, and what it hangs on Ray Tune."""
