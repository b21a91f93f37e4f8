"""Looking at data sets and making them: what `python -m clipjax.dataset VERB` does.

Each verb has its module; record functions are pure, and `workers` spreads them over processes.
"""
