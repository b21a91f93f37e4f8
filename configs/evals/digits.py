"""Real digits through zero-shot, linear and few-shot probes: scikit-learn's, and MNIST's 5,000.

python -m clipjax.evaluate --workdir=runs/digits --suite=configs/evals/digits.py

The model of configs/digits.py knows the first; the second are other people's, at another size.
"""

from clipjax.evals import suites


def get_suite():
    sets = (suites.own("digits", source="digits"), suites.own("mnist_5k", source="mnist_5k"))
    return suites.Suite("digits", sets, ("zero_shot", "linear_probe", "few_shot"))
