"""The dimensions of HELM (Liang et al. 2022, https://arxiv.org/abs/2211.09110) in one table."""
