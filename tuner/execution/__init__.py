"""The driver and its adapters to Ray Tune. The only room that imports Ray (with the job client in ``remote``)."""
