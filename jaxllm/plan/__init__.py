"""What a run will need and cost, reckoned before a chip is rented. Loads no jax but to compile."""
