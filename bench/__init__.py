"""Figures of clawplane: every bench prints medians and tails beside a baseline of the same run."""
