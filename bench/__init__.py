"""Benchmarks: ours and the peers' own packages in one run, as ratios of medians."""
