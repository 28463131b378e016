"""FAME: pretrain video encoders that look at motion and not at the background (CVPR 2022)."""
