"""How to search: spec, sampler, driver, fronts, tracking, command line."""
