"""Experiments over several training runs: recipes with several seeds, and the inflation of scores by a leaking"
" split."""
